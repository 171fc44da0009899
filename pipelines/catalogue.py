"""The catalogue as a night sees it: each item's latest row among the deliveries up to its date."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.io.lake import Lake


def items_as_of(lake: Lake, ds: str, columns: Sequence[str], snapshot: str) -> pa.Table:
    """Read the latest row of every item delivered on or before a date, ordered by item.

    Args:
        lake: every partition read is recorded.
        ds: the night.
        columns: columns of `items`; `item_id` must be among them.
        snapshot: "changes" takes availability from each item's latest row; "full" says that the
            latest delivery is complete, so that an item it lacks is unavailable.
    """
    days = [day for day in lake.partitions("items") if day <= ds]
    wanted = list(dict.fromkeys(["item_id", *columns]))
    pieces: list[pa.Table] = []
    taken: pa.Array = pa.array([], pa.string())
    for day in reversed(days):
        rows = lake.read("items", day, wanted)
        fresh = rows.filter(pc.invert(pc.is_in(rows["item_id"], value_set=taken)))
        if snapshot == "full" and day != days[-1] and "available" in wanted:
            place = wanted.index("available")
            gone = pa.array(np.zeros(fresh.num_rows, np.bool_))
            fresh = fresh.set_column(place, fresh.schema.field(place), gone)
        pieces.append(fresh)
        taken = pa.concat_arrays([taken, fresh["item_id"].combine_chunks()])
    if not pieces:
        return lake.read("items", ds, wanted).slice(0, 0).select(list(columns))
    return pa.concat_tables(pieces).sort_by("item_id").select(list(columns))
