"""Pods and RayJobs: what is created, and what their end means."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from pipelines import errors
from pipelines.settings import load_settings
from tests.dags.kubernetes_api import KubernetesApi, serving

JOBS = "/apis/ray.io/v1/namespaces/reckoner/rayjobs"
PODS = "/api/v1/namespaces/reckoner/pods"


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[KubernetesApi]:
    with serving() as api:
        connection = {"conn_type": "kubernetes", "extra": {"kube_config": api.kube_config()}}
        monkeypatch.setenv("AIRFLOW_CONN_KUBERNETES_DEFAULT", json.dumps(connection))
        yield api


@pytest.fixture
def context(run_context: Any) -> Any:
    return run_context({"partition": None, "recipe": "smoke"}, key="2026-03-01")


def make(mode: str, image: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    from dags.command import Command
    from dags.launch import step

    monkeypatch.setenv("RECKONER_LAUNCH__MODE", mode)
    return step(Command("train-ranker", image=image, flags={"--recipe": "recipe"}))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("mode", "image", "kind"),
    [
        ("local", "spark", "LocalStep"),
        ("local", "ray", "LocalStep"),
        ("pod", "spark", "PodStep"),
        ("pod", "ray", "PodStep"),
        ("rayjob", "spark", "PodStep"),
        ("rayjob", "ray", "RayJobStep"),
    ],
)
def test_settings_choose_how_a_step_runs(
    mode: str, image: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = make(mode, image, monkeypatch)
    assert type(task).__name__ == kind
    assert task.task_id == "train-ranker"


def test_ray_job_is_created_once_with_the_commands_arguments(
    api: KubernetesApi, context: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = make("rayjob", "ray", monkeypatch)
    assert task.poke(context) is False
    assert task.poke(context) is False
    ((path, job),) = api.objects.items()
    assert path == f"{JOBS}/{task.job_name(context)}"
    assert len(job["metadata"]["name"]) <= 47
    line = "reckoner train-ranker --partition 2026-03-01 --recipe smoke"
    assert job["spec"]["entrypoint"] == line
    head = job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    variables = {pair["name"]: pair["value"] for pair in head["env"]}
    assert variables["RECKONER_ATTEMPT"] == task.command.environment(context)["RECKONER_ATTEMPT"]


def test_another_try_is_another_ray_job(context: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    task = make("rayjob", "ray", monkeypatch)
    first = task.job_name(context)
    context["ti"].try_number += 1
    assert task.job_name(context) != first


FAILED = "Job entrypoint command failed with exit code {}, last available logs:\nreasons"


@pytest.mark.parametrize(
    ("status", "error"),
    [
        ({"jobDeploymentStatus": "Initializing"}, None),
        ({"jobDeploymentStatus": "Running", "jobStatus": "RUNNING"}, None),
        (
            {"jobDeploymentStatus": "Failed", "jobStatus": "FAILED", "message": FAILED.format(3)},
            errors.GateRefused,
        ),
        (
            {"jobDeploymentStatus": "Complete", "jobStatus": "FAILED", "message": FAILED.format(4)},
            errors.ServiceUnavailable,
        ),
        ({"jobDeploymentStatus": "Complete", "jobStatus": "STOPPED"}, RuntimeError),
        ({"jobDeploymentStatus": "Failed", "reason": "DeadlineExceeded"}, RuntimeError),
    ],
)
def test_ray_job_status_becomes_the_steps(
    api: KubernetesApi,
    context: Any,
    monkeypatch: pytest.MonkeyPatch,
    status: dict[str, str],
    error: type[Exception] | None,
) -> None:
    task = make("rayjob", "ray", monkeypatch)
    task.poke(context)
    api.objects[f"{JOBS}/{task.job_name(context)}"]["status"] = status
    if error is None:
        assert task.poke(context) is False
    else:
        with pytest.raises(error):
            task.poke(context)


def test_ray_job_that_succeeded_is_done(
    api: KubernetesApi, context: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = make("rayjob", "ray", monkeypatch)
    task.poke(context)
    status = {"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"}
    api.objects[f"{JOBS}/{task.job_name(context)}"]["status"] = status
    assert task.poke(context) is True


def start_pod(task: Any, context: Any, api: KubernetesApi) -> dict[str, Any]:
    from airflow.sdk.exceptions import TaskDeferred

    with pytest.raises(TaskDeferred):
        task.execute(context)
    ((path, pod),) = api.objects.items()
    assert path.startswith(PODS)
    return pod


def end_pod(task: Any, context: Any, pod: dict[str, Any], code: int) -> None:
    state = {"terminated": {"exitCode": code, "reason": "Error" if code else "Completed"}}
    container = {
        "name": "base",
        "image": "i",
        "imageID": "i",
        "ready": False,
        "restartCount": 0,
        "state": state,
    }
    pod["status"] = {"phase": "Failed" if code else "Succeeded", "containerStatuses": [container]}
    task.trigger_reentry(
        context,
        {
            "status": "failed" if code else "success",
            "name": pod["metadata"]["name"],
            "namespace": "reckoner",
            "message": "the container ended",
        },
    )


def test_pod_runs_the_command_in_its_image(
    api: KubernetesApi, context: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = make("pod", "spark", monkeypatch)
    pod = start_pod(task, context, api)
    container = pod["spec"]["containers"][0]
    assert container["command"] == ["reckoner"]
    words = ["train-ranker", "--partition", "2026-03-01", "--recipe", "smoke"]
    assert container["args"] == words
    assert container["image"] == load_settings().launch.image_spark
    assert container["resources"]["limits"]["memory"]
    sources = [next(iter(source.values()))["name"] for source in container["envFrom"]]
    assert sources == ["reckoner-settings", "reckoner-secrets"]
    variables = {pair["name"]: pair.get("value") for pair in container["env"]}
    assert variables["RECKONER_ATTEMPT"] == task.command.environment(context)["RECKONER_ATTEMPT"]


@pytest.mark.parametrize(
    ("code", "error"),
    [(2, errors.InputError), (3, errors.GateRefused), (4, errors.ServiceUnavailable)],
)
def test_exit_code_of_a_pod_becomes_the_steps_error(
    api: KubernetesApi,
    context: Any,
    monkeypatch: pytest.MonkeyPatch,
    code: int,
    error: type[Exception],
) -> None:
    task = make("pod", "spark", monkeypatch)
    task.get_logs = False
    pod = start_pod(task, context, api)
    with pytest.raises(error):
        end_pod(task, context, pod, code)


def test_pod_that_succeeded_is_deleted(
    api: KubernetesApi, context: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = make("pod", "spark", monkeypatch)
    task.get_logs = False
    end_pod(task, context, start_pod(task, context, api), 0)
    assert api.objects == {}
