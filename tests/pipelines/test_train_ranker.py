"""Training on Ray: what is registered, what resumes, what is refused."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from models.registry import config_class, names, ranker_class
from pipelines.cli import main
from pipelines.io.cluster import require_room
from pipelines.io.lake import Lake
from pipelines.io.tracking import Registry
from pipelines.run import Run
from pipelines.settings import load_settings
from pipelines.settings.groups import RaySettings
from tests.command import Command
from tests.pipelines.conftest import QUICK
from tests.pipelines.planted import DS, plant

STEADY = ["--recipe", "smoke", "--set", "max_epochs=14", "--set", "patience=14"]
DEADLINE_S = 240
TRAINABLE = [name for name in names() if ranker_class(name).is_trainable]
OFTEN = {"RECKONER_TRAIN__CHECKPOINT_EVERY_STEPS": "2"}
# How many moments training is killed at.
KILLS = int(os.environ.get("RECKONER_KILLS", "1"))


def weights(lake: str, version: str = "1") -> dict[str, torch.Tensor]:
    ranker, _ = Registry(load_settings(lake)).load(version)
    return dict(ranker.state_dict())


def test_a_version_carries_what_a_reader_needs(trained: Command) -> None:
    registry = Registry(load_settings(trained.lake))
    card = registry.card(registry.resolve("challenger"))
    assert card.spec["name"] == "sasrec"
    assert card.spec["num_items"] == 40
    assert card.recipe["fit"]["max_epochs"] == 25
    assert card.actions == ("purchase", "view")
    assert set(card.input_versions) == {"sequences", "item_index"}
    assert list(card.inputs) == [f"sequences/{DS}"]
    value, low, high = card.metrics["all"]["ndcg@10"]
    assert low is not None
    assert high is not None
    assert low < value < high
    assert len(card.curve) >= 2
    assert card.environment["device"] == "cpu"
    rows = Lake(trained.lake, Run.unrecorded()).read("ranker_metrics", DS).to_pylist()
    published = [row for row in rows if (row["slice"], row["metric"]) == ("all", "ndcg@10")]
    assert [row["value"] for row in published] == [value]


def test_the_same_inputs_register_once(trained: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECKONER_RAY__NUM_WORKERS", "0")
    again = trained.json("train-ranker", "--partition", DS, *QUICK)
    assert (again["version"], again["registered"]) == ("1", "already")


def test_metrics_that_a_kill_left_out_are_published_later(
    trained: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Registered already, and killed before `ranker_metrics` was written."""
    before = Lake(trained.lake, Run.unrecorded()).read("ranker_metrics", DS)
    shutil.rmtree(Path(trained.lake) / "ranker_metrics")
    monkeypatch.setenv("RECKONER_RAY__NUM_WORKERS", "0")
    again = trained.json("train-ranker", "--partition", DS, *QUICK)
    assert (again["version"], again["registered"]) == ("1", "already")
    after = Lake(trained.lake, Run.unrecorded()).read("ranker_metrics", DS)
    assert after.num_rows == before.num_rows
    assert after["value"] == before["value"]


def test_heuristics_train_and_register_too(trained: Command) -> None:
    words = ("--recipe", "smoke", "--set", "ranker=tgh")
    result = trained.json("train-ranker", "--partition", DS, *words)
    assert (result["ranker"], result["version"], result["epochs"]) == ("tgh", "2", 0)


@pytest.mark.parametrize("ranker", TRAINABLE)
def test_every_ranker_trains_registers_and_loads(
    trained: Command, monkeypatch: pytest.MonkeyPatch, ranker: str
) -> None:
    monkeypatch.setenv("RECKONER_RAY__NUM_WORKERS", "0")
    fields = config_class(ranker).model_fields
    small = {"dim": "8", "max_length": "12", "num_layers": "1"}
    words = [f"{key}={value}" for key, value in small.items() if key in fields]
    words += ["max_epochs=1", "batch_size=64"]
    pairs = [word for setting in words for word in ("--set", setting)]
    result = trained.json("train-ranker", "--partition", DS, "--recipe", ranker, *pairs)
    assert (result["ranker"], result["version"]) == (ranker, "2")
    loaded, card = Registry(load_settings(trained.lake)).load(result["version"])
    assert card.ranker_name == ranker
    assert loaded.num_parameters == result["parameters"]


def test_dry_run_registers_nothing(trained: Command) -> None:
    words = ("--recipe", "smoke", "--set", "dim=8", "--dry-run")
    result = trained.json("train-ranker", "--partition", DS, *words)
    assert result["parameters"] > 0
    assert Registry(load_settings(trained.lake)).known() == ["1", "challenger -> 1"]


