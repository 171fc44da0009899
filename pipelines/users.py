"""Who gets a list tonight, and what each of them has had that their sequence no longer holds."""

from dataclasses import dataclass
from datetime import date

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.histories import require_sequences
from pipelines.lineage import use_window
from pipelines.lists import Ints
from pipelines.partition import Partition
from pipelines.step import Context

PAIR = ["user_id", "item_id"]
BEGINNING = Partition(date.min)
FOLD_ROWS = 1_000_000


@dataclass(frozen=True)
class Audience:
    """Tonight's users.

    Attributes:
        users: everybody with an event inside the lookback.
        without_history: those among them whose events the sequence filters left out.
        bought: item indices per user beyond the sequence, for users who have such.
    """

    users: list[str]
    without_history: list[str]
    bought: dict[str, Ints]


def find_audience(context: Context) -> Audience:
    """Read the night's users from its sequences, and from the events where those are filtered.

    What somebody had before the lookback counts as bought too: sequences forget, lists may not.

    Raises:
        InputError: the partition has no sequences.
    """
    lake, ds = context.lake, context.ds
    require_sequences(lake, ds)
    lake.run.used("sequences", ds, lake.content("sequences", ds))
    rows = lake.dataset("sequences").to_table(
        columns=["user_id", "length"], filter=pc.field("ds") == ds
    )
    settings = context.settings.sequences
    filtered = bool(settings.actions or settings.session_gap_minutes)
    cut = rows.filter(pc.greater_equal(rows["length"], settings.max_length))["user_id"]
    night = context.partition
    assert night is not None
    first = night.back(settings.lookback_days - 1)
    recent = _pairs(context, first, night, None if filtered else cut)
    users: list[str] = rows["user_id"].to_pylist()
    everybody = sorted(set(pc.unique(recent["user_id"]).to_pylist()) | set(users))
    older = _pairs(context, BEGINNING, first.back(1), pa.array(everybody, pa.string()))
    without = sorted(set(everybody) - set(users))
    return Audience(everybody, without, _bought(context, _distinct([recent, older])))


def _pairs(
    context: Context, first: Partition, last: Partition, only: pa.Array | pa.ChunkedArray | None
) -> pa.Table:
    """Distinct (user, item) pairs of events from one date to another, of these users or of all."""
    found = pa.table({name: pa.array([], pa.string()) for name in PAIR})
    if only is not None and not len(only):
        return found
    dates = use_window(context.lake, "events", first, last)
    if not dates:
        return found
    where = pc.field("ds").isin(dates)
    if only is not None:
        where &= pc.field("user_id").isin(only)
    waiting: list[pa.Table] = []
    num_waiting = 0
    for batch in context.lake.dataset("events").to_batches(columns=PAIR, filter=where):
        waiting.append(pa.table(batch).group_by(PAIR).aggregate([]))
        num_waiting += waiting[-1].num_rows
        # Folded whenever as much waits as has been found: each row is grouped a few times in all,
        # and memory stays near twice the distinct pairs.
        if num_waiting > max(found.num_rows, FOLD_ROWS):
            found, waiting, num_waiting = _distinct([found, *waiting]), [], 0
    return _distinct([found, *waiting])


def _distinct(tables: list[pa.Table]) -> pa.Table:
    # Permissive: columns of a table without null differ from others in that alone.
    return pa.concat_tables(tables, promote_options="permissive").group_by(PAIR).aggregate([])


def _bought(context: Context, events: pa.Table) -> dict[str, Ints]:
    index = context.lake.read("item_index", columns=["item_id", "item_idx"])
    place = pc.index_in(events["item_id"], value_set=index["item_id"].combine_chunks())
    known = pc.is_valid(place)
    pairs = pa.table(
        {
            "user_id": events["user_id"].filter(known),
            "item_idx": index["item_idx"].take(place.filter(known)),
        }
    )
    grouped = pairs.group_by("user_id").aggregate([("item_idx", "list")])
    lists = grouped["item_idx_list"].to_pylist()
    users = grouped["user_id"].to_pylist()
    return {user: np.array(ids, np.int64) for user, ids in zip(users, lists, strict=True)}
