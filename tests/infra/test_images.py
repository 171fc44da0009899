"""Images, compose file and pools agree with the project that they package."""

import json
import re
import tomllib
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILES = sorted((ROOT / "infra" / "docker").glob("*.Dockerfile"))
COMPOSE = ROOT / "infra" / "compose.yaml"


@pytest.fixture(scope="module")
def project() -> Any:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def compose() -> Any:
    return yaml.safe_load(COMPOSE.read_text())


def test_there_is_one_image_per_kind_of_step() -> None:
    assert [file.name.split(".")[0] for file in DOCKERFILES] == ["airflow", "ray", "spark"]


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.stem)
def test_image_installs_its_own_extra_under_the_lock(file: Path, project: Any) -> None:
    text = file.read_text()
    extras = re.search(r"^ARG EXTRAS=(\S+)$", text, re.MULTILINE)
    assert extras is not None
    named = extras[1].split(",")
    assert file.name.split(".")[0] == named[0]
    assert set(named) <= set(project["optional-dependencies"])
    assert '-c requirements.lock ".[${EXTRAS}]"' in text


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.stem)
def test_image_copies_every_package_and_nothing_that_is_not_there(file: Path) -> None:
    copied: set[str] = set()
    for line in re.findall(r"^COPY (.+)$", file.read_text(), re.MULTILINE):
        *sources, _ = [word for word in line.split() if not word.startswith("--")]
        copied.update(sources)
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]
    assert set(wheel["build"]["targets"]["wheel"]["packages"]) <= copied
    assert [name for name in copied if not (ROOT / name).exists()] == []


def test_image_of_airflow_is_of_the_locked_version() -> None:
    version = re.search(r"^apache-airflow==(\S+)$", _lock(), re.MULTILINE)
    assert version is not None
    text = (ROOT / "infra" / "docker" / "airflow.Dockerfile").read_text()
    assert f"FROM apache/airflow:{version[1]}-python3.11" in text
    assert yaml.safe_load((ROOT / "infra/helm/values.yaml").read_text())["airflowVersion"] in text


def test_lock_pins_what_every_extra_asks_for(project: Any) -> None:
    pinned = {_name(line) for line in _lock().splitlines() if line and not line.startswith("#")}
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    wanted = {_name(requirement) for group in groups for requirement in group}
    assert wanted - pinned == set()


def test_compose_file_is_valid(compose: Any) -> None:
    folder = resources.files("check_jsonschema") / "builtin_schemas" / "vendor"
    schema = json.loads((folder / "compose-spec.json").read_text())
    jsonschema.validators.validator_for(schema)(schema).validate(compose)


def test_compose_publishes_on_loopback_alone(compose: Any) -> None:
    published = [
        port for service in compose["services"].values() for port in service.get("ports", [])
    ]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_compose_refers_only_to_what_it_defines(compose: Any) -> None:
    services = compose["services"]
    for name, service in services.items():
        assert set(service.get("depends_on", ())) <= set(services), name
        volumes = {volume.split(":")[0] for volume in service.get("volumes", ())}
        named = {volume for volume in volumes if re.fullmatch(r"[a-z-]+", volume)}
        assert named <= set(compose["volumes"]), name
        build = service.get("build")
        if build:
            assert (COMPOSE.parent / build["context"] / build["dockerfile"]).is_file(), name


def test_compose_sets_only_real_settings(compose: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipelines.settings import load_settings

    for service in compose["services"].values():
        for name, value in service.get("environment", {}).items():
            if name.startswith("RECKONER_"):
                plain = re.sub(r"\$\{[A-Z_]+:-([^}]*\}?)\}", r"\1", value)
                monkeypatch.setenv(name, plain)
    settings = load_settings()
    assert settings.spark.master == "spark://spark-master:7077"
    assert settings.ray.address == "ray-head:6379"
    assert settings.storage_options["AWS_ENDPOINT_URL"] == "http://store:8333"
    assert settings.events.source == "/inbox/events/{partition}"


def _lock() -> str:
    return (ROOT / "requirements.lock").read_text()


def _name(requirement: str) -> str:
    match = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert match is not None, requirement
    return match[0].lower().replace("_", "-").replace(".", "-")
