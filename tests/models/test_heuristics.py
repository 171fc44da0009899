"""The three heuristics on logs small enough to count by hand."""

import numpy as np
import torch

from models import registry
from models.batch import collate
from models.item_rings import edge_weights, item_rings
from models.sequences import SequenceStore
from models.transitions import count_transitions


def test_transitions_stay_inside_rows() -> None:
    store = SequenceStore.from_lists([[1, 2, 1, 2], [], [3], [2, 1]])
    pairs = count_transitions(store, 4)
    found = {
        (item, int(pairs.items[e])): int(pairs.counts[e])
        for item in range(5)
        for e in range(pairs.offsets[item], pairs.offsets[item + 1])
    }
    assert found == {(1, 2): 2, (2, 1): 2}


def test_transitions_see_their_window_alone() -> None:
    store = SequenceStore.from_lists([[1, 2, 3]], [[1, 2, 30]]).before(10)
    pairs = count_transitions(store, 3)
    assert pairs.items.tolist() == [2]


def test_popularity_counts() -> None:
    store = SequenceStore.from_lists([[1, 2, 2], [2, 3]])
    ranker = registry.build("popularity", 4)
    ranker.fit_statistics(store)
    queries = ranker.encode(collate(store, np.arange(2), 3))
    assert ranker.scores(queries, 1, 5).tolist() == [[1.0, 3.0, 1.0, -np.inf]] * 2
    assert not ranker.contributions(collate(store, np.arange(2), 3), torch.ones(2, 1).long()).any()


def test_last_transition_counts_and_fills_by_popularity() -> None:
    store = SequenceStore.from_lists([[1, 2], [1, 2], [1, 3], [4, 4, 4], [2, 1]])
    ranker = registry.build("last-transition", 5)
    ranker.fit_statistics(store)
    batch = collate(SequenceStore.from_lists([[4, 1], []]), np.arange(2), 4)
    scores = ranker.scores(ranker.encode(batch), 1, 6)
    # Events: 1 four times, 2 and 4 three times, 3 once; the fill is a count over 4 + 1.
    fill = [4 / 5, 3 / 5, 1 / 5, 3 / 5]
    torch.testing.assert_close(scores[0, :4], torch.tensor(fill) + torch.tensor([0, 2, 1, 0]))
    torch.testing.assert_close(scores[1, :4], torch.tensor(fill))
    carried = ranker.contributions(batch, torch.tensor([[2, 3, 4], [2, 3, 4]]))
    assert carried[0].tolist() == [[0, 0, 0, 2], [0, 0, 0, 1], [0, 0, 0, 0]]
    assert not carried[1].any()


def test_edge_weights_follow_the_published_formula() -> None:
    store = SequenceStore.from_lists([[1, 2], [1, 2], [1, 2], [1, 3], [2, 3]])
    weights = edge_weights(count_transitions(store, 3))
    np.testing.assert_allclose(weights, [1.0, np.log(2) / np.log(4), 1.0])


def test_rings_by_hand() -> None:
    # 1 -> 2 (twice), 1 -> 3; 2 -> 4, 2 -> 1; 3 -> 4 (twice), 3 -> 5; 4 -> 6; 6 -> 7.
    rows = [[1, 2], [1, 2], [1, 3], [2, 4], [2, 1], [3, 4], [3, 4], [3, 5], [4, 6], [6, 7]]
    pairs = count_transitions(SequenceStore.from_lists(rows), 7)
    popularity = np.array([0, 4, 4, 4, 4, 1, 2, 1])
    ids, scores = item_rings(pairs, popularity, (2, 2, 1), fan_out=5)
    half = np.log(2) / np.log(3)
    # Ring 1: 2 and 3. Ring 2: 4 (through 2 with weight 1 x 1), 5 (through 3). Ring 3: 6.
    assert ids[1].tolist() == [2, 3, 4, 5, 6]
    np.testing.assert_allclose(scores[1], [1.0, half, 1.0, half * half, 1.0])
    # From 6: ring 1 is 7 alone and nothing lies behind it.
    assert ids[6].tolist() == [7, 0, 0, 0, 0]


def test_rings_respect_their_budgets_and_break_ties_by_popularity() -> None:
    rows = [[1, 2], [1, 3], [1, 4], [2, 5], [3, 6]]
    pairs = count_transitions(SequenceStore.from_lists(rows), 6)
    popularity = np.array([0, 3, 1, 9, 5, 1, 1])
    ids, _ = item_rings(pairs, popularity, (2, 1, 1), fan_out=4)
    assert ids[1, :2].tolist() == [3, 4]
    # Item 2 is in ring 1 although its budget left it out: it cannot come back as ring 2.
    assert ids[1, 2] in (5, 6)


def test_rings_do_not_depend_on_the_block() -> None:
    rng = np.random.default_rng(0)
    rows = rng.integers(1, 2500, (4000, 6)).tolist()
    store = SequenceStore.from_lists(rows)
    pairs = count_transitions(store, 2500)
    popularity = np.bincount(store.items, minlength=2501).astype(np.int64)
    ids, scores = item_rings(pairs, popularity, (3, 2, 1), fan_out=4)
    for item in (1, 1023, 1024, 2047, 2499):
        own = item_neighbours(pairs.offsets, pairs.items, item)
        assert item not in ids[item]
        assert set(ids[item, :3]) <= own
        two = {k for j in own for k in item_neighbours(pairs.offsets, pairs.items, j)}
        assert set(ids[item, 3:5].tolist()) - {0} <= two - own - {item}
    assert scores.max() <= 1.0


def item_neighbours(offsets: np.ndarray, items: np.ndarray, item: int) -> set[int]:
    return set(items[offsets[item] : offsets[item + 1]].tolist())


def test_tgh_ranks_rings_first_and_then_by_popularity() -> None:
    rows = [[1, 2], [1, 2], [1, 3], [2, 4], [5, 5, 5, 5]]
    store = SequenceStore.from_lists(rows)
    ranker = registry.build("tgh", 6)
    ranker.fit_statistics(store)
    batch = collate(SequenceStore.from_lists([[5, 1]]), np.arange(1), 3)
    scores = ranker.scores(ranker.encode(batch), 0, 7)[0]
    order = sorted(range(1, 6), key=lambda i: -float(scores[i]))
    assert order == [2, 4, 3, 5, 1]
    assert scores[6] == -torch.inf
    assert (scores[[1, 5]] < 0).all()
    carried = ranker.contributions(batch, torch.tensor([[2, 5]]))[0]
    assert carried[0, 2] == scores[2]
    assert not carried[1].any()
