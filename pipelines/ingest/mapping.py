"""The mapping file: which of the source's own columns means what.

A mapping has an `events` part, an `items` part or both. Each contract column names its source
column (`user_id: CustomerID`) or is a small table with more to say
(`ts: {column: InvoiceDate, format: "%d/%m/%Y %H:%M", timezone: Europe/London}`).
"""

import difflib
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

from pipelines.io.raw_rows import CsvStyle, Format

EPOCHS = ("seconds", "milliseconds", "microseconds")
CONDITIONS = ("empty", "equals", "below", "at_most", "above", "matches", "differs_from")


class Strict(BaseModel):
    """A frozen part of a mapping that refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Cell(Strict):
    """A contract column; a bare text is short for `{column: text}`."""

    column: str | None = None
    optional: bool = Field(False, description="the source may lack the column")

    @model_validator(mode="before")
    @classmethod
    def _expand(cls, value: Any) -> Any:
        return {"column": value} if isinstance(value, str) else value

    @property
    def columns(self) -> tuple[str, ...]:
        """The source columns that are read."""
        return (self.column,) if self.column else ()


class NamedCell(Cell):
    """A contract column that must name its source column."""

    column: str


class Text(Cell):
    """A text: of a column, or the same for every row."""

    constant: str | None = None
    integer: bool = Field(False, description="14075.0 becomes 14075")
    upper: bool = Field(False, description="letters become capitals")
    prefix: str = Field("", description="put before every value")
    join: str | None = Field(None, description="a list becomes one text, joined by this")

    @model_validator(mode="after")
    def _has_origin(self) -> "Text":
        if (self.column is None) == (self.constant is None):
            raise ValueError("name either a column or a constant")
        return self


class Action(Text):
    """The action: `names` lists the source's words; a word that is not listed refuses the row."""

    names: dict[str, Annotated[str, Field(min_length=1)]] = Field(default_factory=dict)


class Time(NamedCell):
    """A time: ISO 8601 unless `format` says otherwise; without a zone it is of `timezone`."""

    format: str | None = Field(None, description="strptime, seconds, milliseconds, microseconds")
    timezone: str = "UTC"

    @field_validator("format")
    @classmethod
    def _known(cls, value: str | None) -> str | None:
        if value is None or value in EPOCHS or "%" in value:
            return value
        near = difflib.get_close_matches(value, [*EPOCHS, "%Y-%m-%d %H:%M:%S"], n=1, cutoff=0.0)[0]
        raise ValueError(f"{value!r} is no time format; did you mean {near!r}?")

    @field_validator("timezone")
    @classmethod
    def _zone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (ZoneInfoNotFoundError, ValueError, OSError) as error:
            raise ValueError(f"{value!r} is not a time zone, such as Europe/London") from error
        return value


class Number(NamedCell):
    """A number, possibly the product of two columns."""

    times: str | None = Field(None, description="a second column that multiplies the first")
    lenient: bool = Field(False, description="what is no number is left empty, not refused")

    @property
    def columns(self) -> tuple[str, ...]:
        """The source columns that are read."""
        return (self.column, self.times) if self.times else (self.column,)


class Place(Cell):
    """The source's own order: a column, or each record's place in its file."""

    row_number: bool = False


class Texts(Cell):
    """A list of texts: a list, JSON, a text split by `separator`, or columns that flag members."""

    separator: str | None = None
    flags: tuple[str, ...] = Field((), description="columns whose cell is 1 for a member")

    @property
    def columns(self) -> tuple[str, ...]:
        """The source columns that are read."""
        return self.flags or super().columns


class Pairs(Strict):
    """Attributes: a map or JSON object in `column`, or one attribute per column of `columns`."""

    column: str | None = None
    columns: tuple[str, ...] = ()
    optional: bool = False

    @model_validator(mode="before")
    @classmethod
    def _expand(cls, value: Any) -> Any:
        return {"column": value} if isinstance(value, str) else value


class Rule(Strict):
    """What becomes of rows with a certain cell: skipped (not for us) or refused (malformed)."""

    skip: str | None = Field(None, description="the reason that is counted")
    reject: str | None = Field(None, description="the reason that is kept with the row")
    column: str
    empty: bool | None = None
    equals: str | float | None = None
    below: float | None = None
    at_most: float | None = None
    above: float | None = None
    matches: str | None = Field(None, description="a regular expression found in the cell")
    differs_from: str | None = Field(None, description="a regular expression not found in it")

    @model_validator(mode="after")
    def _complete(self) -> "Rule":
        if (self.skip is None) == (self.reject is None):
            raise ValueError("a rule names its reason by either skip or reject")
        if sum(getattr(self, name) is not None for name in CONDITIONS) != 1:
            raise ValueError(f"a rule has exactly one condition of {', '.join(CONDITIONS)}")
        return self

    @property
    def reason(self) -> str:
        """The words that are counted."""
        return self.skip or self.reject or ""


class Csv(Strict):
    """How delimited text is written."""

    delimiter: str = Field(",", min_length=1)
    header: bool = True
    columns: tuple[str, ...] = Field((), description="names where there is no header")
    encoding: str = "utf-8"
    quote: str | None = Field('"', max_length=1)

    @model_validator(mode="after")
    def _named(self) -> "Csv":
        if self.header == bool(self.columns):
            raise ValueError("set columns where header is false, and only there")
        try:
            "".encode(self.encoding)
        except LookupError as error:
            raise ValueError(f"{self.encoding!r} is not an encoding, such as latin-1") from error
        return self

    def style(self) -> CsvStyle:
        """The same for the reader."""
        return CsvStyle(self.delimiter, self.header, self.columns, self.encoding, self.quote)


class Table(Strict):
    """What the two parts of a mapping have in common."""

    files: tuple[str, ...] = Field((), description="file names to read, such as ratings*.csv")
    format: Format | None = Field(None, description="default: by the file's name")
    csv: Csv = Csv()
    rules: tuple[Rule, ...] = Field((), description="in order; the first that fits decides")

    def cells(self) -> dict[str, Cell | Pairs]:
        """The contract columns that the mapping fills."""
        values = {name: getattr(self, name) for name in type(self).model_fields}
        return {k: v for k, v in values.items() if isinstance(v, Cell | Pairs)}

    def required(self) -> tuple[str, ...]:
        """The source columns that must exist."""
        needed = [c for cell in self.cells().values() if not cell.optional for c in cell.columns]
        needed += [
            cell.column
            for cell in self.cells().values()
            if isinstance(cell, Pairs) and cell.column and not cell.optional
        ]
        return tuple(dict.fromkeys([*needed, *(rule.column for rule in self.rules)]))


class EventMapping(Table):
    """How a source row becomes an event."""

    user_id: Text
    item_id: Text
    action: Action
    ts: Time
    position: Place | None = None
    session_id: Text | None = None
    surface: Text | None = None
    query: Text | None = None
    value: Number | None = None
    merge_within: Literal["second", "minute", "hour", "day"] | None = Field(
        None, description="events alike within it become one, at its start, their values summed"
    )


class ItemMapping(Table):
    """How a source row becomes an item."""

    item_id: Text
    title: Text
    description: Text | None = None
    category: Texts | None = None
    brand: Text | None = None
    price: Number | None = None
    available: NamedCell | None = None
    attributes: Pairs | None = None
    repeats: Literal["last", "typical"] = Field(
        "last", description="typical: the most frequent title and the median price"
    )


class Mapping(Strict):
    """A mapping file."""

    events: EventMapping | None = None
    items: ItemMapping | None = None
