"""A Spark standalone cluster and a two-node Ray cluster: real processes, on loopback alone."""

import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pyspark

from infra.local_airflow import free_port, stop

HOST = "127.0.0.1"
RAY_HOST = "127.0.0.2" if sys.platform == "linux" else HOST
START_SECONDS = 180
ANNOUNCEMENT = re.compile(r"Starting Spark master at (spark://\S+)")


@contextmanager
def spark_standalone(folder: Path) -> Iterator[str]:
    """Run a master and a worker with two cores; yield the master's address.

    The worker keeps one folder per application under `folder/work`.
    """
    home = Path(pyspark.__file__).parent
    environment = {
        **os.environ,
        "SPARK_HOME": str(home),
        "SPARK_LOCAL_IP": HOST,  # the web pages' address too
        "SPARK_DAEMON_MEMORY": "256m",
        "PYSPARK_PYTHON": sys.executable,
    }
    deploy = [str(home / "bin" / "spark-class"), "org.apache.spark.deploy"]
    ports = ["--host", HOST, "--port", "0", "--webui-port", "0"]
    parts: list[subprocess.Popen[bytes]] = []

    def start(name: str, *arguments: str) -> Path:
        log = folder / f"{name.lower()}.log"
        command = [deploy[0], f"{deploy[1]}.{name.lower()}.{name}", *ports, *arguments]
        with log.open("wb") as target:
            part = subprocess.Popen(
                command,
                env=environment,
                stdout=target,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        parts.append(part)
        return log

    try:
        master = _await(start("Master"), ANNOUNCEMENT)
        work = ["--work-dir", str(folder / "work"), "--cores", "2", "--memory", "1g"]
        _await(start("Worker", *work, master), re.compile(r"(Successfully registered)"))
        yield master
    finally:
        stop(parts)


@contextmanager
def two_ray_nodes() -> Iterator[dict[str, str]]:
    """Run a head without cores and a node with three; yield the settings that lead there.

    As on Kubernetes, the driver stands on the head, and every task and actor on the other node.
    Ray listens on every interface unless its node is 127.0.0.1, which it turns into the machine's
    own address when a node joins; so the nodes take another loopback address, and a token.
    """
    # Ray's sockets live below this folder, and a socket's path has at most 107 characters.
    folder = tempfile.mkdtemp(prefix="rk-", dir="/tmp")
    port = free_port()
    shared = ["--node-ip-address", RAY_HOST, "--block", "--disable-usage-stats"]
    small = ["--object-store-memory", str(100 * 2**20)]
    head = ["--head", "--port", str(port), "--temp-dir", folder, "--include-dashboard", "false"]
    access = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    environment = {**os.environ, **access, "OMP_NUM_THREADS": "1"}
    parts: list[subprocess.Popen[bytes]] = []
    try:
        for cores, where in (("0", head), ("3", ["--address", f"{RAY_HOST}:{port}"])):
            command = [_script("ray"), "start", *where, "--num-cpus", cores, *shared, *small]
            log = Path(folder) / f"node-{len(parts)}.log"
            with log.open("wb") as target:
                part = subprocess.Popen(
                    command,
                    env=environment,
                    stdout=target,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            parts.append(part)
            _await(log, re.compile(r"(Ray runtime started)"))
        yield {"RECKONER_RAY__ADDRESS": f"{RAY_HOST}:{port}", **access}
    finally:
        stop(parts)
        shutil.rmtree(folder, ignore_errors=True)


def reckoner(arguments: list[str], settings: Mapping[str, str]) -> None:
    """Run one command line as a person does.

    Raises:
        AssertionError: it did not end with exit 0; the message carries its output.
    """
    result = subprocess.run(
        [_script("reckoner"), *arguments],
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, (arguments, result.stdout[-2000:], result.stderr[-6000:])


def _script(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


def _await(log: Path, pattern: re.Pattern[str]) -> str:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        found = pattern.search(log.read_text(errors="replace"))
        if found:
            return found[1]
        time.sleep(0.2)
    raise TimeoutError(f"{pattern.pattern!r} not in {log}:\n{log.read_text()[-3000:]}")
