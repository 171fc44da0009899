"""What people have had beyond their sequences: item indices per user, read from the events.

Shape legend: U users, P distinct (user, item) pairs.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.lineage import use_window
from pipelines.lists import Ints
from pipelines.partition import Partition
from pipelines.step import Context

# Rows of events that are looked up, and pairs that are sorted, at once.
FOLD_ROWS = 1_000_000
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Bought:
    """Item indices by user.

    Attributes:
        row_of: each user's row.
        offsets: int64 [U + 1], where a row's items begin and end.
        items: int32 [P].
    """

    row_of: dict[str, int]
    offsets: Ints
    items: npt.NDArray[np.int32]

    def of(self, user: str) -> Ints:
        """The items of a user, ascending; none of whom nothing is known."""
        row = self.row_of.get(user)
        if row is None:
            return np.zeros(0, np.int64)
        return self.items[self.offsets[row] : self.offsets[row + 1]].astype(np.int64)


@dataclass(frozen=True)
class Window:
    """Events from one date to another, of some users or of all."""

    first: Partition
    last: Partition
    only: pa.Array | None = None

    def batches(self, context: Context, columns: list[str]) -> Iterator[pa.RecordBatch]:
        """Stream the rows; what was read is recorded."""
        if self.only is not None and not len(self.only):
            return
        dates = use_window(context.lake, "events", self.first, self.last)
        if not dates:
            return
        where = pc.field("ds").isin(dates)
        if self.only is not None:
            where &= pc.field("user_id").isin(self.only)
        yield from context.lake.dataset("events").to_batches(columns=columns, filter=where)


def active_users(context: Context, window: Window) -> set[str]:
    """Everybody with an event in the window."""
    found: set[str] = set()
    for batch in window.batches(context, ["user_id"]):
        found.update(pc.unique(batch["user_id"]).to_pylist())
    return found


def read_bought(context: Context, users: list[str], windows: list[Window]) -> Bought:
    """Collect what these users had in any of the windows; memory grows with distinct pairs alone.

    Args:
        context: where the events are.
        users: whom to look for.
        windows: what to read.
    """
    tables = chain.from_iterable(_tables(context, window) for window in windows)
    head = next(tables, None)
    if head is None:  # the ordinary night: no index is read
        return Bought({}, np.zeros(1, np.int64), np.zeros(0, np.int32))
    names = pa.array(users, pa.string())
    index = context.lake.read("item_index", columns=["item_id", "item_idx"])
    keys = _distinct(_keys(rows, names, index) for rows in chain([head], tables))
    owners, items = keys >> 32, (keys & 0xFFFFFFFF).astype(np.int32)
    first = np.flatnonzero(_begins(owners))
    row_of = {users[owner]: row for row, owner in enumerate(owners[first].tolist())}
    return Bought(row_of, np.append(first, len(items)), items)


def _tables(context: Context, window: Window) -> Iterator[pa.Table]:
    """Gather batches until a lookup pays."""
    waiting: list[pa.RecordBatch] = []
    num_rows = 0
    for batch in window.batches(context, ["user_id", "item_id"]):
        waiting.append(batch)
        num_rows += batch.num_rows
        if num_rows >= FOLD_ROWS:
            yield pa.Table.from_batches(waiting)
            waiting, num_rows = [], 0
    if waiting:
        yield pa.Table.from_batches(waiting)


def _keys(rows: pa.Table, users: pa.Array, index: pa.Table) -> Ints:
    """Write pairs as one number each: the user's place, then the item's index."""
    owner = pc.index_in(rows["user_id"], value_set=users)
    place = pc.index_in(rows["item_id"], value_set=index["item_id"].combine_chunks())
    known = pc.and_(pc.is_valid(owner), pc.is_valid(place))
    owners = owner.filter(known).to_numpy().astype(np.int64)
    items = index["item_idx"].take(place.filter(known)).to_numpy().astype(np.int64)
    keys: Ints = owners << 32 | items
    return keys


def _distinct(pieces: Iterator[Ints]) -> Ints:
    """Sort out repeats whenever as much waits as has been found, so that each is sorted seldom."""
    found, num_waiting = np.zeros(0, np.int64), 0
    waiting: list[Ints] = []
    for piece in pieces:
        waiting.append(piece)
        num_waiting += len(piece)
        if num_waiting > max(len(found), FOLD_ROWS):
            found, waiting, num_waiting = _sorted_out([found, *waiting]), [], 0
    return _sorted_out([found, *waiting])


def _sorted_out(pieces: list[Ints]) -> Ints:
    """Join, sort and drop repeats; unlike numpy's own unique, which hashes and takes tenfold."""
    keys = np.concatenate(pieces)
    keys.sort()
    return keys[_begins(keys)]


def _begins(values: Ints) -> Bools:
    """Mark where a sorted array has another value than before."""
    begins: Bools = np.diff(values, prepend=values[:1] - 1) != 0
    return begins
