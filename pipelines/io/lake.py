"""The lake: every Delta table, read at one version and published one partition at a time.

A publish stages files, then commits them in one transaction that replaces the partition. The
guard is an application transaction `reckoner/<table>/<ds>` whose version is the attempt's number:
delta-rs does not refuse a repeated one, so it is read first, and a conflict re-opens the table. A
publish whose contents and inputs equal what is there commits nothing.
"""

import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import structlog
from deltalake import CommitProperties, DeltaTable, Transaction
from deltalake.exceptions import CommitFailedError
from deltalake.transaction import AddAction

from pipelines.errors import InputError, ServiceUnavailable
from pipelines.io.commit_log import VERSION
from pipelines.io.content_hash import combine
from pipelines.io.delta_table import create_table, grow_table, trouble
from pipelines.io.lake_reader import LakeReader, guard_name
from pipelines.io.staging import StagedFile, stage_file
from pipelines.run import Run
from pipelines.tables import CONTRACTS

log = structlog.get_logger()

COMMIT_TRIES = 60


@dataclass(frozen=True)
class Commit:
    """What a publish did.

    Attributes:
        changed: a new version was committed.
        outdated: nothing was, because a newer attempt had published the partition already.
    """

    table: str
    ds: str | None
    version: int
    rows: int
    changed: bool
    outdated: bool = False


