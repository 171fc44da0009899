"""Compact closed partitions, checkpoint the log, and delete files that no reader needs."""

from typing import Any

import structlog

from pipelines.io.upkeep import maintain
from pipelines.step import Context, Result
from pipelines.tables import CONTRACTS

log = structlog.get_logger()


def run(context: Context) -> Result:
    """Maintain every table; contents and staleness stay as they are.

    Files that a commit replaced are kept for `maintenance.retention_hours`, so that running
    readers and time travel go on working; so are files staged but never committed.
    """
    settings = context.settings.maintenance
    done: dict[str, dict[str, Any]] = {}
    for name in CONTRACTS:
        if not context.lake.exists(name):
            continue
        done[name] = maintain(
            context.lake,
            name,
            target_bytes=settings.target_file_mb * 2**20,
            retention_hours=settings.retention_hours,
            dry_run=context.dry_run,
        )
        log.info("maintained", table=name, **done[name])
    return {"tables": done}
