"""An Airflow home of the test run's own: set before anything imports airflow."""

import os
import tempfile
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pendulum
import pytest

_HOME = tempfile.TemporaryDirectory(prefix="reckoner-airflow-")
os.environ["AIRFLOW_HOME"] = _HOME.name
os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"

STARTED = pendulum.datetime(2026, 3, 2, 0, 0, 5, tz="UTC")


class OutletEvents(dict[Any, Any]):
    """The outlet accessors of a task run, made by Airflow's own class."""

    def __missing__(self, asset: Any) -> Any:
        from airflow.sdk.definitions.asset import AssetUniqueKey
        from airflow.sdk.execution_time.context import OutletEventAccessor

        self[asset] = OutletEventAccessor(key=AssetUniqueKey.from_asset(asset))
        return self[asset]


@pytest.fixture
def run_context() -> Any:
    """Make the parts of a task's context that the DAGs read."""

    def build(params: Mapping[str, Any], key: str | None = None, task: Any = None) -> Any:
        run = SimpleNamespace(
            partition_key=key, run_id="backfill__1", dag_id="a_dag", logical_date=None
        )
        instance = SimpleNamespace(
            dag_id="a_dag",
            run_id="backfill__1",
            task_id="a-task",
            try_number=2,
            map_index=-1,
            start_date=STARTED,
            xcom_push=lambda key, value: None,
        )
        return {
            "params": dict(params),
            "dag_run": run,
            "ti": instance,
            "task_instance": instance,
            "run_id": run.run_id,
            "dag": SimpleNamespace(dag_id="a_dag", parent_dag=None, is_subdag=False),
            "task": task or SimpleNamespace(outlets=[]),
            "outlet_events": OutletEvents(),
        }

    return build
