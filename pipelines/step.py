"""How a step runs: one record, one lake, one result, one line in `pipeline_runs`."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import structlog

from pipelines.errors import GateRefused
from pipelines.io.lake import Lake
from pipelines.partition import Partition
from pipelines.run import Run
from pipelines.settings import Settings
from pipelines.tables.publishing import PIPELINE_RUNS

log = structlog.get_logger()

Result = dict[str, Any]


@dataclass
class Context:
    """What every step is given.

    Attributes:
        partition: the night; None for steps without one.
        dry_run: work everything out and publish nothing.
    """

    settings: Settings
    lake: Lake
    partition: Partition | None = None
    dry_run: bool = False

    @property
    def run(self) -> Run:
        """The run's record."""
        return self.lake.run

    @property
    def ds(self) -> str:
        """The partition's date, for steps that have one."""
        assert self.partition is not None
        return self.partition.ds


def open_context(
    step: str, settings: Settings, partition: str | None = None, dry_run: bool = False
) -> Context:
    """Open the lake for a step.

    Raises:
        InputError: the partition is not a date, or has not begun.
    """
    night = None
    if partition is not None:
        night = Partition.parse(partition)
        night.require_closed(datetime.now(UTC))
    run = Run.start(step, partition, settings.code_version)
    lake = Lake(settings.lake_uri, run, dict(settings.storage_options))
    return Context(settings, lake, night, dry_run)


def run_step(context: Context, body: Callable[[Context], Result]) -> Result:
    """Run a step's body and append what happened to `pipeline_runs`, also when it fails."""
    started, began = datetime.now(UTC), time.monotonic()
    run = context.run
    log.info("step started", step=run.step, partition=run.partition, run_id=run.run_id)
    status = "failed"
    try:
        result = body(context)
        status = "done"
    except GateRefused:
        status = "refused"
        raise
    finally:
        seconds = time.monotonic() - began
        if not context.dry_run and (status != "failed" or context.lake.exists("pipeline_runs")):
            _record(context, status, started, seconds)
        log.info("step ended", step=run.step, status=status, seconds=round(seconds, 1))
    return {
        "step": run.step,
        "partition": run.partition,
        "run_id": run.run_id,
        "dry_run": context.dry_run,
        "seconds": round(seconds, 3),
        "rows": run.rows,
        "input_versions": run.input_versions,
        "output_versions": run.output_versions,
        **result,
    }


def _record(context: Context, status: str, started: datetime, seconds: float) -> None:
    run = context.run
    row = {
        "run_id": run.run_id,
        "step": run.step,
        "partition": run.partition,
        "status": status,
        "started_at": started,
        "seconds": seconds,
        "input_versions": list(run.input_versions.items()),
        "output_versions": list(run.output_versions.items()),
        "rows": run.rows,
        "code_version": run.code_version,
    }
    rows = pa.Table.from_pylist([row], schema=PIPELINE_RUNS.schema)
    context.lake.append("pipeline_runs", lambda _: rows)
