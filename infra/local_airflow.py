"""A real Airflow on this machine, on loopback alone: `python -m infra.local_airflow`.

With arguments it runs one `airflow` command on the same home, such as `backfill create ...`.

It starts the four parts that `airflow standalone` starts, itself: standalone's log servers listen
on every interface, and nothing here should answer anybody but this machine.
"""

import base64
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parent.parent
POOLS = Path(__file__).resolve().with_name("airflow_pools.json")
HOST = "127.0.0.1"
PREFERRED_PORT = 8080
USER = "admin"
GRACE_SECONDS = 15.0


@dataclass(frozen=True)
class LocalAirflow:
    """One Airflow with its own home, database, secrets and port.

    Attributes:
        home: becomes AIRFLOW_HOME; everything that Airflow writes is below it.
        port: the API server's; the tasks speak to it too.
        settings: further environment variables, such as RECKONER_LAKE_URI.
    """

    home: Path
    port: int
    settings: Mapping[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """Where the user interface answers."""
        return f"http://{HOST}:{self.port}"

    @property
    def password(self) -> str:
        """The admin's password; generated once per home."""
        return str(self._secrets()["password"])

    def environment(self) -> dict[str, str]:
        """The environment of every part, and so of every task."""
        kept = self._secrets()
        return {
            **os.environ,
            "AIRFLOW_HOME": str(self.home),
            "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
            "AIRFLOW__CORE__PARALLELISM": "2",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": f"{USER}:admin",
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{self.url}/execution/",
            "AIRFLOW__CORE__FERNET_KEY": str(kept["fernet"]),
            "AIRFLOW__API__SECRET_KEY": str(kept["api"]),
            "AIRFLOW__API_AUTH__JWT_SECRET": str(kept["jwt"]),
            "AIRFLOW__API__HOST": HOST,
            "AIRFLOW__API__PORT": str(self.port),
            "AIRFLOW__API__BASE_URL": self.url,
            "AIRFLOW__API__WORKERS": "1",
            # A task that has ended is noticed at the next heartbeat.
            "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "1",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{self.home}/airflow.db",
            **self.settings,
        }

    def run(self, *arguments: str) -> str:
        """Run one `airflow` command to its end and return what it printed.

        Raises:
            RuntimeError: the command failed; the message carries its output.
        """
        result = subprocess.run(
            airflow(*arguments),
            env=self.environment(),
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        if result.returncode != 0:
            raise RuntimeError(f"airflow {' '.join(arguments)}:\n{result.stdout}\n{result.stderr}")
        return result.stdout

    def prepare(self) -> None:
        """Create or upgrade the database, and create the pools that the DAGs name."""
        self.run("db", "migrate")
        self.run("pools", "import", str(POOLS))

    @contextmanager
    def running(self, log: Path | None = None) -> Iterator[list[subprocess.Popen[bytes]]]:
        """Start the four parts, wait until the API answers, and end them all on the way out.

        Args:
            log: a folder for one log file per part; without it they write to this terminal.
        """
        parts: list[subprocess.Popen[bytes]] = []
        try:
            for name, arguments in self._parts().items():
                target = None if log is None else (log / f"{name}.log").open("wb")
                parts.append(
                    subprocess.Popen(
                        airflow(*arguments),
                        env=self.environment(),
                        cwd=ROOT,
                        stdout=target,
                        stderr=target,
                        start_new_session=True,  # so that `stop` finds its tasks
                    )
                )
            self._wait_until_healthy(parts)
            yield parts
        finally:
            stop(parts)

    def _parts(self) -> dict[str, list[str]]:
        return {
            "api-server": ["api-server", "--host", HOST, "--port", str(self.port)],
            "scheduler": ["scheduler", "--skip-serve-logs"],
            "dag-processor": ["dag-processor"],
            "triggerer": ["triggerer", "--skip-serve-logs"],
        }

    def _wait_until_healthy(self, parts: Sequence[subprocess.Popen[bytes]]) -> None:
        while True:
            for part in parts:
                if part.poll() is not None:
                    raise RuntimeError(f"{part.args!r} ended with {part.returncode}")
            try:
                with urllib.request.urlopen(f"{self.url}/api/v2/monitor/health", timeout=5) as got:
                    health = json.load(got)
                if all(health[part]["status"] == "healthy" for part in ("scheduler", "triggerer")):
                    return
            except (urllib.error.URLError, OSError):
                pass  # not listening yet; a part that died ends the loop above
            time.sleep(0.5)

    def _secrets(self) -> dict[str, str]:
        file = self.home / "secrets.json"
        if not file.exists():
            self.home.mkdir(parents=True, exist_ok=True)
            values = {name: secrets.token_urlsafe(32) for name in ("api", "jwt")}
            values["password"] = secrets.token_urlsafe(9)
            values["fernet"] = base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()
            _write_private(file, values)
            generated = self.home / "simple_auth_manager_passwords.json.generated"
            _write_private(generated, {USER: values["password"]})
        kept: dict[str, str] = json.loads(file.read_text(encoding="utf-8"))
        return kept


def airflow(*arguments: str) -> list[str]:
    """The command line of the `airflow` that is installed beside this Python."""
    return [str(Path(sys.executable).with_name("airflow")), *arguments]


def free_port(preferred: int = 0) -> int:
    """Return `preferred` where nothing listens on it, else a free port of the loopback."""
    with socket.socket() as probe:
        try:
            probe.bind((HOST, preferred))
        except OSError:
            probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def stop(parts: Sequence[subprocess.Popen[bytes]]) -> None:
    """End every part with all that it started: politely first, then for certain.

    Each part leads a session of its own, and its tasks stay in it although Airflow gives every
    task its own process group.
    """
    leaders = {part.pid for part in parts}
    _signal(_members(leaders), signal.SIGTERM)
    deadline = time.monotonic() + GRACE_SECONDS
    for part in parts:
        with suppress(subprocess.TimeoutExpired):  # SIGKILL follows
            part.wait(timeout=max(0.0, deadline - time.monotonic()))
    _signal(_members(leaders), signal.SIGKILL)
    for part in parts:
        part.wait()


def _members(sessions: Collection[int]) -> list[int]:
    """The processes that belong to these sessions."""
    found = []
    for pid in psutil.pids():
        with suppress(ProcessLookupError, PermissionError):  # ended meanwhile, or not ours
            if os.getsid(pid) in sessions:
                found.append(pid)
    return found


def _signal(pids: Sequence[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):  # it ended by itself
            os.kill(pid, number)


def _write_private(file: Path, values: Mapping[str, str]) -> None:
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as target:
        json.dump(dict(values), target)


def demo_settings() -> dict[str, str]:
    """The demo's sources and sizes, wherever this shell sets nothing else."""
    from pipelines.demo import SETTINGS

    return {name: value for name, value in SETTINGS.items() if name not in os.environ}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run Airflow on the demo's lake until Ctrl-C, or one `airflow` command on its home.

    Args:
        arguments: the command's words; this process's own where None.
    """
    words = sys.argv[1:] if arguments is None else arguments
    home = ROOT / ".reckoner" / "airflow"
    local = LocalAirflow(home, free_port(PREFERRED_PORT), demo_settings())
    if words:
        print(local.run(*words), end="")
        return
    print(f"preparing Airflow in {home}", flush=True)
    local.prepare()
    try:
        with local.running(log=home) as parts:
            print(f"Airflow: {local.url}  user: {USER}  password: {local.password}")
            print(f"logs: {home}/*.log   Ctrl-C stops it", flush=True)
            while all(part.poll() is None for part in parts):
                time.sleep(1)
            sys.exit("a part of Airflow ended by itself; see its log")
    except KeyboardInterrupt:
        print("stopped")


if __name__ == "__main__":
    main()
