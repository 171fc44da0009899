"""What becomes of each row of a delivery."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake

from tests.pipelines.ingest.conftest import Shell

DS = "2026-03-01"
HEAD = "user_id,item_id,action,ts,position,value\n"
# So many good rows that a few bad ones stay below the limit.
CROWD = "".join(f"c{i},i{i % 7},view,2026-03-01 09:00:{i % 60:02d},{i},\n" for i in range(200))


def deliver(tmp_path: Path, text: str, name: str = "day.csv") -> Path:
    source = tmp_path / "in" / name
    source.parent.mkdir(exist_ok=True)
    source.write_text(text)
    return source


def ingest(shell: Shell, tmp_path: Path, text: str, *words: str) -> dict[str, object]:
    source = deliver(tmp_path, HEAD + CROWD + text)
    return shell.done("ingest-events", "--partition", DS, "--source", source, *words)


def test_columns_arrive_typed(shell: Shell, tmp_path: Path) -> None:
    ingest(shell, tmp_path, "007,i1,buy,2026-03-01T12:30:00.5+02:00,3,9.50\n")
    row = next(r for r in shell.rows("events", DS) if r["user_id"] == "007")
    assert row == {
        "ds": DS,
        "user_id": "007",
        "item_id": "i1",
        "action": "buy",
        "ts": datetime(2026, 3, 1, 10, 30, 0, 500_000, tzinfo=UTC),
        "position": 3,
        "session_id": None,
        "surface": None,
        "query": None,
        "value": 9.5,
        "source_file": "day.csv",
        "ingested_ds": DS,
    }


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("u,i,view,yesterday,,", "ts 'yesterday' is not a timestamp (format ISO 8601)"),
        ("u,i,view,2026-02-30 10:00:00,,", "ts '2026-02-30 10:00:00' is not a timestamp"),
        ("u,i,view,0001-01-01,,", "ts '0001-01-01' is not a timestamp"),
        ("u,i,view,,,", "ts is empty"),
        (" ,i,view,2026-03-01,,", "user_id is empty"),
        ("u,,view,2026-03-01,,", "item_id is empty"),
        ("u,i,,2026-03-01,,", "action is empty"),
        ("u,i,view,2026-03-01,first,", "position 'first' is not a whole number"),
        ('u,i,view,2026-03-01,,"1,5"', "value '1,5' is not a finite number"),
        ("u,i,view,2026-03-01,,inf", "value 'inf' is not a finite number"),
        ("u,i,view,2026-03-01", "4 fields instead of 6"),
        ("u,i,view,2026-03-01,,,,", "8 fields instead of 6"),
        ("u,i,view,2026-03-02 00:00:00,,", "is in the future: it is after 2026-03-01"),
    ],
)
def test_malformed_rows_are_kept_apart(
    shell: Shell, tmp_path: Path, line: str, reason: str
) -> None:
    result = ingest(shell, tmp_path, line + "\n" + "last,i1,view,2026-03-01 10:00:00,,\n")
    assert (result["rejected"], result["events"]) == (1, 201)
    (row,) = shell.rows("events_rejected", DS)
    assert reason in row["reason"]
    assert (row["source_file"], row["source_row"]) == ("day.csv", 201)
    payload = json.loads(row["payload"])
    assert payload.get("item_id") == line.split(",")[1] or payload == {"line": line}


def test_undecodable_bytes_refuse_their_row_alone(shell: Shell, tmp_path: Path) -> None:
    source = deliver(tmp_path, "")
    spoilt = b"caf\xe9,i1,view,2026-03-01 10:00:00,,\n" + b"x\xff,2,3\n"
    source.write_bytes((HEAD + CROWD).encode() + spoilt + b"z,i1,view,2026-03-01 10:00:00,,\n")
    result = shell.done("ingest-events", "--partition", DS, "--source", source)
    assert (result["rejected"], result["events"]) == (2, 201)
    first, second = shell.rows("events_rejected", DS)
    assert first["reason"] == r"user_id 'caf\xe9' has bytes that are not valid text"
    assert (first["source_row"], second["source_row"]) == (201, 202)
    assert second["reason"] == "3 fields instead of 6"


def test_late_rows_go_to_their_own_date(shell: Shell, tmp_path: Path) -> None:
    late = "u,i,view,2026-02-27 23:59:59,,\nu,j,view,2026-02-27 10:00:00,,\n"
    result = ingest(shell, tmp_path, late + "v,i,view,2026-02-20 10:00:00,,\n")
    assert result["late"] == {"2026-02-20": 1, "2026-02-27": 2}
    assert [r["item_id"] for r in shell.rows("events", "2026-02-27")] == ["j", "i"]
    assert {r["ingested_ds"] for r in shell.rows("events", "2026-02-27")} == {DS}


def test_a_corrected_delivery_takes_its_late_rows_back(shell: Shell, tmp_path: Path) -> None:
    ingest(shell, tmp_path, "u,i,view,2026-02-27 10:00:00,,\n")
    assert shell.dates("events") == ["2026-02-27", DS]
    result = ingest(shell, tmp_path, "")
    assert result["late"] == {}
    assert shell.dates("events") == [DS]


def test_duplicates_are_dropped_and_counted(shell: Shell, tmp_path: Path) -> None:
    told = "u,i,buy,2026-03-01 10:00:00,1,5\n"
    other = "u,i,buy,2026-03-01 10:00:00,1,4\n"
    result = ingest(shell, tmp_path, told + told + other)
    assert (result["duplicates"], result["repeated"], result["events"]) == (1, 1, 201)
    assert next(r for r in shell.rows("events", DS) if r["user_id"] == "u")["value"] == 4.0


def test_duplicates_across_files_of_a_folder(shell: Shell, tmp_path: Path) -> None:
    for name in ("a.csv", "b.csv"):
        deliver(tmp_path, HEAD + "u,i,buy,2026-03-01 10:00:00,,\n", name)
    result = shell.done("ingest-events", "--partition", DS, "--source", tmp_path / "in")
    assert (result["files"], result["duplicates"], result["events"]) == (2, 1, 1)
    assert shell.rows("events", DS)[0]["source_file"] == "a.csv"


def test_share_of_rejected_rows(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = deliver(tmp_path, HEAD + CROWD + "u,i,view,never,,\n" * 20)
    command = ("ingest-events", "--partition", DS, "--source", source)
    answer = shell(*command)
    assert answer.code == 2
    assert "20 of 220 rows rejected (9.1%, above" in answer.message
    assert "such as day.csv row 201: ts 'never'" in answer.message
    assert shell.dates("events") == []
    monkeypatch.setenv("RECKONER_EVENTS__MAX_REJECTED_SHARE", "0.1")
    assert shell.done(*command)["rejected"] == 20


def test_a_night_twice_commits_once(shell: Shell, tmp_path: Path) -> None:
    late = "u,i,view,2026-02-27 10:00:00,,\nu,i,view,never,,\n"
    first = ingest(shell, tmp_path, late)
    again = ingest(shell, tmp_path, late)
    assert first["output_versions"] == {"events": 2, "events_rejected": 1}
    assert again["output_versions"] == {}
    assert again["late"] == {"2026-02-27": 1}


def test_dry_run_counts_and_publishes_nothing(shell: Shell, tmp_path: Path) -> None:
    late = "u,i,view,2026-02-27 10:00:00,,\nu,i,view,never,,\n"
    dry = ingest(shell, tmp_path, late, "--dry-run")
    assert shell.dates("events") == shell.dates("events_rejected") == []
    wet = ingest(shell, tmp_path, late)
    same = ("read", "kept", "events", "late", "rejected", "rejected_reasons", "duplicates")
    assert {key: dry[key] for key in same} == {key: wet[key] for key in same}


def test_a_history_at_once(shell: Shell, tmp_path: Path) -> None:
    days = [f"u{d},i,view,2026-02-{d:02d} 10:00:00,,\n" for d in range(1, 29)]
    source = deliver(tmp_path, HEAD + "".join(reversed(days * 2)) + "u,i,view,2099-01-01,,\n")
    result = shell.done("ingest-events", "--all-partitions", "--source", source)
    assert (result["dates"], result["events"], result["duplicates"]) == (28, 28, 28)
    assert result["rejected_reasons"] == {"ts is in the future": 1}
    (row,) = shell.rows("events", "2026-02-09")
    assert (row["user_id"], row["ingested_ds"]) == ("u9", "2026-02-09")
    assert len(shell.rows("events_rejected", "2026-02-28")) == 1


def test_json_lines(shell: Shell, tmp_path: Path) -> None:
    good = {"user_id": 7, "item_id": "i", "action": "view", "ts": "2026-03-01T10:00:00Z"}
    lines = [json.dumps({**good, "user_id": n, "value": 1.5, "extra": [1]}) for n in range(60)]
    lines += ['{"user_id": "u", ', json.dumps({**good, "user_id": ["a"]}), ""]
    source = deliver(tmp_path, "\n".join(lines), "day.jsonl")
    result = shell.done("ingest-events", "--partition", DS, "--source", source)
    assert (result["events"], result["rejected"]) == (60, 2)
    broken, nested = shell.rows("events_rejected", DS)
    assert (broken["source_row"], nested["source_row"]) == (61, 62)
    assert broken["reason"] == "the line is not a JSON object"
    assert nested["reason"] == "user_id is a list, not a single value"


@pytest.mark.parametrize("format_", ["parquet", "delta"])
def test_typed_sources(shell: Shell, tmp_path: Path, format_: str) -> None:
    rows = pa.table(
        {
            "user_id": pa.array([1, 2, None]),
            "item_id": pa.array(["i", "j", "k"]).dictionary_encode(),
            "action": pa.array(["view"] * 3, pa.large_string()),
            "ts": pa.array([datetime(2026, 3, 1, 10)] * 3, pa.timestamp("ns")),
            "value": pa.array([1.5, float("nan"), 2.0], pa.float32()),
        }
    )
    rows = pa.concat_tables([rows.slice(0, 2)] * 30 + [rows.slice(2)])
    if format_ == "parquet":
        pq.write_table(rows, tmp_path / "day.parquet")
        source = tmp_path / "day.parquet"
    else:
        source = tmp_path / "table"
        write_deltalake(
            source, rows.cast(pa.schema([*rows.schema]).set(1, pa.field("item_id", pa.string())))
        )
    result = shell.done("ingest-events", "--partition", DS, "--source", source)
    assert (result["events"], result["duplicates"], result["rejected"]) == (2, 58, 1)
    assert [(r["user_id"], r["value"]) for r in shell.rows("events", DS)] == [
        ("1", 1.5),
        ("2", None),
    ]


def test_a_delta_table_by_date(shell: Shell, tmp_path: Path) -> None:
    rows = {
        "user_id": ["u", "v"],
        "item_id": ["i", "i"],
        "action": ["view", "view"],
        "ts": [datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 3, 2, tzinfo=UTC)],
        "date": pa.array([20513, 20514], pa.date32()),
    }
    write_deltalake(tmp_path / "table", pa.table(rows), partition_by=["date"])
    result = shell.done("ingest-events", "--partition", DS, "--source", tmp_path / "table")
    assert (result["read"], result["rejected"]) == (1, 0)


@pytest.mark.parametrize(
    "name",
    ["2026-03-01.csv", "2026-03-01/part.csv", "ds=2026-03-01/x.csv", "events-2026-03-01.csv"],
)
def test_folders_by_date(shell: Shell, tmp_path: Path, name: str) -> None:
    for day in (DS, "2026-02-28"):
        source = tmp_path / "in" / name.replace(DS, day)
        source.parent.mkdir(exist_ok=True, parents=True)
        source.write_text(HEAD + f"u,i,view,{day} 10:00:00,,\n")
    result = shell.done("ingest-events", "--partition", DS, "--source", tmp_path / "in")
    assert (result["files"], result["late"]) == (1, {})
    assert shell.rows("events", DS)[0]["source_file"] == name


def test_source_of_the_settings(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deliver(tmp_path, HEAD + "u,i,view,2026-03-01 10:00:00,,\n", f"{DS}.csv")
    monkeypatch.setenv("RECKONER_EVENTS__SOURCE", str(tmp_path / "in" / "{partition}.csv"))
    assert shell.done("ingest-events", "--partition", DS)["events"] == 1
