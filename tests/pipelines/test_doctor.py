"""The doctor names what is ill and what to do, and dead services end a step in seconds."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from pipelines.errors import EXIT_UNAVAILABLE
from tests.command import Command

DEAD = "127.0.0.1:9"  # the discard port: nobody listens


@pytest.fixture
def reckoner(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Command:
    return Command(str(tmp_path / "lake"), capfd)


def test_all_is_well_here(reckoner: Command, spark: SparkSession, one_ray: None) -> None:
    found = {one["check"]: one for one in reckoner.json("doctor")}
    assert found.keys() == {"java", "spark", "ray", "lake", "mlflow", "llm", "text"}
    assert all(one["healthy"] for one in found.values())
    assert reckoner.lake in found["lake"]["found"]


def run_alone(lake: Path, *words: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own, where no Spark or Ray runs yet."""
    return subprocess.run(
        [sys.executable, "-m", "pipelines.cli", *words, "--lake", str(lake)],
        env=os.environ | settings,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_dead_services_are_named_with_their_setting(tmp_path: Path) -> None:
    ended = run_alone(
        tmp_path,
        *("doctor", "--json"),
        RECKONER_SPARK__MASTER=f"spark://{DEAD}",
        RECKONER_RAY__ADDRESS=DEAD,
        RECKONER_MLFLOW__TRACKING_URI=f"http://{DEAD}",
        RECKONER_LLM__BACKEND="http",
        RECKONER_VECTORS__ENCODER="folder",
        RECKONER_VECTORS__FOLDER=str(tmp_path / "no-model"),
    )
    assert ended.returncode == EXIT_UNAVAILABLE, ended.stderr
    found = {one["check"]: one for one in json.loads(ended.stdout)}
    ill = {name for name, one in found.items() if not one["healthy"]}
    assert ill == {"spark", "ray", "mlflow", "llm", "text"}
    assert "no-model" in found["text"]["found"]
    assert "RECKONER_RAY__ADDRESS" in found["ray"]["fix"]
    assert DEAD in found["spark"]["found"]


def test_a_step_without_its_service_ends_with_exit_4(tmp_path: Path) -> None:
    settings = {"RECKONER_MLFLOW__TRACKING_URI": f"http://{DEAD}"}
    ended = run_alone(tmp_path, "promote-ranker", "--partition", "2026-03-01", **settings)
    assert ended.returncode == EXIT_UNAVAILABLE, ended.stderr
    assert "RECKONER_MLFLOW__TRACKING_URI" in ended.stderr.strip().splitlines()[-1]
    assert DEAD in ended.stderr.strip().splitlines()[-1]


def test_a_lake_that_cannot_be_written_is_ill(
    reckoner: Command, tmp_path: Path, spark: SparkSession, one_ray: None
) -> None:
    (tmp_path / "lake").write_text("a file, not a folder")
    assert reckoner("doctor", "--json") == EXIT_UNAVAILABLE
    found = {one["check"]: one for one in json.loads(reckoner.output)}
    assert not found["lake"]["healthy"]
    assert "RECKONER_LAKE_URI" in found["lake"]["fix"]
