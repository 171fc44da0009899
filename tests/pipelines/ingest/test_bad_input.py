"""Every kind of bad input ends with exit 2, one clear line, and nothing published."""

import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.pipelines.ingest.conftest import Shell

DS = "2026-03-01"
GOOD = "user_id,item_id,action,ts\nu1,i1,view,2026-03-01 10:00:00\n"


def refused(shell: Shell, *words: str | Path) -> str:
    answer = shell("ingest-events", *words)
    assert answer.code == 2, (answer.result, answer.message)
    assert shell.dates("events") == []
    return answer.message


def from_text(shell: Shell, tmp_path: Path, text: str, *words: str) -> str:
    source = tmp_path / "day.csv"
    source.write_text(text)
    return refused(shell, "--partition", DS, "--source", source, *words)


def test_missing_source(shell: Shell, tmp_path: Path) -> None:
    message = refused(shell, "--partition", DS, "--source", tmp_path / "nowhere.csv")
    assert "nowhere.csv does not exist" in message


def test_no_source_at_all(shell: Shell) -> None:
    assert "--source" in refused(shell, "--partition", DS)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("day.csv", "", "day.csv is empty: no header"),
        ("day.csv", "user_id,item_id,action,ts\n", "holds no event (day.csv): pass --allow-empty"),
        ("day.jsonl", "\n", "holds no event (day.jsonl): pass --allow-empty"),
    ],
)
def test_empty_source(shell: Shell, tmp_path: Path, name: str, text: str, words: str) -> None:
    (tmp_path / name).write_text(text)
    assert words in refused(shell, "--partition", DS, "--source", tmp_path / name)


def test_empty_source_that_is_meant(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "day.csv").write_text("user_id,item_id,action,ts\n")
    command = ("ingest-events", "--partition", DS, "--source", tmp_path / "day.csv")
    assert shell.done(*command, "--allow-empty")["events"] == 0


