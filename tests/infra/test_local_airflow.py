"""The local Airflow keeps its secrets, its port and its processes to itself."""

import json
import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from infra.local_airflow import HOST, LocalAirflow, demo_settings, free_port, stop

# A part that starts a task: in a process group of its own, deaf to SIGTERM, as a busy JVM is.
PART = """
import os, signal, subprocess, sys, time
task = subprocess.Popen([sys.executable, "-c", '''
import os, signal, time
os.setpgid(0, 0)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print(os.getpid(), flush=True)
time.sleep(600)
'''])
time.sleep(600)
"""


def test_stop_ends_tasks_in_groups_of_their_own() -> None:
    part = subprocess.Popen(
        [sys.executable, "-c", PART], stdout=subprocess.PIPE, start_new_session=True
    )
    assert part.stdout is not None
    task = psutil.Process(int(part.stdout.readline()))
    assert os.getpgid(task.pid) != os.getpgid(part.pid)
    stop([part])
    assert part.returncode is not None
    task.wait(timeout=10)  # the orphan is reaped by init; anything else times out here
    assert not task.is_running()


def test_stop_leaves_other_sessions_alone() -> None:
    bystander = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    part = subprocess.Popen([sys.executable, "-c", "pass"], start_new_session=True)
    stop([part])
    assert bystander.poll() is None
    bystander.communicate(b"\n")
    assert bystander.returncode == 0


def test_port_that_is_taken_is_avoided() -> None:
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert free_port(port) != port
    assert free_port(port) == port


def test_everything_listens_on_loopback(tmp_path: Path) -> None:
    local = LocalAirflow(tmp_path / "home", 8080)
    environment = local.environment()
    assert environment["AIRFLOW__API__HOST"] == "127.0.0.1"
    assert local.url in environment["AIRFLOW__CORE__EXECUTION_API_SERVER_URL"]
    for name, arguments in local._parts().items():
        listens = name in ("scheduler", "triggerer")  # they would serve logs on every interface
        assert ("--skip-serve-logs" in arguments) == listens


def test_secrets_are_private_kept_and_different(tmp_path: Path) -> None:
    first = LocalAirflow(tmp_path / "one", 8080)
    environment = first.environment()
    assert LocalAirflow(tmp_path / "one", 8081).password == first.password
    assert LocalAirflow(tmp_path / "two", 8080).password != first.password
    files = [tmp_path / "one" / "secrets.json"]
    files.append(tmp_path / "one" / "simple_auth_manager_passwords.json.generated")
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    assert json.loads(files[1].read_text()) == {"admin": first.password}
    kept = {environment[f"AIRFLOW__{key}"] for key in ("API__SECRET_KEY", "API_AUTH__JWT_SECRET")}
    assert len(kept) == 2


def test_settings_reach_the_tasks(tmp_path: Path) -> None:
    local = LocalAirflow(tmp_path, 8080, {"RECKONER_LAKE_URI": "/somewhere"})
    assert local.environment()["RECKONER_LAKE_URI"] == "/somewhere"


def test_the_shell_wins_over_the_demos_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "{partition}" in demo_settings()["RECKONER_EVENTS__SOURCE"]
    monkeypatch.setenv("RECKONER_EVENTS__SOURCE", "/mine")
    assert "RECKONER_EVENTS__SOURCE" not in demo_settings()
