"""A generated catalogue of any size: a stretch of training, lists for some users, what they cost.

`make bench ITEMS=10000000` runs it; `WORKERS=2` lays the item table over two processes.
"""

import json
import os
import resource
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.multiprocessing.spawn import spawn

from models import registry
from models.base import Ranker
from models.encoding import encode_rows
from models.fitting import FitConfig, Fitter, Forward, StepState
from models.item_table import tables_over
from models.kept_memory import keep_freed_memory
from models.parallel import replicated
from models.seen import SeenItems
from models.sequences import SequenceStore
from models.top_k import top_k
from models.workers import ALONE, Workers

MIB = 1 << 20


@dataclass(frozen=True)
class Stretch:
    """What is measured.

    Attributes:
        items: Catalogue size.
        steps: Training steps.
        rows: Rows per step, over all workers.
        users: Users that get lists.
        top: Length of a list.
        dim: Width of vectors.
        length: Events per row.
        workers: Processes that hold the table.
    """

    items: int
    steps: int = 200
    rows: int = 64
    users: int = 256
    top: int = 100
    dim: int = 64
    length: int = 50
    workers: int = 1


def walks(stretch: Stretch) -> SequenceStore:
    """Rows that walk along the catalogue in short strides from a popular start (Zipf)."""
    draw = np.random.default_rng(0)
    count = stretch.steps * stretch.rows
    start = draw.zipf(1.2, (count, 1)) % stretch.items
    strides = draw.integers(1, 4, (count, stretch.length)).cumsum(axis=1)
    items = (start + strides) % stretch.items + 1
    return SequenceStore.from_arrays(items.ravel(), np.arange(count + 1) * stretch.length)


def measure(stretch: Stretch) -> list[dict[str, Any]]:
    """Train and score; returns what each worker measured."""
    if stretch.workers == 1:
        return [_measure(stretch, ALONE)]
    with tempfile.TemporaryDirectory() as folder:
        spawn(_join, (stretch, folder), nprocs=stretch.workers)
        files = [Path(folder) / f"{rank}.json" for rank in range(stretch.workers)]
        return [json.loads(file.read_text()) for file in files]


def _join(rank: int, stretch: Stretch, folder: str) -> None:
    torch.set_num_threads(max(torch.get_num_threads() // stretch.workers, 1))
    keep_freed_memory()
    meeting = f"file://{folder}/meeting"
    dist.init_process_group("gloo", meeting, rank=rank, world_size=stretch.workers)
    mesh = init_device_mesh("cpu", (stretch.workers,))
    report = _measure(stretch, Workers(mesh))
    (Path(folder) / f"{rank}.json").write_text(json.dumps(report))
    dist.destroy_process_group()


def _measure(stretch: Stretch, workers: Workers) -> dict[str, Any]:
    store = walks(stretch)
    torch.manual_seed(workers.rank)
    settings = {"dim": stretch.dim, "max_length": stretch.length, "dropout": 0.1}
    with tables_over(workers):
        ranker = registry.build("sasrec", stretch.items, **settings)
    ranker.fit_statistics(store)
    # Every id may be listed: a catalogue this size is scored whole.
    ranker.known_N1[1:] = True
    recipe = FitConfig(batch_size=stretch.rows // workers.world, max_epochs=1)

    def wrap(whole: Ranker) -> Forward:
        return whole if workers.mesh is None else replicated(whole)

    fitter = Fitter(
        ranker, store, recipe, rank=workers.rank, world=workers.world, wrap=wrap,
        reduce_sum=workers.sum,
    )  # fmt: skip
    losses: list[float] = []
    began = time.perf_counter()
    fitter.run_epoch(lambda at: _note(at, losses, workers))
    train_seconds = time.perf_counter() - began
    users = store.take(np.arange(stretch.users))
    began, cpu_began = time.perf_counter(), time.process_time()
    queries = encode_rows(ranker, users)
    scores, _ = top_k(ranker, queries, stretch.top, exclude=SeenItems.from_store(users))
    score_seconds = time.perf_counter() - began
    cpu_seconds = {"train": fitter.cpu_seconds, "score": time.process_time() - cpu_began}
    assert bool(torch.isfinite(scores).all())
    return asdict(stretch) | {
        "loss": [round(float(np.mean(part)), 4) for part in (losses[:10], losses[-10:])],
        "steps_per_second": round(fitter.step / train_seconds, 2),
        "targets_per_second": round(fitter.num_targets / train_seconds, 1),
        "users_per_second": round(stretch.users / score_seconds, 2),
        "cpu_seconds": {name: round(value, 1) for name, value in cpu_seconds.items()},
        "table_mb": round(fitter.table_bytes / MIB, 1),
        "peak_memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
    }


def _note(at: StepState, losses: list[float], workers: Workers) -> None:
    losses.append(at.loss)
    if workers.rank == 0 and at.batch % 20 == 0:
        print(f"step {at.batch}/{at.num_batches}: loss {at.loss:.4f}", flush=True)


def bench_scale(home: Path) -> None:
    """Measure what `ITEMS` and `WORKERS` name and write it down."""
    stretch = Stretch(int(os.environ["ITEMS"]), workers=int(os.environ.get("WORKERS", "1")))
    reports = measure(stretch)
    out = home / f"items-{stretch.items}-workers-{stretch.workers}.json"
    out.write_text(json.dumps(reports, indent=1) + "\n")
    print(out.read_text())
