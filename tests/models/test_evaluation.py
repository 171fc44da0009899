"""Splits, ranks, metrics, slices and intervals against plain definitions."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.evaluation import (
    Holdout,
    leave_one_out_split,
    target_ranks,
    temporal_cuts,
    temporal_split,
    user_slices,
)
from models.metrics import (
    coverage,
    gini,
    mean_ci,
    paired_bootstrap,
    per_user_metrics,
)
from models.seen import SeenItems
from models.sequences import SequenceStore
from models.top_k import TILE_ROWS
from tests.models.test_top_k import TableRanker


def test_cuts_leave_80_and_90_percent_before_them() -> None:
    assert temporal_cuts(np.arange(100)) == (80, 90)
    # Equal times fall on one side together: after the cut.
    assert temporal_cuts(np.array([1] * 7 + [5] * 3)) == (5, 5)
    with pytest.raises(ValueError, match="9 events are too few"):
        temporal_cuts(np.arange(9))


def test_temporal_split_by_hand() -> None:
    store = SequenceStore.from_lists(
        [[1, 2, 3, 4], [5, 6], [7, 8], [9, 3], [2, 1, 6]],
        [[10, 20, 30, 40], [10, 35], [31, 41], [5, 6], [1, 29, 30]],
        users=list("abcde"),
    )
    split = temporal_split(store, cuts=(30, 40))
    rows = [split.train.row(i).tolist() for i in range(5)]
    assert rows == [[1, 2], [5], [], [9, 3], [2, 1]]

    def shown(part: Holdout) -> dict[str, tuple[list[int], int]]:
        assert part.history.users is not None
        return {
            user: (part.history.row(i).tolist(), int(part.targets[i]))
            for i, user in enumerate(part.history.users)
        }

    # c has no history before the first cut; d has no event after it.
    assert shown(split.validation) == {"a": ([1, 2], 3), "b": ([5], 6), "e": ([2, 1], 6)}
    # History reaches up to the second cut, so it holds what validation asked for.
    assert shown(split.test) == {"a": ([1, 2, 3], 4), "c": ([7], 8)}


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.integers(0, 50), max_size=8), min_size=3, max_size=20))
def test_temporal_split_never_leaks(times: list[list[int]]) -> None:
    store = SequenceStore.from_lists(
        [list(range(1, len(row) + 1)) for row in times], [sorted(row) for row in times]
    )
    first, second = 20, 35
    split = temporal_split(store, (first, second))
    _, places = split.train.flat_events()
    assert (store.times[places] < first).all()
    for part, cut in ((split.validation, first), (split.test, second)):
        history, places = part.history, part.history.flat_events()[1]
        assert (store.times[places] < cut).all()
        assert (history.lengths >= 1).all()
        assert (store.times[history.stops] >= cut).all()


def test_validation_targets_lie_before_the_second_cut() -> None:
    store = SequenceStore.from_lists([[1, 2], [3, 4]], [[1, 35], [1, 50]])
    split = temporal_split(store, (30, 40))
    assert split.validation.targets.tolist() == [2]
    assert split.test.targets.tolist() == [4]


def test_leave_one_out_by_hand() -> None:
    split = leave_one_out_split(SequenceStore.from_lists([[1, 2, 3, 4], [5, 6], [7, 8, 9]]))
    assert [split.train.row(i).tolist() for i in range(3)] == [[1, 2], [5, 6], [7]]
    assert [split.validation.history.row(i).tolist() for i in range(2)] == [[1, 2], [7]]
    assert split.validation.targets.tolist() == [3, 8]
    assert [split.test.history.row(i).tolist() for i in range(2)] == [[1, 2, 3], [7, 8]]
    assert split.test.targets.tolist() == [4, 9]


@pytest.mark.parametrize("chunk", [4, 1000])
@pytest.mark.parametrize("levels", [4, 10_000])
def test_ranks_equal_counting(levels: int, chunk: int) -> None:
    rng = np.random.default_rng(levels)
    rows, items = TILE_ROWS + 9, 30
    table = torch.from_numpy(rng.integers(0, levels, (rows, items + 1)).astype(np.float32))
    ranker = TableRanker(table)
    ranker.known_N1[[4, 9]] = False
    targets = rng.integers(1, items + 6, rows)  # some beyond the catalogue
    histories = [rng.integers(1, items + 6, 6).tolist() for _ in range(rows)]
    seen = SeenItems.from_store(SequenceStore.from_lists(histories))
    allowed, excluded = target_ranks(ranker, torch.arange(rows), targets, seen, chunk)
    for row in range(rows):
        target, values = int(targets[row]), table[row].tolist()
        known = [i for i in range(1, items + 1) if i not in (4, 9)]
        others = [i for i in known if i != target]
        if target not in known:
            assert allowed[row] == excluded[row] == np.inf
            continue
        assert allowed[row] == 1 + sum(values[i] >= values[target] for i in others)
        fresh = [i for i in others if i not in histories[row]]
        expected = 1 + sum(values[i] >= values[target] for i in fresh)
        assert excluded[row] == (np.inf if target in histories[row] else expected)


def test_a_target_without_a_number_for_a_score_is_a_miss() -> None:
    """Weights that have just diverged must not look like the best there ever were."""
    ranker = TableRanker(torch.full((3, 6), torch.nan))
    seen = SeenItems.from_store(SequenceStore.from_lists([[1], [2], [3]]))
    for ranks in target_ranks(ranker, torch.arange(3), np.array([4, 5, 3]), seen):
        assert (ranks == np.inf).all()


def test_metrics_by_hand() -> None:
    metrics = per_user_metrics(np.array([1.0, 3.0, 10.0, 11.0, 20.0, 21.0, np.inf]))
    assert metrics["recall@10"].tolist() == [1, 1, 1, 0, 0, 0, 0]
    assert metrics["recall@20"].tolist() == [1, 1, 1, 1, 1, 0, 0]
    assert metrics["ndcg@10"].tolist()[:2] == [1.0, 0.5]
    assert metrics["ndcg@10"][2] == pytest.approx(1 / np.log2(11))
    assert metrics["ndcg@20"][4] == pytest.approx(1 / np.log2(21))
    np.testing.assert_allclose(metrics["mrr@10"][:4], [1, 1 / 3, 0.1, 0])


def test_coverage_and_gini_by_hand() -> None:
    lists = np.array([[1, 2], [1, 0]])
    assert coverage(lists, 4) == 0.5
    # Exposure 0, 0, 1, 2: sum over pairs |x - y| / (2 n sum) = 20 / (2 * 4 * 3)... by definition:
    exposure = np.array([0, 0, 1, 2])
    pairs = np.abs(exposure[:, None] - exposure[None, :]).sum()
    assert gini(lists, 4) == pytest.approx(pairs / (2 * 4 * exposure.sum()))
    assert gini(np.array([[1, 2], [3, 4]]), 4) == 0.0
    assert gini(np.zeros((2, 2), int), 4) == 0.0


def test_slices_by_hand() -> None:
    # Five known items; the head is the most frequent fifth: item 1 alone.
    train = SequenceStore.from_lists([[1, 1, 1, 2, 2], [3, 4, 5]])
    history = SequenceStore.from_lists([[1], [1, 2], [1, 2, 3], [1, 2, 3, 4]])
    slices = user_slices(Holdout(history, np.array([1, 2, 9, 5])), train)
    marked = {name: users.tolist() for name, users in slices.items()}
    yes, no = True, False
    assert marked == {
        "all": [yes, yes, yes, yes],
        "warm": [yes, yes, no, yes],
        "cold": [no, no, yes, no],
        "short": [yes, yes, no, no],
        "long": [no, no, yes, yes],
        "head": [yes, no, no, no],
        "tail": [no, yes, no, yes],
    }


def test_slices_count_training_rows_alone() -> None:
    """Windows share one flat array: what lies behind the cut must not warm anything."""
    store = SequenceStore.from_lists([[1, 2, 3, 4]], [[1, 2, 30, 40]])
    split = temporal_split(store, (10, 35))
    assert user_slices(split.validation, split.train)["cold"].tolist() == [True]


def test_mean_interval() -> None:
    values = np.array([0.0, 1.0] * 50)
    interval = mean_ci(values)
    assert interval.mean == 0.5
    assert interval.high - interval.mean == pytest.approx(1.96 * values.std(ddof=1) / 10)
    assert np.isnan(mean_ci(np.array([1.0])).low)
    assert np.isnan(mean_ci(np.array([])).mean)


def test_bootstrap_is_deterministic_and_agrees_with_drawing_users() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.choice([0, 0.5, 1.0], 400), rng.choice([0, 0, 0.5, 1.0], 400)
    found = paired_bootstrap(a, b, seed=1)
    assert found == paired_bootstrap(a, b, seed=1)
    assert found != paired_bootstrap(a, b, seed=2)
    drawn = (a - b)[rng.integers(0, 400, (10_000, 400))].mean(axis=1)
    assert found.mean == pytest.approx((a - b).mean())
    assert found.low == pytest.approx(np.quantile(drawn, 0.025), abs=0.004)
    assert found.high == pytest.approx(np.quantile(drawn, 0.975), abs=0.004)


def test_bootstrap_of_equals_is_zero_and_bad_pairs_are_named() -> None:
    same = np.array([0.2, 0.7])
    assert paired_bootstrap(same, same) == (0.0, 0.0, 0.0)
    with pytest.raises(ValueError, match="2 and 1"):
        paired_bootstrap(same, same[:1])
