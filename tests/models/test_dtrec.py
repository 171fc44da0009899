"""DTRec: its clusters, its step losses against a loop, and halting per row."""

import numpy as np
import pytest
import torch

from models.batch import collate
from models.layers.halting import halting_signals
from models.rankers.dtrec import DTRec, cluster_counts
from models.sequences import SequenceStore
from tests.models.conftest import small_ranker


def dtrec(store: SequenceStore, **settings: object) -> DTRec:
    ranker = small_ranker("dtrec", store, **settings)
    assert isinstance(ranker, DTRec)
    ranker.refresh()
    return ranker


def test_cluster_counts_grow_by_one_factor() -> None:
    assert cluster_counts(1000, 2) == [10, 100]
    assert cluster_counts(3416, 3) == [8, 58, 447]
    assert cluster_counts(5, 0) == []


def test_step_losses_equal_the_loop_over_targets(store: SequenceStore) -> None:
    ranker = dtrec(store, repeats="plain", temperature=0.5, step_weight=0.3)
    batch = collate(store, np.arange(8), 12, with_targets=True)
    terms = ranker.losses(batch)
    base = ranker.base_pass(batch)
    chosen, targets = ranker.targets_of(base)
    states = ranker.reason(base)[:, chosen]
    # The centres are the means of what was assigned to them once k-means has come to rest.
    first = 0
    expected = []
    for step, count in enumerate(ranker.counts_K.tolist()):
        centres = ranker.centres_CD[first : first + count]
        first += count
        vectors = ranker.items.weight
        for target, state in zip(targets.tolist(), states[step], strict=True):
            gaps = (centres - vectors[target]).norm(dim=1)
            assert int(gaps.argmin()) == int(ranker.cluster_KN1[step, target])
            logits = (centres @ state / 0.5).log_softmax(0)
            expected.append(-logits[gaps.argmin()])
    assert first == len(ranker.centres_CD)
    torch.testing.assert_close(terms["clusters"], 0.3 * torch.stack(expected).mean())
    ce = torch.nn.functional.cross_entropy(
        states[-1] @ ranker.items.weight[1:].T / 0.5, targets - 1
    )
    torch.testing.assert_close(terms["ce"], ce)


def test_clusters_follow_the_item_table(store: SequenceStore) -> None:
    ranker = dtrec(store)
    before = ranker.centres_CD.clone()
    again = ranker.centres_CD.clone()
    ranker.refresh()
    torch.testing.assert_close(ranker.centres_CD, again)
    with torch.no_grad():
        ranker.items.weight.mul_(3.0)
    ranker.refresh()
    assert not torch.allclose(ranker.centres_CD, before)
    assert (ranker.cluster_KN1[:, ~ranker.known_N1] == 0).all()


def test_halting_off_is_the_full_chain(store: SequenceStore) -> None:
    batch = collate(store, np.arange(20), 12)
    full = dtrec(store, reasoning_steps=3)
    never = dtrec(store, reasoning_steps=3, halt_entropy=0.0, halt_change=0.0)
    assert torch.equal(full.encode(batch), never.encode(batch))


@pytest.mark.parametrize(
    ("rule", "signal"),
    [
        ("halt_entropy", "entropy_KB"),
        ("halt_agreement", "agreement_KB"),
        ("halt_change", "change_KB"),
    ],
)
def test_rows_halt_one_by_one(store: SequenceStore, rule: str, signal: str) -> None:
    ranker = dtrec(store, reasoning_steps=3)
    batch = collate(store, np.arange(40), 12)
    with torch.no_grad():
        base = ranker.base_pass(batch)
        states = ranker.reason(base.at_last())[:, :, 0]
        queries = ranker.scale_queries(states)
        listable = ranker.training_vectors()[ranker.known_N1[1:]]
        values = getattr(halting_signals(states, queries, listable), signal)
        threshold = float(values[:2].median())
        ranker.config = ranker.config.model_copy(update={rule: threshold})
        halted = ranker.final_states(base)
    meets = values >= threshold if rule == "halt_agreement" else values <= threshold
    taken = [next((k for k in (0, 1) if meets[k, row]), 2) + 1 for row in range(40)]
    assert len(set(taken)) > 1
    for row, thoughts in enumerate(taken):
        assert torch.equal(halted[row], states[thoughts, row])
