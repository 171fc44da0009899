"""Settle, before a row is read, which files are read and what their columns mean."""

import difflib
from dataclasses import dataclass, replace
from typing import Any, Literal

import pyarrow as pa

from pipelines.errors import InputError
from pipelines.ingest.mapping import Cell, EventMapping, ItemMapping, Pairs
from pipelines.ingest.mapping_file import load_mapping
from pipelines.ingest.presets import Layout, preset_layouts
from pipelines.ingest.typed import require_type
from pipelines.io.raw_rows import SourceFile
from pipelines.io.sources import columns_of, find_files, is_named_like
from pipelines.settings.groups import Source

Table = Literal["events", "items"]
KINDS = {
    **dict.fromkeys(("user_id", "item_id", "action", "session_id", "surface"), "text"),
    **dict.fromkeys(("query", "title", "description", "brand"), "text"),
    **{"ts": "time", "value": "number", "price": "number", "position": "whole"},
    **{"available": "flag", "category": "texts", "attributes": "pairs"},
}
NESTED = ("texts", "pairs")


@dataclass(frozen=True)
class Delivery:
    """A delivery's files under the mapping that reads them; `layout` names it."""

    table: Table
    mapping: EventMapping | ItemMapping
    layout: str
    files: tuple[SourceFile, ...]


@dataclass(frozen=True)
class FilePlan:
    """One file's columns: those to read, and the mapped ones that it lacks."""

    columns: tuple[str, ...]
    nested: frozenset[str]
    absent: frozenset[str]
    ignored: tuple[str, ...]


@dataclass(frozen=True)
class Request:
    """What the command line says about the source; None falls back to the settings."""

    source: str | None = None
    preset: str | None = None
    mapping: str | None = None


def plan_delivery(table: Table, settings: Source, request: Request, ds: str | None) -> Delivery:
    """Find the files and the mapping.

    Args:
        table: what is ingested.
        settings: the defaults of `events` or `items`.
        request: the command line's own source, preset or mapping, which win over the settings'.
        ds: the night, or None for every date.

    Raises:
        InputError: no source, both a preset and a mapping, or columns that nothing fits.
    """
    source = request.source or settings.source
    if not source:
        raise InputError(
            f"no source of {table}: pass --source FILE_OR_FOLDER, or set {table}.source "
            f"(RECKONER_{table.upper()}__SOURCE)"
        )
    preset, mapping = _one_of(table, settings, request)
    if mapping:
        layouts: tuple[Layout, ...] = (Layout(f"mapping {mapping}", load_mapping(mapping)),)
    else:
        layouts = tuple(replace(x, name=f"{preset}: {x.name}") for x in preset_layouts(preset))
    able = [layout for layout in layouts if getattr(layout.mapping, table)]
    if not able:
        raise InputError(f"{layouts[0].name} says nothing about {table}: add a part `{table}`")
    return _first_fitting(table, source, able, ds)


def plan_file(delivery: Delivery, file: SourceFile) -> FilePlan:
    """Check one file's columns against the mapping.

    Raises:
        InputError: a column is missing, or of a type that cannot be what it is mapped to.
    """
    mapping = delivery.mapping
    schema = columns_of(file, mapping.csv.style())
    if file.format == "jsonl" and not schema.names:  # no object in it: nothing to check against
        schema = pa.schema([(name, pa.string()) for name in mapping.required()])
    missing = [name for name in mapping.required() if name not in schema.names]
    if missing:
        raise InputError(_missing(file, missing[0], schema.names, delivery.layout))
    has_types = file.format in ("parquet", "delta")
    wanted: dict[str, None] = dict.fromkeys(rule.column for rule in mapping.rules)
    nested, absent = set(), set()
    for name, cell in mapping.cells().items():
        for column in source_columns(cell):
            if column not in schema.names:
                absent.add(column)
                continue
            wanted[column] = None
            kind = KINDS[name]
            if kind in NESTED or getattr(cell, "join", None) is not None:
                nested.add(column)
            spec: Any = cell
            if not (isinstance(cell, Pairs) and cell.columns):
                field = schema.field(column).type
                require_type(file.name, column, field, kind, spec, has_types=has_types)
    ignored = tuple(name for name in schema.names if name not in wanted)
    return FilePlan(tuple(wanted), frozenset(nested), frozenset(absent), ignored)


def source_columns(cell: Cell | Pairs) -> tuple[str, ...]:
    """The source columns that a contract column is made of."""
    if isinstance(cell, Pairs) and not cell.columns:
        return (cell.column,) if cell.column else ()
    return cell.columns


def _one_of(table: Table, settings: Source, request: Request) -> tuple[str, str | None]:
    if request.preset and request.mapping:
        raise InputError("--preset and --mapping exclude each other: pass one of them")
    if request.preset or request.mapping:
        return request.preset or "", request.mapping
    if settings.preset and settings.mapping:
        raise InputError(f"settings {table}.preset and {table}.mapping exclude each other")
    return settings.preset or "canonical", settings.mapping


def _part_of(layout: Layout, table: Table) -> EventMapping | ItemMapping:
    part = layout.mapping.events if table == "events" else layout.mapping.items
    assert part is not None, "layouts without the part have been left out"
    return part


def _first_fitting(table: Table, source: str, layouts: list[Layout], ds: str | None) -> Delivery:
    tried = []
    # A file that is named outright may have any name, but a layout that expects it comes first.
    expecting = [x for x in layouts if is_named_like(source, _part_of(x, table).files)]
    for layout in [*expecting, *(x for x in layouts if x not in expecting)]:
        mapping = _part_of(layout, table)
        try:
            files = find_files(source, ds, table, mapping.files)
            if mapping.format:
                files = [replace(file, format=mapping.format) for file in files]
            delivery = Delivery(table, mapping, layout.name, tuple(files))
            plan_file(delivery, files[0])
            return delivery
        except InputError as error:
            tried.append((layout, error))
    # The layouts of one preset mostly fail alike: say each fault once.
    faults = list(dict.fromkeys(str(error) for _, error in tried))
    if len(faults) == 1:
        raise tried[0][1]
    listed = " | ".join(f"{layout.name}: {error}" for layout, error in tried)
    raise InputError(f"source {source} fits no layout of the preset: {listed}")


def _missing(file: SourceFile, column: str, present: list[str], layout: str) -> str:
    near = difflib.get_close_matches(column, present, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return (
        f"file {file.name} has no column {column!r}{hint}, which {layout} needs; it has "
        f"{', '.join(present) or 'none'}. Name your columns in a mapping "
        "file, or use another preset"
    )


def schema_of(table: pa.Schema, *left_out: str) -> pa.Schema:
    """A contract's schema without some columns."""
    return pa.schema([column for column in table if column.name not in left_out])