def test_empty_folder(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    assert "holds no file to read" in refused(shell, "--partition", DS, "--source", tmp_path / "in")


def test_folder_without_the_date(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "2026-02-28.csv").write_text(GOOD)
    message = refused(shell, "--partition", DS, "--source", tmp_path / "in")
    assert "none for 2026-03-01 (it has 2026-02-28)" in message


def test_wrong_column(shell: Shell, tmp_path: Path) -> None:
    message = from_text(shell, tmp_path, GOOD.replace("item_id", "itemid"))
    assert "day.csv has no column 'item_id' (did you mean 'itemid'?)" in message


def test_wrong_type_in_parquet(shell: Shell, tmp_path: Path) -> None:
    rows = {"user_id": ["u"], "item_id": ["i"], "action": ["view"], "ts": ["2026-03-01"]}
    pq.write_table(pa.table(rows), tmp_path / "day.parquet")
    message = refused(shell, "--partition", DS, "--source", tmp_path / "day.parquet")
    assert "day.parquet: column ts is of type string; it must be a timestamp" in message


def test_value_of_a_wrong_type_in_parquet(shell: Shell, tmp_path: Path) -> None:
    moment = datetime(2026, 3, 1, tzinfo=UTC)
    rows = {"user_id": ["u"], "item_id": ["i"], "action": ["view"], "ts": [moment], "value": ["3"]}
    pq.write_table(pa.table(rows), tmp_path / "day.parquet")
    message = refused(shell, "--partition", DS, "--source", tmp_path / "day.parquet")
    assert "column value is of type string; it must be a number" in message


def test_binary_garbage_named_csv(shell: Shell, tmp_path: Path) -> None:
    source = tmp_path / "day.csv"
    source.write_bytes(random.Random(0).randbytes(5000))
    message = refused(shell, "--partition", DS, "--source", source)
    assert "day.csv is not text (a zero byte at offset" in message


def test_parquet_named_csv(shell: Shell, tmp_path: Path) -> None:
    pq.write_table(pa.table({"user_id": ["u"] * 100}), tmp_path / "day.csv")
    message = refused(shell, "--partition", DS, "--source", tmp_path / "day.csv")
    assert "day.csv is not text" in message


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le"])
def test_another_encoding(shell: Shell, tmp_path: Path, encoding: str) -> None:
    source = tmp_path / "day.csv"
    source.write_bytes(GOOD.encode(encoding))
    assert "day.csv is " in refused(shell, "--partition", DS, "--source", source)


def test_wholly_non_utf8(shell: Shell, tmp_path: Path) -> None:
    source = tmp_path / "day.csv"
    rows = "".join(f"u{i},caf\xe9,view,2026-03-01 10:00:00\n" for i in range(50))
    source.write_bytes(("user_id,item_id,action,ts\n" + rows).encode("latin-1"))
    message = refused(shell, "--partition", DS, "--source", source)
    assert "day.csv is not UTF-8 (50 of its first 51 lines are not)" in message


def test_unknown_action(shell: Shell, tmp_path: Path) -> None:
    text = "1,2,3,pv,1512000000\n1,2,3,frobnicate,1512000001\n"
    source = tmp_path / "UserBehavior.csv"
    source.write_text(text)
    words = ("--partition", "2017-11-30", "--source", source, "--preset", "taobao")
    message = refused(shell, *words)
    assert "1 of 2 rows rejected (50.0%, above events.max_rejected_share = 5.0%)" in message
    assert "UserBehavior.csv row 2: action 'frobnicate' is not one of pv, fav, cart, buy" in message


@pytest.mark.parametrize("text", ["yesterday", "2026-3-1", "2026-02-30", "20260301"])
def test_partition_that_is_not_a_date(shell: Shell, tmp_path: Path, text: str) -> None:
    assert repr(text) in refused(shell, "--partition", text, "--source", tmp_path)


def test_partition_in_the_future(shell: Shell, tmp_path: Path) -> None:
    tomorrow = (datetime.now(UTC) + timedelta(days=2)).date().isoformat()
    assert "is in the future" in refused(shell, "--partition", tomorrow, "--source", tmp_path)


def test_times_that_are_none(shell: Shell, tmp_path: Path) -> None:
    text = GOOD + "u2,i2,view,yesterday\n"
    message = from_text(shell, tmp_path, text)
    assert "day.csv row 2: ts 'yesterday' is not a timestamp (format ISO 8601)" in message


def test_both_preset_and_mapping(shell: Shell, tmp_path: Path) -> None:
    words = ("--preset", "taobao", "--mapping", "m.yaml")
    assert "exclude each other" in from_text(shell, tmp_path, GOOD, *words)


def test_both_preset_and_mapping_in_the_settings(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RECKONER_EVENTS__PRESET", "taobao")
    monkeypatch.setenv("RECKONER_EVENTS__MAPPING", "m.yaml")
    assert "events.preset and events.mapping" in from_text(shell, tmp_path, GOOD)


def test_unknown_preset(shell: Shell, tmp_path: Path) -> None:
    message = from_text(shell, tmp_path, GOOD, "--preset", "movie-lens")
    assert "unknown preset 'movie-lens'; did you mean 'movielens'?" in message


def test_layout_that_fits_nothing(shell: Shell, tmp_path: Path) -> None:
    message = from_text(shell, tmp_path, GOOD, "--preset", "online-retail")
    assert "fits no layout" in message
    assert "'CustomerID'" in message
    assert "'Customer ID'" in message


def test_partition_and_all_partitions(shell: Shell, tmp_path: Path) -> None:
    message = from_text(shell, tmp_path, GOOD, "--all-partitions")
    assert "either --partition DATE or --all-partitions" in message


def test_neither_partition_nor_all(shell: Shell, tmp_path: Path) -> None:
    assert "either --partition DATE" in refused(shell, "--source", tmp_path)


def test_corrupted_parquet(shell: Shell, tmp_path: Path) -> None:
    rows = {
        "user_id": [f"u{i}" for i in range(5000)],
        "item_id": ["i"] * 5000,
        "action": ["view"] * 5000,
        "ts": [datetime(2026, 3, 1, tzinfo=UTC)] * 5000,
    }
    source = tmp_path / "day.parquet"
    pq.write_table(pa.table(rows), source)
    whole = source.read_bytes()
    source.write_bytes(whole[: len(whole) // 2])
    message = refused(shell, "--partition", DS, "--source", source)
    assert "day.parquet is not a readable Parquet file" in message
    source.write_bytes(whole[:50] + b"\xff" * 400 + whole[450:])
    message = refused(shell, "--partition", DS, "--source", source)
    assert "day.parquet is damaged" in message


def test_json_array(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "day.json").write_text('[{"user_id": "u"}]')
    message = refused(shell, "--partition", DS, "--source", tmp_path / "day.json")
    assert "write one JSON object per line" in message


def test_unknown_kind_of_file(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "day.xlsx").write_bytes(b"PK")
    message = refused(shell, "--partition", DS, "--source", tmp_path / "day.xlsx")
    assert "day.xlsx is of an unknown kind" in message


def test_broken_gzip(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "day.csv.gz").write_bytes(b"\x1f\x8b" + b"nonsense" * 20)
    message = refused(shell, "--partition", DS, "--source", tmp_path / "day.csv.gz")
    assert "day.csv.gz cannot be read" in message


def test_source_with_a_partition_for_all(shell: Shell, tmp_path: Path) -> None:
    message = refused(shell, "--all-partitions", "--source", "in/{partition}.csv")
    assert "--all-partitions cannot fill in" in message


def test_a_lake_that_cannot_be_written(tmp_path: Path, shell: Shell) -> None:
    (tmp_path / "day.csv").write_text(GOOD)
    (tmp_path / "file").write_text("")
    blocked = Shell(str(tmp_path / "file" / "lake"), shell.read_output)
    source = ("--source", tmp_path / "day.csv")
    answer = blocked("ingest-events", "--partition", DS, *source)
    assert answer.code == 2
    assert str(tmp_path / "file") in answer.message


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("items.jsonl", '{"item_id": "i1"}\n', "no column 'title'"),
        ("items.csv", "item_id,title\ni1,\ni2,Two\n", "row 1: title is empty"),
        ("items.csv", "item_id,title,price\ni1,One,-3\n", "price '-3' is not a price of zero"),
    ],
)
def test_bad_items(shell: Shell, tmp_path: Path, name: str, text: str, words: str) -> None:
    (tmp_path / name).write_text(text)
    answer = shell("ingest-items", "--partition", DS, "--source", tmp_path / name)
    assert answer.code == 2
    assert words in answer.message
    assert shell.dates("items") == []
