"""Spark reads and stages the lake's tables; what fails on an executor reaches the user."""

from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from pipelines.errors import InputError
from pipelines.io.spark_lake import (
    BYTES_PER_TASK,
    _tasks,
    executor_errors,
    read_table,
    stage_frame,
)
from pipelines.io.spark_session import register_lake
from tests.pipelines.builders import a_lake, event, publish_events, rows_of

DS = "2026-03-01"


@pytest.fixture
def source(spark: SparkSession) -> SparkSession:
    register_lake(spark)
    return spark


def test_a_partition_survives_the_round_trip(source: SparkSession, tmp_path: Path) -> None:
    events = [event("u", f"i{n}", f"{DS}T10:{n:02d}", position=n or None) for n in range(40)]
    lake = a_lake(tmp_path)
    publish_events(lake, [*events, event("v", "i", "2026-03-02T00:00")])
    frame = read_table(source, lake, "events", [DS])
    assert lake.run.inputs == {f"events/{DS}": lake.content("events", DS)}
    assert lake.run.input_versions == {"events": 2}
    staged = stage_frame(frame.repartition(3).drop("ds"), lake, "events", DS)
    assert len(staged) == 3
    again = lake.commit("events", DS, staged)
    assert (again.changed, again.rows) == (False, 40)  # equal contents, whatever the files
    assert not list((tmp_path / "events").rglob("staged/*"))


def test_tables_and_dates_without_rows_read_as_none(source: SparkSession, tmp_path: Path) -> None:
    lake = a_lake(tmp_path)
    assert read_table(source, lake, "events", [DS]).count() == 0
    publish_events(lake, [event("u", "i", f"{DS}T10:00")])
    assert read_table(source, lake, "events", ["2026-03-02"]).count() == 0
    assert read_table(source, lake, "events", [], ["user_id"]).columns == ["user_id"]


def test_a_breach_on_an_executor_is_the_users_one_line(
    source: SparkSession, tmp_path: Path
) -> None:
    lake = a_lake(tmp_path)
    rows = [(1, 2, "swing", 1.0, 1), (1, 3, "swing", -2.0, 2)]
    columns = "item_idx int, neighbour_idx int, kind string, weight double, rank int"
    frame = source.createDataFrame(rows, columns).repartition(2)
    with pytest.raises(InputError) as caught:
        stage_frame(frame, lake, "item_graph", DS)
    assert str(caught.value) == f"table item_graph ds={DS}: weight > 0 is broken in 1 rows"
    assert lake.partitions("item_graph") == []


def test_a_corrupt_file_is_named(source: SparkSession, tmp_path: Path) -> None:
    lake = a_lake(tmp_path)
    publish_events(lake, [event("u", "i", f"{DS}T10:00")])
    [path] = (tmp_path / "events").rglob("*.parquet")
    path.write_bytes(b"not parquet at all")
    refused = pytest.raises(InputError, match=rf"table events: a data file.*ds={DS}/")
    with refused as caught, executor_errors():
        read_table(source, lake, "events", [DS]).toArrow()
    assert "\n" not in str(caught.value)


def test_other_failures_stay_what_they_are(source: SparkSession) -> None:
    with pytest.raises(Exception, match="DIVIDE_BY_ZERO") as caught, executor_errors():
        source.range(3).selectExpr("1 / id").toArrow()
    assert not isinstance(caught.value, InputError)


def test_small_files_share_a_task() -> None:
    half = BYTES_PER_TASK // 2
    sizes = {"a": half, "b": half, "c": 1, "d": 3 * BYTES_PER_TASK, "e": 1}
    assert _tasks(sizes) == [["a", "b"], ["c"], ["d"], ["e"]]
    assert _tasks({f"{n}": 10_000 for n in range(365)}) == [[f"{n}" for n in range(365)]]


def test_rows_of_an_index_have_no_date(source: SparkSession, tmp_path: Path) -> None:
    lake = a_lake(tmp_path)
    entry = {"item_id": "a", "item_idx": 1, "first_seen_ds": DS}
    lake.append("item_index", lambda _: rows_of("item_index", [entry]))
    assert read_table(source, lake, "item_index").toArrow().to_pylist() == [entry]
