"""Cast raw cells to the contract's types, column by column, without guessing.

A cast never fails as a whole: cells that do not fit come back null and marked, so that their rows
can be refused one by one. Legend of masks: `bad` marks cells that hold something of the wrong kind;
an empty cell is null and not bad.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.errors import InputError
from pipelines.ingest.mapping import EPOCHS, Text, Time
from pipelines.tables.contract import UTC_TIMESTAMP

Mask = npt.NDArray[np.bool_]

NUMBER = r"^[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,3})?$"
WHOLE = r"^[+-]?[0-9]{1,18}(\.0+)?$"
ZONED = r"[0-9]:?[0-9]{2}([.][0-9]+)?\s*([zZ]|[+-][0-9]{2}(:?[0-9]{2})?)$"
FLAGS = {"true": True, "t": True, "yes": True, "y": True, "1": True} | {
    "false": False, "f": False, "no": False, "n": False, "0": False
}  # fmt: skip
MICROSECONDS = dict(zip(EPOCHS, (1_000_000, 1000, 1), strict=True))
EARLIEST, LATEST = datetime(1900, 1, 1, tzinfo=UTC), datetime(2262, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Cast:
    """Cast cells, [num_rows]; `words` completes the sentence about a bad one."""

    values: pa.Array
    bad: Mask
    words: str


def plain(column: pa.Array) -> pa.Array:
    """Any single-valued column as trimmed text; an empty text is null."""
    texts = column if pa.types.is_string(column.type) else column.cast(pa.string())
    texts = pc.utf8_trim_whitespace(texts)
    return pc.if_else(pc.equal(texts, ""), pa.scalar(None, pa.string()), texts)


def to_text(column: pa.Array, spec: Text) -> Cast:
    """Read an id or a text, with the spec's small repairs."""
    texts = plain(column)
    if spec.integer:
        texts = pc.replace_substring_regex(texts, r"^([0-9]+)\.0+$", r"\1")
    if spec.upper:
        texts = pc.utf8_upper(texts)
    if spec.prefix:
        texts = pc.binary_join_element_wise(spec.prefix, texts, "")
    return Cast(texts, _none(texts), "is not a text")


def to_number(column: pa.Array) -> Cast:
    """Read a finite number."""
    if _is_number(column.type):
        values = column.cast(pa.float64(), safe=False)
        values = pc.if_else(pc.is_nan(values), pa.scalar(None, pa.float64()), values)
    else:
        values = _matching(plain(column), NUMBER, lambda cells: cells.cast(pa.float64()))
    values = pc.if_else(pc.is_finite(values), values, pa.scalar(None, pa.float64()))
    return Cast(values, _lost(column, values), "is not a finite number")


def to_whole(column: pa.Array) -> Cast:
    """Read an integer."""
    if pa.types.is_integer(column.type):
        return Cast(column.cast(pa.int64()), _none(column), "")

    def cast(cells: pa.Array) -> pa.Array:
        return pc.replace_substring_regex(cells, r"\.0+$", "").cast(pa.int64())

    values = _matching(plain(column), WHOLE, cast)
    return Cast(values, _lost(column, values), "is not a whole number")


def to_flag(column: pa.Array) -> Cast:
    """Read yes or no."""
    if pa.types.is_boolean(column.type):
        return Cast(column, _none(column), "")
    words = pc.utf8_lower(plain(column))
    place = pc.index_in(words, value_set=pa.array(list(FLAGS)))
    values = pc.take(pa.array(list(FLAGS.values())), place)
    return Cast(values, _lost(column, values), "is neither true nor false")


def to_time(column: pa.Array, spec: Time) -> Cast:
    """Read an instant; the contract's own form is microseconds UTC."""
    if spec.format in MICROSECONDS:
        values = _epoch(column, MICROSECONDS[spec.format])
        words = f"is not a time in {spec.format}"
    elif pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
        values, words = _zoned(column, spec.timezone), "is not a timestamp"
    elif spec.format:
        values = _formatted(plain(column), spec.format, spec.timezone)
        words = f"is not a timestamp (format {spec.format})"
    else:
        values, words = _iso(plain(column), spec.timezone), "is not a timestamp (format ISO 8601)"
    inside = pc.and_(pc.greater_equal(values, EARLIEST), pc.less(values, LATEST))
    values = pc.if_else(inside, values, pa.scalar(None, UTC_TIMESTAMP))
    return Cast(values, _lost(column, values), words)


def _epoch(column: pa.Array, scale: int) -> pa.Array:
    limit = 2**62 // scale  # far beyond any date, and beyond it the product would overflow
    none = pa.scalar(None, pa.int64())
    floating = pa.types.is_floating(column.type) or pa.types.is_decimal(column.type)
    micros = pa.nulls(len(column), pa.int64())
    if not floating:
        whole = to_whole(column).values
        micros = pc.multiply(pc.if_else(pc.less(pc.abs(whole), limit), whole, none), scale)
    if micros.null_count > column.null_count:  # some are fractions
        numbers = to_number(column).values
        inside = pc.less(pc.abs(numbers), float(limit))
        numbers = pc.if_else(inside, numbers, pa.scalar(None, pa.float64()))
        rounded = pc.round(pc.multiply(numbers, float(scale))).cast(pa.int64())
        micros = pc.coalesce(micros, rounded)
    return micros.cast(pa.timestamp("us")).cast(UTC_TIMESTAMP)


