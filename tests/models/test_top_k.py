"""Exact chunked top-K against sorting everything, ties included."""

import numpy as np
import pytest
import torch
from torch import Tensor

from models.base import Ranker, RankerConfig
from models.batch import SequenceBatch
from models.seen import SeenItems
from models.sequences import SequenceStore
from models.top_k import TILE_ROWS, top_k


class TableRanker(Ranker):
    """Scores that stand in a table: a query is the number of its row."""

    name, method, source = "table", "looks scores up", "test"

    def __init__(self, table_BN: Tensor) -> None:
        super().__init__(RankerConfig(), table_BN.shape[1] - 1)
        self.table_BN = table_BN
        self.known_N1[1:] = True
        self.largest = 0

    def _encode(self, batch: SequenceBatch) -> Tensor:
        raise AssertionError("not used")

    def _scores(self, queries: Tensor, start: int, stop: int) -> Tensor:
        self.largest = max(self.largest, len(queries) * (stop - start))
        return self.table_BN[queries, start:stop]

    def _contributions(self, batch: SequenceBatch, items_BK: Tensor) -> Tensor:
        raise AssertionError("not used")


def by_sorting(
    table: Tensor, k: int, banned: list[set[int]], allowed: Tensor
) -> tuple[list[list[float]], list[list[int]]]:
    scores, items = [], []
    for row, values in enumerate(table.tolist()):
        order = sorted(
            (i for i in range(1, len(values)) if allowed[i] and i not in banned[row]),
            key=lambda i: (-values[i], i),
        )
        order = [i for i in order if values[i] > -np.inf][:k]
        items.append(order + [0] * (k - len(order)))
        scores.append([values[i] for i in order] + [-np.inf] * (k - len(order)))
    return scores, items


@pytest.mark.parametrize("levels", [3, 40, 100_000])
@pytest.mark.parametrize("chunk", [1, 7, 64, 1000])
@pytest.mark.parametrize("k", [1, 5, 120])
def test_equals_sorting_with_ties_and_masks(k: int, chunk: int, levels: int) -> None:
    rng = np.random.default_rng(levels + chunk + k)
    rows, items = TILE_ROWS + 13, 303
    table = torch.from_numpy(rng.integers(0, levels, (rows, items + 1)).astype(np.float32))
    ranker = TableRanker(table)
    ranker.known_N1[torch.from_numpy(rng.integers(1, items + 1, 5))] = False
    allowed = torch.from_numpy(rng.random(items + 1) > 0.2)
    seen_lists = [rng.integers(1, items + 1, rng.integers(0, 30)).tolist() for _ in range(rows)]
    seen_lists[3] = list(range(1, items + 1))
    seen = SeenItems.from_store(SequenceStore.from_lists(seen_lists))
    scores, found = top_k(
        ranker, torch.arange(rows), k, exclude=seen, allowed_N1=allowed, chunk=chunk
    )
    banned = [set(row) for row in seen_lists]
    expected = by_sorting(table, k, banned, allowed & ranker.known_N1)
    assert found.tolist() == expected[1]
    assert scores.tolist() == expected[0]
    assert found[3].tolist() == [0] * k


def test_never_holds_more_than_a_tile_of_scores() -> None:
    ranker = TableRanker(torch.rand(1000, 501))
    top_k(ranker, torch.arange(1000), 10, chunk=32)
    assert ranker.largest == TILE_ROWS * 32


def test_no_queries_give_no_lists() -> None:
    ranker = TableRanker(torch.rand(3, 11))
    scores, items = top_k(ranker, torch.arange(0), 4)
    assert scores.shape == items.shape == (0, 4)


def test_bad_arguments_are_named() -> None:
    ranker = TableRanker(torch.rand(3, 11))
    with pytest.raises(ValueError, match="at least 1, got 0"):
        top_k(ranker, torch.arange(3), 0)
    with pytest.raises(ValueError, match="not finite"):
        top_k(ranker, torch.tensor([1.0, float("nan")]), 1)
    seen = SeenItems.from_store(SequenceStore.from_lists([[1]]))
    with pytest.raises(ValueError, match="exclusions for 1 rows"):
        top_k(ranker, torch.arange(3), 1, exclude=seen)
    with pytest.raises(ValueError, match="11 entries"):
        top_k(ranker, torch.arange(3), 1, allowed_N1=torch.ones(3, dtype=torch.bool))


def test_seen_items_are_distinct_per_row() -> None:
    seen = SeenItems.from_store(SequenceStore.from_lists([[3, 1, 3], [], [2]]))
    assert seen.offsets.tolist() == [0, 2, 2, 3]
    assert seen.items.tolist() == [1, 3, 2]
    assert seen.contains(np.array([3, 3, 3])).tolist() == [True, False, False]
    rows, columns = seen.window(0, 3).chunk(2, 4, torch.device("cpu"))
    assert list(zip(rows.tolist(), columns.tolist(), strict=True)) == [(2, 0), (0, 1)]
