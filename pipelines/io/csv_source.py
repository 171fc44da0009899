"""Read delimited text as batches of text cells; a line with a wrong number of fields is kept apart.

Arrow parses, but infers nothing: every cell arrives as the text that stands in the file.
"""

import csv
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv as pa_csv

from pipelines.errors import InputError
from pipelines.io.raw_rows import BrokenRow, CsvStyle, RawBatch, SourceFile
from pipelines.io.text_stream import MARKER, UNIT_SEPARATOR, TextStream, arrow_file, show_marked

BLOCK = 8 << 20
SNIFFED = 200  # lines


def csv_columns(file: SourceFile, style: CsvStyle) -> list[str]:
    """Name the columns: the header, or what the style declares where there is none.

    Raises:
        InputError: the file is empty, not text, or of another width than declared.
    """
    with _stream(file, style) as stream:
        start = stream.text()
        while start.count("\n") < 1 and (more := stream.text()):
            start += more
    if not start.strip():
        raise InputError(f"file {file.name} is empty" + (": no header" if style.header else ""))
    lines = start.splitlines()[:SNIFFED]
    if not style.header:
        return _declared_columns(file, style, lines)
    first = next(csv.reader(lines, **_python_dialect(style)))
    if MARKER in start[: len(lines[0])]:
        raise InputError(
            f"file {file.name}: its header is not {style.encoding.upper()} "
            f"({show_marked(lines[0])[:80]}): set csv.encoding in a mapping file, such as latin-1"
        )
    again = [name for name in first if first.count(name) > 1]
    if again:
        raise InputError(f"file {file.name}: column {again[0]!r} appears twice in the header")
    return first


def _declared_columns(file: SourceFile, style: CsvStyle, lines: list[str]) -> list[str]:
    widths = [len(row) for row in csv.reader(lines, **_python_dialect(style))]
    if len(style.columns) not in widths:
        raise InputError(
            f"file {file.name}: its first line has {widths[0]} fields, this layout has "
            f"{len(style.columns)} ({', '.join(style.columns)})"
        )
    return list(style.columns)


def read_csv(file: SourceFile, style: CsvStyle) -> Iterator[RawBatch]:
    """Stream a file.

    Raises:
        InputError: the file cannot be parsed as delimited text.
    """
    names = csv_columns(file, style)
    broken: list[BrokenRow] = []
    shift = 1 if style.header else 0

    def keep(row: Any) -> str:
        reason = f"{row.actual_columns} fields instead of {row.expected_columns}"
        payload = json.dumps({"line": show_marked(row.text)}, ensure_ascii=False)
        broken.append(BrokenRow(row.number - shift, reason, payload))
        return "skip"

    with _stream(file, style) as stream:
        positions = _Positions()
        try:
            for batch in _open(stream, style, names, keep):
                numbers = positions.of(batch.num_rows, [row.row for row in broken])
                raw = RawBatch(file.name, batch, numbers, list(broken))
                broken.clear()
                yield _without_marked(raw) if stream.marked else raw
        except (pa.ArrowInvalid, OSError) as error:
            raise InputError(
                f"file {file.name} cannot be read as CSV: {_one_line(error)}"
            ) from error
        if broken:
            rows = pa.record_batch([pa.array([], pa.string()) for _ in names], names=names)
            yield RawBatch(file.name, rows, np.empty(0, np.int64), list(broken))


def _open(stream: TextStream, style: CsvStyle, names: list[str], keep: Any) -> Any:
    return pa_csv.open_csv(
        arrow_file(stream),
        read_options=pa_csv.ReadOptions(
            use_threads=False,  # only then does a bad line know its number
            block_size=BLOCK,
            column_names=None if style.header else names,
        ),
        parse_options=pa_csv.ParseOptions(
            delimiter=_delimiter(style),
            quote_char=style.quote or False,
            newlines_in_values=style.quote is not None,
            invalid_row_handler=keep,
        ),
        convert_options=pa_csv.ConvertOptions(
            check_utf8=False,  # the stream has seen to it
            column_types={name: pa.string() for name in names},
            strings_can_be_null=False,
        ),
    )


class _Positions:
    """Numbers the good records around the bad ones, which carry their own number."""

    def __init__(self) -> None:
        self._next = 1
        self._bad: set[int] = set()

    def of(self, size: int, bad: list[int]) -> npt.NDArray[np.int64]:
        self._bad.update(bad)
        ahead = [number for number in self._bad if number >= self._next]
        span = np.arange(self._next, self._next + size + len(ahead), dtype=np.int64)
        numbers = np.setdiff1d(span, np.array(ahead, np.int64), assume_unique=True)[:size]
        if size:
            self._next = int(numbers[-1]) + 1
        self._bad = {number for number in self._bad if number >= self._next}
        return numbers


def _without_marked(raw: RawBatch) -> RawBatch:
    """Move rows with undecodable bytes to the broken ones."""
    spoilt = np.zeros(raw.rows.num_rows, dtype=bool)
    for column in raw.rows.columns:
        spoilt |= pc.match_substring(column, MARKER).to_numpy(zero_copy_only=False)
    for index in np.flatnonzero(spoilt):
        cells = raw.rows.slice(int(index), 1).to_pylist()[0]
        name = next(key for key, cell in cells.items() if MARKER in cell)
        text = show_marked(cells[name])
        payload = json.dumps({k: show_marked(v) for k, v in cells.items()}, ensure_ascii=False)
        reason = f"{name} '{text}' has bytes that are not valid text"
        raw.broken.append(BrokenRow(int(raw.numbers[index]), reason, payload))
    return raw.keep(~spoilt)


def _stream(file: SourceFile, style: CsvStyle) -> TextStream:
    long = style.delimiter if len(style.delimiter) > 1 else None
    return TextStream(file.files, file.path, file.name, style.encoding, long)


def _delimiter(style: CsvStyle) -> str:
    return style.delimiter if len(style.delimiter) == 1 else UNIT_SEPARATOR


def _python_dialect(style: CsvStyle) -> dict[str, Any]:
    quoting = csv.QUOTE_MINIMAL if style.quote else csv.QUOTE_NONE
    return {"delimiter": _delimiter(style), "quotechar": style.quote or '"', "quoting": quoting}


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