@pytest.mark.parametrize(("shard_items", "parallel"), [("false", "ddp"), ("true", "fsdp2")])
def test_two_workers_learn_the_same_task(
    trained: Command, monkeypatch: pytest.MonkeyPatch, shard_items: str, parallel: str
) -> None:
    monkeypatch.setenv("RECKONER_RAY__NUM_WORKERS", "2")
    monkeypatch.setenv("RECKONER_RAY__CPUS_PER_WORKER", "0.5")
    monkeypatch.setenv("RECKONER_RAY__SHARD_ITEMS", shard_items)
    monkeypatch.setenv("RECKONER_RAY__PARALLEL", parallel)
    result = trained.json("train-ranker", "--partition", DS, *QUICK)
    assert result["version"] == "2"
    assert result["ndcg@10"][1] > 0.3
    assert weights(trained.lake, "2")["items.weight"].shape[0] == 41


def test_workers_that_never_fit_are_refused(
    trained: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray itself would wait for ever without a word."""
    monkeypatch.setenv("RECKONER_RAY__NUM_WORKERS", "999")
    assert trained("train-ranker", "--partition", DS, *QUICK) == 2
    assert "RECKONER_RAY__NUM_WORKERS=999 asks for 999 CPUs of " in trained.last_line
    monkeypatch.setenv("RECKONER_RAY__USE_GPU", "true")
    assert trained("train-ranker", "--partition", DS, *QUICK) == 2
    assert "999 GPUs of " in trained.last_line


def test_a_cluster_may_grow_until_they_fit(
    one_ray: None, capfd: pytest.CaptureFixture[str]
) -> None:
    require_room(RaySettings(address="auto", num_workers=999))
    assert "999 CPUs of " in capfd.readouterr().err


def test_killed_training_resumes_at_the_exact_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calm = plant(tmp_path / "calm")
    with monkeypatch.context() as patch:
        patch.setenv("RECKONER_RAY__NUM_WORKERS", "0")
        assert main(["train-ranker", "--partition", DS, *STEADY, "--lake", calm]) == 0
    undisturbed = weights(calm)
    # Checkpoints stand at even steps, three steps make an epoch: some lie in the middle of one.
    moments = random.Random("train").sample(range(4, 24, 2), KILLS)
    for number, step in enumerate(moments):
        home = tmp_path / f"killed-{number}"
        killed = plant(home)
        command = [sys.executable, "-m", "pipelines.cli", "train-ranker", "--partition", DS]
        command += [*STEADY, "--lake", killed]
        kill_after_step(command, home / "training", step, tmp_path / "first.log")
        assert Registry(load_settings(killed)).known() == []
        second = subprocess.run(
            command, env=os.environ | OFTEN, capture_output=True, text=True, check=False
        )
        assert second.returncode == 0, second.stderr
        assert '"event": "resumed"' in second.stderr
        resumed = weights(killed)
        assert resumed.keys() == undisturbed.keys()
        for name, value in undisturbed.items():
            assert torch.equal(resumed[name], value), (name, step)
        assert not list((home / "training").iterdir()), "a registered run leaves no checkpoints"


def kill_after_step(command: list[str], folder: Path, step: int, log: Path) -> None:
    """Start training and end it by SIGKILL once the checkpoint of a step, or a later one, stands.

    Only the newest checkpoints are kept: a later one may have taken its place already.
    """
    with log.open("wb") as sink:
        process = subprocess.Popen(
            command, env=os.environ | OFTEN, stderr=sink, stdout=sink, start_new_session=True
        )
    started = time.monotonic()
    try:
        while max((steps_of(path) for path in folder.glob("*/step-*")), default=0) < step:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() - started < DEADLINE_S, log.read_text()
            time.sleep(0.05)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def steps_of(checkpoint: Path) -> int:
    return int(checkpoint.name.split("-")[1])


@pytest.mark.parametrize("workers", ["0", "1"])
def test_divergence_names_the_step_and_the_last_good_checkpoint(
    workers: str, trained: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RECKONER_RAY__NUM_WORKERS", workers)
    words = ("--recipe", "smoke", "--set", "lr=1e30", "--set", "clip_norm=0")
    assert trained("train-ranker", "--partition", DS, *words) == 2
    assert "diverged at step" in trained.last_line
    assert "last good checkpoint" in trained.last_line


def test_touched_rows_want_a_table_in_parts(
    trained: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RECKONER_RAY__NUM_WORKERS", "2")
    words = ("--recipe", "smoke", "--set", "table_optimiser=rows")
    assert trained("train-ranker", "--partition", DS, *words) == 2
    assert "RECKONER_RAY__SHARD_ITEMS=true" in trained.last_line


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--recipe", "nigthly"], "nearest is nightly"),
        (["--set", "dimm=64"], "nearest is dim"),
        (["--set", "dim"], "write key=value"),
        (["--set", "ranker=sasrek"], "sasrec"),
        (["--set", "batch_size=many"], "batch_size"),
    ],
)
def test_bad_settings_are_one_line(trained: Command, words: list[str], expected: str) -> None:
    assert trained("train-ranker", "--partition", DS, *words) == 2
    assert expected in trained.last_line


def test_a_night_without_sequences_says_which_step_is_missing(trained: Command) -> None:
    assert trained("train-ranker", "--partition", "2026-03-09") == 2
    assert "run reckoner build-sequences --partition 2026-03-09" in trained.last_line
