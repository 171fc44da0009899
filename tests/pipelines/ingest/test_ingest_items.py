"""The catalogue rows of a night, and the catalogue as of a night."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipelines.catalogue import items_as_of
from pipelines.ingest_items import content_hash
from pipelines.io.lake import Lake
from pipelines.run import Run
from tests.pipelines.ingest.conftest import Shell

FULL = {
    "item_id": "i1",
    "title": "Tent",
    "description": "Dry.",
    "category": ["Outdoor", "Tents"],
    "brand": "Fern",
    "price": 99.5,
    "available": False,
    "attributes": {"colour": "green", "kg": 2.1},
}


def ingest(shell: Shell, tmp_path: Path, ds: str, *items: dict[str, Any]) -> dict[str, Any]:
    source = tmp_path / f"{ds}.jsonl"
    source.write_text("".join(json.dumps(item) + "\n" for item in items))
    return shell.done("ingest-items", "--partition", ds, "--source", source)


def test_columns_arrive_typed(shell: Shell, tmp_path: Path) -> None:
    ingest(shell, tmp_path, "2026-03-01", FULL, {"item_id": "i2", "title": "Stove"})
    first, second = shell.rows("items", "2026-03-01")
    assert first == {
        **FULL,
        "ds": "2026-03-01",
        "attributes": [("colour", "green"), ("kg", "2.1")],
        "content_hash": first["content_hash"],
    }
    assert second["available"] is True
    assert second["category"] is second["price"] is second["attributes"] is None


def test_csv_with_lists(shell: Shell, tmp_path: Path) -> None:
    source = tmp_path / "items.csv"
    source.write_text(
        "item_id,title,category,available,attributes\n"
        'i1,"Tent, large",Outdoor > Tents,no,"{""kg"": ""2""}"\n'
        'i2,Stove,"[""Outdoor"", ""Stoves""]",,\n'
    )
    shell.done("ingest-items", "--partition", "2026-03-01", "--source", source)
    first, second = shell.rows("items", "2026-03-01")
    assert (first["title"], first["available"]) == ("Tent, large", False)
    assert (first["category"], second["category"]) == (["Outdoor", "Tents"], ["Outdoor", "Stoves"])
    assert first["attributes"] == [("kg", "2")]


def test_the_last_of_several_rows_stands(shell: Shell, tmp_path: Path) -> None:
    result = ingest(
        shell, tmp_path, "2026-03-01", FULL, {**FULL, "price": 90}, {**FULL, "price": 80}
    )
    assert (result["kept"], result["duplicates"], result["items"]) == (3, 2, 1)
    assert shell.rows("items", "2026-03-01")[0]["price"] == 80


def test_typical_row_of_several(shell: Shell, tmp_path: Path) -> None:
    rows = [("RED CUP", 2), ("RED CUP", 9), ("damaged", 4), ("BLUE CUP", 3), ("BLUE CUP", 100)]
    source = tmp_path / "day.csv"
    source.write_text(
        "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n"
        + "".join(f"1,12345,{t},1,2026-03-01 10:00:00,{p},,UK\n" for t, p in rows)
    )
    words = ("--partition", "2026-03-01", "--source", source, "--preset", "online-retail")
    shell.done("ingest-items", *words)
    (row,) = shell.rows("items", "2026-03-01")
    assert (row["title"], row["price"]) == ("BLUE CUP", 4.0)


@pytest.mark.parametrize("change", [{"title": "X"}, {"brand": None}, {"attributes": None}])
def test_content_hash_follows_the_content(change: dict[str, Any]) -> None:
    item = {**FULL, "attributes": [("a", "1"), ("b", "2")]}
    assert content_hash({**item, **change}) != content_hash(item)
    assert content_hash({**item, "attributes": [("b", "2"), ("a", "1")]}) == content_hash(item)
    assert content_hash({**item, "price": 1.0, "available": True}) == content_hash(item)


def test_malformed_items_are_kept_apart(shell: Shell, tmp_path: Path) -> None:
    crowd = [{"item_id": f"c{n}", "title": "x"} for n in range(100)]
    bad = [{"item_id": "b1", "title": " "}, {"item_id": "b2", "title": "x", "available": "maybe"}]
    result = ingest(shell, tmp_path, "2026-03-01", *crowd, *bad)
    assert (result["items"], result["rejected"]) == (100, 2)
    empty, maybe = shell.rows("items_rejected", "2026-03-01")
    assert (empty["reason"], empty["source_row"]) == ("title is empty", 101)
    assert maybe["reason"] == "available 'maybe' is neither true nor false"
    assert json.loads(maybe["payload"])["item_id"] == "b2"


def test_a_night_replaces_what_it_delivered(shell: Shell, tmp_path: Path) -> None:
    ingest(shell, tmp_path, "2026-03-01", FULL, {**FULL, "item_id": "i2"})
    ingest(shell, tmp_path, "2026-03-01", {**FULL, "item_id": "i3"})
    assert [row["item_id"] for row in shell.rows("items", "2026-03-01")] == ["i3"]


@pytest.mark.parametrize(
    ("snapshot", "expected"),
    [
        ("changes", {"i1": (80.0, True), "i2": (5.0, True), "i3": (7.0, False)}),
        ("full", {"i1": (80.0, True), "i2": (5.0, False), "i3": (7.0, False)}),
    ],
)
def test_catalogue_as_of_a_night(
    shell: Shell, tmp_path: Path, snapshot: str, expected: dict[str, tuple[float, bool]]
) -> None:
    item = {**FULL, "available": True}
    ingest(
        shell, tmp_path, "2026-03-01", {**item, "price": 99}, {**item, "item_id": "i2", "price": 5}
    )
    gone = {**item, "item_id": "i3", "price": 7, "available": False}
    ingest(shell, tmp_path, "2026-03-03", {**item, "price": 80}, gone)
    ingest(shell, tmp_path, "2026-03-04", {**item, "price": 1}, {**item, "item_id": "i4"})
    lake = Lake(shell.lake_uri, Run.unrecorded())
    rows = items_as_of(lake, "2026-03-03", ["item_id", "price", "available"], snapshot)
    assert {r["item_id"]: (r["price"], r["available"]) for r in rows.to_pylist()} == expected
    assert set(lake.run.inputs) == {"items/2026-03-01", "items/2026-03-03"}


def test_nothing_delivered_yet(shell: Shell) -> None:
    lake = Lake(shell.lake_uri, Run.unrecorded())
    assert items_as_of(lake, "2026-03-03", ["item_id", "title"], "changes").num_rows == 0
