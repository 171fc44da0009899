"""The lake: what a publish guarantees to readers and to later runs."""

import json
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake
from deltalake.exceptions import DeltaError

from pipelines.errors import InputError
from pipelines.io.lake import Lake
from tests.pipelines.builders import a_lake, a_run, rows_of

DS = "2026-03-01"


def graph(*weights: float) -> pa.Table:
    return rows_of(
        "item_graph",
        [
            {"item_idx": 1, "neighbour_idx": 2 + i, "kind": "swing", "weight": w, "rank": i + 1}
            for i, w in enumerate(weights)
        ],
    )


def weights(lake: Lake, ds: str = DS) -> list[float]:
    return sorted(lake.read("item_graph", ds)["weight"].to_pylist())


def test_a_table_reads_as_no_rows_before_it_exists(tmp_path: Path) -> None:
    lake = a_lake(tmp_path)
    assert lake.read("item_graph", DS).num_rows == 0
    assert lake.read("item_graph", DS).schema.names[0] == "ds"
    assert (lake.version("item_graph"), lake.partitions("item_graph")) == (None, [])
    assert lake.content("item_graph", DS) is None


def test_a_publish_replaces_its_partition_alone(tmp_path: Path) -> None:
    lake = a_lake(tmp_path)
    lake.publish("item_graph", DS, graph(1, 2, 3))
    lake.publish("item_graph", "2026-03-02", graph(9))
    commit = lake.publish("item_graph", DS, graph(5))
    assert (commit.changed, commit.rows) == (True, 1)
    assert (weights(lake), weights(lake, "2026-03-02")) == ([5], [9])
    assert lake.partitions("item_graph") == [DS, "2026-03-02"]


def test_commits_carry_the_run_and_what_it_read(tmp_path: Path) -> None:
    first = a_lake(tmp_path)
    first.publish("item_graph", DS, graph(1))
    run = a_run(7, step="recommend", partition=DS)
    run.model_version = "12"
    lake = Lake(str(tmp_path), run)
    lake.read("item_graph", DS)
    lake.read("item_graph", "2026-03-05")
    commit = lake.publish("item_graph", "2026-03-02", graph(2))
    said = lake.provenance("item_graph", "2026-03-02")
    assert said["version"] == commit.version
    expected = {
        "run_id": "run-7",
        "step": "recommend",
        "partition": "2026-03-02",
        "code_version": "1.2.3",
        "model_version": "12",
        "contract": "1",
    }
    assert {key: said[key] for key in expected} == expected
    assert json.loads(said["input_versions"]) == {"item_graph": 1}
    content = first.content("item_graph", DS)
    assert json.loads(said["inputs"]) == {
        f"item_graph/{DS}": content,
        "item_graph/2026-03-05": None,
    }
    assert said["content_hash"] == lake.content("item_graph", "2026-03-02") != content
    assert DeltaTable(str(tmp_path / "item_graph")).transaction_version(
        "reckoner/item_graph/2026-03-02"
    ) == lake.attempt("item_graph", "2026-03-02") == 7  # fmt: skip


def test_publishing_the_same_rows_again_commits_nothing(tmp_path: Path) -> None:
    before = a_lake(tmp_path).publish("item_graph", DS, graph(1, 2))
    again = a_lake(tmp_path, attempt=2).publish("item_graph", DS, graph(1, 2).take([1, 0]))
    assert (again.changed, again.version, again.rows) == (False, before.version, 2)


def test_the_same_rows_from_other_inputs_are_committed_again(tmp_path: Path) -> None:
    a_lake(tmp_path).publish("item_graph", DS, graph(1))
    lake = a_lake(tmp_path, attempt=2)
    lake.run.used("sequences", DS, "abc")
    assert lake.publish("item_graph", DS, graph(1)).changed
    assert json.loads(lake.provenance("item_graph", DS)["inputs"]) == {f"sequences/{DS}": "abc"}


def test_an_older_attempt_that_wakes_up_late_is_skipped(tmp_path: Path) -> None:
    a_lake(tmp_path, attempt=20).publish("item_graph", DS, graph(20))
    zombie = a_lake(tmp_path, attempt=19)
    commit = zombie.publish("item_graph", DS, graph(19))
    assert (commit.changed, commit.outdated) == (False, True)
    assert weights(a_lake(tmp_path)) == [20]
    other_day = zombie.publish("item_graph", "2026-03-02", graph(19))
    assert other_day.changed  # the guard is the partition's own


def test_a_reader_stays_at_the_version_it_first_saw(tmp_path: Path) -> None:
    a_lake(tmp_path).publish("item_graph", DS, graph(1))
    reader = a_lake(tmp_path)
    version, content = reader.version("item_graph"), reader.content("item_graph", DS)
    writer = a_lake(tmp_path, attempt=2)
    writer.publish("item_graph", DS, graph(2))
    writer.publish("item_graph", "2026-03-02", graph(3))
    # The commit log is read only now: it must not tell of commits after the pinned version.
    unread = a_lake(tmp_path)
    unread._open["item_graph"] = DeltaTable(str(tmp_path / "item_graph"), version=version)
    for old in (reader, unread):
        assert (old.version("item_graph"), weights(old)) == (version, [1])
        assert old.content("item_graph", DS) == content
        assert old.published("item_graph") == [DS]
    reader.refresh("item_graph")
    assert (weights(reader), reader.published("item_graph")) == ([2], [DS, "2026-03-02"])
    assert reader.content("item_graph", DS) == writer.content("item_graph", DS) != content


