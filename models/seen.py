"""Per-row lists of item ids that must not be recommended, as offsets into one flat array."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.sequences import Ints, SequenceStore


@dataclass(frozen=True, eq=False)
class SeenItems:
    """Item ids per row: row r holds items[offsets[r]:offsets[r + 1]], each id once.

    Attributes:
        offsets: int64 [R + 1].
        items: int64 ids.
    """

    offsets: Ints
    items: Ints

    @classmethod
    def from_store(cls, store: SequenceStore) -> "SeenItems":
        """Collect the distinct items of every row of a store."""
        rows, places = store.flat_events()
        width = int(store.items.max()) + 1 if len(store.items) else 1
        keys = np.unique(rows * width + store.items[places])
        counts = np.bincount(keys // width, minlength=len(store))
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
        return cls(offsets, keys % width)

    def __len__(self) -> int:
        """Count the rows."""
        return len(self.offsets) - 1

    def contains(self, items: NDArray[Any]) -> NDArray[np.bool_]:
        """Say for each row whether its one given item is listed: bool [R]."""
        rows = np.repeat(np.arange(len(self)), np.diff(self.offsets))
        hit = self.items == np.asarray(items)[rows]
        return np.bincount(rows[hit], minlength=len(self)) > 0

    def window(self, first: int, last: int) -> "SeenWindow":
        """Order the entries of rows first..last-1 by item, to be cut by chunks of the catalogue."""
        begin, end = self.offsets[first], self.offsets[last]
        rows = np.repeat(np.arange(last - first), np.diff(self.offsets[first : last + 1]))
        items = self.items[begin:end]
        order = np.argsort(items, kind="stable")
        return SeenWindow(rows[order], items[order])


@dataclass(frozen=True, eq=False)
class SeenWindow:
    """Entries of a few rows ordered by item id: `rows` are counted from the window's first."""

    rows: Ints
    items: Ints

    def chunk(self, start: int, stop: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return (row, item - start) of the entries with start <= item < stop."""
        low, high = np.searchsorted(self.items, [start, stop])
        rows = torch.from_numpy(self.rows[low:high].copy()).to(device)
        columns = torch.from_numpy(self.items[low:high] - start).to(device)
        return rows, columns
