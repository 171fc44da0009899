"""Read JSON Lines as batches of text cells; a line that is not an object is kept apart.

Numbers keep the digits that stand in the file, nested values arrive as JSON text: what a cell means
is decided by the contract's column, never by how the source happened to write it.
"""

import ast
import json
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.errors import InputError
from pipelines.io.raw_rows import BrokenRow, RawBatch, SourceFile
from pipelines.io.text_stream import MARKER, TextStream, show_marked

LINES = 32_768
SNIFFED = 1000


def json_columns(file: SourceFile) -> list[str]:
    """Name the keys that occur in the first lines, in order of appearance.

    Raises:
        InputError: the file is not text, or holds an array instead of lines.
    """
    found: dict[str, None] = {}
    with TextStream(file.files, file.path, file.name) as stream:
        for line in islice(stream.lines(), SNIFFED):
            if line.lstrip().startswith("["):
                raise InputError(
                    f"file {file.name} is a JSON array; write one JSON object per line"
                )
            record = _parse(line)
            if isinstance(record, dict):
                found.update(dict.fromkeys(record))
    return list(found)


def read_json(
    file: SourceFile, columns: Sequence[str], nested: frozenset[str]
) -> Iterator[RawBatch]:
    """Stream a file.

    Args:
        file: where.
        columns: the keys to read; one that a record lacks is null.
        nested: keys whose values may be lists or objects.
    """
    number = 0
    with TextStream(file.files, file.path, file.name) as stream:
        lines = stream.lines()
        while block := list(islice(lines, LINES)):
            numbered = [(number + i, line) for i, line in enumerate(block, 1) if line.strip()]
            number += len(block)
            yield _batch(file.name, numbered, columns, nested)


def _batch(
    name: str, numbered: list[tuple[int, str]], columns: Sequence[str], nested: frozenset[str]
) -> RawBatch:
    broken: list[BrokenRow] = []
    numbers: list[int] = []
    kept: list[str] = []
    cells: list[list[str | None]] = [[] for _ in columns]
    for number, line in numbered:
        record = _parse(line)
        reason = _fault(line, record, columns, nested)
        if reason:
            payload = json.dumps({"line": show_marked(line)}, ensure_ascii=False)
            broken.append(BrokenRow(number, reason, payload))
            continue
        numbers.append(number)
        kept.append(line)
        for column, values in zip(columns, cells, strict=True):
            values.append(_text(record.get(column)))
    arrays = [pa.array(values, pa.string()) for values in cells]
    rows = pa.record_batch(arrays, names=list(columns))
    return RawBatch(name, rows, np.array(numbers, np.int64), broken, lines=pa.array(kept))


def _parse(line: str) -> Any:
    try:
        return json.loads(line, parse_float=str, parse_int=str, parse_constant=str)
    except ValueError:
        pass
    if not line.lstrip().startswith("{'"):
        return None
    try:  # records written by Python's repr, as some public catalogues are
        return ast.literal_eval(line.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None


def _fault(line: str, record: Any, columns: Sequence[str], nested: frozenset[str]) -> str:
    if MARKER in line:
        return "the line has bytes that are not valid UTF-8"
    if not isinstance(record, dict):
        return "the line is not a JSON object"
    for column in columns:
        value = record.get(column)
        if isinstance(value, list | tuple | dict) and column not in nested:
            kind = "an object" if isinstance(value, dict) else "a list"
            return f"{column} is {kind}, not a single value"
    return ""


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    return json.dumps(value, ensure_ascii=False)
