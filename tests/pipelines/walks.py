"""A small log whose next item follows from the last one."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

START = datetime(2026, 1, 1, tzinfo=UTC)


def events(rows: list[tuple[str, str, int]]) -> pa.Table:
    return pa.table(
        {
            "user_id": [row[0] for row in rows],
            "item_id": [row[1] for row in rows],
            "action": ["view"] * len(rows),
            "ts": pa.array(
                [START + timedelta(hours=row[2]) for row in rows], pa.timestamp("us", "UTC")
            ),
        }
    )


def write_walks(folder: Path) -> None:
    """120 users who walk through a catalogue of 30 items in its own order, at random times."""
    rng = np.random.default_rng(0)
    rows = []
    for user in range(120):
        hours, first = np.sort(rng.integers(0, 2000, 8)).tolist(), int(rng.integers(0, 30))
        rows += [(f"u{user}", f"i{(first + n) % 30:02}", hours[n]) for n in range(8)]
    rows += [(f"u{user}", "new", 2001) for user in range(5)]
    pq.write_table(events(rows), folder / "events.parquet")
