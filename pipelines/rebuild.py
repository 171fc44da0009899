"""Publish a derived partition so that nights may be built in any order and at the same time.

A publish is followed by a look at what it was built from. Inputs that moved meanwhile mean another
build, and later partitions that are stale by now are rebuilt in the order of their dates. Whoever
publishes last therefore sees, and mends, what the others could not know.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import structlog

from pipelines.io.lake import Commit
from pipelines.lineage import Lineage
from pipelines.partition import Partition
from pipelines.step import Context, Result

log = structlog.get_logger()

MOVING_ROUNDS = 20


@dataclass(frozen=True)
class Built:
    """One build of one partition.

    Attributes:
        rows: rows worked out.
        commit: what publishing did; None in a dry run.
        details: what else the step reports.
    """

    rows: int
    commit: Commit | None
    details: dict[str, Any] = field(default_factory=dict)


Build = Callable[[Partition], Built]


def publish_derived(context: Context, table: str, build: Build, *, cascade: bool) -> Result:
    """Build the context's partition until its inputs stand still, then later stale ones.

    Args:
        context: names the partition.
        table: the derived table.
        build: reads the inputs of a partition through the context's lake and commits it.
        cascade: rebuild later partitions of the table that are stale.
    """
    night = context.partition
    assert night is not None
    built = _settle(context, table, night, build)
    versions = dict(context.run.input_versions)
    rebuilt: list[str] = []
    if cascade and not context.dry_run:
        rebuilt = _cascade(context, table, night, build)
        context.run.input_versions = versions  # the step's record is that of its own partition
    changed = built.commit is not None and built.commit.changed
    return (
        {"table": table, "rows": built.rows, "changed": changed}
        | built.details
        | {"rebuilt": rebuilt}
    )


def _settle(context: Context, table: str, night: Partition, build: Build) -> Built:
    """Build a partition, and again while its inputs move on."""
    lake, run = context.lake, context.run
    for _ in range(MOVING_ROUNDS):
        lake.refresh()
        run.forget_inputs()
        built = build(night)
        if context.dry_run:
            return built
        lake.refresh()
        moved = Lineage(lake, context.settings).changed_inputs(table, night.ds)
        if not moved:
            return built
        log.info("inputs moved", table=table, ds=night.ds, because=moved[:3])
        _renew_attempt(context, table, night.ds)
    log.warning("inputs keep moving; left stale", table=table, ds=night.ds)
    return built


def _cascade(context: Context, table: str, night: Partition, build: Build) -> list[str]:
    """Rebuild the stale partitions after a night, in the order of their dates."""
    rebuilt: list[str] = []
    last = night.ds
    launched = context.run.attempt
    while (stale := _next_stale(context, table, last)) is not None:
        last, reasons = stale
        log.info("rebuilding", table=table, ds=last, because=reasons[:3])
        _renew_attempt(context, table, last)
        _settle(context, table, Partition.parse(last), build)
        rebuilt.append(last)
    context.run.attempt = launched
    return rebuilt


def _next_stale(context: Context, table: str, after: str) -> tuple[str, tuple[str, ...]] | None:
    """Find the first stale partition later than a date, as of now."""
    context.lake.refresh()
    lineage = Lineage(context.lake, context.settings)
    for ds in context.lake.published(table):
        if ds > after and (reasons := lineage.reasons(table, ds)):
            return ds, reasons
    return None


def _renew_attempt(context: Context, table: str, ds: str) -> None:
    """Number what follows as a new attempt: it reads its inputs after this moment.

    Without it the guard would take a rebuild by an early run for a zombie of a later one. Clocks
    differ between machines, so the number also passes the one that is there.
    """
    there = context.lake.attempt(table, ds)
    context.run.attempt = max(time.time_ns() // 1_000_000, there + 1)
