"""The step that builds sequences, on a real Spark and a real lake."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyspark.sql import SparkSession

from pipelines import build_sequences
from pipelines.errors import InputError
from pipelines.item_index import load_index
from pipelines.lineage import stale_partitions
from pipelines.settings import Settings
from pipelines.step import Result
from pipelines.tables.behaviour import EVENTS
from tests.pipelines.builders import (
    Event,
    a_context,
    a_lake,
    days_after,
    event,
    midnight,
    publish_events,
    resolved,
)

pytestmark = pytest.mark.usefixtures("spark")

START = "2026-03-01"
NIGHTS = [days_after(START, number) for number in range(10)]


def with_rules(**rules: Any) -> Settings:
    return Settings(sequences={"lookback_days": 4, "max_length": 6} | rules)


def random_events(seed: int, num_users: int = 30) -> list[Event]:
    """Ten days of events, none on the fourth; users come, pause and leave."""
    random = Random(seed)
    found = {}
    for number in range(num_users):
        for ds in random.sample(NIGHTS, random.randint(1, 6)):
            for _ in range(random.choice([1, 2, 4])):
                when = midnight(ds) + timedelta(minutes=10 * random.randrange(144))
                one = event(f"u{number:02d}", f"i{random.randrange(9)}", when)
                one["position"] = random.choice([None, 1, 2])
                if ds != NIGHTS[3]:
                    found[one["user_id"], one["item_id"], when] = one
    return list(found.values())


def events_on(events: list[Event], ds: str) -> list[Event]:
    return [one for one in events if one["ingested_ds"] == ds]


def night(folder: Path, ds: str, settings: Settings | None = None, **options: bool) -> Result:
    context = a_context(folder, ds, settings or with_rules())
    return build_sequences.run(context, **options)


def contents(folder: Path, nights: list[str] = NIGHTS) -> dict[str, Any]:
    lake = a_lake(folder)
    return {ds: resolved(lake, ds) for ds in nights}


def test_ten_nights_in_any_order_give_the_same_rows(tmp_path: Path) -> None:
    events = random_events(1)
    in_order, reverse, parallel = tmp_path / "order", tmp_path / "reverse", tmp_path / "parallel"
    for ds in NIGHTS:
        publish_events(a_lake(in_order), events_on(events, ds))
        result = night(in_order, ds)
        assert result["built"] == ("from scratch" if ds == START else "merged")
        assert result["rebuilt"] == []
    expected = contents(in_order)
    assert len({str(rows) for rows in expected.values()}) == 10

    publish_events(a_lake(reverse), events)
    for ds in reversed(NIGHTS):
        assert night(reverse, ds)["rebuilt"] == []
    assert contents(reverse) == expected
    indices = [load_index(a_lake(folder))["item_id"].to_pylist() for folder in (in_order, reverse)]
    assert indices[0] != indices[1]  # or the comparison through the index would prove nothing

    def ingest_and_build(ds: str) -> None:
        publish_events(a_lake(parallel), events_on(events, ds))
        night(parallel, ds)

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(ingest_and_build, [NIGHTS[n] for n in (2, 0, 1, 5, 9, 3, 4, 7, 6, 8)]))
    assert stale_partitions(a_lake(parallel), with_rules()) == []
    assert contents(parallel) == expected


def test_a_merged_partition_equals_one_from_scratch(tmp_path: Path) -> None:
    events = random_events(2, num_users=60)
    publish_events(a_lake(tmp_path), events)
    settings = with_rules(collapse_repeats=True, max_length=4, lookback_days=3)
    night(tmp_path, NIGHTS[1], settings)
    for ds in NIGHTS[2:5]:
        assert night(tmp_path, ds, settings)["built"] == "merged"
        merged = a_lake(tmp_path).content("sequences", ds)
        again = night(tmp_path, ds, settings, from_scratch=True, cascade=False)
        assert (again["built"], again["changed"]) == ("from scratch", True)  # its inputs differ
        assert a_lake(tmp_path).content("sequences", ds) == merged


def test_late_rows_make_nights_stale_and_cascade(tmp_path: Path) -> None:
    events = [event("u", f"i{n}", f"{ds}T10:00") for n, ds in enumerate(NIGHTS[:4])]
    publish_events(a_lake(tmp_path), events)
    for ds in NIGHTS[:4]:
        night(tmp_path, ds)
    before = a_lake(tmp_path).version("sequences")
    assert not night(tmp_path, NIGHTS[3])["changed"]
    assert a_lake(tmp_path).version("sequences") == before
    late = event("u", "late", f"{NIGHTS[1]}T09:00")
    publish_events(a_lake(tmp_path, attempt=2), [events[1], late])
    stale = stale_partitions(a_lake(tmp_path), with_rules())
    assert [found.ds for found in stale] == NIGHTS[1:4]
    # Yesterday is stale, so the last night reads its whole lookback.
    assert night(tmp_path, NIGHTS[3])["built"] == "from scratch"
    assert night(tmp_path, NIGHTS[1], cascade=False)["built"] == "merged"
    assert [found.ds for found in stale_partitions(a_lake(tmp_path), with_rules())] == [NIGHTS[2]]
    assert night(tmp_path, NIGHTS[1])["rebuilt"] == [NIGHTS[2]]
    assert [item for item, *_ in resolved(a_lake(tmp_path), NIGHTS[3])["u"]] == [
        "i0", "late", "i1", "i2", "i3",
    ]  # fmt: skip


def test_other_settings_mean_another_build(tmp_path: Path) -> None:
    publish_events(a_lake(tmp_path), random_events(3)[:40])
    night(tmp_path, NIGHTS[7])
    shorter = with_rules(max_length=2)
    [found] = stale_partitions(a_lake(tmp_path), shorter)
    assert found.reasons == ("the settings under sequences have changed",)
    assert night(tmp_path, NIGHTS[8], shorter)["built"] == "from scratch"
    assert max(len(own) for own in resolved(a_lake(tmp_path), NIGHTS[8]).values()) == 2
    assert night(tmp_path, NIGHTS[9], shorter)["built"] == "merged"
    never = with_rules(max_length=2, merge_yesterday=False)
    assert stale_partitions(a_lake(tmp_path), never) == [found]  # how a row was built is no matter
    assert night(tmp_path, NIGHTS[9], never)["built"] == "from scratch"
    sessions = with_rules(session_gap_minutes=30, min_session_length=2)
    night(tmp_path, NIGHTS[8], sessions, cascade=False)
    assert night(tmp_path, NIGHTS[9], sessions)["built"] == "from scratch"


def test_a_dry_run_publishes_nothing_and_counts_the_same(tmp_path: Path) -> None:
    publish_events(a_lake(tmp_path), random_events(4))
    context = a_context(tmp_path, NIGHTS[2], with_rules(), dry_run=True)
    dry = build_sequences.run(context)
    assert not (tmp_path / "sequences").exists()
    assert not (tmp_path / "item_index").exists()
    wet = night(tmp_path, NIGHTS[2])
    assert (wet["changed"], dry["changed"]) == (True, False)
    assert {key: dry[key] for key in ("rows", "new_items", "built")} == {
        key: wet[key] for key in ("rows", "new_items", "built")
    }
    assert wet["new_items"] > 0


def test_users_whose_history_has_left_the_lookback_disappear(tmp_path: Path) -> None:
    events = [event("gone", "a", f"{START}T10:00"), event("stays", "a", f"{START}T23:59")]
    publish_events(a_lake(tmp_path), [*events, event("stays", "b", f"{NIGHTS[1]}T10:00")])
    for ds in NIGHTS[:5]:
        result = night(tmp_path, ds, with_rules(lookback_days=2))
    assert result["rows"] == 0
    found = contents(tmp_path, NIGHTS[:4])
    assert [sorted(found[ds]) for ds in NIGHTS[:4]] == [["gone", "stays"]] * 2 + [["stays"], []]
    assert [item for item, *_ in found[NIGHTS[2]]["stays"]] == ["b"]
    assert a_lake(tmp_path).published("sequences") == NIGHTS[:5]


def test_a_user_with_a_million_events_is_cut_before_lists_are_formed(
    tmp_path: Path, spark: SparkSession
) -> None:
    assert spark.conf.get("spark.driver.memory") == "1g"
    number = np.arange(1_000_000)
    when = np.datetime64(START, "us") + number * np.timedelta64(80, "ms")
    items = np.char.add("item-", (number % 1000).astype(str))
    columns = {
        name: pa.nulls(len(number), EVENTS.stored.field(name).type) for name in EVENTS.stored.names
    }
    columns |= {
        "user_id": pa.array(np.full(len(number), "robot")),
        "item_id": pa.array(items),
        "action": pa.array(np.full(len(number), "view")),
        "ts": pa.array(when).cast(EVENTS.schema.field("ts").type),
        "ingested_ds": pa.array(np.full(len(number), START)),
    }  # fmt: skip
    a_lake(tmp_path).publish("events", START, pa.table(columns))
    publish_events(a_lake(tmp_path), [event("person", "item-1", f"{NIGHTS[1]}T10:00")])
    assert night(tmp_path, START, with_rules(max_length=50))["rows"] == 1
    latest = [item for item, *_ in resolved(a_lake(tmp_path), START)["robot"]]
    assert latest == [f"item-{n}" for n in range(950, 1000)]
    assert night(tmp_path, NIGHTS[1], with_rules(max_length=50))["rows"] == 2


def test_a_lake_without_events_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"ingest-events --partition {START} first"):
        night(tmp_path, START)


def test_a_corrupt_events_file_is_named(tmp_path: Path) -> None:
    publish_events(a_lake(tmp_path), [event("u", "i", f"{START}T10:00")])
    [path] = (tmp_path / "events").rglob("*.parquet")
    path.write_bytes(b"PAR1 and then nothing")
    with pytest.raises(InputError, match="table events: a data file cannot be read"):
        night(tmp_path, START)
    assert a_lake(tmp_path).published("sequences") == []
