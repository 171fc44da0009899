"""Housekeeping of a table's files: sizes, compaction, checkpoints and vacuum."""

from typing import Any

import pyarrow as pa
import structlog
from deltalake import CommitProperties
from deltalake.exceptions import CommitFailedError

from pipelines.io.lake import Lake
from pipelines.tables import CONTRACTS

log = structlog.get_logger()

# Fewer files than this are not worth a rewrite.
FILES_WORTH_COMPACTING = 4


def file_sizes(lake: Lake, table: str) -> tuple[int, int, int]:
    """Count a table's live files, their rows and their bytes."""
    actions = pa.table(lake.ensure(table).get_add_actions(flatten=True))
    rows = sum(count or 0 for count in actions["num_records"].to_pylist())
    return actions.num_rows, rows, sum(actions["size_bytes"].to_pylist())


def last_write(lake: Lake, table: str) -> dict[str, Any]:
    """The metadata of the newest commit that a step made (empty where none has)."""
    for commit in lake.ensure(table).history():
        if "step" in commit:
            return dict(commit)
    return {}


def maintain(
    lake: Lake, table: str, *, target_bytes: int, retention_hours: int, dry_run: bool
) -> dict[str, Any]:
    """Compact partitions of many small files, checkpoint the log, vacuum old files.

    Rows do not change, and neither does what commits record of them. A publish that happens
    meanwhile wins: the compaction of that table is left for the next time.
    """
    compacted = 0
    for ds in _scattered(lake, table):
        if dry_run:
            compacted += 1
            continue
        handle = lake.ensure(table)
        try:
            handle.optimize.compact(
                partition_filters=[("ds", "=", ds)] if ds else None,
                target_size=target_bytes,
                commit_properties=CommitProperties(
                    custom_metadata={"run_id": lake.run.run_id, "step": lake.run.step},
                    max_commit_retries=0,
                ),
            )
            compacted += 1
        except CommitFailedError:
            log.info("a publish came first; compaction waits", table=table, ds=ds)
        lake.refresh(table)
    handle = lake.ensure(table)
    removed = handle.vacuum(retention_hours, dry_run=dry_run, full=True)
    if not dry_run:
        lake.refresh(table)
        lake.ensure(table).create_checkpoint()
    return {"compacted": compacted, "files_removed": len(removed)}


def _scattered(lake: Lake, table: str) -> list[str | None]:
    """The partitions, or the whole unpartitioned table (None), that have many files."""
    days: list[str | None] = [None]
    if CONTRACTS[table].by_ds:
        days = list(lake.partitions(table))
    return [
        ds
        for ds in days
        if len(lake.files(table, None if ds is None else [ds])) >= FILES_WORTH_COMPACTING
    ]
