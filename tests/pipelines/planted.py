"""A lake whose users walk the catalogue at a stride of their own.

The next item depends on the last two, so a sequence model can learn it, and popularity, the last
transition alone and the item graph cannot.
"""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipelines.io.lake import Lake
from pipelines.run import Run
from pipelines.tables.behaviour import ITEM_INDEX, ITEMS, SEQUENCES

DS = "2026-03-10"
NUM_ITEMS, NUM_USERS, LENGTH = 40, 300, 20
STRIDES = (1, 3, 7, 11)
ACTIONS = ("purchase", "view")


def item_name(index: int) -> str:
    """The id of an item index."""
    return f"item-{index:03d}"


def plant(home: Path, num_users: int = NUM_USERS, seed: int = 0) -> str:
    """Publish index, catalogue and sequences under `home/lake`; returns the lake's path."""
    lake = Lake(str(home / "lake"), Run.start("plant", DS))
    ids = [item_name(i) for i in range(1, NUM_ITEMS + 1)]
    index = {"item_id": ids, "item_idx": range(1, NUM_ITEMS + 1), "first_seen_ds": [DS] * len(ids)}
    lake.append("item_index", lambda _: pa.table(index, schema=ITEM_INDEX.schema))
    lake.publish("items", DS, catalogue(ids))
    lake.publish("sequences", DS, walks(num_users, seed))
    return lake.uri


def catalogue(ids: list[str], unavailable: frozenset[str] = frozenset()) -> pa.Table:
    """Rows of `items` with a title each."""
    rows = [
        {
            "item_id": item,
            "title": f"Thing {item[-3:]}",
            "available": item not in unavailable,
            "content_hash": item,
        }
        for item in ids
    ]
    return pa.Table.from_pylist(rows, schema=ITEMS.stored)


def walks(num_users: int, seed: int) -> pa.Table:
    """Rows of `sequences`: ten days of two events each."""
    draw = np.random.default_rng(seed)
    start = datetime(2026, 3, 1, tzinfo=UTC)
    rows = []
    for user in range(num_users):
        stride, first = int(draw.choice(STRIDES)), int(draw.integers(NUM_ITEMS))
        items = [(first + stride * step) % NUM_ITEMS + 1 for step in range(LENGTH)]
        minutes = np.sort(draw.choice(10 * 24 * 60, LENGTH, replace=False))
        times = [start + timedelta(minutes=int(minute)) for minute in minutes]
        actions = [ACTIONS[int(draw.integers(2))] for _ in items]
        rows.append(
            {
                "user_id": f"user-{user:04d}",
                "item_idx": items,
                "action": actions,
                "ts": times,
                "length": LENGTH,
                "last_ts": times[-1],
            }
        )
    return pa.Table.from_pylist(rows, schema=SEQUENCES.stored)
