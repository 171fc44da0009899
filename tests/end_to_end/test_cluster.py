"""One night on a Spark standalone cluster and a two-node Ray cluster, with settings alone."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from deltalake import DeltaTable

from tests.end_to_end.clusters import HOST, reckoner, spark_standalone, two_ray_nodes

NIGHT = "2026-03-01"
USERS, EVENTS, ITEMS = 40, 12, 30
PUBLISHED = ["sequences", "item_graph", "recommendations"]


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Settings of a lake on this machine and a day of a small shop to fill it."""
    folder = tmp_path_factory.mktemp("night")
    with (folder / "events.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["user_id", "item_id", "action", "ts"])
        for turn in range(EVENTS):
            for user in range(USERS):
                item = (7 * user + turn * (1 + user % 3)) % ITEMS
                rows.writerow(
                    [f"u{user}", f"i{item}", "view", f"{NIGHT}T{turn:02d}:{user:02d}:00Z"]
                )
    with (folder / "items.csv").open("w", newline="") as file:
        titles = [(f"i{item}", f"Item number {item}") for item in range(ITEMS)]
        csv.writer(file).writerows([["item_id", "title"], *titles])
    return {
        "RECKONER_LAKE_URI": str(folder / "lake"),
        "RECKONER_EVENTS__SOURCE": str(folder / "events.csv"),
        "RECKONER_ITEMS__SOURCE": str(folder / "items.csv"),
        "RECKONER_SPARK__MASTER": "local[1]",
        "RECKONER_SPARK__DRIVER_MEMORY": "512m",
        "RECKONER_SPARK__SHUFFLE_PARTITIONS": "2",
        "RECKONER_RAY__OBJECT_STORE_MB": "80",
        "RECKONER_TRAIN__RECIPE": "smoke",
        # Forty people decide nothing: let any challenger score the night's lists.
        "RECKONER_GATE__MIN_USERS": "1",
        "RECKONER_GATE__MIN_GAIN_OVER_BASELINES": "-1",
        "RECKONER_GATE__MIN_COVERAGE": "0",
    }


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the Spark worker keeps one folder per application."""
    return tmp_path_factory.mktemp("spark")


@pytest.fixture(scope="module")
def there(here: dict[str, str], work: Path) -> Iterator[dict[str, str]]:
    """The same settings, pointed at clusters: nothing else differs."""
    conf = {"spark.driver.host": HOST, "spark.driver.bindAddress": HOST, "spark.cores.max": "2"}
    with spark_standalone(work) as master, two_ray_nodes() as ray:
        yield {
            **here,
            **ray,
            "RECKONER_SPARK__MASTER": master,
            "RECKONER_SPARK__EXECUTOR_MEMORY": "512m",
            "RECKONER_SPARK__CONF": json.dumps(conf),
            "RECKONER_RAY__NUM_WORKERS": "2",
        }


def versions(settings: dict[str, str]) -> dict[str, int]:
    lake = settings["RECKONER_LAKE_URI"]
    return {table: DeltaTable(f"{lake}/{table}").version() for table in PUBLISHED}


def test_a_night_on_clusters_publishes_what_this_machine_would(
    here: dict[str, str], there: dict[str, str], work: Path
) -> None:
    reckoner(["nightly", "--partition", NIGHT, "--train", "always"], there)

    lake = here["RECKONER_LAKE_URI"]
    rows = DeltaTable(f"{lake}/recommendations").to_pyarrow_table().to_pylist()
    assert {row["user_id"] for row in rows} == {f"u{user}" for user in range(USERS)}
    steps = DeltaTable(f"{lake}/pipeline_runs").to_pyarrow_table().to_pylist()
    assert {"build-sequences", "train-ranker", "recommend"} <= {row["step"] for row in steps}
    assert {row["source"] for row in rows} != {"popularity"}, "no champion scored"
    assert list((work / "work").glob("app-*")), "no application reached the Spark worker"

    # The same steps again, on this machine alone: the contents are equal, so nothing is committed.
    before = versions(here)
    for step in ("build-sequences", "build-item-graph", "recommend"):
        reckoner([step, "--partition", NIGHT], here)
    assert versions(here) == before
