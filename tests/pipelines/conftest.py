"""Fixtures for the steps: a lake with a trained ranker."""

import shutil
from pathlib import Path

import pytest

from pipelines.cli import main
from tests.command import Command
from tests.pipelines.planted import DS, plant

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
