"""How often items were met of late."""

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.step import Context


def recent_counts(context: Context, size: int) -> npt.NDArray[np.int64]:
    """Events per item within the fallback window, from the sequences of the night."""
    assert context.partition is not None
    days = context.settings.recommend.fallback_days
    since = pa.scalar(context.partition.back(days - 1).start, pa.timestamp("us", tz="UTC"))
    counts = np.zeros(size, np.int64)
    dataset = context.lake.dataset("sequences")
    where = pc.field("ds") == context.ds
    for batch in dataset.to_batches(columns=["item_idx", "ts"], filter=where):
        items = pc.list_flatten(batch["item_idx"])
        recent = pc.greater_equal(pc.list_flatten(batch["ts"]), since)
        chosen = items.filter(recent).to_numpy(zero_copy_only=False)
        counts += np.bincount(chosen, minlength=size)[:size]
    return counts
