"""Behaviour sequences of many users as windows over flat arrays.

Shape legend: E events, R rows (users).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class SequenceStore:
    """Rows of events, oldest first; every row is a window of the shared flat arrays.

    `take`, `before` and their kin return new windows over the same memory: nothing is copied.

    Attributes:
        items: int32 [E], item ids from 1.
        times: int64 [E], unix seconds, non-decreasing inside a row.
        actions: int16 [E], 0 where unknown.
        starts: int64 [R], first event of each row.
        stops: int64 [R], one past the last event of each row.
        users: [R] user ids, or None.
    """

    items: NDArray[np.int32]
    times: Ints
    actions: NDArray[np.int16]
    starts: Ints
    stops: Ints
    users: NDArray[Any] | None = None

    @classmethod
    def from_arrays(
        cls,
        items: NDArray[Any],
        offsets: NDArray[Any],
        times: NDArray[Any] | None = None,
        actions: NDArray[Any] | None = None,
        users: NDArray[Any] | None = None,
    ) -> "SequenceStore":
        """Wrap flat event arrays; row r holds the events offsets[r]..offsets[r + 1] - 1.

        Without `times` an event's place in its row stands in for its time.

        Raises:
            ValueError: If lengths disagree, an item id is below 1 or a row runs back in time.
        """
        offsets = np.ascontiguousarray(offsets, dtype=np.int64)
        items = np.ascontiguousarray(items, dtype=np.int32)
        if len(offsets) == 0 or offsets[0] < 0 or offsets[-1] > len(items):
            raise ValueError(f"offsets must lie within the {len(items)} events")
        lengths = np.diff(offsets)
        if len(lengths) and lengths.min() < 0:
            raise ValueError(
                f"offsets must not fall: row {int(lengths.argmin())} ends before it starts"
            )
        if times is None:
            times = np.arange(len(items)) - np.repeat(offsets[:-1], lengths)
        if actions is None:
            actions = np.zeros(len(items), dtype=np.int16)
        store = cls(
            items,
            np.ascontiguousarray(times, dtype=np.int64),
            np.ascontiguousarray(actions, dtype=np.int16),
            offsets[:-1].copy(),
            offsets[1:].copy(),
            users,
        )
        store._check()
        return store

    @classmethod
    def from_lists(
        cls,
        items: Sequence[Sequence[int]],
        times: Sequence[Sequence[int]] | None = None,
        actions: Sequence[Sequence[int]] | None = None,
        users: Sequence[Any] | None = None,
    ) -> "SequenceStore":
        """Build a store from one list per row."""
        lengths = np.array([len(row) for row in items], dtype=np.int64)

        def flat(rows: Sequence[Sequence[int]] | None) -> Ints | None:
            if rows is None:
                return None
            return np.array([value for row in rows for value in row], dtype=np.int64)

        flat_items = flat(items)
        assert flat_items is not None
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        names = None if users is None else np.array(list(users), dtype=object)
        return cls.from_arrays(flat_items, offsets, flat(times), flat(actions), names)

    def _check(self) -> None:
        if len(self.times) != len(self.items) or len(self.actions) != len(self.items):
            raise ValueError(
                f"{len(self.items)} items, {len(self.times)} times and {len(self.actions)} actions"
            )
        if self.users is not None and len(self.users) != len(self):
            raise ValueError(f"{len(self.users)} users for {len(self)} rows")
        if len(self.items) and self.items.min() < 1:
            raise ValueError(f"item ids start at 1, found {int(self.items.min())}")
        falls = np.flatnonzero(np.diff(self.times) < 0) + 1
        # A fall in time is fine only where a new row starts.
        inside = falls[~np.isin(falls, self.starts)]
        if len(inside):
            raise ValueError(f"event {int(inside[0])} is older than the one before it in its row")

    def __len__(self) -> int:
        """Count the rows."""
        return len(self.starts)

    @property
    def lengths(self) -> Ints:
        """Events per row, int64 [R]."""
        return self.stops - self.starts

    @property
    def num_events(self) -> int:
        """Events over all rows."""
        return int(self.lengths.sum())

    @property
    def offsets(self) -> Ints:
        """Row offsets, int64 [R + 1], of a store whose rows lie back to back (see `compact`).

        Raises:
            ValueError: If rows overlap or leave gaps.
        """
        if len(self) and not np.array_equal(self.starts[1:], self.stops[:-1]):
            raise ValueError("rows are windows with gaps between them: call compact() first")
        first = self.starts[:1] if len(self) else np.zeros(1, np.int64)
        return np.concatenate([first, self.stops])

    def row(self, index: int) -> NDArray[np.int32]:
        """Return the item ids of one row."""
        return self.items[self.starts[index] : self.stops[index]]

    def flat_events(self) -> tuple[Ints, Ints]:
        """Return (row, place in the flat arrays) of every event, int64, row by row."""
        lengths = self.lengths
        rows = np.repeat(np.arange(len(self)), lengths)
        first = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)[:-1]])
        within = np.arange(int(lengths.sum())) - np.repeat(first[: len(self)], lengths)
        return rows, np.repeat(self.starts, lengths) + within

    def _windows(self, starts: Ints, stops: Ints, rows: Ints | None = None) -> "SequenceStore":
        users = self.users if self.users is None or rows is None else self.users[rows]
        return SequenceStore(self.items, self.times, self.actions, starts, stops, users)

    def take(self, rows: NDArray[Any]) -> "SequenceStore":
        """Return the given rows, in the given order."""
        rows = np.flatnonzero(rows) if rows.dtype == np.bool_ else rows.astype(np.int64)
        return self._windows(self.starts[rows], self.stops[rows], rows)

    def count_before(self, cut_time: int) -> Ints:
        """Count each row's events strictly before a unix time, int64 [R]."""
        sums = np.concatenate([np.zeros(1, np.int64), np.cumsum(self.times < cut_time)])
        counts: Ints = sums[self.stops] - sums[self.starts]
        return counts

    def before(self, cut_time: int) -> "SequenceStore":
        """Cut every row to its events strictly before a unix time; empty rows stay."""
        return self._windows(self.starts, self.starts + self.count_before(cut_time))

    def since(self, cut_time: int) -> "SequenceStore":
        """Cut every row to its events at or after a unix time; empty rows stay."""
        return self._windows(self.starts + self.count_before(cut_time), self.stops)

    def drop_last(self, count: int) -> "SequenceStore":
        """Cut the newest `count` events off every row."""
        return self._windows(self.starts, np.maximum(self.stops - count, self.starts))

    def compact(self) -> "SequenceStore":
        """Copy the rows' events into new flat arrays that lie back to back."""
        _, places = self.flat_events()
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(self.lengths)])
        return SequenceStore(
            self.items[places],
            self.times[places],
            self.actions[places],
            offsets[:-1],
            offsets[1:],
            self.users,
        )

    @classmethod
    def joined(cls, stores: "Sequence[SequenceStore]") -> "SequenceStore":
        """Copy the rows of several stores into one, without their users."""
        stores = [store.compact() for store in stores]
        lengths = np.concatenate([store.lengths for store in stores])
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        flat = [
            np.concatenate([getattr(store, name) for store in stores])
            for name in ("items", "times", "actions")
        ]
        return cls(flat[0], flat[1], flat[2], offsets[:-1], offsets[1:])

    def sorted_by_user(self) -> "SequenceStore":
        """Order the rows by user id, so that results do not depend on file order.

        Raises:
            ValueError: If the store has no users.
        """
        if self.users is None:
            raise ValueError("the store has no users to sort by")
        return self.take(np.argsort(self.users, kind="stable"))
