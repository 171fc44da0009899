"""What workers do with a run that had ended already."""

from typing import Any

import pytest
import torch

from pipelines.io.training_job import FINAL, FINAL_FILE, Job, Team, run_job

JOB = Job(
    name="ended",
    lake_uri="nowhere",
    storage_options={},
    sequences_version=0,
    ds="2026-03-01",
    actions=(),
    spec={},
    fit={},
    cuts=(0, 0),
    num_batches=1,
    start="nowhere",
    checkpoint_every=1,
    train={},
    threads=1,
    shard_items=True,
    parallel="ddp",
)


class Drawer:
    """Holds a run's last checkpoint in memory."""

    def __init__(self, files: dict[str, dict[str, Any]]) -> None:
        self.files, self.saved = files, {}

    def load(self, file: str) -> dict[str, Any] | None:
        return self.files.get(file)

    def save(self, name: str, files: dict[str, dict[str, Any]]) -> None:
        self.saved[name] = files

    def note(self, line: dict[str, Any]) -> None:
        raise AssertionError(f"nothing is trained again: {line}")


@pytest.mark.parametrize("parted", [False, True])
def test_a_run_that_had_ended_hands_its_files_on(parted: bool) -> None:
    """The lake is nowhere: a worker that began to train would fail."""
    rows = [f"final-rows-{rank}.pt" for rank in range(2)] if parted else []
    files = {FINAL_FILE: {"weights": {}, "rows": rows, "curve": [], "device": "cpu"}}
    files |= {name: {"first": 0} for name in rows}
    handed: dict[str, Any] = {}
    for rank in range(2):
        drawer = Drawer(files)
        team = Team(rank, 2, torch.device("cpu"), lambda ranker: ranker, lambda values: values)
        run_job(JOB, drawer, team)
        handed |= drawer.saved[FINAL]
    assert handed == files
