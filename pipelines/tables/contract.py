"""What a table promises its readers, and the types that columns share."""

from dataclasses import dataclass, field
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.errors import InputError

UTC_TIMESTAMP = pa.timestamp("us", tz="UTC")
TEXTS = pa.list_(pa.string())
MAP = pa.map_(pa.string(), pa.string())


@dataclass(frozen=True)
class Check:
    """A bound that each row must keep: `column op value`."""

    column: str
    op: Literal[">=", "<=", ">"]
    value: float

    @property
    def name(self) -> str:
        """The name of the Delta constraint."""
        word = {">=": "min", "<=": "max", ">": "above"}[self.op]
        return f"{self.column}_{word}_{self.value:g}".replace(".", "_").replace("-", "minus_")

    @property
    def sql(self) -> str:
        """The Delta constraint."""
        return f"{self.column} {self.op} {self.value:g}"

    def broken(self, rows: pa.Table | pa.RecordBatch) -> int:
        """Count the rows that break the bound; nulls do not."""
        compare = {">=": pc.less, "<=": pc.greater, ">": pc.less_equal}[self.op]
        return int(pc.sum(compare(rows[self.column], self.value)).as_py() or 0)


@dataclass(frozen=True)
class Contract:
    """What a table promises its readers."""

    name: str
    about: str
    key: tuple[str, ...]
    schema: pa.Schema
    by_ds: bool = True
    checks: tuple[Check, ...] = ()
    notes: dict[str, str] = field(default_factory=dict)
    change_feed: bool = False
    version: int = 1

    @property
    def stored(self) -> pa.Schema:
        """The columns inside the files: all but the partition column."""
        return pa.schema([column for column in self.schema if column.name != "ds"])

    def conform(self, rows: pa.Table) -> pa.Table:
        """Order and cast the columns as the contract names them.

        Raises:
            InputError: a column is missing, unknown or of another type.
        """
        missing = [name for name in self.stored.names if name not in rows.schema.names]
        unknown = [name for name in rows.schema.names if name not in self.schema.names]
        if missing or unknown:
            raise InputError(f"table {self.name}: missing columns {missing}, unknown {unknown}")
        try:
            return rows.select(self.stored.names).cast(self.stored)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError) as error:
            raise InputError(f"table {self.name}: {error}") from error

    def broken_rules(self, rows: pa.Table | pa.RecordBatch) -> list[str]:
        """Name every rule of a single row that these rows break; keys are checked by `Lake`."""
        found = []
        for column in self.stored:
            nulls = rows[column.name].null_count
            if not column.nullable and nulls:
                found.append(f"{column.name} is null in {nulls} rows")
            if pa.types.is_floating(column.type):
                odd = pc.sum(pc.invert(pc.is_finite(rows[column.name]))).as_py() or 0
                if odd:
                    found.append(f"{column.name} is not finite in {odd} rows")
        for check in self.checks:
            broken = check.broken(rows)
            if broken:
                found.append(f"{check.sql} is broken in {broken} rows")
        return found


def columns(*columns: tuple[str, pa.DataType] | tuple[str, pa.DataType, str]) -> pa.Schema:
    """Columns are required unless a third word `optional` follows the type."""
    return pa.schema([pa.field(c[0], c[1], nullable=len(c) == 3) for c in columns])


DS = ("ds", pa.string())
TEXT, INT, LONG, REAL = pa.string(), pa.int32(), pa.int64(), pa.float64()
