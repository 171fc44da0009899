"""What every DAG shares: owner, retries by kind of error, pools, deadlines, the runbook line."""

import logging
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import pendulum
from airflow.sdk import (
    AsyncCallback,
    DeadlineAlert,
    DeadlineReference,
    ExceptionRetryPolicy,
    RetryAction,
    RetryRule,
)

START = pendulum.datetime(2020, 1, 1, tz="UTC")
TAGS = ["reckoner"]

# Sizes are in infra/airflow_pools.json; `airflow pools import` creates them.
LLM_API = "llm_api"
GPU = "gpu"
DELTA_PUBLISH = "delta_publish"

# The step has already retried for minutes inside when it gives up on a service.
SERVICE_DELAY = timedelta(minutes=15)

RETRY_BY_ERROR = ExceptionRetryPolicy(
    rules=[
        RetryRule(
            exception="pipelines.errors.InputError",
            action=RetryAction.FAIL,
            reason="exit 2: the input or a setting is wrong, and will be wrong again",
        ),
        RetryRule(
            exception="pipelines.errors.GateRefused",
            action=RetryAction.FAIL,
            reason="exit 3: a quality gate refused, and nothing was published",
        ),
        RetryRule(
            exception="pipelines.errors.ServiceUnavailable",
            action=RetryAction.RETRY,
            retry_delay=SERVICE_DELAY,
            reason="exit 4: a service stayed unavailable",
        ),
        RetryRule(
            exception=["builtins.ConnectionError", "builtins.TimeoutError"],
            action=RetryAction.RETRY,
            reason="the transport failed; backing off",
        ),
    ]
)

RUNBOOK = {
    "InputError": "read the message: it names the file, row, key or setting; correct it and clear",
    "GateRefused": "nothing was published, readers keep the last version; read the reasons, then "
    "correct the data or accept the refusal",
    "ServiceUnavailable": "check the service with `reckoner doctor`; clear when it answers",
}
UNEXPECTED = "unexpected: read the traceback; the step is idempotent, so clearing is safe"


def log_runbook(context: Any) -> None:
    """Log what an operator does next after the last try of a task failed."""
    kind = type(context.get("exception")).__name__
    instance = context["ti"]
    logging.getLogger("reckoner.runbook").error(
        "%s.%s failed (%s). Next: %s. See docs/operations.md",
        instance.dag_id,
        instance.task_id,
        kind,
        RUNBOOK.get(kind, UNEXPECTED),
    )


async def report_late(context: Mapping[str, Any]) -> None:
    """Log a missed deadline; the triggerer calls this with the run as a mapping."""
    run = context["dag_run"]
    logging.getLogger("reckoner.deadline").error(
        "%s is late: run %s, partition %s. Readers keep the last version. See docs/operations.md",
        run["dag_id"],
        run["dag_run_id"],
        run.get("partition_key"),
    )


def finish_within(hours: float) -> DeadlineAlert:
    """Alert where a run is not done this long after it was queued."""
    return DeadlineAlert(
        reference=DeadlineReference.DAGRUN_QUEUED_AT,
        interval=timedelta(hours=hours),
        callback=AsyncCallback(report_late),
    )


DEFAULT_ARGS: dict[str, Any] = {
    "owner": "recommendations",
    "retries": 3,
    "retry_delay": timedelta(minutes=2),
    "retry_exponential_backoff": True,
    "max_retry_delay": timedelta(minutes=30),
    "retry_policy": RETRY_BY_ERROR,
    "on_failure_callback": [log_runbook],
}
