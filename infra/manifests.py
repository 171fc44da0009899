"""Render what the cluster is asked for, from the settings: `python -m infra.manifests --help`.

The DAGs call `pod` and `ray_job` for each step; a platform team renders the chart's values.
"""

import argparse
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from pipelines.settings import load_settings
from pipelines.settings.groups import LaunchSettings

FOLDER = Path(__file__).resolve().parent
# Created by the platform team: RECKONER_* settings, and the secret ones among them.
CONFIG_MAP = "reckoner-settings"
SECRET = "reckoner-secrets"
RAY_VERSION = "2.60.0"  # the lock's; KubeRay wants it beside the image
RAY_JOB_SECONDS = 12 * 3600
RAY_JOB_TTL_SECONDS = 600

LIMITS: Mapping[str, Mapping[str, str]] = {
    "airflow": {"cpu": "1", "memory": "2Gi"},
    "spark": {"cpu": "4", "memory": "8Gi"},
    "ray": {"cpu": "8", "memory": "32Gi"},
}
HEAD_LIMITS = {"cpu": "2", "memory": "8Gi"}

_templates = Environment(
    loader=FileSystemLoader(FOLDER / "templates"),
    undefined=StrictUndefined,
    autoescape=False,  # YAML, and every value goes through tojson
    keep_trailing_newline=True,
)


def image(launch: LaunchSettings, kind: str) -> str:
    """The image of a step's kind: airflow, spark or ray."""
    return {
        "airflow": launch.image_airflow,
        "spark": launch.image_spark,
        "ray": launch.image_ray,
    }[kind]


def pod(launch: LaunchSettings, kind: str) -> dict[str, Any]:
    """Render the pod that runs a step in the image of its kind."""
    return _render("pod.yaml.j2", image=image(launch, kind), limits=dict(LIMITS[kind]))


def ray_job(
    launch: LaunchSettings, name: str, argv: Sequence[str], environment: Mapping[str, str]
) -> dict[str, Any]:
    """Render the RayJob that runs `reckoner argv` on a Ray cluster of its own.

    Args:
        launch: namespace, image, workers and GPUs per worker.
        name: the job's name, unique per attempt.
        argv: the arguments after `reckoner`.
        environment: the attempt's variables; the cluster's own address and size are added.
    """
    gpu = {"nvidia.com/gpu": str(launch.gpus)} if launch.gpus else {}
    variables = {
        **environment,
        "RECKONER_RAY__ADDRESS": "auto",
        "RECKONER_RAY__NUM_WORKERS": str(launch.ray_workers),
        "RECKONER_RAY__USE_GPU": str(bool(launch.gpus)).lower(),
    }
    return _render(
        "rayjob.yaml.j2",
        name=name,
        namespace=launch.namespace,
        step=argv[0],
        image=launch.image_ray,
        entrypoint=shlex.join(["reckoner", *argv]),
        variables=variables,
        ray_version=RAY_VERSION,
        active_deadline_seconds=RAY_JOB_SECONDS,
        ttl_seconds=RAY_JOB_TTL_SECONDS,
        workers=launch.ray_workers,
        gpus=launch.gpus,
        head_limits=HEAD_LIMITS,
        worker_limits={**LIMITS["ray"], **gpu},
    )


def helm_values(launch: LaunchSettings) -> dict[str, Any]:
    """Render values for the official Airflow chart: helm/values.yaml with the settings' images."""
    values: dict[str, Any] = yaml.safe_load((FOLDER / "helm" / "values.yaml").read_text())
    repository, _, tag = launch.image_airflow.rpartition(":")
    values["images"]["airflow"].update(repository=repository, tag=tag)
    for container in values["scheduler"]["extraInitContainers"]:
        container["image"] = launch.image_airflow
    for variable in values["env"]:
        if variable["name"] == "RECKONER_LAUNCH__NAMESPACE":
            variable["value"] = launch.namespace
        elif variable["name"].startswith("RECKONER_LAUNCH__IMAGE_"):
            kind = variable["name"].rsplit("_", 1)[1].lower()
            variable["value"] = image(launch, kind)
    return values


def _render(template: str, **values: Any) -> dict[str, Any]:
    text = _templates.get_template(template).render(config_map=CONFIG_MAP, secret=SECRET, **values)
    rendered: dict[str, Any] = yaml.safe_load(text)
    return rendered


def main(argv: Sequence[str] | None = None) -> None:
    """Print one manifest as YAML, rendered from this shell's settings."""
    parser = argparse.ArgumentParser(prog="python -m infra.manifests", description=main.__doc__)
    parser.add_argument("what", choices=["helm-values", "pod", "ray-job"])
    parser.add_argument("command", nargs="*", help="for ray-job: the step's command line")
    chosen = parser.parse_args(argv)
    launch = load_settings().launch
    if chosen.what == "helm-values":
        rendered = helm_values(launch)
    elif chosen.what == "pod":
        rendered = pod(launch, "spark")
    else:
        words = chosen.command or ["train-ranker", "--partition", "2026-03-01"]
        rendered = ray_job(launch, f"{words[0]}-by-hand", words, {})
    yaml.safe_dump(rendered, sys.stdout, sort_keys=False)


if __name__ == "__main__":
    main()