class Lake(LakeReader):
    """The tables under one URI, read at pinned versions and published partition by partition."""

    def ensure(self, table: str) -> DeltaTable:
        """Create the table from its contract, or grow it by the contract's new columns.

        Raises:
            InputError: the lake cannot be written, or the table follows a newer contract.
        """
        contract = CONTRACTS[table]
        for _ in self._attempts(table):
            handle = self._load(table)
            try:
                if handle is None:
                    create_table(contract, self.table_uri(table), self.storage_options)
                elif not grow_table(contract, handle):
                    return handle
            except CommitFailedError:
                log.debug("another writer grew the table first", table=table)
            self.refresh(table)
        raise AssertionError("unreachable")

    def stage(
        self, table: str, ds: str | None, batches: Iterable[pa.Table | pa.RecordBatch]
    ) -> list[StagedFile]:
        """Write a partition's rows as an uncommitted file."""
        self.ensure(table)
        staged = stage_file(table, self.table_uri(table), self.storage_options, ds, batches)
        return [staged] if staged else []

    def publish(self, table: str, ds: str, rows: pa.Table) -> Commit:
        """Replace one partition by these rows.

        Raises:
            InputError: the rows break the contract (schema, key or constraints).
        """
        self.require_unique(table, ds, rows)
        return self.commit(table, ds, self.stage(table, ds, [rows]))

    def publish_merged(
        self, table: str, ds: str, merge: Callable[[pa.Table], pa.Table], guard: str = ""
    ) -> Commit:
        """Replace one partition by a function of its newest rows, again on each conflict."""
        for _ in self._attempts(table):
            self.ensure(table)  # before reading: what is merged must be what is replaced
            rows = CONTRACTS[table].conform(merge(self._rows(table, ds)))
            self.require_unique(table, ds, rows)
            try:
                return self._commit_once(table, ds, self.stage(table, ds, [rows]), guard)
            except CommitFailedError:
                self.refresh(table)
        raise AssertionError("unreachable")

    def commit(self, table: str, ds: str, staged: Sequence[StagedFile]) -> Commit:
        """Replace one partition by staged files in one transaction, under the guard."""
        for _ in self._attempts(table):
            try:
                return self._commit_once(table, ds, staged)
            except CommitFailedError:
                self.refresh(table)
        raise AssertionError("unreachable")

    def add(self, table: str, rows: pa.Table) -> Commit:
        """Add rows to an unpartitioned table without looking at what is there.

        Adds exclude nobody and cost the same however long the table is; where two writers may
        bring the same key, readers take either row.
        """
        staged = self.stage(table, None, [CONTRACTS[table].conform(rows)])
        for _ in self._attempts(table):
            try:
                version = self._write(table, None, staged, "append", None)
                return Commit(table, None, version, rows.num_rows, True)
            except CommitFailedError:
                self.refresh(table)
        raise AssertionError("unreachable")

    def append(
        self,
        table: str,
        make: Callable[[pa.Table], pa.Table],
        columns: Sequence[str] | None = None,
    ) -> Commit:
        """Add rows to an unpartitioned table; `make` sees the newest rows and returns new ones.

        All appends to a table exclude each other, so that `make` may count on what it saw: all
        columns, or those named.
        """
        for _ in self._attempts(table):
            handle = self.ensure(table)
            new = CONTRACTS[table].conform(make(self._rows(table, None, columns)))
            if not new.num_rows:
                return Commit(table, None, handle.version(), 0, False)
            try:
                staged = self.stage(table, None, [new])
                version = self._write(table, None, staged, "append", f"reckoner/{table}")
                return Commit(table, None, version, new.num_rows, True)
            except CommitFailedError:
                self.refresh(table)
        raise AssertionError("unreachable")

    def require_unique(self, table: str, ds: str | None, rows: pa.Table) -> None:
        """Refuse rows that share a key.

        Raises:
            InputError: names the first duplicated key.
        """
        key = [name for name in CONTRACTS[table].key if name != "ds"]
        if not key or not rows.num_rows:
            return
        counted = rows.select(key).group_by(key).aggregate([([], "count_all")])
        again = counted.filter(pc.greater(counted["count_all"], 1))
        if again.num_rows:
            first = again.select(key).slice(0, 1).to_pylist()[0]
            raise InputError(f"table {table} ds={ds}: key {first} appears more than once")

    def unrecorded(self) -> "Lake":
        """The same tables, at their newest versions: what is read there is no input of the run."""
        return Lake(self.uri, Run.unrecorded(), self.storage_options)

    def _rows(self, table: str, ds: str | None, columns: Sequence[str] | None = None) -> pa.Table:
        """Read without recording: a table's own earlier contents are not an input."""
        unrecorded = Lake(self.uri, Run.unrecorded(), self.storage_options, self._open, self._logs)
        return unrecorded.read(table, ds, columns)

    def _commit_once(
        self, table: str, ds: str, staged: Sequence[StagedFile], guard: str = ""
    ) -> Commit:
        handle = self.ensure(table)
        app = guard_name(table, ds) + guard
        rows = sum(piece.rows for piece in staged)
        content = combine([piece.content for piece in staged])
        seen = handle.transaction_version(app)
        if seen is not None and seen > self.run.attempt:
            log.warning("a newer attempt has published", table=table, ds=ds, attempt=seen)
            return Commit(table, ds, handle.version(), 0, False, outdated=True)
        inputs = self.run.inputs_json(table, ds)
        last = self.provenance(table, ds)
        there = ds in self.partitions(table)
        same = last.get("content_hash") == content and last.get("inputs") == inputs
        if same and there == bool(staged):
            return Commit(table, ds, handle.version(), rows, False)
        if not (staged or there) and inputs == "{}":
            # An empty partition is committed where it was derived: its inputs may yet change.
            return Commit(table, ds, handle.version(), 0, False)
        version = self._write(table, ds, staged, "overwrite", app, content)
        self.run.wrote(table, version, rows)
        return Commit(table, ds, version, rows, True)

    def _write(
        self,
        table: str,
        ds: str | None,
        staged: Sequence[StagedFile],
        mode: str,
        app: str | None,
        content: str | None = None,
    ) -> int:
        """Commit once, on top of the pinned version, and return the new one."""
        handle = self.ensure(table)
        version = handle.version() + 1
        values = {"ds": ds} if ds else {}
        adds = [
            AddAction(piece.path, piece.size, values, _milliseconds(), True, piece.stats)
            for piece in staged
        ]
        metadata = self.run.metadata(table, ds)
        metadata |= {"contract": str(CONTRACTS[table].version), VERSION: str(version)}
        if content is not None:
            metadata["content_hash"] = content
        properties = CommitProperties(
            custom_metadata=metadata,
            app_transactions=[Transaction(app, self.run.attempt)] if app else None,
            max_commit_retries=0,  # a retry must read the guard again, so it is ours to make
        )
        try:
            handle.create_write_transaction(
                list(adds),
                mode,
                handle.schema(),
                partition_by=["ds"] if ds else None,
                partition_filters=[("ds", "=", ds)] if ds else None,
                commit_properties=properties,
            )
        except OSError as error:
            raise trouble(handle.table_uri, f"table {table} cannot be written", error) from error
        # Far cheaper than opening a long table again.
        handle.update_incremental()
        return version

    def _attempts(self, table: str) -> Iterator[int]:
        for attempt in range(COMMIT_TRIES):
            yield attempt
            time.sleep(random.uniform(0.01, 0.05) * min(attempt + 1, 20))
        raise ServiceUnavailable(
            f"table {table}: {COMMIT_TRIES} commits in a row met another writer; run the step again"
        )


def _milliseconds() -> int:
    return time.time_ns() // 1_000_000
