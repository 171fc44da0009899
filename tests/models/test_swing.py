"""Swing neighbours against a plain reading of the formula and against the nightly item graph."""

from itertools import combinations
from math import sqrt

import numpy as np
import pytest

from feature_jobs.item_graph import SwingRules as JobRules
from feature_jobs.item_graph import pair_sums
from models.sequences import SequenceStore
from models.swing import SwingRules, hashed, latest_items, swing_neighbours
from tests.models.conftest import random_store

WIDE = SwingRules(max_user_pairs=10_000, max_users_per_item=1000, max_items_per_user=1000)


def naive(store: SequenceStore, rules: SwingRules) -> dict[tuple[int, int], float]:
    held = [set(store.row(row).tolist()) for row in range(len(store))]
    users = {item: [u for u, items in enumerate(held) if item in items] for item in range(1, 41)}
    found = {}
    for i in range(1, 41):
        for j in range(1, 41):
            both = [u for u in users[i] if u in users[j]]
            if i == j or len(both) < rules.min_common_users:
                continue
            total = 0.0
            for u, v in combinations(both, 2):
                weights = [(len(held[x]) + rules.alpha1) ** -rules.beta for x in (u, v)]
                total += weights[0] * weights[1] / (len(held[u] & held[v]) + rules.alpha2)
            found[i, j] = total / sqrt(len(users[j]))
    return found


@pytest.mark.parametrize("least", [2, 4])
def test_neighbours_equal_the_formula(least: int) -> None:
    store = random_store(rows=50)
    rules = SwingRules(
        min_common_users=least,
        max_user_pairs=10_000,
        max_users_per_item=1000,
        max_items_per_user=1000,
    )
    expected = naive(store, rules)
    assert len(expected) > 100
    ids, weights = swing_neighbours(store, 40, 40, rules)
    for item in range(41):
        wanted = sorted((-weight, j) for (i, j), weight in expected.items() if i == item)
        count = len(wanted)
        assert (ids[item, count:] == 0).all()
        assert (weights[item, count:] == 0).all()
        np.testing.assert_allclose(weights[item, :count], [-weight for weight, _ in wanted])
        assert set(ids[item, :count]) == {j for _, j in wanted}
        assert (np.diff(weights[item, :count]) <= 0).all()
    short, _ = swing_neighbours(store, 40, 3, rules)
    np.testing.assert_array_equal(short, ids[:, :3])


def test_sums_equal_those_of_the_nightly_item_graph() -> None:
    """The same users in the same order give the same sums, bounds on user pairs included."""
    store = random_store(rows=120, num_items=14)
    rules = JobRules(5.0, 1.0, 0.3, 2, 10, 1000, 1000)
    rows, items = latest_items(store, 40, 1000)
    ids, weights = swing_neighbours(store, 40, 40, SwingRules(max_users_per_item=1000))
    sampled = swing_neighbours(store, 40, 40, WIDE)[1]
    assert not np.allclose(weights, sampled), "more than ten user pairs are there"
    held = [items[rows == row] for row in range(len(store))]
    for item in range(1, 12):
        users = np.array([row for row in range(len(store)) if item in held[row]])
        users = users[np.argsort(hashed(np.full(len(users), item), users))]
        flat = np.concatenate([held[row] for row in users]).astype(np.int32)
        lengths = np.array([len(held[row]) for row in users], dtype=np.int32)
        found, sums = pair_sums(item, flat, lengths, rules)
        expected = sums / np.sqrt([sum(j in row for row in held) for j in found])
        mine = dict(zip(ids[item].tolist(), weights[item], strict=True))
        for j, weight in zip(found.tolist(), expected, strict=True):
            assert mine[j] == pytest.approx(weight)


def test_only_the_latest_distinct_items_of_a_row_count() -> None:
    store = SequenceStore.from_lists([[1, 2, 3, 2, 4], [], [5, 5]])
    rows, items = latest_items(store, 40, 3)
    assert rows.tolist() == [0, 0, 0, 2]
    assert items.tolist() == [4, 2, 3, 5]


def test_bounds_hold_and_runs_agree() -> None:
    store = random_store(rows=300)
    rules = SwingRules(max_users_per_item=5, max_items_per_user=4, max_user_pairs=2)
    once, again = (swing_neighbours(store, 40, 6, rules) for _ in range(2))
    np.testing.assert_array_equal(once[0], again[0])
    np.testing.assert_array_equal(once[1], again[1])
    assert (once[0][1:30] > 0).any()
