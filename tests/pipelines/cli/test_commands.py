"""Every command explains itself, and bad usage is one line with exit code 2."""

import json
from pathlib import Path

import pytest
import typer

from pipelines.cli import main
from pipelines.cli.app import app
from pipelines.io.lake import Lake
from pipelines.run import Run
from tests.command import Command

COMMANDS = sorted(typer.main.get_group(app).commands)
PROMISED = {
    "ingest-events",
    "ingest-items",
    "build-sequences",
    "build-item-graph",
    "build-item-knowledge",
    "train-ranker",
    "evaluate-ranker",
    "promote-ranker",
    "rollback-ranker",
    "recommend",
    "nightly",
    "backfill",
    "stale",
    "show",
    "report",
    "rankers",
    "maintain-tables",
    "tables",
    "doctor",
    "benchmark",
}


@pytest.fixture
def command(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Command:
    return Command(str(tmp_path / "lake"), capfd)


def test_the_promised_commands_are_there() -> None:
    assert set(COMMANDS) >= PROMISED


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_an_example_and_json(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0
    text = capfd.readouterr().out
    assert "Example: " in text
    assert "--json" in text


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["build-sequences", "--partition", "yesterday"], "'yesterday' is not a date"),
        (["build-sequences", "--partition", "2026-02-30"], "not a calendar date"),
        (["build-sequences", "--partition", "9999-01-01"], "is in the future"),
        (["build-sequences", "--partition", "2026-03-01"], "run reckoner ingest-events"),
        (["recommend", "--partition", "2026-03-01"], "run reckoner build-sequences"),
        (["backfill", "--from", "2026-03-02", "--to", "2026-03-01"], "is after --to"),
        (["nightly", "--partition", "2026-03-01"], "RECKONER_EVENTS__SOURCE"),
        (["nightly", "--partition", "2026-03-01", "--train", "maybe"], "auto, always or never"),
        (["evaluate-ranker", "--partition", "2026-03-01", "--model", "x"], "ALIAS_OR_VERSION"),
        (["promote-ranker", "--partition", "2026-03-01"], "run reckoner train-ranker"),
        (["rollback-ranker"], "no version or alias 'champion'"),
        (["show", "--user", "u"], "nothing is published yet"),
        (["report"], "nothing is published yet"),
    ],
)
def test_bad_usage_is_one_line(command: Command, words: list[str], expected: str) -> None:
    assert command(*words) == 2
    assert command.last_line.startswith("reckoner: ")
    assert expected in command.last_line


def test_failures_without_a_lake_leave_no_tables(command: Command) -> None:
    assert command("build-sequences", "--partition", "2026-03-01") == 2
    assert not Path(command.lake, "pipeline_runs").exists()


def test_the_settings_file_says_how_much_is_logged(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "quiet.toml").write_text('log_level = "error"\n')
    words = ("build-sequences", "--partition", "2026-03-01")
    assert command(*words) == 2
    assert "step started" in command.errors
    monkeypatch.setenv("RECKONER_SETTINGS", str(tmp_path / "quiet.toml"))
    assert command(*words) == 2
    assert command.errors.strip() == command.last_line


def test_an_unknown_command_is_usage(command: Command) -> None:
    assert command("recomend") == 2


def test_rankers_lists_what_can_be_trained(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["rankers", "--json"]) == 0
    found = {one["name"]: one for one in json.loads(capfd.readouterr().out)}
    assert {"popularity", "last-transition", "tgh", "sasrec", "rearec-erl", "rearec-prl"} <= set(
        found
    )
    assert found["sasrec"]["settings"]["dim"] == 64


def test_every_run_is_recorded_with_what_it_read(command: Command, tmp_path: Path) -> None:
    source = tmp_path / "events.csv"
    source.write_text("user_id,item_id,action,ts\nu,i,view,2026-03-01T10:00:00Z\n")
    result = command.json("ingest-events", "--partition", "2026-03-01", "--source", str(source))
    (row,) = Lake(command.lake, Run.unrecorded()).read("pipeline_runs").to_pylist()
    assert (row["run_id"], row["step"], row["status"]) == (
        result["run_id"],
        "ingest-events",
        "done",
    )
    assert (row["partition"], row["rows"]) == ("2026-03-01", 1)
    assert dict(row["output_versions"])["events"] >= 1
    assert command("ingest-events", "--partition", "2026-03-01", "--source", "/none.csv") == 2
    rows = Lake(command.lake, Run.unrecorded()).read("pipeline_runs").to_pylist()
    assert sorted(row["status"] for row in rows) == ["done", "failed"]
