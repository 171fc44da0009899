"""Count what becomes of a delivery's rows and keep the refused ones."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import pyarrow as pa

from pipelines.errors import InputError
from pipelines.io.spool import Spool
from pipelines.tables.behaviour import EVENTS_REJECTED

REFUSED = pa.schema(
    [EVENTS_REJECTED.schema.field(n) for n in ("source_file", "source_row", "reason", "payload")]
)
SHOWN = 3


@dataclass(frozen=True)
class Refusal:
    """One refused row; `kind` is the reason without the row's own value, to count by."""

    file: str
    row: int
    kind: str
    reason: str
    payload: str


@dataclass
class Tally:
    """The running counts of one ingest."""

    table: str
    kept_rows: Spool
    read: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    ignored_columns: set[str] = field(default_factory=set)

    def skip(self, reason: str, rows: int) -> None:
        """Count rows that are well-formed but not for us."""
        if rows:
            self.skipped[reason] += rows

    def refuse(self, refusals: Iterable[Refusal]) -> None:
        """Keep malformed rows."""
        rows = []
        for one in refusals:
            self.refused[one.kind] += 1
            self.examples.setdefault(one.kind, f"{one.file} row {one.row}: {one.reason}")
            rows.append((one.file, one.row, one.reason, one.payload))
        if rows:
            columns = [pa.array(column) for column in zip(*rows, strict=True)]
            table = pa.Table.from_arrays(columns, schema=REFUSED)
            self.kept_rows.add(0, table)

    @property
    def rejected(self) -> int:
        """How many rows were refused."""
        return self.refused.total()

    def refused_rows(self) -> pa.Table:
        """Every refused row, in order of position."""
        rows = self.kept_rows.take(0)
        return rows.sort_by([("source_file", "ascending"), ("source_row", "ascending")])

    def require_share(self, limit: float) -> None:
        """Stop a delivery that is mostly broken.

        Raises:
            InputError: more than `limit` of the rows are refused; says why, with examples.
        """
        if self.rejected <= limit * self.read:
            return
        top = "; ".join(
            f"{count} x {kind} (such as {self.examples[kind]})"
            for kind, count in self.refused.most_common(SHOWN)
        )
        raise InputError(
            f"{self.table}: {self.rejected} of {self.read} rows rejected "
            f"({self.rejected / self.read:.1%}, above {self.table}.max_rejected_share = "
            f"{limit:.1%}), nothing published: {top}"
        )

    def counts(self) -> dict[str, object]:
        """The counts as a step's result holds them."""
        return {
            "read": self.read,
            "skipped": dict(self.skipped),
            "rejected": self.rejected,
            "rejected_reasons": dict(self.refused.most_common()),
            "ignored_columns": sorted(self.ignored_columns),
        }
