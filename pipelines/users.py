"""Who gets a list tonight, and what each of them has had that their sequence no longer holds."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.histories import require_sequences
from pipelines.lists import Ints
from pipelines.partition import partitions_between
from pipelines.step import Context


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

    Raises:
        InputError: the partition has no sequences.
    """
    lake, ds = context.lake, context.ds
    require_sequences(lake, ds)
    lake.run.used("sequences", ds, lake.content("sequences", ds))
    rows = lake.dataset("sequences").to_table(
        columns=["user_id", "length"], filter=pc.field("ds") == ds
    )
    users: list[str] = rows["user_id"].to_pylist()
    settings = context.settings.sequences
    filtered = bool(settings.actions or settings.session_gap_minutes)
    cut = rows.filter(pc.greater_equal(rows["length"], settings.max_length))["user_id"]
    if not filtered and not len(cut):
        return Audience(users, [], {})
    events = _events(context, None if filtered else cut)
    everybody = sorted(set(pc.unique(events["user_id"]).to_pylist()) | set(users))
    without = sorted(set(everybody) - set(users))
    return Audience(everybody, without, _bought(context, events))


def _events(context: Context, only: pa.ChunkedArray | None) -> pa.Table:
    """Distinct (user, item) pairs inside the lookback, of these users or of all."""
    assert context.partition is not None
    first = context.partition.back(context.settings.sequences.lookback_days - 1)
    present = set(context.lake.partitions("events"))
    dates = [day.ds for day in partitions_between(first, context.partition) if day.ds in present]
    if not dates:
        return pa.table({name: pa.array([], pa.string()) for name in ("user_id", "item_id")})
    where = pc.field("ds").isin(dates)
    if only is not None:
        where &= pc.field("user_id").isin(only.combine_chunks())
    dataset = context.lake.dataset("events")
    pieces = [
        pa.table(batch).group_by(["user_id", "item_id"]).aggregate([])
        for batch in dataset.to_batches(columns=["user_id", "item_id"], filter=where)
    ]
    if not pieces:
        return pa.table(
            {"user_id": pa.array([], pa.string()), "item_id": pa.array([], pa.string())}
        )
    return pa.concat_tables(pieces).group_by(["user_id", "item_id"]).aggregate([])


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
