"""Halting signals against a loop over rows, and which thought a row stops at."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from models.batch import collate
from models.layers import halting
from models.layers.halting import HaltingRule, HaltingSignals, halting_signals, thoughts_taken
from models.rankers.mancar import ManCAR
from models.sequences import SequenceStore
from tests.models.conftest import small_ranker


def chain(rows: int = 6, states: int = 4, dim: int = 5, items: int = 30) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return (
        torch.randn(states, rows, dim, generator=generator),
        torch.randn(items, dim, generator=generator),
    )


def naive(states: Tensor, items: Tensor, thought: int, row: int) -> tuple[float, ...]:
    old, new = states[thought, row], states[thought + 1, row]
    p = (items @ old).softmax(0).tolist()
    q = (items @ new).softmax(0).tolist()
    best = [set(sorted(range(len(r)), key=lambda i: -r[i])[:10]) for r in (p, q)]
    return (
        sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)),
        -sum(b * math.log(b) for b in q),
        len(best[0] & best[1]) / len(best[0] | best[1]),
        float((new - old).norm() / new.norm()),
    )


def test_signals_equal_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    states, items = chain()
    monkeypatch.setattr(halting, "CHUNK_LOGS", 2 * 4 * 30)
    found = halting_signals(states, states, items)
    for thought in range(3):
        for row in range(6):
            values = (
                found.divergence_KB[thought, row],
                found.entropy_KB[thought, row],
                found.agreement_KB[thought, row],
                found.change_KB[thought, row],
            )
            assert [float(v) for v in values] == pytest.approx(
                naive(states, items, thought, row), rel=1e-4
            )


def test_a_row_halts_at_its_first_thought_that_meets_any_threshold() -> None:
    entropy = torch.tensor([[3.0, 0.5, 3.0, 3.0], [0.1, 0.1, 3.0, 3.0], [0.1, 0.1, 0.1, 3.0]])
    agreement = torch.tensor([[0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.9, 0.0], [0.0, 1.0, 0.0, 0.0]])
    still = torch.ones(3, 4)
    signals = HaltingSignals(still, entropy, agreement, still)
    assert thoughts_taken(signals, HaltingRule(entropy=1.0)).tolist() == [2, 1, 3, 3]
    assert thoughts_taken(signals, HaltingRule(agreement=0.8)).tolist() == [3, 3, 2, 3]
    both = HaltingRule(entropy=1.0, agreement=0.8)
    assert thoughts_taken(signals, both).tolist() == [2, 1, 2, 3]
    assert thoughts_taken(signals, HaltingRule()).tolist() == [3] * 4
    assert HaltingRule().is_off
    assert not both.is_off


def test_a_chain_that_stands_still_halts_at_once() -> None:
    states, items = chain(states=1)
    signals = halting_signals(states.repeat(4, 1, 1), states.repeat(4, 1, 1), items)
    for rule in (HaltingRule(divergence=1e-6), HaltingRule(agreement=1.0), HaltingRule(change=0.0)):
        assert thoughts_taken(signals, rule).tolist() == [1] * 6


def test_rounding_makes_no_divergence_negative() -> None:
    generator = torch.Generator().manual_seed(0)
    state, items = torch.randn(1, 50, 8, generator=generator), torch.randn(90, 8)
    states = torch.cat([state, state + 1e-7, state - 1e-7])
    assert (halting_signals(states, states, items).divergence_KB >= 0).all()


def test_items_that_no_list_holds_halt_nobody(store: SequenceStore) -> None:
    """Vectors that training never moved may be anything."""
    batch = collate(store, np.arange(20), 12)
    ranker = small_ranker("mancar", store, halt_divergence=0.01)
    assert isinstance(ranker, ManCAR)
    with torch.no_grad():
        before = ranker.encode(batch)
        ranker.items.weight[~ranker.known_N1] += 50.0
        assert torch.equal(ranker.encode(batch), before)
