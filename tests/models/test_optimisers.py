"""The item table's own optimiser: the rule, what it touches, and where it is chosen."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from models import registry
from models.base import Ranker
from models.batch import SequenceBatch, collate
from models.neural import MANY_ITEMS
from models.optimisers import Optimisers
from models.recipe import FitConfig
from models.sequences import SequenceStore
from tests.models.conftest import NUM_ITEMS, random_store

ROWS = FitConfig(table_optimiser="rows", table_lr=0.1)


def problem(**settings: Any) -> tuple[Ranker, SequenceBatch]:
    store = random_store()
    torch.manual_seed(0)
    given = {"loss": "sampled", "negatives": 8, "dropout": 0.0} | settings
    ranker = registry.build("sasrec", NUM_ITEMS, dim=8, max_length=12, **given)
    ranker.fit_statistics(store)
    return ranker, collate(store, np.arange(4), 12, with_targets=True)


def weight(ranker: Ranker) -> Tensor:
    assert ranker.item_table is not None
    return ranker.item_table.weight


def step(ranker: Ranker, batch: SequenceBatch, optimisers: Optimisers, limit: float) -> float:
    optimisers.zero_grad()
    torch.stack(list(ranker.losses(batch).values())).sum().backward()
    norm = optimisers.clip(limit)
    optimisers.step(1.0)
    return norm


def dense_gradients(ranker: Ranker, batch: SequenceBatch) -> dict[str, Tensor]:
    """Gradients of a twin that keeps the table's as a whole."""
    twin, _ = problem()
    twin.load_state_dict({name: value.clone() for name, value in ranker.state_dict().items()})
    torch.stack(list(twin.losses(batch).values())).sum().backward()
    return {name: p.grad for name, p in twin.named_parameters() if p.grad is not None}


def test_moves_rows_as_the_rule_over_all_rows_says() -> None:
    ranker, batch = problem()
    optimisers = Optimisers(ranker, ROWS)
    sums = torch.zeros(NUM_ITEMS + 1)
    for _ in range(3):
        grad = dense_gradients(ranker, batch)["items.weight"]
        sums += grad.square().mean(dim=1)
        move = 0.1 * grad / sums.sqrt().clamp(min=1e-30)[:, None]
        expected = weight(ranker).detach() - move
        step(ranker, batch, optimisers, float("inf"))
        torch.testing.assert_close(weight(ranker).detach(), expected)


def test_a_vanishing_gradient_moves_next_to_nothing() -> None:
    ranker, batch = problem()
    optimisers = Optimisers(ranker, ROWS)
    before = weight(ranker).detach().clone()
    optimisers.zero_grad()
    (1e-24 * torch.stack(list(ranker.losses(batch).values())).sum()).backward()
    optimisers.clip(float("inf"))
    optimisers.step(1.0)
    torch.testing.assert_close(weight(ranker).detach(), before)


def test_rows_without_a_gradient_stay() -> None:
    ranker, _ = problem(negatives=1)
    batch = collate(SequenceStore.from_lists([[3, 5, 7]]), np.array([0]), 12, with_targets=True)
    before = weight(ranker).detach().clone()
    step(ranker, batch, Optimisers(ranker, ROWS), 5.0)
    moved = (weight(ranker) != before).any(dim=1).nonzero()[:, 0].tolist()
    assert 0 not in moved, "the padding"
    assert {3, 5, 7} <= set(moved)
    assert len(moved) <= 4


def test_clipping_bounds_both_optimisers_together() -> None:
    ranker, batch = problem()
    grads = dense_gradients(ranker, batch).values()
    expected = float(torch.nn.utils.get_total_norm(grads))
    before = {name: value.clone() for name, value in ranker.state_dict().items()}
    norm = step(ranker, batch, Optimisers(ranker, ROWS), 1e-3 * expected)
    assert norm == pytest.approx(expected, rel=1e-5)
    # Adagrad's first step does not feel a factor; its accumulator does.
    ranker.load_state_dict(before)
    optimisers = Optimisers(ranker, ROWS)
    step(ranker, batch, optimisers, 1e-3 * expected)
    clipped = optimisers.state_dict()["rows"]
    ranker.load_state_dict(before)
    free = Optimisers(ranker, ROWS)
    step(ranker, batch, free, float("inf"))
    torch.testing.assert_close(clipped, 1e-6 * free.state_dict()["rows"], rtol=1e-3, atol=1e-20)


def test_a_term_over_the_whole_table_moves_all_rows() -> None:
    ranker, batch = problem(loss="ce")
    before = weight(ranker).detach().clone()
    step(ranker, batch, Optimisers(ranker, ROWS), 5.0)
    assert (weight(ranker) != before).any(dim=1)[1:].all()


def test_whole_tables_on_several_workers_keep_whole_gradients() -> None:
    ranker, _ = problem()
    with pytest.raises(ValueError, match="2 workers each hold the whole item table"):
        Optimisers(ranker, ROWS, world=2)
    large = registry.build("sasrec", MANY_ITEMS, dim=2, num_heads=1)
    assert Optimisers(large, FitConfig(), world=2).state_dict()["rows"] is None


@pytest.mark.parametrize(
    ("items", "loss", "choice", "by_rows"),
    [
        (MANY_ITEMS, "auto", "auto", True),
        (MANY_ITEMS - 1, "auto", "auto", False),
        (MANY_ITEMS, "ce", "auto", False),
        (MANY_ITEMS, "auto", "adamw", False),
        (NUM_ITEMS, "ce", "rows", True),
    ],
)
def test_large_tables_are_chosen_by_themselves(
    items: int, loss: str, choice: Any, by_rows: bool
) -> None:
    ranker = registry.build("sasrec", items, dim=2, num_heads=1, loss=loss)
    state = Optimisers(ranker, FitConfig(table_optimiser=choice)).state_dict()
    assert (state["rows"] is not None) == by_rows
