"""The events table is a function of the deliveries, not of the order in which they came."""

import tempfile
from concurrent.futures import ThreadPoolExecutor
from datetime import date, timedelta
from pathlib import Path

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines import ingest_events
from pipelines.ingest.event_rows import merge_deliveries, one_row_per_event
from pipelines.ingest.plan import Request
from pipelines.io.lake import Lake
from pipelines.partition import Partition
from pipelines.run import Run
from pipelines.settings import Settings
from pipelines.step import Context
from pipelines.tables.behaviour import EVENTS

FIRST = date(2026, 3, 1)
NIGHTS = 4
# (night, days late, user, item, value): few distinct ones, so that deliveries collide
ROW = st.tuples(
    st.integers(0, NIGHTS - 1),
    st.integers(0, NIGHTS),
    st.sampled_from("uv"),
    st.sampled_from("ij"),
    st.sampled_from(["", "1", "2"]),
)


def day(number: int) -> str:
    return (FIRST + timedelta(days=number)).isoformat()


def deliver(folder: Path, rows: list[tuple[int, int, str, str, str]]) -> None:
    for night in range(NIGHTS):
        lines = ["user_id,item_id,action,ts,value"]
        for at, late, user, item, value in rows:
            if at == night:
                lines.append(f"{user},{item},view,{day(night - late)} 10:00:00,{value}")
        (folder / f"{day(night)}.csv").write_text("\n".join(lines) + "\n")


def ingest(folder: Path, lake: Path, night: int) -> None:
    run = Run.start("ingest-events", day(night))
    context = Context(Settings(), Lake(str(lake), run), Partition.parse(day(night)))
    ingest_events.run(context, Request(str(folder)), allow_empty=True)


def contents(lake: Path) -> dict[str, object]:
    opened = Lake(str(lake), Run.unrecorded())
    names = [name for name in EVENTS.schema.names if name != "source_file"]
    return {
        ds: sorted(opened.read("events", ds, names).to_pylist(), key=str)
        for ds in opened.partitions("events")
    }


@settings(max_examples=12, deadline=None)
@given(
    rows=st.lists(ROW, max_size=14),
    order=st.permutations(range(NIGHTS)),
    again=st.integers(0, NIGHTS - 1),
)
def test_any_order_gives_the_same_contents(
    rows: list[tuple[int, int, str, str, str]], order: list[int], again: int
) -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        (root / "in").mkdir()
        deliver(root / "in", rows)
        for night in range(NIGHTS):
            ingest(root / "in", root / "straight", night)
        for night in [*order, again]:
            ingest(root / "in", root / "mixed", night)
        assert contents(root / "mixed") == contents(root / "straight")


def test_nights_in_parallel_give_the_same_contents(tmp_path: Path) -> None:
    rows = [
        (night, late, user, item, value)
        for night in range(NIGHTS)
        for late in range(night + 1)
        for user, item, value in (("u", "i", "1"), ("v", "j", str(night)), (f"w{night}", "i", ""))
    ]
    (tmp_path / "in").mkdir()
    deliver(tmp_path / "in", rows)
    for night in range(NIGHTS):
        ingest(tmp_path / "in", tmp_path / "straight", night)
    with ThreadPoolExecutor(NIGHTS) as pool:
        list(pool.map(lambda n: ingest(tmp_path / "in", tmp_path / "apart", n), range(NIGHTS)))
    assert len(contents(tmp_path / "straight")) == NIGHTS
    assert contents(tmp_path / "apart") == contents(tmp_path / "straight")


TOLD = st.tuples(
    st.sampled_from("uv"),
    st.sampled_from("ij"),
    st.sampled_from([None, 1.0, 2.0]),
    st.sampled_from([None, 1, 2]),
    st.integers(0, NIGHTS - 1),
)


def table(rows: list[tuple[str, str, float | None, int | None, int]]) -> pa.Table:
    records = [
        {
            **dict.fromkeys(("session_id", "surface", "query")),
            "user_id": user,
            "item_id": item,
            "action": "view",
            "ts": FIRST,
            "value": value,
            "position": position,
            "source_file": "x",
            "ingested_ds": day(night),
        }
        for user, item, value, position, night in rows
    ]
    schema = pa.schema([column for column in EVENTS.schema if column.name != "ds"])
    dated = pa.schema([c.with_type(pa.date32()) if c.name == "ts" else c for c in schema])
    return pa.Table.from_pylist(records, schema=dated).cast(schema)


@settings(max_examples=150, deadline=None)
@given(rows=st.lists(TOLD, max_size=20), order=st.permutations(range(NIGHTS)))
def test_merging_deliveries_commutes(
    rows: list[tuple[str, str, float | None, int | None, int]], order: list[int]
) -> None:
    def build(nights: list[int]) -> pa.Table:
        held = table([])
        for night in nights:
            new = one_row_per_event(table([row for row in rows if row[4] == night])).rows
            held = merge_deliveries(held, new, day(night))
        return one_row_per_event(held).rows

    built = build(list(range(NIGHTS)))
    assert build(order).equals(built)
    assert built.equals(one_row_per_event(table(rows)).rows)
    keys = built.select(["user_id", "item_id"]).to_pylist()
    assert len({tuple(key.values()) for key in keys}) == built.num_rows