def test_provenance_survives_compaction(tmp_path: Path) -> None:
    lake = a_lake(tmp_path)
    lake.commit(
        "item_graph",
        DS,
        [*lake.stage("item_graph", DS, [graph(1)]), *lake.stage("item_graph", DS, [graph(1, 2)])],
    )
    content = lake.content("item_graph", DS)
    DeltaTable(str(tmp_path / "item_graph")).optimize.compact()
    lake.refresh()
    assert len(lake.files("item_graph")) == 1
    assert lake.content("item_graph", DS) == content


def test_staged_files_are_invisible_until_their_commit(tmp_path: Path) -> None:
    lake = a_lake(tmp_path)
    lake.publish("item_graph", DS, graph(1))
    staged = lake.stage("item_graph", DS, [graph(7, 8)])
    other = a_lake(tmp_path)
    assert (tmp_path / "item_graph" / staged[0].path).exists()
    assert weights(other) == [1]
    assert staged[0].path not in other.files("item_graph")
    lake.commit("item_graph", DS, staged)
    assert (weights(other), weights(a_lake(tmp_path))) == ([1], [7, 8])


def test_a_derived_partition_without_rows_is_remembered(tmp_path: Path) -> None:
    lake = a_lake(tmp_path)
    lake.run.used("events", DS, None)
    assert lake.publish("sequences", DS, rows_of("sequences", [])).changed
    assert lake.published("sequences") == [DS]
    assert lake.partitions("sequences") == []
    assert lake.content("sequences", DS) is None
    assert not lake.publish("sequences", DS, rows_of("sequences", [])).changed


def test_a_delivery_without_rows_leaves_no_commit(tmp_path: Path) -> None:
    lake = a_lake(tmp_path)
    assert not lake.publish("events_rejected", DS, rows_of("events_rejected", [])).changed
    assert lake.version("events_rejected") == 0


def test_a_partition_can_become_empty(tmp_path: Path) -> None:
    lake = a_lake(tmp_path)
    lake.publish("item_graph", DS, graph(1))
    assert lake.publish("item_graph", DS, graph()).changed
    assert (lake.partitions("item_graph"), lake.content("item_graph", DS)) == ([], None)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("rank", 0, "rank >= 1 is broken in 1 rows"),
        ("weight", -0.5, "weight > 0 is broken in 1 rows"),
        ("weight", float("nan"), "weight is not finite in 1 rows"),
        ("kind", None, "kind.* null"),
    ],
)
def test_rows_that_break_the_contract_are_refused_before_any_commit(
    tmp_path: Path, column: str, value: object, message: str
) -> None:
    lake = a_lake(tmp_path)
    lake.publish("item_graph", DS, graph(1))
    rows = graph(1, 2).to_pylist()
    rows[1][column] = value
    loose = pa.schema([field.with_nullable(True) for field in graph().schema])
    with pytest.raises(InputError, match=message):
        lake.publish("item_graph", DS, pa.Table.from_pylist(rows, schema=loose))
    assert (weights(lake), len(list((tmp_path / "item_graph").rglob("*.parquet")))) == ([1], 1)


def test_rows_of_another_shape_are_refused(tmp_path: Path) -> None:
    lake = a_lake(tmp_path)
    with pytest.raises(InputError, match=r"missing columns \['rank'\], unknown \['score'\]"):
        lake.publish("item_graph", DS, graph(1).rename_columns(
            ["item_idx", "neighbour_idx", "kind", "weight", "score"]))  # fmt: skip
    with pytest.raises(InputError, match="table item_graph"):
        lake.publish("item_graph", DS, graph(1).set_column(4, "rank", pa.array(["first"])))


def test_a_key_appears_once(tmp_path: Path) -> None:
    rows = pa.concat_tables([graph(1, 2), graph(3)])
    with pytest.raises(InputError, match=r"key \{'item_idx': 1, 'neighbour_idx': 2.*more than"):
        a_lake(tmp_path).publish("item_graph", DS, rows)


def test_other_writers_meet_the_constraints_too(tmp_path: Path) -> None:
    a_lake(tmp_path).ensure("item_graph")
    rows = graph(1).append_column("ds", pa.array([DS]))
    broken = rows.set_column(rows.schema.get_field_index("rank"), "rank", pa.array([0], pa.int32()))
    order = ["ds", "item_idx", "neighbour_idx", "kind", "weight", "rank"]
    uri = str(tmp_path / "item_graph")
    with pytest.raises(DeltaError, match="failed validation"):
        write_deltalake(uri, broken.select(order), mode="append")
    write_deltalake(uri, rows.select(order), mode="append")
    assert weights(a_lake(tmp_path)) == [1]
