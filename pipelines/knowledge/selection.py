"""Which items are asked about tonight, and in which order."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.popularity import recent_counts
from pipelines.step import Context
from pipelines.tables.knowledge import KNOWLEDGE_KEY

SERVICE = "service:"


def pending(
    context: Context, items: pa.Table, prompt_version: str, model: str, retry_failed: bool = False
) -> pa.Table:
    """Take the items that have neither a record nor a failure for their present text.

    Args:
        context: the step's.
        items: `item_id`, `content_hash` and what else is wanted of them.
        prompt_version: of the backend.
        model: of the backend.
        retry_failed: take again what failed because the service did not answer.
    """
    mine = (pc.field("prompt_version") == prompt_version) & (pc.field("model") == model)
    columns = list(KNOWLEDGE_KEY)
    done = context.lake.read("item_knowledge", columns=columns).filter(mine)
    failed = context.lake.read("item_knowledge_failed", columns=[*columns, "reason"])
    failed = failed.filter(mine)
    if retry_failed:
        failed = failed.filter(pc.invert(pc.starts_with(failed["reason"], SERVICE)))
    keys = ["item_id", "content_hash"]
    known = pa.concat_tables([done.select(keys), failed.select(keys)])
    # Arrow's join cannot carry lists, so the keys are joined and the rows taken.
    numbered = items.select(keys).append_column("row", pa.array(range(items.num_rows), pa.int64()))
    left = numbered.join(known, keys=keys, join_type="left anti")
    return items.take(left["row"]).sort_by("item_id")


def unknown(made: pa.Table, there: pa.Table, key: Sequence[str]) -> pa.Table:
    """Drop rows whose key another run has written since."""
    numbers = pa.array(range(made.num_rows), pa.int64())
    keyed = made.select(list(key)).append_column("row", numbers)
    left = keyed.join(there.select(list(key)), keys=list(key), join_type="left anti")
    return made.take(left["row"].combine_chunks().sort())


def most_wanted_first(context: Context, items: pa.Table) -> pa.Table:
    """Order items so that a short budget goes where knowledge helps most.

    Popular items are on most lists; cold ones, without a recent event, have nothing but their text.
    The two take turns, the most popular first, cold ones by id; the rest follows by popularity.
    """
    if not items.num_rows or not context.lake.exists("sequences"):
        return items
    index = context.lake.read("item_index", columns=["item_id", "item_idx"])
    size = 1 + (pc.max(index["item_idx"]).as_py() or 0)
    counts_by_idx = recent_counts(context, size)
    place = pc.index_in(items["item_id"], value_set=index["item_id"])
    idx = pc.fill_null(index["item_idx"].take(place), 0).to_numpy()
    counts = counts_by_idx[idx]
    order = np.argsort(-counts, kind="stable")
    popular, cold = order[counts[order] > 0], order[counts[order] == 0]
    turns = np.concatenate([np.arange(popular.size) * 2, np.arange(cold.size) * 2 + 1])
    return items.take(np.concatenate([popular, cold])[np.argsort(turns, kind="stable")])
