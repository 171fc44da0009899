"""Trouble with storage ends in one line that names the table and says what to do."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable

from pipelines import tables
from pipelines.errors import InputError, exit_code
from pipelines.io.lake import Lake
from pipelines.run import Run
from pipelines.tables import CONTRACTS
from tests.pipelines.builders import a_lake, event, publish_events, rows_of

DS = "2026-03-01"
ITEM = {"item_id": "a", "item_idx": 1, "first_seen_ds": DS}


def one_line(error: Exception) -> str:
    assert exit_code(error) == 2
    text = str(error)
    assert "\n" not in text
    return text


def start_older(folder: Path, monkeypatch: pytest.MonkeyPatch, *dropped: str) -> None:
    """Create `events` as an earlier contract had it, with one row."""
    contract = CONTRACTS["events"]
    schema = pa.schema([field for field in contract.schema if field.name not in dropped])
    monkeypatch.setitem(tables.CONTRACTS, "events", replace(contract, schema=schema))
    rows = rows_of("events", [event("u", "old", f"{DS}T10:00")])
    a_lake(folder).publish("events", DS, rows)
    monkeypatch.setitem(tables.CONTRACTS, "events", replace(contract, version=2))


def test_a_table_grows_by_the_columns_of_a_newer_contract(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start_older(tmp_path, monkeypatch, "surface", "query")
    lake = a_lake(tmp_path)
    old = lake.read("events", DS)  # before anything is written
    assert old["query"].to_pylist() == [None]
    publish_events(lake, [event("u", "new", "2026-03-02T10:00", query="shoes")])
    assert lake.read("events", "2026-03-02")["query"].to_pylist() == ["shoes"]
    assert lake.read("events", DS)["query"].to_pylist() == [None]
    both = a_lake(tmp_path).dataset("events").to_table(columns=["item_id", "query"])
    assert sorted(both.to_pylist(), key=str) == [
        {"item_id": "new", "query": "shoes"},
        {"item_id": "old", "query": None},
    ]
    stored = DeltaTable(str(tmp_path / "events")).metadata().configuration
    assert stored["reckoner.contractVersion"] == "2"


def test_a_required_column_cannot_be_added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start_older(tmp_path, monkeypatch, "ingested_ds")
    with pytest.raises(InputError, match="lacks the required column ingested_ds") as caught:
        publish_events(a_lake(tmp_path), [event("u", "i", "2026-03-02T10:00")])
    one_line(caught.value)


def test_a_column_of_another_type_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start_older(tmp_path, monkeypatch)
    contract = CONTRACTS["events"]
    place = contract.schema.get_field_index("value")
    text = contract.schema.set(place, pa.field("value", pa.string()))
    monkeypatch.setitem(tables.CONTRACTS, "events", replace(contract, schema=text))
    with pytest.raises(InputError, match=r"column value is .*double.*, the contract says .*string"):
        a_lake(tmp_path).ensure("events")


def test_a_table_of_a_newer_contract_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contract = CONTRACTS["item_index"]
    monkeypatch.setitem(tables.CONTRACTS, "item_index", replace(contract, version=3))
    a_lake(tmp_path).ensure("item_index")
    monkeypatch.undo()
    lake = a_lake(tmp_path)
    with pytest.raises(InputError, match="version 3, this code knows 1: upgrade") as caught:
        lake.append("item_index", lambda _: rows_of("item_index", [ITEM]))
    one_line(caught.value)
    assert lake.read("item_index").num_rows == 0  # reading is still fine


FEATURES = [
    (["deletionVectors"], {"delta.enableDeletionVectors": "true"}, "deletion vectors"),
    (["columnMapping"], {"delta.columnMapping.mode": "name"}, "column mapping"),
    (None, {"delta.columnMapping.mode": "name"}, "column mapping"),
    (["v2Checkpoint"], {}, "v2 checkpoints"),
    (["typeWidening"], {}, "typeWidening"),
    (["notInventedYet"], {}, "notInventedYet"),
]


@pytest.mark.parametrize(("features", "configuration", "words"), FEATURES)
def test_tables_that_we_cannot_read_say_so(
    tmp_path: Path, features: list[str] | None, configuration: dict[str, str], words: str
) -> None:
    a_lake(tmp_path).ensure("item_index")
    first = tmp_path / "item_index" / "_delta_log" / ("0" * 20 + ".json")
    actions = [json.loads(line) for line in first.read_text().splitlines()]
    for action in actions:
        if "protocol" in action:
            action["protocol"] = {"minReaderVersion": 2, "minWriterVersion": 5}
            if features:
                lists = {"readerFeatures": features, "writerFeatures": features}
                action["protocol"] = {"minReaderVersion": 3, "minWriterVersion": 7} | lists
        if "metaData" in action:
            action["metaData"]["configuration"] = configuration
    first.write_text("\n".join(json.dumps(action) for action in actions))
    with pytest.raises(InputError, match=r"table item_index .*at .*/item_index") as caught:
        a_lake(tmp_path).read("item_index")
    assert words in one_line(caught.value)


@pytest.mark.parametrize("where", ["file", "/proc/lake", "/dev/null/lake"])
def test_a_lake_that_cannot_be_written_says_so(tmp_path: Path, where: str) -> None:
    if where == "file":
        (tmp_path / "file").write_text("not a folder")
        where = str(tmp_path / "file" / "lake")
    lake = a_lake(where)
    assert lake.read("events", DS).num_rows == 0
    with pytest.raises(InputError, match=rf"table events cannot be written at {where}") as caught:
        publish_events(lake, [event("u", "i", f"{DS}T10:00")])
    one_line(caught.value)


def test_a_table_folder_that_turned_into_a_file_says_so(tmp_path: Path) -> None:
    lake = a_lake(tmp_path)
    publish_events(lake, [event("u", "i", f"{DS}T10:00")])
    (tmp_path / "events" / "ds=2026-03-02").write_text("in the way")
    with pytest.raises(InputError, match="table events cannot be written") as caught:
        publish_events(lake, [event("u", "i", "2026-03-02T10:00")])
    one_line(caught.value)


@pytest.mark.parametrize("damage", ["garbage", "cut", "gone"])
def test_a_damaged_data_file_names_table_and_partition(tmp_path: Path, damage: str) -> None:
    publish_events(a_lake(tmp_path), [event("u", f"i{n}", f"{DS}T10:00") for n in range(50)])
    [path] = (tmp_path / "events").rglob("*.parquet")
    if damage == "garbage":
        path.write_bytes(b"\x00\x17" * 400)
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-200])
    else:
        path.unlink()
    with pytest.raises(InputError, match=rf"table events, ds={DS}: a data file") as caught:
        a_lake(tmp_path).read("events", DS)
    one_line(caught.value)


def test_a_damaged_log_names_the_table(tmp_path: Path) -> None:
    a_lake(tmp_path).ensure("events")
    (tmp_path / "events" / "_delta_log" / ("0" * 20 + ".json")).write_text("{garbage")
    with pytest.raises(InputError, match="table events cannot be opened at") as caught:
        a_lake(tmp_path).read("events", DS)
    one_line(caught.value)


def test_a_table_that_was_removed_reads_as_new(tmp_path: Path) -> None:
    lake = a_lake(tmp_path)
    publish_events(lake, [event("u", "i", f"{DS}T10:00")])
    shutil.rmtree(tmp_path / "events")
    assert a_lake(tmp_path).read("events", DS).num_rows == 0


def test_a_scheme_that_no_store_has_is_no_empty_lake() -> None:
    lake = Lake("s4://nowhere", Run.unrecorded())
    with pytest.raises(InputError, match="at s4://nowhere/events: Unknown scheme: s4"):
        lake.exists("events")
