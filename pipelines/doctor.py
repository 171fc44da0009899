"""Check what a night needs on this machine and say what to fix."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from infra.preflight import java_problem
from pipelines.errors import InputError, ServiceUnavailable
from pipelines.io.lake import Lake
from pipelines.settings import Settings


@dataclass(frozen=True)
class Symptom:
    """One check's outcome; `fix` is empty where all is well."""

    check: str
    healthy: bool
    found: str
    fix: str = ""


def examine(settings: Settings, lake: Lake) -> list[dict[str, Any]]:
    """Run every check; none stops the others."""
    checks: dict[str, Callable[[], Symptom]] = {
        "java": lambda: _java(),
        "spark": lambda: _spark(settings),
        "ray": lambda: _ray(settings),
        "lake": lambda: _lake(settings, lake),
        "mlflow": lambda: _mlflow(settings),
        "llm": lambda: _llm(settings),
        "text": lambda: _text(settings),
    }
    found = []
    for name, check in checks.items():
        try:
            symptom = check()
        except (InputError, ServiceUnavailable, OSError, RuntimeError, ImportError) as error:
            symptom = Symptom(name, False, str(error).splitlines()[0], _FIXES[name])
        found.append(asdict(symptom))
    return found


_FIXES = {
    "java": "install a JRE >= 17 and put it on the PATH or in JAVA_HOME",
    "spark": "check RECKONER_SPARK__MASTER and that its master answers",
    "ray": "check RECKONER_RAY__ADDRESS, or unset it to run Ray here",
    "lake": "check RECKONER_LAKE_URI and RECKONER_STORAGE_OPTIONS",
    "mlflow": "check RECKONER_MLFLOW__TRACKING_URI and that its server answers",
    "llm": "check RECKONER_LLM__BASE_URL, or set RECKONER_LLM__BACKEND=offline",
    "text": "install the extra `text`, or set RECKONER_VECTORS__ENCODER=hashed",
}


def _java() -> Symptom:
    problem = java_problem()
    return Symptom(
        "java", problem is None, problem or "a JRE >= 17", _FIXES["java"] if problem else ""
    )


def _spark(settings: Settings) -> Symptom:
    from pipelines.io.spark_session import spark_session

    with spark_session(settings.spark, "doctor") as spark:
        rows = spark.range(10).count()
    healthy = rows == 10
    return Symptom("spark", healthy, f"{settings.spark.master}, Spark {spark.version}")


def _ray(settings: Settings) -> Symptom:
    import ray

    from pipelines.io.cluster import ray_cluster

    with ray_cluster(settings.ray):
        resources = ray.cluster_resources()
    cpus, gpus = resources.get("CPU", 0), resources.get("GPU", 0)
    where = settings.ray.address or "this machine"
    short = settings.ray.use_gpu and gpus < max(settings.ray.num_workers, 1)
    fix = "ray.use_gpu asks for a GPU per worker: add GPU nodes or unset it" if short else ""
    return Symptom("ray", not short, f"{where}: {cpus:g} CPUs, {gpus:g} GPUs", fix)


def _lake(settings: Settings, lake: Lake) -> Symptom:
    tables = [name for name in ("events", "sequences", "recommendations") if lake.exists(name)]
    if "://" not in settings.lake_uri:
        folder = Path(settings.lake_uri)
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".doctor-{uuid4().hex}"
        probe.write_bytes(b"")
        probe.unlink()
    held = ", ".join(tables) if tables else "no tables yet"
    return Symptom("lake", True, f"{settings.lake_uri}: {held}")


def _mlflow(settings: Settings) -> Symptom:
    from pipelines.io.tracking import MODEL, Registry

    registry = Registry(settings)
    known = ", ".join(registry.known()) or "no version yet"
    return Symptom("mlflow", True, f"{registry.tracking_uri}: {MODEL} {known}")


def _llm(settings: Settings) -> Symptom:
    llm = settings.llm
    if llm.backend == "offline":
        return Symptom("llm", True, "offline: no endpoint needed")
    found, trouble = f"backend {llm.backend}", None
    if llm.backend == "http":
        from pipelines.io.llm_http import endpoint_trouble

        found += f", {llm.base_url or 'base_url not set'}"
        trouble = endpoint_trouble(llm)
    if trouble:
        return Symptom("llm", False, f"{found}: {trouble}", _FIXES["llm"])
    return Symptom("llm", True, found)


def _text(settings: Settings) -> Symptom:
    from pipelines.io.text_encoder import open_encoder

    encoder = open_encoder(settings.vectors)
    return Symptom("text", True, f"encoder {encoder.name}, {encoder.width} coordinates")


def render_symptoms(symptoms: list[dict[str, Any]]) -> str:
    """Lay the outcome out as text, one check a line."""
    lines = []
    for symptom in symptoms:
        mark = "ok " if symptom["healthy"] else "BAD"
        lines.append(f"{mark}  {symptom['check']:<7} {symptom['found']}")
        if symptom["fix"]:
            lines.append(f"             fix: {symptom['fix']}")
    return "\n".join(lines)
