"""Derived partitions settle whatever the order in which their inputs appear.

The derived table here is a small `monitoring` chain built with Arrow: each night adds its own
events to yesterday's count where yesterday is fresh, and counts the whole past otherwise.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipelines.errors import InputError
from pipelines.lineage import Lineage, Stale, stale_nights, stale_partitions, use_window
from pipelines.partition import Partition
from pipelines.rebuild import Built, publish_derived
from pipelines.settings import Settings
from pipelines.step import Context, Result
from tests.pipelines.builders import a_context, a_lake, days_after, event, publish_events, rows_of

START = "2026-03-01"
NIGHTS = [days_after(START, number) for number in range(10)]
LATE = f"{NIGHTS[1]}T23:00"


def deliver(folder: Path, ds: str, more: int = 0) -> None:
    """Ingest a night: one event on the first, two on the second ... none on the fourth."""
    number = 0 if ds == NIGHTS[3] else NIGHTS.index(ds) + 1
    events = [event("u", f"i{n}", f"{ds}T10:{n:02d}") for n in range(number + more)]
    if events:
        publish_events(a_lake(folder, attempt=1 + more), events)


def count_events(context: Context, hook: Callable[[str], None]) -> Callable[[Partition], Built]:
    def build(night: Partition) -> Built:
        lake = context.lake
        yesterday = night.back(1)
        if Lineage(lake, context.settings).is_fresh("monitoring", yesterday.ds):
            before = lake.read("monitoring", yesterday.ds)["value"].to_pylist()
            total = (before[0] if before else 0) + lake.read("events", night.ds).num_rows
        else:
            days = use_window(lake, "events", Partition.parse(START), night)
            total = sum(lake.read("events", ds).num_rows for ds in days)
        hook(night.ds)
        row = {"subject": "events", "check": "total", "value": float(total), "status": "ok"}
        rows = rows_of("monitoring", [row] if total else [])
        return Built(rows.num_rows, lake.publish("monitoring", night.ds, rows))

    return build


def night(
    folder: Path, ds: str, *, cascade: bool = True, hook: Callable[[str], None] = lambda _: None
) -> Result:
    context = a_context(folder, ds)
    return publish_derived(context, "monitoring", count_events(context, hook), cascade=cascade)


def totals(folder: Path) -> dict[str, float]:
    lake = a_lake(folder)
    return {
        ds: lake.read("monitoring", ds)["value"][0].as_py() for ds in lake.partitions("monitoring")
    }


EXPECTED = dict(zip(NIGHTS, [1, 3, 6, 6, 11, 17, 24, 32, 41, 51], strict=True))


def test_nights_in_order(tmp_path: Path) -> None:
    for ds in NIGHTS:
        deliver(tmp_path, ds)
        assert night(tmp_path, ds)["rebuilt"] == []
    assert totals(tmp_path) == EXPECTED
    assert stale_partitions(a_lake(tmp_path), Settings()) == []


def test_nights_in_reverse_rebuild_what_came_later(tmp_path: Path) -> None:
    for number in reversed(range(10)):
        deliver(tmp_path, NIGHTS[number])
        expected = [] if number == 3 else NIGHTS[number + 1 :]  # the fourth brings nothing new
        assert night(tmp_path, NIGHTS[number])["rebuilt"] == expected
    assert totals(tmp_path) == EXPECTED


@pytest.mark.parametrize("turn", range(3))
def test_nights_in_parallel(tmp_path: Path, turn: int) -> None:
    def one(ds: str) -> None:
        deliver(tmp_path, ds)
        night(tmp_path, ds)

    with ThreadPoolExecutor(10) as pool:
        list(pool.map(one, NIGHTS[turn:] + NIGHTS[:turn]))
    assert stale_partitions(a_lake(tmp_path), Settings()) == []
    assert totals(tmp_path) == EXPECTED


def test_a_night_that_was_empty_is_rebuilt_when_the_past_appears(tmp_path: Path) -> None:
    night(tmp_path, NIGHTS[3])
    assert totals(tmp_path) == {}
    deliver(tmp_path, NIGHTS[0])
    assert night(tmp_path, NIGHTS[0])["rebuilt"] == [NIGHTS[3]]
    assert totals(tmp_path) == {NIGHTS[0]: 1, NIGHTS[3]: 1}


def test_inputs_that_move_during_a_build_are_read_again(tmp_path: Path) -> None:
    for ds in NIGHTS[:2]:
        deliver(tmp_path, ds)
    moves = [1, 2]
    night(
        tmp_path, NIGHTS[1], hook=lambda ds: deliver(tmp_path, ds, moves.pop(0)) if moves else None
    )
    assert (moves, totals(tmp_path)) == ([], {NIGHTS[1]: 5})


def test_an_early_run_mends_what_a_later_one_published_meanwhile(tmp_path: Path) -> None:
    """The later night's attempt is the newer one: its rebuild must not be taken for a zombie."""
    for ds in NIGHTS[:2]:
        deliver(tmp_path, ds)
    night(tmp_path, NIGHTS[0])
    deliver(tmp_path, NIGHTS[0], more=4)
    early = a_context(tmp_path, NIGHTS[0])
    night(tmp_path, NIGHTS[1], hook=lambda _: None)
    later = a_lake(tmp_path).attempt("monitoring", NIGHTS[1])
    early.run.attempt = later - 1
    deliver(tmp_path, NIGHTS[0], more=7)
    publish_derived(early, "monitoring", count_events(early, lambda _: None), cascade=True)
    assert totals(tmp_path) == {NIGHTS[0]: 8, NIGHTS[1]: 10}
    assert a_lake(tmp_path).attempt("monitoring", NIGHTS[1]) > later


