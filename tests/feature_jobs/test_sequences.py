"""Sequences against a plain Python reading of the same rules, over random logs."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from itertools import groupby
from random import Random
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pyspark.sql import DataFrame, SparkSession

from feature_jobs.sequences import (
    LISTS,
    SequenceRules,
    keep_actions,
    list_events,
    merge_day,
    with_length,
)

UTC_US = pa.timestamp("us", tz="UTC")
EVENTS = pa.schema(
    [
        ("user_id", pa.string()),
        ("item_id", pa.string()),
        ("action", pa.string()),
        ("ts", UTC_US),
        ("position", pa.int64()),
    ]
)
SEQUENCES = pa.schema(
    [
        ("user_id", pa.string()),
        ("item_idx", pa.list_(pa.int32())),
        ("action", pa.list_(pa.string())),
        ("ts", pa.list_(UTC_US)),
    ]
)
START = datetime(2026, 3, 1, tzinfo=UTC)
DAY = timedelta(days=1)
ITEMS = [f"item-{number}" for number in range(6)]
# Indices in another order than the ids: ties must follow the ids.
INDEX = {item: place for place, item in enumerate(reversed(ITEMS), start=1)}

Row = dict[str, Any]
Lists = dict[str, tuple[list[int], list[str], list[datetime]]]


def order(row: Row) -> tuple[Any, ...]:
    """Time, then the source's position, rows without one last, then item and action."""
    place = row["position"]
    return row["ts"], place is None, place or 0, row["item_id"], row["action"]


def naive(rows: Iterable[Row], rules: SequenceRules, first: datetime, end: datetime) -> Lists:
    kept = [row for row in rows if first <= row["ts"] < end]
    kept = [row for row in kept if not rules.actions or row["action"] in rules.actions]
    found: Lists = {}
    for user, own in groupby(sorted(kept, key=lambda r: (r["user_id"], *order(r))), user_of):
        steps = list(own)
        if rules.session_gap_minutes is not None:
            steps = long_sessions(steps, rules)
        if rules.collapse_repeats:
            runs = groupby(steps, key=lambda row: str(row["item_id"]))
            steps = [list(run)[-1] for _, run in runs]
        steps = steps[-rules.max_length :]
        if steps:
            items = [INDEX[row["item_id"]] for row in steps]
            found[user] = items, [r["action"] for r in steps], [r["ts"] for r in steps]
    return found


def user_of(row: Row) -> str:
    return str(row["user_id"])


def long_sessions(steps: list[Row], rules: SequenceRules) -> list[Row]:
    sessions: list[list[Row]] = []
    for row in steps:
        gap = timedelta(minutes=rules.session_gap_minutes or 0)
        if not sessions or row["ts"] - sessions[-1][-1]["ts"] > gap:
            sessions.append([])
        sessions[-1].append(row)
    return [row for part in sessions if len(part) >= rules.min_session_length for row in part]


def random_log(random: Random, num_users: int, num_days: int) -> list[Row]:
    """Users of every habit: busy, rare, leaving, repeating; many share a timestamp."""
    keys: dict[tuple[Any, ...], Row] = {}
    for number in range(num_users):
        days = random.sample(range(num_days), random.randint(1, min(4, num_days)))
        for day in days:
            clock = [START + day * DAY + timedelta(minutes=random.choice([0, 1, 29, 61, 1439]))]
            for _ in range(random.choice([1, 1, 2, 5, 12])):
                if random.random() < 0.5:
                    clock.append(START + day * DAY + timedelta(seconds=random.randrange(86400)))
                row = {
                    "user_id": f"u{number:03d}",
                    "item_id": random.choice(ITEMS[: random.choice([1, 2, 6])]),
                    "action": random.choice(["view", "view", "buy", "cart"]),
                    "ts": random.choice(clock),
                    "position": random.choice([None, None, 0, 1, 2]),
                }
                keys[row["user_id"], row["item_id"], row["action"], row["ts"]] = row
    log = list(keys.values())
    random.shuffle(log)
    return log


def frame(spark: SparkSession, rows: list[Row]) -> DataFrame:
    return spark.createDataFrame(pa.Table.from_pylist(rows, schema=EVENTS)).repartition(3)


def index_frame(spark: SparkSession) -> DataFrame:
    table = pa.table({"item_id": list(INDEX), "item_idx": pa.array(INDEX.values(), pa.int32())})
    return spark.createDataFrame(table)


def collect(lists: DataFrame) -> Lists:
    rows = with_length(lists).toArrow().to_pylist()
    assert len({row["user_id"] for row in rows}) == len(rows)
    for row in rows:
        assert row["length"] == len(row["item_idx"])
        assert row["last_ts"] == row["ts"][-1]
    return {row["user_id"]: (row["item_idx"], row["action"], row["ts"]) for row in rows}


RULES = st.builds(
    SequenceRules,
    max_length=st.sampled_from([1, 3, 5, 100]),
    actions=st.sampled_from([(), ("view", "buy")]),
    collapse_repeats=st.booleans(),
)
FEW = settings(
    max_examples=3,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],  # a log of many users is not worth shrinking
    suppress_health_check=list(HealthCheck),
)


@given(seed=st.integers(0, 2**32), rules=RULES, lookback=st.sampled_from([1, 2, 3]))
@FEW
def test_merging_day_by_day_gives_what_all_events_give(
    spark: SparkSession, seed: int, rules: SequenceRules, lookback: int
) -> None:
    random = Random(seed)
    num_days = 4
    log = random_log(random, 150, num_days)
    index = index_frame(spark)
    previous: Lists = {}
    for day in range(num_days):
        first, end = START + (day - lookback + 1) * DAY, START + (day + 1) * DAY
        rows = [row for row in log if START + day * DAY <= row["ts"] < end]
        today = list_events(keep_actions(frame(spark, rows), rules), index, rules)
        yesterday = spark.createDataFrame(
            pa.Table.from_pylist(
                [{"user_id": u, **dict(zip(LISTS, v, strict=True))} for u, v in previous.items()],
                schema=SEQUENCES,
            )
        )
        users = yesterday.select("user_id")
        few = random.random() < 0.5
        merged = collect(merge_day(yesterday, users, today, rules, first, few_users=few))
        expected = naive(log, rules, first, end)
        assert merged == expected
        previous = merged
    window = [row for row in log if row["ts"] >= first]
    whole = list_events(keep_actions(frame(spark, window), rules), index, rules)
    assert collect(whole) == expected


@pytest.mark.parametrize(("gap", "shortest", "collapse"), [(30, 2, False), (60, 3, True)])
def test_short_sessions_are_dropped(
    spark: SparkSession, gap: int, shortest: int, collapse: bool
) -> None:
    rules = SequenceRules(5, ("view", "cart"), collapse, gap, shortest)
    log = random_log(Random(gap), 200, 3)
    lists = list_events(keep_actions(frame(spark, log), rules), index_frame(spark), rules)
    expected = naive(log, rules, START, START + 3 * DAY)
    assert collect(lists) == expected
    assert 0 < len(expected) < 200


def test_a_silence_of_just_the_gap_does_not_end_a_session(spark: SparkSession) -> None:
    rules = SequenceRules(10, session_gap_minutes=30, min_session_length=2)
    late = timedelta(minutes=30)
    rows = []
    for user, silence in [("kept", late), ("dropped", late + timedelta(microseconds=1))]:
        for when in (START, START + silence):
            seen = {"user_id": user, "item_id": ITEMS[0], "action": "view"}
            rows.append(seen | {"ts": when, "position": None})
    assert list(collect(list_events(frame(spark, rows), index_frame(spark), rules))) == ["kept"]
