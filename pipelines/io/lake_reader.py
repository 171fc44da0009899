"""The lake as one run reads it: every table pinned at the version it was first opened at."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from pipelines.errors import InputError
from pipelines.io.commit_log import CommitLog
from pipelines.io.delta_table import open_table, trouble
from pipelines.io.staging import table_files
from pipelines.run import Run
from pipelines.tables import CONTRACTS


@dataclass
class LakeReader:
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
        return 0 if handle is None else handle.transaction_version(guard_name(table, ds)) or 0

    def _load(self, table: str) -> DeltaTable | None:
        handle = self._open.get(table) or open_table(
            table, self.table_uri(table), self.storage_options
        )
        if handle is not None:
            self._open[table] = handle
        return handle

    def _log(self, table: str) -> CommitLog:
        return self._logs.setdefault(table, CommitLog())


def guard_name(table: str, ds: str) -> str:
    """Name the application transaction that guards a partition."""
    return f"reckoner/{table}/{ds}"
