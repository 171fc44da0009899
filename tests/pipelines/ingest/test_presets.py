"""A few lines of each public layout through its preset."""

import gzip
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.pipelines.ingest.conftest import Shell

REVIEW = {"reviewerID": "A1", "asin": "B1", "overall": 5.0, "unixReviewTime": 1772323200}
REVIEW_2023 = {"user_id": "A1", "parent_asin": "B1", "rating": 5.0, "timestamp": 1772323200000}
RETAIL = "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n"
SOLD = "536365,85123a,WHITE HEART,6,2026-03-01 08:26:00,2.55,17850.0,United Kingdom\n"
EVENTS = [
    ("movielens", "ratings.csv", "userId,movieId,rating,timestamp\n1,2,5.0,1772323200\n", "rate"),
    ("movielens", "ratings.dat", "1::2::5::1772323200\n", "rate"),
    ("movielens", "u.data", "1\t2\t5\t1772323200\n", "rate"),
    ("amazon-reviews", "Beauty.json", json.dumps(REVIEW), "review"),
    ("amazon-reviews", "Beauty.jsonl", json.dumps(REVIEW_2023), "review"),
    ("amazon-reviews", "ratings_Beauty.csv", "1,2,5.0,1772323200\n", "review"),
    ("amazon-reviews", "Beauty.csv", "2,1,5.0,1772323200\n", "review"),
    ("taobao", "UserBehavior.csv", "1,2,77,buy,1772323200\n", "purchase"),
    (
        "taobao",
        "tianchi.csv",
        "user_id,item_id,behavior_type,user_geohash,item_category,time\n1,2,4,,7,2026-03-01 08\n",
        "purchase",
    ),
    (
        "retailrocket",
        "events.csv",
        "timestamp,visitorid,event,itemid,transactionid\n1772323200000,1,addtocart,2,\n",
        "cart",
    ),
    ("online-retail", "day.csv", RETAIL + SOLD, "purchase"),
    (
        "online-retail",
        "day.csv",
        RETAIL.replace("InvoiceNo", "Invoice").replace("Unit", "").replace("rID", "r ID") + SOLD,
        "purchase",
    ),
]


@pytest.mark.parametrize(("preset", "name", "text", "action"), EVENTS)
def test_events(
    shell: Shell, tmp_path: Path, preset: str, name: str, text: str, action: str
) -> None:
    source = tmp_path / name
    source.write_text(text)
    words = ("--partition", "2026-03-01", "--source", source, "--preset", preset)
    result = shell.done("ingest-events", *words)
    assert (result["events"], result["rejected"]) == (1, 0)
    (row,) = shell.rows("events", "2026-03-01")
    assert row["action"] == action
    assert row["user_id"] in ("1", "A1", "17850")
    assert row["item_id"] in ("2", "B1", "85123A")
    if action in ("rate", "review"):
        assert row["value"] == 5.0


def test_whole_folders_are_searched_for_the_layouts_files(shell: Shell, tmp_path: Path) -> None:
    folder = tmp_path / "ml-latest"
    folder.mkdir()
    with gzip.open(folder / "ratings.csv.gz", "wt") as file:
        file.write("userId,movieId,rating,timestamp\n1,2,5.0,1772323200\n")
    (folder / "movies.csv").write_text('movieId,title,genres\n2,"Up, up",Drama|War\n')
    (folder / "tags.csv").write_text("userId,movieId,tag,timestamp\n")
    words = ("--partition", "2026-03-01", "--source", folder, "--preset", "movielens")
    assert shell.done("ingest-events", *words)["files"] == 1
    assert shell.done("ingest-items", *words)["items"] == 1
    (film,) = shell.rows("items", "2026-03-01")
    assert (film["title"], film["category"]) == ("Up, up", ["Drama", "War"])


META_2014 = (
    "{'asin': 'B1', 'title': \"Kid's soap\", 'price': 3.5, 'categories': [['Beauty', 'Soap']]}"
)
META_2018 = {"asin": "B1", "title": "Soap", "description": ["One.", "Two."], "category": ["Beauty"]}
META_2023 = {
    "parent_asin": "B1",
    "title": "Soap",
    "price": "from 3.00",
    "description": [],
    "categories": ["Beauty", "Soap"],
    "store": "Acme",
    "details": {"Colour": "red", "Size": {"cm": 3}},
}
ITEMS: list[tuple[str, str, str, dict[str, Any]]] = [
    ("movielens", "movies.dat", "2::Am\xe9lie (2001)::Comedy\n", {"category": ["Comedy"]}),
    (
        "movielens",
        "u.item",
        "2|Am\xe9lie|01-Jan-2001||http://x|" + "|".join("0000010000000000001") + "\n",
        {"category": ["Comedy", "Western"], "attributes": [("released", "01-Jan-2001")]},
    ),
    ("amazon-reviews", "meta.json", META_2014, {"price": 3.5, "category": ["Beauty", "Soap"]}),
    ("amazon-reviews", "meta.json", json.dumps(META_2018), {"description": "One. Two."}),
    (
        "amazon-reviews",
        "meta.jsonl",
        json.dumps(META_2023),
        {
            "price": None,
            "description": None,
            "brand": "Acme",
            "attributes": [("Colour", "red"), ("Size", '{"cm": "3"}')],
        },
    ),
    ("taobao", "UserBehavior.csv", "1,2,77,buy,1772323200\n", {"title": "item 2"}),
    ("retailrocket", "events.csv", EVENTS[9][2], {"title": "item 2"}),
    ("online-retail", "day.csv", RETAIL + SOLD, {"title": "WHITE HEART", "price": 2.55}),
]


@pytest.mark.parametrize(("preset", "name", "text", "expected"), ITEMS)
def test_items(
    shell: Shell, tmp_path: Path, preset: str, name: str, text: str, expected: dict[str, Any]
) -> None:
    (tmp_path / name).write_bytes(text.encode("latin-1"))
    words = ("--partition", "2026-03-01", "--source", tmp_path / name, "--preset", preset)
    assert shell.done("ingest-items", *words)["items"] == 1
    (row,) = shell.rows("items", "2026-03-01")
    assert {key: row[key] for key in expected} == expected
    assert row["available"] is True
    if "Am" in text:
        assert row["title"].startswith("Am\xe9lie")


def test_a_purchase_is_a_customer_a_product_and_a_minute(shell: Shell, tmp_path: Path) -> None:
    again = SOLD.replace(",6,", ",4,").replace("85123a", "85123A")
    (tmp_path / "day.csv").write_text(RETAIL + SOLD + again + SOLD.replace("08:26", "08:27"))
    words = ("--partition", "2026-03-01", "--source", tmp_path, "--preset", "online-retail")
    result = shell.done("ingest-events", *words)
    assert (result["kept"], result["merged"], result["events"]) == (3, 1, 2)
    first, second = shell.rows("events", "2026-03-01")
    assert first["ts"] == datetime(2026, 3, 1, 8, 26, tzinfo=UTC)
    assert first["value"] == pytest.approx(25.5)
    assert (first["position"], second["position"]) == (1, 3)
    assert result["ignored_columns"] == ["Country", "Description"]
