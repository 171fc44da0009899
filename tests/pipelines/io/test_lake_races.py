"""Writers that race: threads and processes publish, append and create at the same time."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa

from tests.pipelines.builders import a_lake, rows_of

DAYS = [f"2026-03-{day:02d}" for day in range(1, 9)]


def edge(neighbour: int, weight: float) -> pa.Table:
    row = {"item_idx": 1, "neighbour_idx": neighbour, "kind": "swing", "weight": weight, "rank": 1}
    return rows_of("item_graph", [row])


def publish_days(folder: str, first: int, step: int) -> None:
    lake = a_lake(folder)
    for ds in DAYS[first::step]:
        lake.publish("item_graph", ds, edge(2, float(ds[-2:])))


def publish_attempt(folder: Path, attempt: int) -> bool:
    lake = a_lake(folder, attempt=attempt)
    return lake.publish("item_graph", DAYS[0], edge(attempt, attempt)).changed


def merge_one(folder: Path, neighbour: int) -> None:
    lake = a_lake(folder, attempt=neighbour)
    lake.publish_merged(
        "item_graph",
        DAYS[0],
        lambda there: pa.concat_tables([there.drop(["ds"]), edge(neighbour, 1.0)]),
        guard=f"/{neighbour}",
    )


def read_pairs(folder: Path, ds: str) -> list[tuple[int, float]]:
    rows = a_lake(folder).read("item_graph", ds)
    return sorted(zip(rows["neighbour_idx"].to_pylist(), rows["weight"].to_pylist(), strict=True))


def test_partitions_published_by_threads_at_once_are_all_there(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda first: publish_days(str(tmp_path), first, 8), range(8)))
    assert a_lake(tmp_path).partitions("item_graph") == DAYS
    for ds in DAYS:
        assert read_pairs(tmp_path, ds) == [(2, float(ds[-2:]))]


def test_partitions_published_by_processes_at_once_are_all_there(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(3, mp_context=context) as pool:
        list(pool.map(publish_days, [str(tmp_path)] * 3, range(3), [3] * 3))
    assert a_lake(tmp_path).partitions("item_graph") == DAYS


def test_of_attempts_at_one_partition_the_newest_stands(tmp_path: Path) -> None:
    with ThreadPoolExecutor(6) as pool:
        changed = list(pool.map(lambda n: publish_attempt(tmp_path, n), [3, 6, 1, 5, 2, 4]))
    assert changed[1]  # nothing is newer than the sixth attempt
    assert read_pairs(tmp_path, DAYS[0]) == [(6, 6.0)]


def test_merges_into_one_partition_lose_nothing(tmp_path: Path) -> None:
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda n: merge_one(tmp_path, n), range(1, 7)))
    assert read_pairs(tmp_path, DAYS[0]) == [(n, 1.0) for n in range(1, 7)]


def test_a_table_created_by_many_at_once_is_created_once(tmp_path: Path) -> None:
    with ThreadPoolExecutor(6) as pool:
        handles = list(pool.map(lambda _: a_lake(tmp_path).ensure("item_graph"), range(6)))
    assert {handle.version() for handle in handles} == {0}
    found = handles[0].metadata().configuration
    assert found["delta.constraints.rank_min_1"] == "rank >= 1"
