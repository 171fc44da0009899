"""Turn raw rows into typed columns of the contract; refuse or skip the rest, row by row."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import structlog

from pipelines.ingest.mapping import (
    Action,
    Cell,
    EventMapping,
    ItemMapping,
    Number,
    Pairs,
    Place,
    Text,
    Texts,
    Time,
)
from pipelines.ingest.nested import flagged, gathered, joined, to_pairs, to_texts
from pipelines.ingest.plan import Delivery, FilePlan, plan_file, source_columns
from pipelines.ingest.rules import rows_that_fit
from pipelines.ingest.tally import Refusal, Tally
from pipelines.ingest.typed import (
    Cast,
    Mask,
    to_flag,
    to_number,
    to_text,
    to_time,
    to_whole,
)
from pipelines.io.raw_rows import RawBatch
from pipelines.io.sources import read_rows
from pipelines.pace import Pace
from pipelines.tables.behaviour import EVENTS, ITEMS

log = structlog.get_logger()

REPORT_EVERY_S = 5.0
REQUIRED = {"events": ("user_id", "item_id", "action", "ts"), "items": ("item_id", "title")}
SHOWN_CHARACTERS = 80


@dataclass(frozen=True)
class Shaped:
    """Good rows of one batch as contract columns, and the raw rows that they came from."""

    rows: pa.Table
    raw: RawBatch


def shaped_batches(delivery: Delivery, tally: Tally) -> Iterator[Shaped]:
    """Stream a delivery's good rows; the tally gets the others.

    Raises:
        InputError: a file is damaged or lacks a column.
    """
    pace = Pace(REPORT_EVERY_S)
    for file in delivery.files:
        plan = plan_file(delivery, file)
        tally.ignored_columns.update(plan.ignored)
        style = delivery.mapping.csv.style()
        for raw in read_rows(file, style, plan.columns, plan.nested):
            yield _shape(raw, delivery, plan, tally)
            if pace.is_due():
                log.info("reading", table=delivery.table, file=file.name, rows=tally.read)


def _shape(raw: RawBatch, delivery: Delivery, plan: FilePlan, tally: Tally) -> Shaped:
    tally.read += raw.rows.num_rows + len(raw.broken)
    tally.refuse(
        Refusal(raw.file, one.row, "the record cannot be read", one.reason, one.payload)
        for one in raw.broken
    )
    raw = _apply_rules(_plain_types(raw), delivery, tally)
    casts: dict[str, Cast] = {}
    for name, cell in delivery.mapping.cells().items():
        if not plan.absent.issuperset(source_columns(cell)) or not source_columns(cell):
            casts[name] = _cast(raw, name, cell)
    open_rows = np.ones(raw.rows.num_rows, dtype=bool)
    for name, cast in casts.items():
        open_rows = _refuse_bad(raw, delivery, name, cast, open_rows, tally)
    picked = pa.array(open_rows)
    columns = {name: cast.values.filter(picked) for name, cast in casts.items()}
    raw = raw.keep(open_rows)
    columns["source_file"] = pa.array([raw.file] * raw.rows.num_rows, pa.string())
    schema = EVENTS.schema if delivery.table == "events" else ITEMS.schema
    return Shaped(_as_table(columns, schema, raw.rows.num_rows), raw)


def _plain_types(raw: RawBatch) -> RawBatch:
    """Unpack dictionaries, binary and large texts: the casts know one text type."""
    kinds = pa.types
    columns = []
    for column in raw.rows.columns:
        inner = column.type.value_type if kinds.is_dictionary(column.type) else column.type
        if kinds.is_large_string(inner) or kinds.is_binary(inner) or kinds.is_string_view(inner):
            inner = pa.string()
        columns.append(column if inner == column.type else column.cast(inner))
    raw.rows = pa.record_batch(columns, names=raw.rows.schema.names)
    return raw


def _apply_rules(raw: RawBatch, delivery: Delivery, tally: Tally) -> RawBatch:
    open_rows = np.ones(raw.rows.num_rows, dtype=bool)
    for rule in delivery.mapping.rules:
        column = raw.rows[rule.column]
        hit = rows_that_fit(rule, column) & open_rows
        open_rows &= ~hit
        if rule.skip:
            tally.skip(rule.reason, int(hit.sum()))
            continue

        def why(index: int, words: str = rule.reason, cells: pa.Array = column) -> str:
            return f"{words}: {rule.column} {_shown(cells, index)}"  # noqa: B023

        tally.refuse(_refusals(raw, hit, rule.reason, why))
    return raw.keep(open_rows)


def _cast(raw: RawBatch, name: str, cell: Cell | Pairs) -> Cast:
    if isinstance(cell, Text):
        return _cast_text(raw, cell)
    if isinstance(cell, Place):
        return _cast_place(raw, cell)
    if isinstance(cell, Pairs):
        return _cast_pairs(raw, cell)
    if isinstance(cell, Texts) and cell.flags:
        flags = {flag: raw.rows[flag] for flag in cell.flags}
        return Cast(flagged(flags), np.zeros(raw.rows.num_rows, dtype=bool), "")
    assert cell.column is not None
    column = raw.rows[cell.column]
    if isinstance(cell, Texts):
        return to_texts(column, cell.separator)
    if isinstance(cell, Time):
        return to_time(column, cell)
    if isinstance(cell, Number):
        return _cast_number(raw, cell, name)
    return to_flag(column)


def _cast_text(raw: RawBatch, cell: Text) -> Cast:
    size = raw.rows.num_rows
    if cell.column is None:
        values = pa.array([cell.constant] * size, pa.string())
        return Cast(values, np.zeros(size, dtype=bool), "")
    column = raw.rows[cell.column]
    if cell.join is not None:
        column = joined(column, cell.join)
    cast = to_text(column, cell)
    if not isinstance(cell, Action) or not cell.names:
        return cast
    place = pc.index_in(cast.values, value_set=pa.array(list(cell.names)))
    values = pc.take(pa.array(list(cell.names.values())), place)
    unknown = pc.and_(cast.values.is_valid(), values.is_null())
    words = f"is not one of {', '.join(cell.names)}"
    return Cast(values, unknown.to_numpy(zero_copy_only=False), words)


def _cast_place(raw: RawBatch, cell: Place) -> Cast:
    if cell.row_number:
        return Cast(pa.array(raw.numbers), np.zeros(raw.rows.num_rows, dtype=bool), "")
    assert cell.column is not None
    return to_whole(raw.rows[cell.column])


def _cast_pairs(raw: RawBatch, cell: Pairs) -> Cast:
    if cell.columns:
        values = gathered({name: raw.rows[name] for name in cell.columns})
        return Cast(values, np.zeros(raw.rows.num_rows, dtype=bool), "")
    assert cell.column is not None
    return to_pairs(raw.rows[cell.column])


def _cast_number(raw: RawBatch, cell: Number, name: str) -> Cast:
    cast = to_number(raw.rows[cell.column])
    values, bad, words = cast.values, cast.bad, cast.words
    if cell.times:
        factor = to_number(raw.rows[cell.times])
        values, bad = pc.multiply(values, factor.values), bad | factor.bad
    if name == "price":
        negative = pc.fill_null(pc.less(values, 0), False).to_numpy(zero_copy_only=False)
        bad, words = bad | negative, "is not a price of zero or more"
    if cell.lenient:
        values = pc.if_else(pa.array(~bad), values, pa.scalar(None, pa.float64()))
        bad = np.zeros_like(bad)
    return Cast(values, bad, words)


def _refuse_bad(
    raw: RawBatch, delivery: Delivery, name: str, cast: Cast, open_rows: Mask, tally: Tally
) -> Mask:
    """Refuse the rows whose cell is bad, or empty where the contract requires one."""
    cell = delivery.mapping.cells()[name]
    shown = source_columns(cell)
    bad = cast.bad & open_rows

    def why(index: int) -> str:
        cells = " x ".join(_shown(raw.rows[column], index) for column in shown)
        return f"{name} {cells} {cast.words}"

    tally.refuse(_refusals(raw, bad, f"{name} {cast.words}", why))
    open_rows = open_rows & ~bad
    if name in REQUIRED[delivery.table] and cast.values.null_count:
        empty = cast.values.is_null().to_numpy(zero_copy_only=False) & open_rows
        words = f"{name} is empty"
        tally.refuse(_refusals(raw, empty, words, lambda index: words))
        open_rows = open_rows & ~empty
    return open_rows


def refuse_rows(
    raw: RawBatch, mask: Mask, kind: str, why: Callable[[int], str], tally: Tally
) -> None:
    """Refuse typed rows for a reason that only shows across rows, such as their date."""
    tally.refuse(_refusals(raw, mask, kind, why))


def _refusals(raw: RawBatch, mask: Mask, kind: str, why: Callable[[int], str]) -> Iterator[Refusal]:
    for index in np.flatnonzero(mask).tolist():
        yield Refusal(raw.file, int(raw.numbers[index]), kind, why(index), raw.payload(index))


def _shown(column: pa.Array, index: int) -> str:
    value = column[index].as_py()
    text = value if isinstance(value, str) else str(value)
    return repr(text[:SHOWN_CHARACTERS])


def _as_table(columns: dict[str, pa.Array], schema: pa.Schema, rows: int) -> pa.Table:
    """Fill the contract's other columns with nulls; those of the partition come later."""
    names = [n for n in schema.names if n not in ("ds", "ingested_ds", "content_hash")]
    names += [] if "source_file" in names else ["source_file"]
    arrays, fields = [], []
    for name in names:
        kind = schema.field(name).type if name in schema.names else pa.string()
        arrays.append(columns[name].cast(kind) if name in columns else pa.nulls(rows, kind))
        fields.append(pa.field(name, kind))
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields))


def row_schema(table: EventMapping | ItemMapping) -> pa.Schema:
    """The columns of shaped rows."""
    schema = EVENTS.schema if isinstance(table, EventMapping) else ITEMS.schema
    return _as_table({}, schema, 0).schema
