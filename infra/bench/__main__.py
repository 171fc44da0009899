"""Measure Reckoner and its peers in turn and write `docs/benchmarks.md`'s tables of speed.

`QUICK=1` measures few CPU seconds, one peer in training, no accuracy and one catalogue: under ten
minutes, and its tables go to `.reckoner/bench/quick` instead. `DATASET=DIR` names the log to train
on. What is measured is kept under `.reckoner/bench` line by line: a run that was stopped goes on
where it was.
"""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from infra.bench.contenders import (
    ACCURACY,
    QUICK_TRAINING,
    SCORING,
    SCRIPTS,
    TRAINING,
    Contender,
)
from infra.bench.tables import write_tables
from models.evaluation import leave_one_out_split
from models.sequences import SequenceStore
from pipelines.io.dataset import read_dataset

HOME = Path(".reckoner/bench")
QUICK = os.environ.get("QUICK") == "1"
ROUNDS = 5
SECONDS = 3.0 if QUICK else 10.0
TRAINED = tuple(one for one in TRAINING if not QUICK or one.name in QUICK_TRAINING)
CATALOGUES = (100_000,) if QUICK else (10_000, 100_000, 1_000_000, 10_000_000)
# CPU seconds of training after which accuracy is taken.
MARKS = "30,60,120,300"
LIMIT = 1800


def log_rows(dataset: Path) -> tuple[Path, Path]:
    """Write a dataset's leave-one-out parts, once: training and test rows of (user, item).

    A test user's rows are all that is known of it, and last the item that came next.
    """
    names = [HOME / f"{dataset.name}-{part}.parquet" for part in ("train", "test")]
    if not all(name.exists() for name in names):
        split = leave_one_out_split(read_dataset(dataset).store)
        users, items = flat(split.train)
        pq.write_table(pa.table({"user": users, "item": items}), names[0])
        users, items = flat(split.test.history)
        users = np.concatenate([users, np.arange(len(split.test), dtype=np.int32)])
        items = np.concatenate([items, split.test.targets.astype(np.int32)])
        order = np.argsort(users, kind="stable")
        pq.write_table(pa.table({"user": users[order], "item": items[order]}), names[1])
    return names[0], names[1]


def flat(store: SequenceStore) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Lay the rows of a store one after the other: their numbers and their items."""
    rows, places = store.flat_events()
    return rows.astype(np.int32), store.items[places].astype(np.int32)


def measure(contender: Contender, python: str, words: list[str]) -> dict[str, Any]:
    """Run one adapter and return its line; an error becomes a line that says so."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    command = [python, str(SCRIPTS / contender.script), *words, "--variant", contender.variant]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, env=environment, timeout=LIMIT, check=True
        )
        result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except subprocess.CalledProcessError as error:
        return {"failed": (error.stderr.strip().splitlines() or ["no word on stderr"])[-1]}
    except (subprocess.TimeoutExpired, json.JSONDecodeError, IndexError) as error:
        return {"failed": f"{type(error).__name__}: {error}"}
    return result


def take_rounds(task: str, contenders: tuple[Contender, ...], words: list[str]) -> None:
    """Let all contenders run in turn, round after round, and keep each line at once."""
    out = HOME / f"{task}{'-quick' if QUICK else ''}.jsonl"
    done = {(line["round"], line["name"]) for line in lines_of(out)}
    pythons: dict[str, str] = {}
    for contender in contenders:
        try:
            pythons[contender.name] = contender.python(HOME)
        except (RuntimeError, OSError) as error:
            print(f"{contender.name} is left out: {error}", flush=True)
    for turn in range(ROUNDS):
        for contender in contenders:
            if contender.name not in pythons or (turn, contender.name) in done:
                continue
            result = measure(contender, pythons[contender.name], [*words, "--seed", str(turn)])
            line = {"task": task, "round": turn, "name": contender.name} | result
            with out.open("a") as file:
                file.write(json.dumps(line) + "\n")
            print(json.dumps(line), flush=True)


def lines_of(file: Path) -> Iterator[dict[str, Any]]:
    """Read back what was measured."""
    if file.exists():
        yield from (json.loads(line) for line in file.read_text().splitlines())


def bench() -> None:
    """Measure what is missing, then write the tables."""
    HOME.mkdir(parents=True, exist_ok=True)
    dataset = Path(os.environ.get("DATASET", HOME / "shop"))
    if (dataset / "events.parquet").exists():
        train, test = log_rows(dataset)
        words = ["--train", str(train)]
        take_rounds(f"train-{dataset.name}", TRAINED, [*words, "--seconds", str(SECONDS)])
        if not QUICK:
            words += ["--test", str(test), "--marks", MARKS]
            take_rounds(f"accuracy-{dataset.name}", ACCURACY, words)
    else:
        print(f"{dataset}/events.parquet does not exist: name a folder with DATASET=DIR")
    for items in CATALOGUES:
        words = ["--items", str(items), "--seconds", str(SECONDS)]
        take_rounds(f"top-{items}", SCORING, words)
    kept = [file for file in HOME.glob("*.jsonl") if file.stem.endswith("-quick") == QUICK]
    lines = [line for file in sorted(kept) for line in lines_of(file)]
    # A quick look replaces no figures that took their time.
    docs = HOME / "quick" if QUICK else Path("docs")
    write_tables(lines, docs)
    if lines:
        print(f"tables are in {docs / 'benchmarks.md'}")


if __name__ == "__main__":
    bench()
