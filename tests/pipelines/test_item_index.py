"""Item indices are dense, unique and permanent, whoever hands them out and when."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from random import Random

import pyarrow as pa

from pipelines.item_index import ensure_indexed, load_index
from tests.pipelines.builders import a_lake

DS = "2026-03-01"


def add(folder: str, items: list[str], ds: str = DS) -> int:
    return ensure_indexed(a_lake(folder), pa.array(items), ds)


def entries(folder: Path) -> dict[str, int]:
    table = load_index(a_lake(folder))
    found = dict(zip(table["item_id"].to_pylist(), table["item_idx"].to_pylist(), strict=True))
    assert len(found) == table.num_rows
    assert table["item_idx"].to_pylist() == list(range(1, table.num_rows + 1))
    return found


def batches(number: int) -> list[list[str]]:
    random = Random(number)
    return [[f"item-{random.randrange(60):02d}" for _ in range(20)] for _ in range(number)]


def test_new_items_follow_in_order_of_id(tmp_path: Path) -> None:
    assert add(str(tmp_path), ["b", "c", "b"]) == 2
    assert add(str(tmp_path), ["d", "a", "c"], "2026-03-02") == 2
    assert entries(tmp_path) == {"b": 1, "c": 2, "a": 3, "d": 4}
    seen = load_index(a_lake(tmp_path))["first_seen_ds"].to_pylist()
    assert seen == [DS, DS, "2026-03-02", "2026-03-02"]


def test_known_items_commit_nothing(tmp_path: Path) -> None:
    add(str(tmp_path), ["a", "b"])
    version = a_lake(tmp_path).version("item_index")
    assert add(str(tmp_path), ["b", "a"]) == 0
    assert add(str(tmp_path), []) == 0
    assert a_lake(tmp_path).version("item_index") == version


def test_a_lake_that_has_seen_an_older_index_hands_out_newer_indices(tmp_path: Path) -> None:
    add(str(tmp_path), ["a"])
    early = a_lake(tmp_path)
    assert load_index(early).num_rows == 1
    add(str(tmp_path), ["b", "c"])
    assert ensure_indexed(early, pa.array(["c", "d"]), DS) == 1
    assert entries(tmp_path) == {"a": 1, "b": 2, "c": 3, "d": 4}


def test_threads_share_one_dense_index(tmp_path: Path) -> None:
    wanted = batches(8)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda items: add(str(tmp_path), items), wanted))
    assert set(entries(tmp_path)) == {item for items in wanted for item in items}


def test_processes_share_one_dense_index_and_change_no_entry(tmp_path: Path) -> None:
    add(str(tmp_path), ["item-59", "first"])
    before = entries(tmp_path)
    wanted = batches(3)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(3, mp_context=context) as pool:
        list(pool.map(add, [str(tmp_path)] * 3, wanted))
    after = entries(tmp_path)
    assert set(after) == {item for items in wanted for item in items} | set(before)
    assert {item: after[item] for item in before} == before
