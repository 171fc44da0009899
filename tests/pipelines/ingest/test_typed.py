"""Casts of single cells: what is read, what is bad, what is empty."""

from datetime import UTC, date, datetime

import pyarrow as pa
import pytest

from pipelines.ingest.mapping import Rule, Text, Time
from pipelines.ingest.nested import flagged, gathered, joined, to_pairs, to_texts
from pipelines.ingest.rules import rows_that_fit
from pipelines.ingest.typed import to_flag, to_number, to_text, to_time, to_whole


def at(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-03-01", at(2026, 3, 1)),
        ("2026-03-01 10:20", at(2026, 3, 1, 10, 20)),
        (" 2026-03-01T10:20:30 ", at(2026, 3, 1, 10, 20, 30)),
        ("2026-03-01T10:20:30Z", at(2026, 3, 1, 10, 20, 30)),
        ("2026-03-01T10:20:30+0530", at(2026, 3, 1, 4, 50, 30)),
        ("2026-03-01T10:20:30.1234567Z", at(2026, 3, 1, 10, 20, 30, 123_456)),
        ("2026-02-29", None),
        ("2026-03-01 24:00:00", None),
        ("2026-03", None),
        ("20260301", None),
        ("1899-12-31", None),
        ("01/03/2026", None),
    ],
)
def test_iso_times(text: str, expected: datetime | None) -> None:
    cast = to_time(pa.array([text, "2026-01-01"]), Time(column="x"))
    assert cast.values.to_pylist() == [expected, at(2026, 1, 1)]
    assert cast.bad.tolist() == [expected is None, False]


@pytest.mark.parametrize(
    ("form", "text", "expected"),
    [
        ("%d/%m/%Y %H:%M", "1/3/2026 9:05", at(2026, 3, 1, 9, 5)),
        ("%d/%m/%Y %H:%M", "30/02/2026 09:05", None),
        ("%d/%m/%Y %H:%M", "01/03/2026 09:05:00", None),
        ("%Y-%m-%d %H:%M:%S", "2026-03-01 23:59:60", None),
        ("%Y-%m-%d %H:%M:%S.%f", "2026-03-01 10:00:00.25", at(2026, 3, 1, 10, 0, 0, 250_000)),
        ("%Y-%m-%dT%H:%M:%S%z", "2026-03-01T10:00:00+0100", at(2026, 3, 1, 9)),
        ("%d %b %Y", "01 Mar 2026", at(2026, 3, 1)),
        ("seconds", "1772359200", at(2026, 3, 1, 10)),
        ("seconds", "1772359200.5", at(2026, 3, 1, 10, 0, 0, 500_000)),
        ("milliseconds", "1772359200123", at(2026, 3, 1, 10, 0, 0, 123_000)),
        ("seconds", "99999999999999999", None),
        ("seconds", "1e400", None),
        ("seconds", "soon", None),
    ],
)
def test_declared_times(form: str, text: str, expected: datetime | None) -> None:
    cast = to_time(pa.array([text, None, ""]), Time(column="x", format=form))
    assert cast.values.to_pylist() == [expected, None, None]
    assert cast.bad.tolist() == [expected is None, False, False]


def test_local_times_are_of_their_zone() -> None:
    spec = Time(column="x", format="%Y-%m-%d %H:%M", timezone="Europe/London")
    summer, winter = to_time(pa.array(["2026-07-01 10:00", "2026-01-01 10:00"]), spec).values
    assert (summer.as_py(), winter.as_py()) == (at(2026, 7, 1, 9), at(2026, 1, 1, 10))
    twice = to_time(pa.array(["2026-10-25 01:30"]), spec)  # the clock goes back
    assert twice.values.to_pylist() == [at(2026, 10, 25, 0, 30)]


@pytest.mark.parametrize(
    "column",
    [
        pa.array([datetime(2026, 3, 1)], pa.timestamp("ns")),
        pa.array([date(2026, 3, 1)], pa.date32()),
        pa.array([at(2026, 3, 1)], pa.timestamp("ms", "Asia/Tokyo")),
    ],
)
def test_typed_times(column: pa.Array) -> None:
    assert to_time(column, Time(column="x")).values.to_pylist() == [at(2026, 3, 1)]


