"""The registry's file: killed or raced at its creation, it serves the next run."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipelines.io.tracking import MODEL, Registry
from pipelines.settings import load_settings

LOOK = "from pipelines.io.tracking import Registry; from pipelines.settings import load_settings; "
LOOK += "import sys; Registry(load_settings(sys.argv[1])).known()"


def look(lake: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", LOOK, str(lake)], stderr=subprocess.PIPE)


def test_a_kill_while_tables_are_laid_out_leaves_no_registry(tmp_path: Path) -> None:
    process = look(tmp_path / "lake")
    deadline = time.monotonic() + 120
    while not any(path.stat().st_size > 100_000 for path in tmp_path.glob(".mlflow.db.*.partial")):
        assert process.poll() is None, "it ended before its tables were seen"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (tmp_path / "mlflow.db").exists()
    assert Registry(load_settings(str(tmp_path / "lake"))).known() == []


def test_two_that_come_first_share_one_registry(tmp_path: Path) -> None:
    both = [look(tmp_path / "lake") for _ in range(2)]
    for process in both:
        _, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors.decode()
    assert [path.name for path in tmp_path.glob("*mlflow.db*")] == ["mlflow.db"]


def test_what_an_earlier_run_created_is_gone_on_from(tmp_path: Path) -> None:
    """Of experiment and model, a kill may leave either one alone."""
    for made in ("model", "experiment"):
        registry = Registry(load_settings(str(tmp_path / made / "lake")))
        if made == "model":
            registry._client.create_registered_model(MODEL)
        else:
            registry._client.create_experiment(MODEL)
        assert registry._experiment() == registry._experiment()
        assert registry._client.get_registered_model(MODEL).name == MODEL


def test_a_rollback_forgets_the_champion_it_left(tmp_path: Path) -> None:
    registry = Registry(load_settings(str(tmp_path / "lake")))
    registry._experiment()
    for _ in range(3):
        registry._client.create_model_version(MODEL, source=str(tmp_path))
    for version in ("1", "2", "3"):
        registry.promote(version)
    for champion, before in (("2", "1"), ("1", None)):
        assert registry.rollback()[1] == champion
        tags = registry._client.get_registered_model(MODEL).tags
        assert tags.get("previous_champion") == before
    with pytest.raises(ValueError, match="no previous champion"):
        registry.rollback()
