"""The lake: every Delta table, read at one version and published one partition at a time.

A publish stages files, then commits them in one transaction that replaces the partition. The
guard is an application transaction `reckoner/<table>/<ds>` whose version is the attempt's number:
delta-rs does not refuse a repeated one, so it is read first, and a conflict re-opens the table. A
publish whose contents and inputs equal what is there commits nothing.
"""

import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import structlog
from deltalake import CommitProperties, DeltaTable, Transaction
from deltalake.exceptions import CommitFailedError, DeltaError
from deltalake.transaction import AddAction

from pipelines.errors import InputError, ServiceUnavailable
from pipelines.io.commit_log import VERSION, CommitLog
from pipelines.io.content_hash import combine
from pipelines.io.delta_table import create_table, grow_table, open_table, trouble
from pipelines.io.staging import StagedFile, stage_file, table_files
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


@dataclass
class Lake:
    """The tables under one URI, as one run sees them: each table is pinned when first opened."""

    uri: str
    run: Run
    storage_options: dict[str, str] = field(default_factory=dict)
    _open: dict[str, DeltaTable] = field(default_factory=dict)
    _logs: dict[str, CommitLog] = field(default_factory=dict)

    def table_uri(self, table: str) -> str:
        """The address of a table."""
        return f"{self.uri.rstrip('/')}/{table}"

    def exists(self, table: str) -> bool:
        """Say whether the table has been created."""
        return self._load(table) is not None

    def version(self, table: str) -> int | None:
        """The pinned version, or None where the table does not exist."""
        handle = self._load(table)
        return None if handle is None else handle.version()

    def pin(self, table: str, version: int) -> None:
        """Read a table at a version that another process of the same run chose."""
        options = self.storage_options or None
        self._open[table] = DeltaTable(self.table_uri(table), version, options)

    def refresh(self, table: str | None = None) -> None:
        """Forget the pinned version of a table, or of all: the next read sees the newest."""
        if table is None:
            self._open.clear()
        else:
            self._open.pop(table, None)

    def partitions(self, table: str) -> list[str]:
        """The dates that have rows, ascending."""
        handle = self._load(table)
        if handle is None:
            return []
        return sorted({str(part["ds"]) for part in handle.partitions()})

    def files(self, table: str, partitions: Sequence[str] | None = None) -> dict[str, int]:
        """Bytes per live file (path relative to the table), of the partitions or of all."""
        handle = self._load(table)
        if handle is None:
            return {}
        actions = pa.table(handle.get_add_actions(flatten=True))
        sizes = dict(
            zip(actions["path"].to_pylist(), actions["size_bytes"].to_pylist(), strict=True)
        )
        if partitions is not None:
            wanted = {f"ds={ds}" for ds in partitions}
            sizes = {path: size for path, size in sizes.items() if path.split("/")[0] in wanted}
        return dict(sorted(sizes.items()))

    def days_holding(self, table: str, column: str, value: str) -> list[str]:
        """The dates of which some file may hold a value, by the files' least and greatest."""
        handle = self._load(table)
        if handle is None:
            return []
        actions = pa.table(handle.get_add_actions(flatten=True))
        days = actions["partition.ds"]
        if f"min.{column}" in actions.schema.names:
            low, high = actions[f"min.{column}"], actions[f"max.{column}"]
            outside = pc.or_(pc.greater(low, value), pc.less(high, value))
            days = days.filter(pc.invert(pc.fill_null(outside, False)))
        return sorted({str(day) for day in days.to_pylist()})

    def dataset(self, table: str, ds: str | None = None) -> Any:
        """The pinned version as a pyarrow dataset, to stream; its reading is recorded.

        One date, which must have rows, is far cheaper to open than a long table.

        Raises:
            InputError: the table does not exist or cannot be read.
        """
        handle = self._load(table)
        if handle is None:
            raise InputError(f"table {table} does not exist in the lake {self.uri}")
        self.run.saw(table, handle.version())
        files = table_files(self.table_uri(table), self.storage_options)
        day = [("ds", "=", ds)] if ds else None
        try:
            return handle.to_pyarrow_dataset(day, filesystem=files)
        except (DeltaError, OSError) as error:
            raise trouble(handle.table_uri, f"table {table} cannot be read", error) from error

    def read(
        self, table: str, ds: str | None = None, columns: Sequence[str] | None = None
    ) -> pa.Table:
        """Read a partition (or all of an unpartitioned table) and record what was read.

        A partition without rows, and a table not yet created, read as no rows.
        """
        contract = CONTRACTS[table]
        names = list(columns) if columns else contract.schema.names
        schema = pa.schema([contract.schema.field(name) for name in names])
        if ds is not None:
            self.run.used(table, ds, self.content(table, ds))
        if not self.exists(table):
            return schema.empty_table()
        if ds is not None and ds not in self.partitions(table):
            self.run.saw(table, self.version(table) or 0)
            return schema.empty_table()
        dataset = self.dataset(table, ds)
        present = [name for name in names if name in dataset.schema.names]
        try:
            rows = dataset.to_table(columns=present)
        except (OSError, pa.ArrowInvalid) as error:
            raise InputError(
                f"table {table}, ds={ds}: a data file cannot be read ({error}); "
                "restore the file, or publish the partition again"
            ) from error
        for name in names:  # columns that a later contract version added
            if name not in present:
                rows = rows.append_column(name, pa.nulls(rows.num_rows, schema.field(name).type))
        return rows.select(names).cast(schema)

    def content(self, table: str, ds: str) -> str | None:
        """The fingerprint of a partition's rows as last published, or None where it has none."""
        if ds not in self.partitions(table):
            return None
        return self.provenance(table, ds).get("content_hash")

    def contents(self, table: str) -> dict[str, str | None]:
        """The fingerprint of every partition that has rows, by date."""
        handle = self._load(table)
        if handle is None:
            return {}
        commits = self._log(table).published(handle)
        return {ds: commits.get(ds, {}).get("content_hash") for ds in self.partitions(table)}

    def published(self, table: str) -> list[str]:
        """The dates that were ever published, ascending, also where that left no rows."""
        handle = self._load(table)
        return [] if handle is None else sorted(self._log(table).published(handle))

    def provenance(self, table: str, ds: str) -> dict[str, Any]:
        """The metadata of the commit that published a partition (empty where unknown)."""
        handle = self._load(table)
        return {} if handle is None else dict(self._log(table).published(handle).get(ds, {}))

    def attempt(self, table: str, ds: str) -> int:
        """The number of the attempt that last published a partition; 0 where none has."""
        handle = self._load(table)
        return 0 if handle is None else handle.transaction_version(_guard(table, ds)) or 0

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

    def _rows(self, table: str, ds: str | None, columns: Sequence[str] | None = None) -> pa.Table:
        """Read without recording: a table's own earlier contents are not an input."""
        unrecorded = Lake(self.uri, Run.unrecorded(), self.storage_options, self._open, self._logs)
        return unrecorded.read(table, ds, columns)

    def _commit_once(
        self, table: str, ds: str, staged: Sequence[StagedFile], guard: str = ""
    ) -> Commit:
        handle = self.ensure(table)
        app = _guard(table, ds) + guard
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
        self.refresh(table)
        return version

    def _attempts(self, table: str) -> Iterator[int]:
        for attempt in range(COMMIT_TRIES):
            yield attempt
            time.sleep(random.uniform(0.01, 0.05) * min(attempt + 1, 20))
        raise ServiceUnavailable(
            f"table {table}: {COMMIT_TRIES} commits in a row met another writer; run the step again"
        )

    def _load(self, table: str) -> DeltaTable | None:
        handle = self._open.get(table) or open_table(
            table, self.table_uri(table), self.storage_options
        )
        if handle is not None:
            self._open[table] = handle
        return handle

    def _log(self, table: str) -> CommitLog:
        return self._logs.setdefault(table, CommitLog())


def _guard(table: str, ds: str) -> str:
    return f"reckoner/{table}/{ds}"


def _milliseconds() -> int:
    return time.time_ns() // 1_000_000