def test_typed_epochs() -> None:
    spec = Time(column="x", format="seconds")
    assert to_time(pa.array([1772359200]), spec).values.to_pylist() == [at(2026, 3, 1, 10)]
    assert to_time(pa.array([1772359200.5]), spec).values.to_pylist()[0].microsecond == 500_000


def test_many_bad_cells_among_good_ones() -> None:
    texts = ["2026-03-01", "2026-13-01"] * 500
    assert to_time(pa.array(texts), Time(column="x")).bad.tolist() == [False, True] * 500


def test_numbers() -> None:
    cast = to_number(pa.array(["1.5", "-2", ".5", "1e3", " 7 ", "1,5", "nan", "1e999", "", None]))
    assert cast.values.to_pylist() == [1.5, -2, 0.5, 1000, 7, None, None, None, None, None]
    assert cast.bad.tolist() == [False] * 5 + [True] * 3 + [False] * 2


def test_whole_numbers() -> None:
    cast = to_whole(pa.array(["3", "3.0", "3.5", "9" * 30, ""]))
    assert cast.values.to_pylist() == [3, 3, None, None, None]
    assert cast.bad.tolist() == [False, False, True, True, False]


def test_flags() -> None:
    cast = to_flag(pa.array(["True", "no", "1", "maybe", ""]))
    assert cast.values.to_pylist() == [True, False, True, None, None]
    assert cast.bad.tolist() == [False, False, False, True, False]


def test_texts_with_repairs() -> None:
    spec = Text(column="x", integer=True, upper=True, prefix="item ")
    cast = to_text(pa.array(["14075.0", "85123a", " "]), spec)
    assert cast.values.to_pylist() == ["item 14075", "item 85123A", None]


def test_lists() -> None:
    cells = ["a|b | c", "", '["x", null, "y"]', "['p', \"q\"]", '[["r", "s"], ["t"]]', "[not"]
    assert to_texts(pa.array(cells), "|").values.to_pylist() == [
        *(["a", "b", "c"], None, ["x", "y"], ["p", "q"], ["r", "s"], ["[not"]),
    ]
    assert to_texts(pa.array([["a", None], None]), None).values.to_pylist() == [["a"], None]
    assert joined(pa.array(["['a', 'b']", "plain"]), " ").to_pylist() == ["a b", "plain"]
    flags = flagged({"War": pa.array(["1", "0"]), "Drama": pa.array(["1", ""])})
    assert flags.to_pylist() == [["War", "Drama"], []]


def test_maps() -> None:
    cast = to_pairs(pa.array(['{"a": 1, "b": null, "c": ["d"]}', "", "[1]"]))
    assert cast.values.to_pylist() == [[("a", "1"), ("c", '["d"]')], None, None]
    assert cast.bad.tolist() == [False, False, True]
    struct = to_pairs(pa.array([{"a": "x", "b": None}]))
    assert struct.values.to_pylist() == [[("a", "x")]]
    both = gathered({"a": pa.array(["1", ""]), "b": pa.array(["2", "3"])})
    assert both.to_pylist() == [[("a", "1"), ("b", "2")], [("b", "3")]]


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ({"below": 0}, [False, True, False, False]),
        ({"at_most": 0}, [True, True, False, False]),
        ({"above": 0}, [False, False, False, False]),
        ({"equals": 0}, [True, False, False, False]),
        ({"equals": "0.0"}, [True, False, False, False]),
        ({"empty": True}, [False, False, False, True]),
        ({"empty": False}, [True, True, True, False]),
        ({"matches": "^[Cc]"}, [False, False, True, False]),
        ({"differs_from": "^[Cc]"}, [True, True, False, False]),
    ],
)
def test_conditions(condition: dict[str, object], expected: list[bool]) -> None:
    rule = Rule.model_validate({"skip": "x", "column": "y", **condition})
    cells = pa.array(["0.0", "-1", "c12", " "])
    assert rows_that_fit(rule, cells).tolist() == expected
