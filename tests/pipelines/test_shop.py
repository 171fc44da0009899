"""The generated shop: the same by seed, dirty in known ways, and worth a sequential model."""

import filecmp
from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pytest

from pipelines.cli import main
from pipelines.io.lake import Lake
from pipelines.run import Run
from pipelines.shop import Shop, ShopSize, make_shop

SMALL = ShopSize(days=6, users=200, items=250, visits_per_day=200, new_users=6, new_items=4)
UNTIL = date(2026, 3, 1)


def test_the_same_seed_writes_the_same_bytes(tmp_path: Path) -> None:
    make_shop(tmp_path / "a", UNTIL, 7, SMALL)
    make_shop(tmp_path / "b", UNTIL, 7, SMALL)
    make_shop(tmp_path / "c", UNTIL, 8, SMALL)
    names = [
        f"{day.name}/{file}"
        for day in (tmp_path / "a").iterdir()
        for file in ("events.csv", "items.jsonl")
    ]
    assert len(names) == 12
    same, _, _ = filecmp.cmpfiles(tmp_path / "a", tmp_path / "b", names, shallow=False)
    assert sorted(same) == sorted(names)
    same, _, _ = filecmp.cmpfiles(tmp_path / "a", tmp_path / "c", names, shallow=False)
    assert not any(name.endswith("events.csv") for name in same)


def test_two_nights_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shop, lake_uri = str(tmp_path / "shop"), str(tmp_path / "lake")
    sizes = ("--days", "6", "--users", "200", "--items", "250", "--visits", "200")
    assert main(["make-shop", "--out", shop, "--until", "2026-03-01", *sizes]) == 0
    for day in ("2026-02-24", "2026-02-25", "2026-02-26", "2026-02-27", "2026-02-28", "2026-03-01"):
        for step in ("ingest-events", "ingest-items"):
            assert main([step, "--partition", day, "--source", shop, "--lake", lake_uri]) == 0
    capsys.readouterr()
    lake = Lake(lake_uri, Run.unrecorded())
    events = lake.read("events", None).to_pylist()
    assert {row["action"] for row in events} == {"view", "cart", "purchase"}
    assert any(row["ingested_ds"] > row["ds"] for row in events)
    assert lake.read("events_rejected", None).num_rows > 0
    assert lake.read("items_rejected", "2026-02-24").num_rows == 2
    first = {
        day: {r["user_id"] for r in events if r["ds"] <= day} for day in lake.partitions("events")
    }
    assert first["2026-03-01"] - first["2026-02-27"]
    known = {row["item_id"] for row in lake.read("items", None).to_pylist()}
    assert {row["item_id"] for row in events} <= known
    items = {ds: lake.read("items", ds).num_rows for ds in lake.partitions("items")}
    assert items["2026-02-24"] == 242
    assert 0 < items["2026-02-27"] < 20


def walks(shop: Shop) -> Iterator[list[int]]:
    """The categories that each person looked at, one after another."""
    leaf = {good.item_id: good.leaf for good in shop.catalogue.goods}
    seen: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for number in range(shop.size.days):
        for event in shop.day(number)[1]:
            if event["action"] == "view":
                seen[event["user_id"]].append((event["ts"], leaf[event["item_id"]]))
    for events in seen.values():
        walk = [place for _, place in sorted(events, key=lambda event: event[0])]
        yield [now for before, now in zip([None, *walk], walk, strict=False) if now != before]


def test_the_two_last_steps_tell_more_than_the_last_one() -> None:
    """A model of the last item alone must leave something to be learnt from the order."""
    shop = Shop(ShopSize(days=20, users=600, visits_per_day=500), UNTIL, 0)
    by_one: dict[int, Counter[int]] = defaultdict(Counter)
    by_two: dict[tuple[int, int], Counter[int]] = defaultdict(Counter)
    trials = []
    for person, walk in enumerate(walks(shop)):
        for a, b, c in zip(walk, walk[1:], walk[2:], strict=False):
            if person % 3:
                by_one[b][c] += 1
                by_two[a, b][c] += 1
            else:
                trials.append((a, b, c))
    hits_one = sum(c == max(by_one[b], key=by_one[b].__getitem__) for _, b, c in trials)
    hits_two = sum(
        c == max(by_two[a, b], key=by_two[a, b].__getitem__) for a, b, c in trials if by_two[a, b]
    )
    assert len(trials) > 3000
    assert hits_two > 2 * hits_one
