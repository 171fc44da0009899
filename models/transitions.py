"""Counts of which item directly followed which.

Shape legend: N catalogue size, E distinct pairs.
"""

from dataclasses import dataclass

import numpy as np

from models.sequences import Ints, SequenceStore


@dataclass(frozen=True, eq=False)
class TransitionCounts:
    """Distinct (item, next item) pairs, ordered by item and next item.

    Attributes:
        offsets: int64 [N + 2]; item i owns the pairs offsets[i]..offsets[i + 1] - 1.
        items: int64 [E], the next item of each pair.
        counts: int64 [E], how often the pair occurs.
    """

    offsets: Ints
    items: Ints
    counts: Ints


def count_transitions(store: SequenceStore, num_items: int) -> TransitionCounts:
    """Count consecutive pairs inside the rows of a store."""
    rows, places = store.flat_events()
    items = store.items[places].astype(np.int64)
    together = rows[1:] == rows[:-1]
    width = num_items + 1
    keys, counts = np.unique(items[:-1][together] * width + items[1:][together], return_counts=True)
    owners = np.bincount(keys // width, minlength=width)
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(owners)])
    return TransitionCounts(offsets, keys % width, counts.astype(np.int64))
