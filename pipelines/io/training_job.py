"""One worker's part of a training run, wherever it runs, from the last checkpoint on.

Every worker streams its own shard of the sequences partition out of the lake (Arrow directly: the
order of rows must be the same after a restart) and all take the same number of steps. A checkpoint
holds the fitter's whole state: weights, optimiser, random numbers and the place in the data. Where
weights lie in parts over the workers, each stores its own.
"""

import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import structlog
import torch
from torch import Tensor

from models.base import Ranker
from models.fitting import EpochResult, FitConfig, Fitter, Forward, NonFiniteLossError, StepState
from models.item_table import PartedTableError, tables_over
from models.kept_memory import keep_freed_memory
from models.local_state import load_whole
from models.parallel import whole_weights
from models.registry import from_spec
from models.workers import ALONE, Workers
from pipelines.errors import InputError
from pipelines.histories import Shard, read_histories, split_histories
from pipelines.io.lake import Lake
from pipelines.io.run_files import read_start
from pipelines.run import Run
from pipelines.settings.groups import TrainSettings

log = structlog.get_logger()

FINAL = "final"
FINAL_FILE = "final.pt"
KEPT = 2


@dataclass(frozen=True)
class Job:
    """What a training run needs, plain enough to travel to its workers.

    Attributes:
        name: the run's name in storage; the same name resumes.
        start: file with the ranker's first state (drawn and counted once, by the driver).
        cuts: unix times that bound the training and the validation events.
        num_batches: steps per epoch of every worker.
        shard_items: lay the item table by rows over the workers.
        parallel: "ddp" or "fsdp2", for everything else.
    """

    name: str
    lake_uri: str
    storage_options: dict[str, str]
    sequences_version: int
    ds: str
    actions: tuple[str, ...]
    spec: dict[str, Any]
    fit: dict[str, Any]
    cuts: tuple[int, int]
    num_batches: int
    start: str
    checkpoint_every: int
    train: dict[str, Any]
    threads: int
    shard_items: bool
    parallel: str


@dataclass(frozen=True)
class Trained:
    """The curve of a finished run, and where it ran."""

    curve: list[EpochResult]
    device: str

    @classmethod
    def read(cls, folder: str | Path, ranker: Ranker) -> "Trained":
        """Read a run's final checkpoint, its best weights straight into a whole ranker."""
        state = torch.load(Path(folder) / FINAL_FILE, weights_only=True, mmap=True)
        load_whole(ranker, state["weights"])
        for part in state["rows"]:  # each mapped and copied in turn: never twice the table
            saved = torch.load(Path(folder) / part, weights_only=True, mmap=True)
            table = ranker.item_table
            assert table is not None
            table.local.detach()[saved["first"] :][: len(saved["rows"])] = saved["rows"]
        curve = [EpochResult(**point) for point in state["curve"]]
        return cls(curve, str(state["device"]))


class Desk(Protocol):
    """Where a worker leaves checkpoints and progress lines, and finds them again."""

    def load(self, file: str) -> dict[str, Any] | None:
        """Read a file of the newest checkpoint; None where there is none."""

    def save(self, name: str, files: dict[str, dict[str, Any]]) -> None:
        """Store a checkpoint; every worker calls it equally often."""

    def note(self, line: dict[str, Any]) -> None:
        """Pass a progress line on."""


@dataclass(frozen=True)
class Team:
    """This worker among all, and how they work together.

    Attributes:
        wrap: turns the ranker into the forward pass of parallel training.
        reduce_sum: sums a tensor over the workers.
        holders: who holds the item table.
    """

    rank: int
    world: int
    device: torch.device
    wrap: Callable[[Ranker], Forward]
    reduce_sum: Callable[[Tensor], Tensor]
    holders: Workers = ALONE


def run_job(job: Job, desk: Desk, team: Team) -> None:
    """Train to the end and leave the final checkpoint.

    Raises:
        InputError: the loss stopped being finite; names the step and the last good checkpoint.
    """
    torch.set_num_threads(job.threads)
    keep_freed_memory()
    finished = desk.load(FINAL_FILE)
    if finished is not None:  # the run had ended, but what came after it had not
        desk.save(FINAL, _final_again(finished, desk, team.rank))
        return
    fitter = _fitter(job, team)
    state = _reload_state(desk, team.rank)
    if state is not None:
        fitter.load_state_dict(state)
        desk.note({"event": "resumed", "run": job.name, "step": fitter.step})
    saved = ["none yet" if state is None else f"step {fitter.step}"]

    def checkpoint() -> None:
        saved[0] = f"step-{fitter.step:09d}-epoch-{fitter.epoch:04d}"
        desk.save(saved[0], {f"state-{team.rank}.pt": _state(fitter, job, team)})

    def after_step(at: StepState) -> None:
        if at.step % job.checkpoint_every == 0 and at.batch < at.num_batches:
            checkpoint()

    try:
        while not fitter.finished:
            result = fitter.run_epoch(after_step)
            if team.rank == 0:
                desk.note(_line(result))
            checkpoint()
    except PartedTableError as error:
        raise InputError(f"{job.spec['name']}: {error}") from error
    except NonFiniteLossError as error:
        raise InputError(f"{error}; last good checkpoint of {job.name}: {saved[0]}") from error
    fitter.restore_best()
    desk.save(FINAL, _final_files(fitter, team))


