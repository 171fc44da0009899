"""Logs of events as the benchmark reads them."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from models.evaluation import temporal_split
from pipelines.errors import InputError
from pipelines.io.dataset import in_seconds, read_dataset
from tests.pipelines.walks import events


def test_equal_times_follow_position_then_item(tmp_path: Path) -> None:
    table = events([("u", "b", 1), ("u", "a", 1), ("u", "c", 0), ("v", "b", 2), ("v", "a", 2)])
    pq.write_table(table, tmp_path / "events.parquet")
    data = read_dataset(tmp_path)
    names = [[data.items[i - 1] for i in data.store.row(r)] for r in range(2)]
    assert names == [["c", "a", "b"], ["a", "b"]]
    placed = table.append_column("position", pa.array([0, 1, 2, 0, 1]))
    pq.write_table(placed, tmp_path / "events.parquet")
    data = read_dataset(tmp_path)
    names = [[data.items[i - 1] for i in data.store.row(r)] for r in range(2)]
    assert names == [["c", "b", "a"], ["b", "a"]]


def test_actions_are_coded_by_their_names(tmp_path: Path) -> None:
    table = events([("u", "a", 0), ("u", "b", 1), ("u", "c", 2)])
    names = [name for name in table.column_names if name != "action"]
    table = table.select(names).append_column("action", pa.array(["view", "buy", "view"]))
    pq.write_table(table, tmp_path / "events.parquet")
    assert read_dataset(tmp_path).store.actions.tolist() == [2, 1, 2]
    pq.write_table(table.select(names), tmp_path / "events.parquet")
    assert read_dataset(tmp_path).store.actions.tolist() == [0, 0, 0]


def test_real_data_split_has_the_published_sizes(shared_data: Path) -> None:
    data = read_dataset(shared_data / "amazon2014-beauty")
    assert (len(data.store), len(data.items), data.store.num_events) == (22_363, 12_101, 198_502)
    assert len(temporal_split(data.store).test) == 5_585


@pytest.mark.parametrize(("unit", "step"), [("ms", 1), ("us", 1), ("ns", 1001)])
def test_parts_of_a_second_order_and_cut(unit: str, step: int, tmp_path: Path) -> None:
    names = [f"i{n:02}" for n in range(20, 0, -1)]
    times = pa.array(
        [10**18 // {"ms": 10**6, "us": 10**3, "ns": 1}[unit] + n * step for n in range(20)]
    )
    table = pa.table(
        {"user_id": ["u"] * 20, "item_id": names, "ts": times.cast(pa.timestamp(unit, tz="UTC"))}
    )
    pq.write_table(table, tmp_path / "events.parquet")
    data = read_dataset(tmp_path)
    assert [data.items[i - 1] for i in data.store.row(0)] == names
    split = temporal_split(data.store)
    assert split.train.num_events == 16
    assert data.items[split.test.targets[0] - 1] == names[18]
    assert set(in_seconds(split.train).times) == {10**9}


@pytest.mark.parametrize(
    ("positions", "expected"),
    [([3, None, 1], ["c", "a", "b"]), ([None, None, None], ["a", "b", "c"])],
)
def test_rows_without_a_position_come_last(
    tmp_path: Path, positions: list[int | None], expected: list[str]
) -> None:
    table = events([("u", "a", 0), ("u", "b", 0), ("u", "c", 0)])
    pq.write_table(
        table.append_column("position", pa.array(positions)), tmp_path / "events.parquet"
    )
    dataset = read_dataset(tmp_path)
    assert [dataset.items[item - 1] for item in dataset.store.items] == expected


def test_positions_are_integers(tmp_path: Path) -> None:
    table = events([("u", "a", 0), ("u", "b", 1)]).append_column("position", pa.array(["10", "2"]))
    pq.write_table(table, tmp_path / "events.parquet")
    with pytest.raises(InputError, match="position must be an integer, found string"):
        read_dataset(tmp_path)
