"""Ingest a delivery of events: each row to its own date, the malformed ones kept apart."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import structlog

from pipelines.errors import InputError
from pipelines.ingest.event_rows import (
    Tidy,
    days_of,
    merge_deliveries,
    merge_within,
    one_row_per_event,
)
from pipelines.ingest.mapping import EventMapping
from pipelines.ingest.plan import Delivery, Request, plan_delivery
from pipelines.ingest.shape import REPORT_EVERY_S, Shaped, refuse_rows, row_schema, shaped_batches
from pipelines.ingest.tally import REFUSED, Tally
from pipelines.io.spool import Spool, spools
from pipelines.pace import Pace
from pipelines.step import Context, Result

log = structlog.get_logger()

TABLE = "events"
EPOCH = date(1970, 1, 1)


@dataclass
class Outcome:
    """What the dates' rows came to, summed."""

    kept: int = 0
    events: int = 0
    merged: int = 0
    duplicates: int = 0
    repeated: int = 0
    by_date: dict[str, int] = field(default_factory=dict)


def run(
    context: Context,
    request: Request,
    *,
    all_partitions: bool = False,
    allow_empty: bool = False,
) -> Result:
    """Ingest one night's delivery, or a whole history.

    Args:
        context: its partition is the night; None for a history.
        request: source, preset and mapping of the command line.
        all_partitions: every row goes to its own date, as if delivered that night.
        allow_empty: a source without rows is an empty night, not a mistake.

    Raises:
        InputError: nothing to read, a damaged file, or too many malformed rows.
    """
    if all_partitions == (context.partition is not None):
        raise InputError("pass either --partition DATE or --all-partitions")
    ds = None if all_partitions else context.ds
    delivery = plan_delivery("events", context.settings.events, request, ds)
    assert isinstance(delivery.mapping, EventMapping)
    with spools(row_schema(delivery.mapping), REFUSED) as (spool, refused):
        tally = Tally(TABLE, refused)
        _collect(delivery, spool, tally, last_day=_last_day(ds))
        if not tally.read and not allow_empty:
            names = ", ".join(file.name for file in delivery.files[:3])
            raise InputError(
                f"source holds no event ({names}): pass --allow-empty if that is right"
            )
        tally.require_share(context.settings.events.max_rejected_share)
        outcome = _publish(context, spool, delivery.mapping, ds)
        late = {day: n for day, n in outcome.by_date.items() if ds and day < ds}
        rejected_ds = ds or max(outcome.by_date, default=None)
        if rejected_ds and not context.dry_run:
            rows = tally.refused_rows()
            context.lake.publish("events_rejected", rejected_ds, rows)
    return {
        "layout": delivery.layout,
        "files": len(delivery.files),
        **tally.counts(),
        "kept": outcome.kept,
        "merged": outcome.merged,
        "duplicates": outcome.duplicates,
        "repeated": outcome.repeated,
        "events": outcome.events,
        "late": late,
        "dates": len(outcome.by_date),
        "first_date": min(outcome.by_date, default=None),
        "last_date": max(outcome.by_date, default=None),
    }


def _collect(delivery: Delivery, spool: Spool, tally: Tally, last_day: int) -> None:
    """Read everything; rows of a day after the last one are refused."""
    for shaped in shaped_batches(delivery, tally):
        days = days_of(shaped.rows["ts"])
        future = days > last_day
        if future.any():
            refuse_rows(
                shaped.raw, future, "ts is in the future", _why_future(shaped, last_day), tally
            )
            shaped = Shaped(shaped.rows.filter(pa.array(~future)), shaped.raw.keep(~future))
            days = days[~future]
        spool.add_by(days, shaped.rows)


def _why_future(shaped: Shaped, last_day: int) -> Callable[[int], str]:
    times = shaped.rows["ts"]

    def why(index: int) -> str:
        moment = times[index].as_py().strftime("%Y-%m-%d %H:%M:%S")
        return f"ts {moment} is in the future: it is after {_iso(last_day)}"

    return why


def _publish(context: Context, spool: Spool, mapping: EventMapping, ds: str | None) -> Outcome:
    """Publish each date that has rows, the night's own first."""
    outcome = Outcome()
    pace = Pace(REPORT_EVERY_S)
    days = sorted(spool.groups, key=lambda day: (_iso(day) != ds, day))
    for done, day in enumerate(days, 1):
        raw = spool.take(day)
        rows = merge_within(raw, mapping.merge_within) if mapping.merge_within else raw
        tidy = one_row_per_event(rows)
        outcome.kept += raw.num_rows
        outcome.merged += raw.num_rows - rows.num_rows
        outcome.duplicates += tidy.duplicates
        outcome.repeated += tidy.repeated
        outcome.events += tidy.rows.num_rows
        outcome.by_date[_iso(day)] = tidy.rows.num_rows
        if not context.dry_run:
            _publish_date(context, _iso(day), ds or _iso(day), tidy)
        if pace.is_due():
            log.info("publishing events", dates=f"{done}/{len(days)}", events=outcome.events)
    if ds and not context.dry_run:
        nothing = Tidy(row_schema(mapping).empty_table(), 0, 0)
        for day_ds in _no_longer_delivered(context, ds, set(outcome.by_date)):
            _publish_date(context, day_ds, ds, nothing)
    return outcome


def _publish_date(context: Context, ds: str, ingested_ds: str, tidy: Tidy) -> None:
    rows = tidy.rows.append_column(
        "ingested_ds", pa.array(np.full(tidy.rows.num_rows, ingested_ds, dtype=object), pa.string())
    )
    context.lake.publish_merged(
        TABLE,
        ds,
        lambda existing: merge_deliveries(existing, rows, ingested_ds),
        guard=f"/from/{ingested_ds}",
    )


def _no_longer_delivered(context: Context, ds: str, delivered: set[str]) -> list[str]:
    """The dates up to `ds` that hold rows of this night's delivery, which now has none for them."""
    lake = context.lake
    if not lake.exists(TABLE):
        return []
    days = [d for d in lake.days_holding(TABLE, "ingested_ds", ds) if d <= ds]
    found = []
    for day in days:
        if day in delivered:
            continue
        where = pc.field("ingested_ds") == ds
        if lake.dataset(TABLE, day).count_rows(filter=where):
            found.append(day)
    return found


def _last_day(ds: str | None) -> int:
    """The last day that a row may be of: the night, or today for a history."""
    last = date.fromisoformat(ds) if ds else datetime.now(UTC).date()
    return (last - EPOCH).days


def _iso(day: int) -> str:
    return (EPOCH + timedelta(days=day)).isoformat()
