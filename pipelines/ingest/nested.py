"""Read lists and maps out of whatever a source writes for them."""

import ast
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.ingest.typed import Cast, plain
from pipelines.tables.contract import MAP, TEXTS


def to_texts(column: pa.Array, separator: str | None) -> Cast:
    """Read a list of texts: a list, JSON, a Python literal, or a text cut at the separator.

    Of a list of lists, as some catalogues give for several categories, the first is taken.
    """
    values: list[list[str] | None]
    if _is_list(column.type):
        values = [_texts(cell) for cell in column.to_pylist()]
    else:
        coded = plain(column).dictionary_encode()
        words = [_split(text, separator) for text in coded.dictionary.to_pylist()]
        values = [None if i is None else words[i] for i in coded.indices.to_pylist()]
    return Cast(pa.array(values, TEXTS), np.zeros(len(column), dtype=bool), "")


def joined(column: pa.Array, by: str) -> pa.Array:
    """Make one text of each list; a text that is no list stays as it is."""
    lists = to_texts(column, None).values
    return pa.array([None if words is None else by.join(words) for words in lists.to_pylist()])


def flagged(columns: dict[str, pa.Array]) -> pa.Array:
    """List the names of the columns that hold 1, per row."""
    cells = {name: plain(column).to_pylist() for name, column in columns.items()}
    rows = len(next(iter(cells.values())))
    return pa.array([[n for n in cells if cells[n][row] == "1"] for row in range(rows)], TEXTS)


def to_pairs(column: pa.Array) -> Cast:
    """Read a map of texts: a map, a struct, or a JSON object."""
    cells = column.to_pylist()
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        cells = [None if cell is None or not cell.strip() else _literal(cell) for cell in cells]
    elif pa.types.is_map(column.type):
        cells = [None if cell is None else dict(cell) for cell in cells]
    values = [_pairs(cell) for cell in cells]
    held = plain(column).is_valid() if _is_text(column.type) else column.is_valid()
    bad = np.array([v is None for v in values], dtype=bool) & held.to_numpy(zero_copy_only=False)
    return Cast(pa.array(values, MAP), bad, "is not an object of attributes")


def gathered(columns: dict[str, pa.Array]) -> pa.Array:
    """Make one map of several columns; empty cells are left out."""
    cells = {name: plain(column).to_pylist() for name, column in columns.items()}
    rows = len(next(iter(cells.values())))
    pairs = [[(n, cells[n][i]) for n in cells if cells[n][i] is not None] for i in range(rows)]
    return pa.array(pairs, MAP)


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))


def _split(text: str, separator: str | None) -> list[str] | None:
    if text.startswith("["):
        found = _literal(text)
        if isinstance(found, list):
            return _texts(found)
    parts: Sequence[str] = text.split(separator.strip()) if separator else [text]
    return [part.strip() for part in parts if part.strip()] or None


def _literal(text: str) -> Any:
    for parse in (json.loads, ast.literal_eval):
        try:
            return parse(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
    return None


def _texts(cell: Any) -> list[str] | None:
    if cell and isinstance(cell[0], list):
        cell = cell[0]
    words = [str(word).strip() for word in cell or () if word is not None]
    return [word for word in words if word] or None


def _pairs(cell: Any) -> list[tuple[str, str]] | None:
    if not isinstance(cell, dict):
        return None
    return [(str(k), _word(v)) for k, v in cell.items() if v is not None and str(k)]


def _word(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list | dict | bool):
        return json.dumps(value, ensure_ascii=False)
    return str(value)
