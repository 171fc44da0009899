"""Fixtures for the steps: a lake with a trained ranker, and an endpoint that can be asked."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pipelines.cli import main
from tests.command import Command
from tests.llm_server import LlmServer, llm_server
from tests.pipelines.item_knowledge import PRICES, use_endpoint
from tests.pipelines.planted import DS, plant

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

QUICK = ["--recipe", "smoke", "--set", "max_epochs=25", "--set", "dropout=0.1", "--set", "lr=0.01"]


@pytest.fixture(scope="session")
def trained_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A planted lake with version 1 registered as challenger; copy it before changing it."""
    home = tmp_path_factory.mktemp("trained")
    lake = plant(home)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RECKONER_RAY__NUM_WORKERS", "0")
        assert main(["train-ranker", "--partition", DS, *QUICK, "--lake", lake]) == 0
    return home


@pytest.fixture
def trained(
    trained_home: Path, tmp_path: Path, one_ray: None, capfd: pytest.CaptureFixture[str]
) -> Command:
    """A private copy of the trained lake and its registry."""
    shutil.copytree(trained_home, tmp_path / "home")
    return Command(str(tmp_path / "home" / "lake"), capfd)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LlmServer]:
    """A chat endpoint in a process of its own."""
    with llm_server(tmp_path / "log.jsonl") as running:
        yield running


@pytest.fixture
def night(
    tmp_path: Path,
    server: LlmServer,
    spark: "SparkSession",
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Command:
    """The command line on an empty lake, with the http backend at the server."""
    use_endpoint(monkeypatch, server, TRACE_SHARE="0", **PRICES)
    return Command(str(tmp_path / "lake"), capfd)
