"""Fixtures for the steps: one Ray for the whole run, and a lake with a trained ranker."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines.cli import main
from tests.pipelines.planted import DS, plant

QUICK = ["--recipe", "smoke", "--set", "max_epochs=25", "--set", "dropout=0.1", "--set", "lr=0.01"]


class Command:
    """Runs `reckoner` commands on one lake and keeps what they print."""

    def __init__(self, lake: str, capfd: pytest.CaptureFixture[str]) -> None:
        self.lake = lake
        self._capfd = capfd
        self.errors = ""

    def __call__(self, *words: str) -> int:
        """Run a command; returns its exit code."""
        self._capfd.readouterr()
        code = main([*words, "--lake", self.lake])
        self.errors = self._capfd.readouterr().err
        return code

    def json(self, *words: str) -> Any:
        """Run a command that must succeed; returns its JSON."""
        self._capfd.readouterr()
        code = main([*words, "--json", "--lake", self.lake])
        out, self.errors = self._capfd.readouterr()
        assert code == 0, self.errors
        return json.loads(out)

    @property
    def last_line(self) -> str:
        """The one line that says what went wrong."""
        return self.errors.strip().splitlines()[-1]


@pytest.fixture(scope="session")
def one_ray() -> Iterator[None]:
    """Start Ray once: every step finds it running and leaves it so."""
    from pipelines.io.cluster import ray_cluster
    from pipelines.settings import RaySettings

    with ray_cluster(RaySettings(object_store_mb=200)):
        yield


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