def test_staleness_is_told_with_its_reasons(tmp_path: Path) -> None:
    for ds in NIGHTS[:3]:
        deliver(tmp_path, ds)
        night(tmp_path, ds)
    deliver(tmp_path, NIGHTS[1], more=1)
    lake, settings = a_lake(tmp_path), Settings()
    assert stale_partitions(lake, settings) == [
        Stale("monitoring", NIGHTS[1], (f"events/{NIGHTS[1]} has changed",)),
        Stale("monitoring", NIGHTS[2], (f"monitoring/{NIGHTS[1]} is itself stale",)),
    ]
    first, last = Partition.parse(NIGHTS[0]), Partition.parse(NIGHTS[1])
    assert stale_nights(lake, settings, first, last) == [last]
    kept = night(tmp_path, NIGHTS[1], cascade=False)
    assert kept["rebuilt"] == []
    assert stale_partitions(lake, settings) == [
        Stale("monitoring", NIGHTS[2], (f"monitoring/{NIGHTS[1]} has changed",))
    ]
    assert night(tmp_path, NIGHTS[1])["rebuilt"] == [NIGHTS[2]]
    assert stale_partitions(lake, settings) == []


FIGURE = {"model_version": "3", "split": "test", "slice": "all", "metric": "ndcg@10", "value": 0.2}
FIGURE |= {"ci_low": 0.1, "ci_high": 0.3, "num_users": 8}
INTEREST = {"user_id": "u", "interest": "tents", "weight": 1.0, "evidence": ["i0"], "tags": []}
INTEREST |= {"prompt_version": "1", "model": "m"}


@pytest.mark.parametrize(
    ("table", "row"), [("ranker_metrics", FIGURE), ("user_interests", INTEREST)]
)
def test_what_a_night_does_not_build_is_no_reason_to_rebuild_it(
    tmp_path: Path, table: str, row: dict[str, object]
) -> None:
    deliver(tmp_path, NIGHTS[0])
    lake = a_lake(tmp_path)
    lake.read("events", NIGHTS[0])
    lake.publish(table, NIGHTS[0], rows_of(table, [row]))
    deliver(tmp_path, NIGHTS[0], more=1)
    [found] = stale_partitions(lake, Settings())
    assert found.table == table
    only = Partition.parse(NIGHTS[0])
    assert stale_nights(lake, Settings(), only, only) == []


def test_dates_that_appear_in_a_window_are_told(tmp_path: Path) -> None:
    deliver(tmp_path, NIGHTS[2])
    night(tmp_path, NIGHTS[2])
    deliver(tmp_path, NIGHTS[0])
    [found] = stale_partitions(a_lake(tmp_path), Settings())
    assert found.reasons == (f"events/{NIGHTS[0]} has appeared",)


def test_an_input_that_vanished_is_told(tmp_path: Path) -> None:
    deliver(tmp_path, NIGHTS[0])
    night(tmp_path, NIGHTS[0])
    a_lake(tmp_path, attempt=2).publish("events", NIGHTS[0], rows_of("events", []))
    [found] = stale_partitions(a_lake(tmp_path), Settings())
    assert found.reasons == (f"events/{NIGHTS[0]} has vanished",)


def test_a_broken_build_publishes_nothing(tmp_path: Path) -> None:
    deliver(tmp_path, NIGHTS[0])

    def fail(ds: str) -> None:
        raise InputError(f"no {ds}")

    with pytest.raises(InputError, match="no 2026-03-01"):
        night(tmp_path, NIGHTS[0], hook=fail)
    assert a_lake(tmp_path).published("monitoring") == []
