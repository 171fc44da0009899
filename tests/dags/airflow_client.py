"""What the scheduler test asks of the running Airflow, through its public API."""

import json
import time
import urllib.parse
import urllib.request
from collections.abc import Callable
from typing import Any

from infra.local_airflow import USER, LocalAirflow

FINAL = {"success", "failed"}


class AirflowClient:
    """A logged-in client of one local Airflow."""

    def __init__(self, local: LocalAirflow) -> None:
        self.local = local
        login = {"username": USER, "password": local.password}
        self.token = self._call("POST", "/auth/token", login)["access_token"]

    def runs(self, dag_id: str) -> dict[str, dict[str, Any]]:
        """The runs of a DAG by partition key."""
        answer = self._call("GET", f"/api/v2/dags/{dag_id}/dagRuns?limit=100")
        return {run["partition_key"]: run for run in answer["dag_runs"]}

    def tasks(self, run: dict[str, Any]) -> dict[str, dict[str, Any]]:
        """The task instances of a run by task id."""
        run_id = urllib.parse.quote(run["dag_run_id"], safe="")
        path = f"/api/v2/dags/{run['dag_id']}/dagRuns/{run_id}/taskInstances"
        return {task["task_id"]: task for task in self._call("GET", path)["task_instances"]}

    def dag_ids(self) -> set[str]:
        """The DAGs that have been parsed."""
        return {dag["dag_id"] for dag in self._call("GET", "/api/v2/dags?limit=100")["dags"]}

    def unpause(self, dag_id: str) -> None:
        """Let a DAG's runs start."""
        self._call("PATCH", f"/api/v2/dags/{dag_id}", {"is_paused": False})

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        headers = {"Content-Type": "application/json"}
        if hasattr(self, "token"):
            headers["Authorization"] = f"Bearer {self.token}"
        request = urllib.request.Request(
            self.local.url + path,
            method=method,
            headers=headers,
            data=None if body is None else json.dumps(body).encode(),
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)


def wait_for(condition: Callable[[], bool], what: str, seconds: float) -> None:
    """Poll until `condition` holds.

    Raises:
        TimeoutError: it did not in time; the message says what was awaited.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds:.0f} s for {what}")
        time.sleep(2)
