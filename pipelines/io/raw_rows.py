"""What a source yields before anything is known of its meaning: raw cells and their position."""

import json
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow import fs as pa_fs

Format = Literal["csv", "jsonl", "parquet", "delta"]


@dataclass(frozen=True)
class CsvStyle:
    """How delimited text is written; `columns` names them where there is no header."""

    delimiter: str = ","
    header: bool = True
    columns: tuple[str, ...] = ()
    encoding: str = "utf-8"
    quote: str | None = '"'


@dataclass(frozen=True)
class SourceFile:
    """One file (or Delta table) of a delivery.

    Attributes:
        name: its path relative to the source folder, as `source_file` records it.
        day: for Delta, the partition to read, as `(column, date)`.
    """

    files: pa_fs.FileSystem
    path: str
    name: str
    format: Format
    day: tuple[str, str] | None = None


@dataclass(frozen=True)
class BrokenRow:
    """A record that could not even be split into cells; `row` is its 1-based position."""

    row: int
    reason: str
    payload: str


@dataclass
class RawBatch:
    """Some records of one file.

    Attributes:
        file: the file's relative name.
        rows: one column per source column; all text where the format has no types.
        numbers: each record's 1-based position in the file, [num_rows].
        broken: records beside `rows` that could not be read.
        lines: the records as written, where the source keeps them.
    """

    file: str
    rows: pa.RecordBatch
    numbers: npt.NDArray[np.int64]
    broken: list[BrokenRow] = field(default_factory=list)
    lines: pa.Array | None = None

    def keep(self, mask: npt.NDArray[np.bool_]) -> "RawBatch":
        """The records that the mask marks; broken ones stay with the result."""
        if mask.all():
            return self
        picked = pa.array(mask)
        lines = None if self.lines is None else self.lines.filter(picked)
        rows = self.rows.filter(picked)
        return replace(self, rows=rows, numbers=self.numbers[mask], lines=lines)

    def payload(self, index: int) -> str:
        """One record as JSON."""
        if self.lines is not None:
            return str(self.lines[index].as_py())
        cells: dict[str, Any] = self.rows.slice(index, 1).to_pylist()[0]
        return json.dumps(cells, ensure_ascii=False, default=str)