def _fitter(job: Job, team: Team) -> Fitter:
    lake = Lake(job.lake_uri, Run.unrecorded(), job.storage_options)
    lake.pin("sequences", job.sequences_version)
    store = read_histories(lake, job.ds, job.actions, Shard(team.rank, team.world))
    split = split_histories(store, TrainSettings(**job.train), job.cuts)
    with tables_over(team.holders):
        ranker = from_spec(job.spec)
    read_start(job.start, ranker)
    return Fitter(
        ranker,
        split.train,
        FitConfig(**job.fit),
        split.validation,
        rank=team.rank,
        world=team.world,
        device=team.device,
        wrap=team.wrap,
        reduce_sum=team.reduce_sum,
        num_batches=job.num_batches,
    )


def _state(fitter: Fitter, job: Job, team: Team) -> dict[str, Any]:
    """What a worker stores: its parts; where all hold the same, rank 0 stores it for all."""
    state = fitter.live_state()
    if team.rank > 0 and team.holders.world == 1 and job.parallel == "ddp":
        state = {key: state[key] for key in ("torch_rng", "cuda_rng") if key in state}
    return state


def _reload_state(desk: "Desk", rank: int) -> dict[str, Any] | None:
    own = desk.load(f"state-{rank}.pt")
    if own is None or "ranker" in own:
        return own
    first = desk.load("state-0.pt")
    return None if first is None else first | own


def _final_files(fitter: Fitter, team: Team) -> dict[str, dict[str, Any]]:
    """Rank 0 stores the weights; of an item table in parts every worker stores its rows."""
    weights = whole_weights(fitter.ranker)
    parted = team.holders.world > 1
    rows = [_rows_file(rank) for rank in range(team.world)] if parted else []
    curve = [asdict(point) for point in fitter.curve]
    files: dict[str, dict[str, Any]] = {}
    if team.rank == 0:
        device = str(fitter.device)
        files[FINAL_FILE] = {"weights": weights, "rows": rows, "curve": curve, "device": device}
    if parted:
        table = fitter.ranker.item_table
        assert table is not None
        first, last = table.span
        held = table.local.detach()[: last - first].cpu()
        files[_rows_file(team.rank)] = {"first": first, "rows": held.clone()}
    return files


def _rows_file(rank: int) -> str:
    return f"final-rows-{rank}.pt"


def _final_again(finished: dict[str, Any], desk: "Desk", rank: int) -> dict[str, dict[str, Any]]:
    files = {FINAL_FILE: finished} if rank == 0 else {}
    mine = _rows_file(rank)
    rows = desk.load(mine) if mine in finished["rows"] else None
    return files if rows is None else files | {mine: rows}


def _line(result: EpochResult) -> dict[str, Any]:
    return {
        "event": "epoch",
        "epoch": result.epoch + 1,
        "loss": round(sum(result.losses.values()), 4),
        "validation_ndcg_at_10": result.validation and round(result.validation, 5),
        "best": result.best,
        "targets": result.targets,
        "cpu_seconds": result.cpu_seconds,
    }


def write_files(folder: str, files: dict[str, dict[str, Any]]) -> None:
    """Write a checkpoint's files into a folder."""
    for name, content in files.items():
        torch.save(content, os.path.join(folder, name))


class FolderDesk:
    """Checkpoints of a run in this very process: a folder each, renamed into place when whole."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def load(self, file: str) -> dict[str, Any] | None:
        """Read a file of the newest checkpoint."""
        found = self._whole()
        if not found or not (found[-1] / file).exists():
            return None
        state: dict[str, Any] = torch.load(found[-1] / file, weights_only=True, mmap=True)
        return state

    def save(self, name: str, files: dict[str, dict[str, Any]]) -> None:
        """Write a checkpoint and drop all but the newest ones."""
        part = self._folder / f".part-{name}"
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        write_files(str(part), files)
        shutil.rmtree(self._folder / name, ignore_errors=True)
        part.rename(self._folder / name)
        for old in self._whole()[:-KEPT]:
            shutil.rmtree(old)

    def note(self, line: dict[str, Any]) -> None:
        """Log a progress line."""
        log.info(line.pop("event"), **line)

    def _whole(self) -> list[Path]:
        """Complete checkpoints, oldest first; the final one is the newest."""
        names = [path for path in self._folder.iterdir() if not path.name.startswith(".")]
        return sorted(names, key=lambda path: (path.name == FINAL, path.name))
