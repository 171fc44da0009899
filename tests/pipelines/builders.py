"""Small lakes for the tests of the steps."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipelines.io.lake import Lake
from pipelines.partition import Partition
from pipelines.run import Run
from pipelines.settings import Settings
from pipelines.step import Context
from pipelines.tables import CONTRACTS
from pipelines.tables.behaviour import EVENTS

Event = dict[str, Any]


def a_run(attempt: int = 1, step: str = "test", partition: str | None = None) -> Run:
    """A run whose attempt is fixed."""
    return Run(f"run-{attempt}", step, partition, "1.2.3", attempt)


def a_lake(folder: Path | str, attempt: int = 1) -> Lake:
    """A lake as one run sees it."""
    return Lake(str(folder), a_run(attempt))


def a_context(
    folder: Path | str, ds: str, settings: Settings | None = None, dry_run: bool = False
) -> Context:
    """What a step of the night `ds` is given, as if launched now."""
    run = Run.start("test", ds, "1.2.3")
    return Context(settings or Settings(), Lake(str(folder), run), Partition.parse(ds), dry_run)


def rows_of(table: str, rows: Iterable[dict[str, Any]]) -> pa.Table:
    """Rows in a contract's columns; optional ones that are left out are null."""
    stored = CONTRACTS[table].stored
    full = [{name: row.get(name) for name in stored.names} for row in rows]
    return pa.Table.from_pylist(full, schema=stored)


def moment(text: str) -> datetime:
    """A UTC time such as 2026-03-01T10:00."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def event(user: str, item: str, ts: datetime | str, **more: Any) -> Event:
    """One event; a view unless `action` says otherwise."""
    when = moment(ts) if isinstance(ts, str) else ts
    base = {"user_id": user, "item_id": item, "action": "view", "ts": when}
    return base | {"ingested_ds": when.date().isoformat()} | more


def publish_events(lake: Lake, events: Sequence[Event]) -> None:
    """Publish events, each in the partition of its own date."""
    days: dict[str, list[Event]] = {}
    for one in events:
        days.setdefault(one["ts"].date().isoformat(), []).append(one)
    for ds, rows in sorted(days.items()):
        lake.publish(EVENTS.name, ds, rows_of(EVENTS.name, rows))


def resolved(lake: Lake, ds: str) -> dict[str, list[tuple[str, str, datetime]]]:
    """A sequences partition with its indices turned back into item ids."""
    lake.refresh()
    index = lake.read("item_index")
    names = dict(zip(index["item_idx"].to_pylist(), index["item_id"].to_pylist(), strict=True))
    found = {}
    for row in lake.read("sequences", ds).to_pylist():
        assert row["length"] == len(row["item_idx"])
        assert row["last_ts"] == row["ts"][-1]
        items = [names[i] for i in row["item_idx"]]
        found[row["user_id"]] = list(zip(items, row["action"], row["ts"], strict=True))
    return found


def days_after(ds: str, days: int) -> str:
    """The date some days later."""
    return Partition.parse(ds).back(-days).ds


def midnight(ds: str) -> datetime:
    """The first instant of a date."""
    return Partition.parse(ds).start


SECOND = timedelta(seconds=1)
