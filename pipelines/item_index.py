"""The dense integer of every item: handed out once, in order of need, and never changed."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.io.lake import Lake
from pipelines.tables.behaviour import ITEM_INDEX

TABLE = ITEM_INDEX.name


def load_index(lake: Lake) -> pa.Table:
    """Read item_id, item_idx and first_seen_ds, ordered by item_idx."""
    return lake.read(TABLE).sort_by("item_idx")


def ids_by_index(lake: Lake) -> dict[int, str]:
    """Read which item each index stands for."""
    index = lake.read(TABLE, columns=["item_id", "item_idx"])
    return dict(zip(index["item_idx"].to_pylist(), index["item_id"].to_pylist(), strict=True))


def catalogue_size(lake: Lake) -> int:
    """Items that the index has."""
    return int(lake.read(TABLE, columns=["item_idx"]).num_rows)


def ensure_indexed(lake: Lake, item_ids: pa.Array | pa.ChunkedArray, ds: str) -> int:
    """Give the items that have none the next indices, in order of item_id.

    Any number of writers may do this at once: their appends exclude each other, and each hands out
    indices that follow the ones it saw.

    Args:
        lake: where the index is.
        item_ids: strings, in any order, repeats allowed.
        ds: the partition in which they were seen.

    Returns:
        How many items were added.
    """
    commit = lake.append(TABLE, lambda index: unseen(index, item_ids, ds))
    if commit.changed:
        lake.run.output_versions[TABLE] = commit.version
    return commit.rows


def unseen(index: pa.Table, item_ids: pa.Array | pa.ChunkedArray, ds: str) -> pa.Table:
    """Work out the rows that an index lacks: dense from 1, in order of item_id."""
    items = pc.unique(item_ids).cast(pa.string())
    new = items.filter(pc.invert(pc.is_in(items, value_set=index["item_id"])))
    new = new.take(pc.sort_indices(new))
    taken = pc.max(index["item_idx"]).as_py() or 0
    # Dense indices are what lets a model size its tables by the largest one.
    assert taken == index.num_rows, f"item_index holds {index.num_rows} rows up to {taken}"
    columns = {
        "item_id": new,
        "item_idx": np.arange(taken + 1, taken + 1 + len(new), dtype=np.int32),
        "first_seen_ds": pa.array([ds] * len(new), pa.string()),
    }
    return pa.table(columns, schema=ITEM_INDEX.schema)
