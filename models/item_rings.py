"""The best items one, two and three steps away from every item of a transition graph.

Shape legend: N catalogue size, M neighbours kept per item, b items of one block, G ring places.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.sequences import Ints
from models.transitions import TransitionCounts

BLOCK_ITEMS = 1024
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class _Found:
    """Distinct candidates of a block, best first inside each row."""

    rows: Ints
    ids: Ints
    scores: Floats

    def head(self, limit: int) -> "_Found":
        """Keep the best `limit` of each row."""
        keep = self.place() < limit
        return _Found(self.rows[keep], self.ids[keep], self.scores[keep])

    def place(self) -> Ints:
        """Number each row's candidates from 0."""
        first = np.searchsorted(self.rows, self.rows, side="left")
        return np.arange(len(self.rows)) - first

    def without(self, known_keys: Ints, width: int) -> "_Found":
        """Drop the candidates whose key, row x width + id, is in a sorted list."""
        keep = ~np.isin(self.rows * width + self.ids, known_keys)
        return _Found(self.rows[keep], self.ids[keep], self.scores[keep])


def edge_weights(pairs: TransitionCounts) -> Floats:
    """Weigh each pair by log1p(count) over the largest such value of its item: float64 [E]."""
    logs = np.log1p(pairs.counts.astype(np.float64))
    owners = np.repeat(np.arange(len(pairs.offsets) - 1), np.diff(pairs.offsets))
    largest = np.zeros(len(pairs.offsets) - 1)
    np.maximum.at(largest, owners, logs)
    return logs / largest[owners]


def item_rings(
    pairs: TransitionCounts, popularity: Ints, budgets: Sequence[int], fan_out: int
) -> tuple[Ints, Floats]:
    """Choose for every item the best candidates of rings 1, 2, ... around it.

    Ring r holds the items whose shortest path from the item has r steps. A candidate scores the
    largest product of edge weights over its paths; ties go to the more popular item, then to the
    lower id. Only the `fan_out` best items of a ring are followed further, which bounds the work.

    Args:
        pairs: The graph.
        popularity: int64 [N + 1] events per item.
        budgets: Candidates to take from each ring.
        fan_out: Neighbours of an item, and items of a ring, that paths run through.

    Returns:
        int64 [N + 1, G] ids, 0 where a ring has too few, and float64 [N + 1, G] scores.
    """
    width = len(popularity)
    owners = np.repeat(np.arange(width), np.diff(pairs.offsets))
    edges = _best(owners, pairs.items, edge_weights(pairs), popularity)
    nearest = edges.head(fan_out)
    neighbours = np.zeros((width, fan_out), dtype=np.int64)
    weights = np.zeros((width, fan_out))
    neighbours[nearest.rows, nearest.place()] = nearest.ids
    weights[nearest.rows, nearest.place()] = nearest.scores
    ids = np.zeros((width, sum(budgets)), dtype=np.int64)
    scores = np.zeros((width, sum(budgets)))
    for first in range(0, width, BLOCK_ITEMS):
        block = np.arange(first, min(first + BLOCK_ITEMS, width))
        low, high = np.searchsorted(edges.rows, [block[0], block[-1] + 1])
        ring = _Found(edges.rows[low:high] - first, edges.ids[low:high], edges.scores[low:high])
        known = np.arange(len(block)) * width + block
        ring = ring.without(known, width)
        column = 0
        for budget in budgets:
            taken = ring.head(budget)
            ids[taken.rows + first, column + taken.place()] = taken.ids
            scores[taken.rows + first, column + taken.place()] = taken.scores
            column += budget
            known = np.union1d(known, ring.rows * width + ring.ids)
            path = ring.head(fan_out)
            further = path.scores[:, None] * weights[path.ids]
            rows = np.repeat(path.rows, fan_out)
            real = neighbours[path.ids].ravel() > 0
            ring = _best(
                rows[real], neighbours[path.ids].ravel()[real], further.ravel()[real], popularity
            ).without(known, width)
    return ids, scores


def _best(rows: Ints, ids: Ints, scores: Floats, popularity: NDArray[Any]) -> _Found:
    """Keep each (row, id) once with its largest score, ordered by row and best first."""
    order = np.lexsort((ids, -popularity[ids], -scores, rows))
    rows, ids, scores = rows[order], ids[order], scores[order]
    first = np.sort(np.unique(rows * len(popularity) + ids, return_index=True)[1])
    return _Found(rows[first], ids[first], scores[first])
