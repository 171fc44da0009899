"""What the renderer makes is valid against the published schemas and says what the settings say."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from infra import manifests
from pipelines.settings.groups import LaunchSettings

SCHEMAS = Path(manifests.__file__).parent / "schemas"
ARGV = ["train-ranker", "--partition", "2026-03-01", "--recipe", "two words; rm -rf '$HOME'"]
ENVIRONMENT = {"RECKONER_ATTEMPT": "1772000000000", "RECKONER_RUN_ID": 'a "quoted": #id\n'}


def strict(schema: Any) -> Any:
    """Make unknown keys errors, which the API server by itself would silently drop."""
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    inner = {key: strict(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and "type" in schema:
        inner.setdefault("additionalProperties", False)
    return inner


@pytest.fixture(scope="module")
def crd() -> Any:
    return strict(yaml.safe_load((SCHEMAS / "rayjob-crd.yaml").read_text()))


@pytest.fixture(scope="module")
def chart() -> Any:
    return json.loads((SCHEMAS / "airflow-chart-values.json").read_text())


def containers(job: dict[str, Any]) -> Iterator[dict[str, Any]]:
    cluster = job["spec"]["rayClusterSpec"]
    for group in [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]:
        yield from group["template"]["spec"]["containers"]


def test_ray_job_is_valid_and_runs_the_very_command_line(crd: Any) -> None:
    launch = LaunchSettings(namespace="night", image_ray="registry/ray:1", gpus=2, ray_workers=3)
    job = manifests.ray_job(launch, "train-ranker-1", ARGV, ENVIRONMENT)
    jsonschema.validate(job, crd)

    import shlex

    assert shlex.split(job["spec"]["entrypoint"]) == ["reckoner", *ARGV]
    assert job["metadata"] == {
        "name": "train-ranker-1",
        "namespace": "night",
        "labels": {"app.kubernetes.io/part-of": "reckoner", "reckoner/step": "train-ranker"},
    }
    head, worker = containers(job)
    assert head["image"] == worker["image"] == "registry/ray:1"
    assert worker["resources"]["limits"]["nvidia.com/gpu"] == "2"
    assert "nvidia.com/gpu" not in head["resources"]["limits"]
    variables = {pair["name"]: pair["value"] for pair in head["env"]}
    assert variables == ENVIRONMENT | {
        "RECKONER_RAY__ADDRESS": "auto",
        "RECKONER_RAY__NUM_WORKERS": "3",
        "RECKONER_RAY__USE_GPU": "true",
    }


def test_ray_job_leaves_nothing_behind_and_leaves_retries_to_airflow() -> None:
    spec = manifests.ray_job(LaunchSettings(), "a", ["recommend"], {})["spec"]
    assert spec["backoffLimit"] == 0
    assert spec["shutdownAfterJobFinishes"] is True
    assert 0 < spec["ttlSecondsAfterFinished"] < spec["activeDeadlineSeconds"]


def test_ray_job_without_gpus_asks_for_none(crd: Any) -> None:
    job = manifests.ray_job(LaunchSettings(gpus=0), "a", ["recommend"], {})
    jsonschema.validate(job, crd)
    assert all("nvidia.com/gpu" not in each["resources"]["limits"] for each in containers(job))
    group = job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]
    assert "tolerations" not in group["template"]["spec"]


@pytest.mark.parametrize("wrong", ["backofLimit", "entryPoint"])
def test_a_misspelt_key_fails_the_schema(crd: Any, wrong: str) -> None:
    job = manifests.ray_job(LaunchSettings(), "a", ["recommend"], {})
    job["spec"][wrong] = 1
    with pytest.raises(jsonschema.ValidationError, match=wrong):
        jsonschema.validate(job, crd)


@pytest.mark.parametrize("kind", ["airflow", "spark", "ray"])
def test_pod_of_each_image_is_valid(crd: Any, kind: str) -> None:
    pod = manifests.pod(
        LaunchSettings(image_spark="s:2", image_ray="r:2", image_airflow="a:2"), kind
    )
    template = crd["properties"]["spec"]["properties"]["rayClusterSpec"]["properties"][
        "headGroupSpec"
    ]["properties"]["template"]
    jsonschema.validate({"metadata": pod["metadata"], "spec": pod["spec"]}, template)
    assert pod["spec"]["containers"][0]["image"] == f"{kind[0]}:2"


def test_helm_values_are_valid_and_carry_the_settings(chart: Any) -> None:
    launch = LaunchSettings(
        namespace="night", image_airflow="registry:5000/team/airflow:7", image_ray="ray:7"
    )
    values = manifests.helm_values(launch)
    jsonschema.validate(values, chart)
    assert values["images"]["airflow"]["repository"] == "registry:5000/team/airflow"
    assert values["images"]["airflow"]["tag"] == "7"
    assert values["scheduler"]["extraInitContainers"][0]["image"] == launch.image_airflow
    variables = {pair["name"]: pair["value"] for pair in values["env"]}
    assert variables["RECKONER_LAUNCH__NAMESPACE"] == "night"
    assert variables["RECKONER_LAUNCH__IMAGE_RAY"] == "ray:7"
    assert variables["RECKONER_LAUNCH__IMAGE_SPARK"] == launch.image_spark


def test_helm_values_name_only_real_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    from pipelines.settings import load_settings

    for pair in manifests.helm_values(LaunchSettings())["env"]:
        monkeypatch.setenv(pair["name"], pair["value"])
    assert load_settings().launch.mode == "rayjob"


def test_helm_dag_bundle_is_json_that_airflow_reads(tmp_path: Path) -> None:
    values = manifests.helm_values(LaunchSettings())
    (bundle,) = json.loads(values["config"]["dag_processor"]["dag_bundle_config_list"])
    assert bundle["classpath"].endswith(".GitDagBundle")
    connection = f"AIRFLOW_CONN_{bundle['kwargs']['git_conn_id'].upper()}"
    assert connection in {secret["envName"] for secret in values["secret"]}


def test_ray_version_is_the_locks() -> None:
    lock = (Path(manifests.__file__).parent.parent / "requirements.lock").read_text()
    assert f"\nray=={manifests.RAY_VERSION}\n" in lock


def test_command_line_prints_yaml(capsys: pytest.CaptureFixture[str], chart: Any, crd: Any) -> None:
    manifests.main(["helm-values"])
    jsonschema.validate(yaml.safe_load(capsys.readouterr().out), chart)
    manifests.main(["ray-job", "recommend", "--", "--partition", "2026-03-01"])
    job = yaml.safe_load(capsys.readouterr().out)
    jsonschema.validate(job, crd)
    assert job["spec"]["entrypoint"] == "reckoner recommend --partition 2026-03-01"