def _zoned(column: pa.Array, zone: str) -> pa.Array:
    if pa.types.is_date(column.type):
        column = column.cast(pa.timestamp("s"))
    values = column.cast(pa.timestamp("us", column.type.tz), safe=False)
    if column.type.tz:
        return values.cast(UTC_TIMESTAMP)
    # A clock change gives an hour twice or not at all: both readings are taken as the earlier one.
    local = pc.assume_timezone(values, zone, ambiguous="earliest", nonexistent="earliest")
    return local.cast(UTC_TIMESTAMP)


def _iso(texts: pa.Array, zone: str) -> pa.Array:
    texts = pc.replace_substring_regex(texts, r"([.][0-9]{6})[0-9]+", r"\1")  # to microseconds
    zoned = pc.match_substring_regex(texts, ZONED)
    none = pa.scalar(None, pa.string())
    with_zone = _lenient(pc.if_else(zoned, texts, none), lambda cells: cells.cast(UTC_TIMESTAMP))
    local = _lenient(
        pc.if_else(zoned, none, texts), lambda cells: _zoned(cells.cast(pa.timestamp("us")), zone)
    )
    return pc.coalesce(with_zone, local)


def _formatted(texts: pa.Array, form: str, zone: str) -> pa.Array:
    """Parse by a strptime format; Arrow's parser rolls 30 February over, so it is read back."""
    if any(code in form for code in ("%f", "%z", "%Z")):
        return _by_python(texts, form, zone)
    parsed = pc.strptime(texts, format=form, unit="s", error_is_null=True)
    back = pc.strftime(parsed, format=form)
    unsure = pc.and_(pc.is_valid(texts), pc.invert(pc.fill_null(pc.equal(back, texts), False)))
    values = _zoned(parsed, zone)
    if not pc.any(unsure).as_py():
        return values
    checked = _by_python(pc.if_else(unsure, texts, pa.scalar(None, pa.string())), form, zone)
    return pc.if_else(unsure, checked, values)


def _by_python(texts: pa.Array, form: str, zone: str) -> pa.Array:
    coded = texts.dictionary_encode()
    known: list[datetime | None] = []
    for text in coded.dictionary.to_pylist():
        try:
            moment = datetime.strptime(text, form)
            if moment.tzinfo is None:
                moment = moment.replace(tzinfo=ZoneInfo(zone))
            known.append(moment.astimezone(UTC))
        except (ValueError, OverflowError):
            known.append(None)
    return pc.take(pa.array(known, UTC_TIMESTAMP), coded.indices)


def _matching(texts: pa.Array, pattern: str, cast: Callable[[pa.Array], pa.Array]) -> pa.Array:
    fits = pc.match_substring_regex(texts, pattern)
    return _lenient(pc.if_else(fits, texts, pa.scalar(None, pa.string())), cast)


def _lenient(cells: pa.Array, cast: Callable[[pa.Array], pa.Array]) -> pa.Array:
    """Cast what can be cast: where the whole fails, halves are tried down to single cells."""
    try:
        return cast(cells)
    except pa.ArrowInvalid:
        if len(cells) == 1:
            return cast(pa.nulls(1, cells.type))
        half = len(cells) // 2
        return pa.concat_arrays([_lenient(cells[:half], cast), _lenient(cells[half:], cast)])


def _lost(column: pa.Array, values: pa.Array) -> Mask:
    """Mark the cells that hold something, of which the cast made nothing."""
    if pa.types.is_floating(column.type):
        held = pc.and_(column.is_valid(), pc.invert(pc.fill_null(pc.is_nan(column), False)))
    elif pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        held = plain(column).is_valid()
    else:
        held = column.is_valid()
    mask: Mask = pc.and_(held, values.is_null()).to_numpy(zero_copy_only=False)
    return mask


def _none(column: pa.Array) -> Mask:
    return np.zeros(len(column), dtype=bool)


def _is_number(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    )


Kind = str  # text, time, number, whole, flag, texts or pairs


def require_type(
    file: str, column: str, kind: pa.DataType, wanted: Kind, spec: Any, *, has_types: bool
) -> None:
    """Refuse a typed source column that cannot hold what it is mapped to.

    Raises:
        InputError: names the file, the column, its type and what would fit.
    """
    if not has_types:
        return
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if not _fits(kind, wanted, spec):
        hint = {
            "time": "a timestamp, or declare ts.format in a mapping file",
            "text": "a text or an integer",
        }.get(wanted, f"a {wanted}")
        raise InputError(f"file {file}: column {column} is of type {kind}; it must be {hint}")


def _fits(kind: pa.DataType, wanted: Kind, spec: Any) -> bool:
    types = pa.types
    text = types.is_string(kind) or types.is_large_string(kind)
    listed = types.is_list(kind) or types.is_large_list(kind)
    if wanted == "text":
        whole = types.is_integer(kind) or (types.is_floating(kind) and spec.integer)
        return bool(text or whole or types.is_binary(kind) or (listed and spec.join is not None))
    if wanted == "time":
        if spec.format in MICROSECONDS:
            return _is_number(kind) or bool(text)
        return bool(types.is_timestamp(kind) or types.is_date(kind) or (text and spec.format))
    if wanted == "number":
        return _is_number(kind)
    if wanted == "whole":
        return bool(types.is_integer(kind))
    if wanted == "flag":
        return bool(types.is_boolean(kind))
    if wanted == "texts":
        return bool(listed or text)
    return bool(types.is_map(kind) or types.is_struct(kind) or text)
