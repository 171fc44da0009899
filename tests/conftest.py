"""Fixtures that every package's tests share."""

import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

ROOT = Path(__file__).resolve().parent.parent
# Spark starts its Python workers by name: they must be this interpreter.
os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
os.environ.setdefault("PYSPARK_DRIVER_PYTHON", sys.executable)
# Tests share the cores with the processes they start, and their JVMs are too short to earn back
# what the optimising compiler costs.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("JAVA_TOOL_OPTIONS", "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC")
# It says goodbye at INFO after pytest has closed its streams.
logging.getLogger("py4j").setLevel(logging.WARNING)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the rankers' many quick tests last: they fill what the long ones leave of two cores."""
    items.sort(key=lambda item: ROOT / "tests" / "models" in item.path.parents)


@pytest.fixture(autouse=True)
def no_outside_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the developer's own RECKONER_* variables out of the tests."""
    for name in list(os.environ):
        if name.startswith("RECKONER_") and name != "RECKONER_SHARED_DATA":
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real datasets; tests that need it skip where it is absent."""
    folder = Path(os.environ.get("RECKONER_SHARED_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real datasets at {folder} (set RECKONER_SHARED_DATA)")
    return folder


@pytest.fixture(scope="session")
def spark() -> "Iterator[SparkSession]":
    """One small Spark for the whole run: every step finds it running and leaves it so."""
    from pipelines.io.spark_session import build
    from pipelines.settings.groups import SparkSettings

    settings = SparkSettings(master="local[2]", driver_memory="1g", shuffle_partitions=4)
    session = build(settings, "tests")
    yield session
    session.stop()


@pytest.fixture(scope="session")
def one_ray() -> Iterator[None]:
    """Start Ray once: every step finds it running and leaves it so."""
    from pipelines.io.cluster import ray_cluster
    from pipelines.settings.groups import RaySettings

    with ray_cluster(RaySettings(object_store_mb=200)):
        yield
