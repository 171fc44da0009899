"""Whole nights through the command line: the generated shop, and real MovieLens ratings."""

from datetime import date
from pathlib import Path

import pytest

from pipelines.io.lake import Lake
from pipelines.run import Run
from pipelines.shop import ShopSize, make_shop
from tests.command import Command

LAST = date(2026, 3, 1)
NIGHT = LAST.isoformat()
SMALL = ShopSize(days=6, users=150, items=120, visits_per_day=120, new_users=4, new_items=4)
DERIVED = ("events", "items", "sequences", "item_graph", "recommendations")


@pytest.fixture
def command(
    tmp_path: Path,
    spark: object,
    one_ray: None,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Command:
    monkeypatch.setenv("RECKONER_RAY__NUM_WORKERS", "0")
    monkeypatch.setenv("RECKONER_TRAIN__RECIPE", "smoke")
    monkeypatch.setenv("RECKONER_GATE__MIN_USERS", "5")
    return Command(str(tmp_path / "home" / "lake"), capfd)


def contents(command: Command) -> dict[str, dict[str, str | None]]:
    lake = Lake(command.lake, Run.unrecorded())
    return {table: lake.contents(table) for table in DERIVED}


def test_a_night_run_twice_changes_nothing(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = tmp_path / "shop"
    make_shop(shop, LAST, seed=1, size=SMALL)
    monkeypatch.setenv("RECKONER_EVENTS__SOURCE", str(shop / "{partition}" / "events.csv"))
    monkeypatch.setenv("RECKONER_ITEMS__SOURCE", str(shop / "{partition}" / "items.jsonl"))
    foreseen = command.json("nightly", "--partition", NIGHT, "--dry-run")["steps"]
    assert foreseen["ingest-events"]["events"] > 0
    for step in ("build-sequences", "train-ranker", "recommend"):
        assert "reckoner " in foreseen[step]["waits_for"]
    assert command("nightly", "--partition", NIGHT, "--dry-run") == 0
    assert "build-sequences        waits: the lake" in command.output
    for day in sorted(path.name for path in shop.iterdir())[:-1]:
        assert command("ingest-events", "--partition", day) == 0, command.errors
        assert command("ingest-items", "--partition", day) == 0, command.errors
    first = command.json("nightly", "--partition", NIGHT)
    assert list(first["steps"]) == [
        "ingest-events",
        "ingest-items",
        "build-sequences",
        "build-item-graph",
        "build-item-knowledge",
        "train-ranker",
        "promote-ranker",
        "recommend",
    ]
    before = contents(command)
    assert before["recommendations"].keys() == {NIGHT}
    again = command.json("nightly", "--partition", NIGHT)["steps"]
    assert contents(command) == before
    assert again["build-item-knowledge"]["built"] == 0
    assert again["recommend"]["published"] is False
    assert command("stale") == 0
    assert command.json("backfill", "--from", "2026-02-24", "--to", NIGHT, "--stale-only") == {
        "nights": []
    }
    assert command("backfill", "--from", "2026-02-23", "--to", NIGHT) == 2
    assert "1 of 7 nights cannot be ingested, and nothing was rebuilt (2026-02-23" in command.errors
    monkeypatch.delenv("RECKONER_EVENTS__SOURCE")
    by_hand = command.json("backfill", "--from", NIGHT, "--to", NIGHT, "--no-ingest")
    assert by_hand == {"nights": [NIGHT]}
    assert contents(command) == before
    people = command.json("show", "--user", _somebody(command))
    assert len(people["recommendations"]) == 10


def test_movielens_through_all_steps(
    command: Command, shared_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    night = "1998-04-22"
    monkeypatch.setenv("RECKONER_SEQUENCES__LOOKBACK_DAYS", "400")
    source = shared_data / "ml-100k"
    history = command.json(
        "ingest-events", "--all-partitions", "--source", str(source / "events.parquet")
    )
    assert (history["read"], history["rejected"]) == (100_000, 0)
    items = ("ingest-items", "--partition", night, "--source", str(source / "items.parquet"))
    assert command.json(*items)["items"] == 1682
    assert command.json("build-sequences", "--partition", night)["rows"] > 900
    assert command.json("build-item-graph", "--partition", night)["rows"] > 10_000
    assert command.json("build-item-knowledge", "--partition", night)["built"] == 1682
    trained = command.json("train-ranker", "--partition", night, "--recipe", "smoke")
    assert trained["test_users"] > 50
    # So few test users seldom carry a gain whose interval excludes zero: the gate may say no.
    assert command("promote-ranker", "--partition", night) in (0, 3)
    lists = command.json("recommend", "--partition", night)
    assert lists["published"] is True
    assert lists["rows"] == 10 * lists["users"]


def _somebody(command: Command) -> str:
    rows = Lake(command.lake, Run.unrecorded()).read("recommendations", NIGHT, ["user_id"])
    return str(rows["user_id"][0])
