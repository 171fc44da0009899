"""SIGKILL at any moment: readers keep what was published, and running again completes it.

`RECKONER_KILLS` sets how many moments are tried per step (default 1). Ingest and training have
tests of their own beside their steps.
"""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipelines.io.lake import Lake
from pipelines.run import Run
from tests.pipelines.builders import event, publish_events
from tests.pipelines.planted import DS, plant

KILLS = int(os.environ.get("RECKONER_KILLS", "1"))
QUIET = {
    "RECKONER_SPARK__MASTER": "local[1]",
    "RECKONER_SPARK__DRIVER_MEMORY": "512m",
    "RECKONER_SPARK__SHUFFLE_PARTITIONS": "2",
    "RECKONER_RAY__OBJECT_STORE_MB": "80",
}


def start(step: str, lake: str) -> "subprocess.Popen[bytes]":
    words = [sys.executable, "-m", "pipelines.cli", step, "--partition", DS, "--lake", lake]
    environment = {key: value for key, value in os.environ.items() if key != "RECKONER_KILLS"}
    return subprocess.Popen(
        words,
        env=environment | QUIET,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def finish(step: str, lake: str) -> float:
    """Run a step undisturbed; returns the seconds it took."""
    began = time.monotonic()
    process = start(step, lake)
    _, errors = process.communicate()
    assert process.returncode == 0, errors.decode()
    return time.monotonic() - began


def kill_at(step: str, lake: str, seconds: float) -> None:
    process = start(step, lake)
    try:
        process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    finally:
        assert process.stderr is not None
        process.stderr.close()


def fresh_lake(step: str, home: Path) -> str:
    lake = plant(home, num_users=60)
    if step == "build-sequences":
        days = [f"2026-03-{day:02d}" for day in (8, 9, 10)]
        events = [
            event(f"user-{user}", f"item-{(user + hour) % 9}", f"{day}T{hour:02d}:00")
            for day in days
            for user in range(40)
            for hour in range(6)
        ]
        publish_events(Lake(lake, Run.start("test", DS)), events)
    return lake


@pytest.mark.parametrize(
    ("step", "table"), [("build-sequences", "sequences"), ("recommend", "recommendations")]
)
def test_a_killed_step_is_completed_by_running_it_again(
    step: str, table: str, tmp_path: Path
) -> None:
    calm = fresh_lake(step, tmp_path / "calm")
    length = finish(step, calm)
    wanted = Lake(calm, Run.unrecorded()).contents(table)
    assert wanted
    dice = random.Random(step)
    for number in range(KILLS):
        lake = fresh_lake(step, tmp_path / f"killed-{number}")
        before = Lake(lake, Run.unrecorded()).contents(table)
        kill_at(step, lake, dice.uniform(0.5, 1.0) * length)
        seen = Lake(lake, Run.unrecorded()).contents(table)
        assert seen in (before, wanted), "a reader saw a partition that is neither old nor new"
        assert Lake(lake, Run.unrecorded()).read(table, DS).num_rows >= 0
        finish(step, lake)
        assert Lake(lake, Run.unrecorded()).contents(table) == wanted
