"""One command line for every launch mode, one meaning for every exit code."""

from typing import Any

import pytest

from pipelines import errors

RECOMMEND = {
    "name": "recommend",
    "image": "ray",
    "fixed": {"--model": "reckoner-ranker@champion"},
    "flags": {"--dry-run": "dry_run", "--recipe": "recipe"},
    "settings": {"recommend.top_k": "top_k"},
}
PARAMS = {"partition": None, "dry_run": False, "recipe": None, "top_k": None}


def command(**changes: Any) -> Any:
    from dags.command import Command

    return Command(**{**RECOMMEND, **changes})


def test_partition_is_the_runs_key(run_context: Any) -> None:
    argv = command().argv(run_context(PARAMS, key="2026-03-01"))
    assert argv == ["recommend", "--partition", "2026-03-01", "--model", "reckoner-ranker@champion"]


def test_operator_wins_over_the_runs_key(run_context: Any) -> None:
    argv = command().argv(run_context({**PARAMS, "partition": "2026-02-01"}, key="2026-03-01"))
    assert argv[:3] == ["recommend", "--partition", "2026-02-01"]


def test_without_a_partition_nothing_runs(run_context: Any) -> None:
    with pytest.raises(errors.InputError, match="no partition"):
        command().argv(run_context(PARAMS))


def test_params_become_flags_and_settings(run_context: Any) -> None:
    params = {**PARAMS, "dry_run": True, "recipe": "smoke", "top_k": 7}
    context = run_context(params, key="2026-03-01")
    assert command().argv(context)[5:] == ["--dry-run", "--recipe", "smoke"]
    assert command().environment(context)["RECKONER_RECOMMEND__TOP_K"] == "7"


def test_attempt_is_when_this_try_started(run_context: Any) -> None:
    environment = command().environment(run_context(PARAMS, key="2026-03-01"))
    assert environment == {
        "RECKONER_ATTEMPT": "1772409605000",
        "RECKONER_RUN_ID": "a_dag/backfill__1/2",
    }


def test_unpartitioned_commands_need_no_partition(run_context: Any) -> None:
    upkeep = command(name="maintain-tables", partitioned=False, fixed={})
    assert upkeep.argv(run_context(PARAMS)) == ["maintain-tables"]


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (1, RuntimeError),
        (2, errors.InputError),
        (3, errors.GateRefused),
        (4, errors.ServiceUnavailable),
        (137, RuntimeError),
    ],
)
def test_exit_codes_become_errors(run_context: Any, code: int, error: type[Exception]) -> None:
    with pytest.raises(error, match=f"recommend --partition 2026-03-01 .*exit {code}"):
        command().finish(code, run_context(PARAMS, key="2026-03-01"))


def test_a_dry_run_ends_as_skipped_and_announces_nothing(run_context: Any) -> None:
    from airflow.sdk.exceptions import AirflowSkipException

    context = run_context({**PARAMS, "dry_run": True}, key="2026-03-01")
    with pytest.raises(AirflowSkipException):
        command().finish(0, context)
    assert context["outlet_events"] == {}


def test_success_announces_the_partition_that_was_built(run_context: Any) -> None:
    from types import SimpleNamespace

    from dags import assets

    task = SimpleNamespace(outlets=[assets.SEQUENCES])
    context = run_context({**PARAMS, "partition": "2026-02-01"}, key=None, task=task)
    command().finish(0, context)
    assert context["outlet_events"][assets.SEQUENCES].partition_keys == {"2026-02-01"}


@pytest.mark.parametrize(
    ("error", "action", "seconds"),
    [
        (errors.InputError("a row"), "fail", None),
        (errors.GateRefused("gate", ["worse"]), "fail", None),
        (errors.ServiceUnavailable("the store"), "retry", 900),
        (ConnectionResetError(), "retry", None),
        (TimeoutError(), "retry", None),
        (RuntimeError("exit 1"), "default", None),
    ],
)
def test_retries_follow_the_kind_of_error(
    error: Exception, action: str, seconds: int | None
) -> None:
    from airflow.sdk import ExceptionRetryPolicy

    from dags import policies

    policy = ExceptionRetryPolicy.deserialize(policies.RETRY_BY_ERROR.serialize())
    decision = policy.evaluate(error, try_number=1, max_tries=3)
    assert decision.action.value == action
    assert (decision.retry_delay and decision.retry_delay.total_seconds()) == seconds


def test_runbook_line_names_task_and_next_step(
    run_context: Any, caplog: pytest.LogCaptureFixture
) -> None:
    from dags import policies

    context = run_context(PARAMS) | {"exception": errors.GateRefused("gate", ["worse"])}
    policies.log_runbook(context)
    assert "a_dag.a-task failed (GateRefused)" in caplog.text
    assert "nothing was published" in caplog.text


def test_late_run_is_reported_by_name(caplog: pytest.LogCaptureFixture) -> None:
    import asyncio

    from airflow.sdk import AsyncCallback

    from dags import policies

    assert AsyncCallback(policies.report_late).path == "dags.policies.report_late"
    run = {"dag_id": "item_knowledge", "dag_run_id": "backfill__1", "partition_key": "2026-03-01"}
    asyncio.run(policies.report_late(context={"dag_run": run}))
    assert "item_knowledge is late: run backfill__1, partition 2026-03-01" in caplog.text
