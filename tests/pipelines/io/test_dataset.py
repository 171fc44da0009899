"""Logs of events as the benchmark reads them."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from models.evaluation import temporal_split
from pipelines.io.dataset import read_dataset
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
