"""Real nights in any order: the same contents, item indices read through the item index.

`RECKONER_NIGHTS` sets how many nights of Online Retail are built (default 3).
"""

import os
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipelines.cli import main
from pipelines.io.lake import Lake
from pipelines.run import Run

NIGHTS = int(os.environ.get("RECKONER_NIGHTS", "3"))
STEPS = ("build-sequences", "build-item-graph")
Rows = list[tuple[object, ...]]


@pytest.fixture(scope="module")
def deliveries(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first nights' files, as the shop exported them."""
    folder = tmp_path_factory.mktemp("online-retail")
    with tarfile.open(shared_data / "online-retail" / "by-day.tar.xz") as archive:
        files = sorted((one for one in archive if one.isfile()), key=lambda one: one.name)
        for one in files[:NIGHTS]:
            content = archive.extractfile(one)
            assert content is not None
            (folder / Path(one.name).name).write_bytes(content.read())
    return folder


def night(lake: str, file: Path) -> None:
    """Ingest a day and build what is derived from it, by the commands that Airflow runs."""
    source = ["--source", str(file), "--preset", "online-retail"]
    common = ["--partition", file.stem, "--lake", lake]
    assert main(["ingest-events", *common, *source]) == 0
    for step in STEPS:
        assert main([step, *common]) == 0


def contents(lake: str) -> dict[str, Rows]:
    """Sequences and graph with items by name."""
    opened = Lake(lake, Run.unrecorded())
    index = opened.read("item_index").to_pylist()
    assert sorted(row["item_idx"] for row in index) == list(range(1, len(index) + 1))
    names = {row["item_idx"]: row["item_id"] for row in index}
    sequences = opened.read("sequences").to_pylist()
    graph = opened.read("item_graph").to_pylist()
    return {
        "events": sorted(map(str, opened.read("events").to_pylist())),  # type: ignore[dict-item]
        "sequences": sorted(
            (row["ds"], row["user_id"], [names[i] for i in row["item_idx"]], row["ts"])
            for row in sequences
        ),
        "graph": sorted(
            (
                row["ds"],
                names[row["item_idx"]],
                names[row["neighbour_idx"]],
                row["kind"],
                row["rank"],
                round(row["weight"], 9),
            )
            for row in graph
        ),
    }


def test_nights_in_order_in_reverse_and_in_parallel_agree(
    deliveries: Path, tmp_path: Path, spark: object
) -> None:
    files = sorted(deliveries.iterdir())
    assert len(files) == NIGHTS
    in_order, reverse, parallel = (
        str(tmp_path / name) for name in ("order", "reverse", "parallel")
    )
    for file in files:
        night(in_order, file)
    for file in reversed(files):
        night(reverse, file)
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda file: night(parallel, file), files))
    wanted = contents(in_order)
    assert len(wanted["sequences"]) > 100 * NIGHTS
    assert contents(reverse) == wanted
    assert contents(parallel) == wanted
