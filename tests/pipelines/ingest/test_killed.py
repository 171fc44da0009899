"""An ingest killed between any two commits leaves a readable lake, and a rerun completes it."""

import signal
import subprocess
import sys
from datetime import date
from pathlib import Path

import pytest

from pipelines.cli import main
from pipelines.io.lake import Lake
from pipelines.run import Run
from pipelines.shop import ShopSize, make_shop

DAYS = 12


def words(source: Path, lake: Path) -> list[str]:
    return ["ingest-events", "--all-partitions", "--source", str(source), "--lake", str(lake)]


def start(source: Path, lake: Path) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-m", "pipelines.cli", *words(source, lake)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def still_running(process: "subprocess.Popen[bytes]") -> bool:
    try:
        process.wait(timeout=0.002)
    except subprocess.TimeoutExpired:
        return True
    return False


def contents(lake: Path) -> dict[str, str | None]:
    return Lake(str(lake), Run.unrecorded()).contents("events")


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shop")
    make_shop(folder, date(2026, 3, 1), 0, ShopSize(DAYS, 100, 100, 60, 4, 4))
    return folder


def test_killed_after_some_commits(shop: Path, tmp_path: Path) -> None:
    assert main(words(shop, tmp_path / "whole")) == 0
    expected = contents(tmp_path / "whole")
    assert len(expected) == DAYS
    stopped = 0
    for commits in (1, 4, 9):
        lake = tmp_path / f"killed-{commits}"
        log = lake / "events" / "_delta_log"
        with start(shop, lake) as process:
            while still_running(process) and len(list(log.glob("*.json"))) <= commits:
                pass
            process.kill()
        stopped += process.returncode == -signal.SIGKILL
        assert contents(lake).items() <= expected.items()
        assert main(words(shop, lake)) == 0
        assert contents(lake) == expected
    assert stopped, "none of the runs was caught in the act"
