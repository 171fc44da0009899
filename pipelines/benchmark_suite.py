"""`make bench`: every ranker side by side on one dataset, one after the other.

`DATASET=DIR` names a folder with `events.parquet`; without it a generated shop serves. `QUICK=1`
cuts each training at 20 CPU seconds. Results go to `.reckoner/bench`, one file per ranker; one
that is there already is not measured again. `ITEMS=N` measures a generated catalogue of N items
instead, see `benchmark_scale`.
"""

import os
import shutil
import sys
from datetime import date
from pathlib import Path

import pyarrow.parquet as pq

from pipelines.benchmark_scale import bench_scale
from pipelines.cli import main
from pipelines.errors import InputError
from pipelines.io.dataset import read_dataset
from pipelines.io.lake import Lake
from pipelines.run import Run
from pipelines.shop import make_shop
from pipelines.tables.behaviour import EVENTS

HOME = Path(".reckoner/bench")
RANKERS = ("popularity", "last-transition", "tgh", "sasrec", "rearec-erl", "rearec-prl")
QUICK_CPU_SECONDS = "20"


def shop_dataset(home: Path) -> Path:
    """Generate the demo's shop as a dataset folder, through ingest, once."""
    dataset = home / "shop"
    if (dataset / "events.parquet").exists():
        return dataset
    shutil.rmtree(home / "deliveries", ignore_errors=True)
    make_shop(home / "deliveries", date(2026, 3, 1), seed=0)
    lake = str((home / "lake").absolute())
    shutil.rmtree(lake, ignore_errors=True)
    words = ["ingest-events", "--all-partitions", "--source", str(home / "deliveries")]
    if main([*words, "--lake", lake]):
        sys.exit("the generated shop could not be ingested")
    columns = [name for name in EVENTS.stored.names if name not in ("source_file", "ingested_ds")]
    events = Lake(lake, Run.unrecorded()).read("events", columns=columns)
    dataset.mkdir(parents=True, exist_ok=True)
    pq.write_table(events, dataset / "events.parquet")
    return dataset


def protocol_of(dataset: Path) -> str:
    """Say how a dataset is split: by time, or by position where its times are no times.

    Raises:
        InputError: If the dataset cannot be read.
    """
    return "leave-one-out" if read_dataset(dataset).order_only else "temporal"


def bench() -> None:
    """Measure what is missing and print each ranker's line."""
    HOME.mkdir(parents=True, exist_ok=True)
    if "ITEMS" in os.environ:
        bench_scale(HOME)
        return
    named = os.environ.get("DATASET")
    dataset = Path(named) if named else shop_dataset(HOME)
    try:
        protocol = protocol_of(dataset)
    except InputError as error:
        sys.exit(f"DATASET={dataset}: {error}")
    for ranker in RANKERS:
        out = HOME / f"{dataset.name}-{ranker}.json"
        if out.exists():
            print(f"{out} is there already; delete it to measure again")
            continue
        words = ["benchmark", "--dataset", str(dataset), "--ranker", ranker, "--out", str(out)]
        words += ["--protocol", protocol]
        if os.environ.get("QUICK") == "1":
            words += ["--cpu-seconds", QUICK_CPU_SECONDS]
        code = main(words)
        if code:
            sys.exit(code)


if __name__ == "__main__":
    bench()
