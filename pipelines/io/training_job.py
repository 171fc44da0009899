"""One worker's part of a training run, wherever it runs, from the last checkpoint on.

Every worker streams its own shard of the sequences partition out of the lake (Arrow directly: the
order of rows must be the same after a restart) and all take the same number of steps. A checkpoint
holds the fitter's whole state: weights, optimiser, random numbers and the place in the data.
"""

import io
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import structlog
import torch
from pyarrow.fs import FileSystem, FileType
from torch import Tensor

from models.base import Ranker
from models.fitting import EpochResult, FitConfig, Fitter, Forward, NonFiniteLossError, StepState
from models.registry import from_spec
from pipelines.errors import InputError
from pipelines.histories import Shard, read_histories, split_histories
from pipelines.io.lake import Lake
from pipelines.run import Run
from pipelines.settings import Settings, TrainSettings

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


@dataclass(frozen=True)
class Trained:
    """The best weights and the curve of a finished run."""

    weights: dict[str, Tensor]
    curve: list[EpochResult]
    device: str

    @classmethod
    def read(cls, folder: str | Path) -> "Trained":
        """Read a run's final checkpoint."""
        state = torch.load(Path(folder) / FINAL_FILE, weights_only=True)
        curve = [EpochResult(**point) for point in state["curve"]]
        return cls(state["weights"], curve, str(state["device"]))


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
    """

    rank: int
    world: int
    device: torch.device
    wrap: Callable[[Ranker], Forward]
    reduce_sum: Callable[[Tensor], Tensor]


def run_job(job: Job, desk: Desk, team: Team) -> None:
    """Train to the end and leave the final checkpoint.

    Raises:
        InputError: the loss stopped being finite; names the step and the last good checkpoint.
    """
    torch.set_num_threads(job.threads)
    finished = desk.load(FINAL_FILE)
    if finished is not None:  # the run had ended, but what came after it had not
        desk.save(FINAL, {FINAL_FILE: finished} if team.rank == 0 else {})
        return
    fitter = _fitter(job, team)
    state = desk.load("state-0.pt")
    if state is not None:
        fitter.load_state_dict(state | (desk.load(f"state-{team.rank}.pt") or {}))
        desk.note({"event": "resumed", "run": job.name, "step": fitter.step})
    saved = ["none yet" if state is None else f"step {fitter.step}"]

    def checkpoint() -> None:
        saved[0] = f"step-{fitter.step:09d}-epoch-{fitter.epoch:04d}"
        desk.save(saved[0], _state_files(fitter, team.rank))

    def after_step(at: StepState) -> None:
        if at.step % job.checkpoint_every == 0 and at.batch < at.num_batches:
            checkpoint()

    try:
        while not fitter.finished:
            result = fitter.run_epoch(after_step)
            if team.rank == 0:
                desk.note(_line(result))
            checkpoint()
    except NonFiniteLossError as error:
        raise InputError(f"{error}; last good checkpoint of {job.name}: {saved[0]}") from error
    fitter.restore_best()
    desk.save(FINAL, {FINAL_FILE: _final(fitter)} if team.rank == 0 else {})


def _fitter(job: Job, team: Team) -> Fitter:
    lake = Lake(job.lake_uri, Run.unrecorded(), job.storage_options)
    lake.pin("sequences", job.sequences_version)
    store = read_histories(lake, job.ds, job.actions, Shard(team.rank, team.world))
    split = split_histories(store, TrainSettings(**job.train), job.cuts)
    ranker = from_spec(job.spec)
    files, path = FileSystem.from_uri(job.start)
    with files.open_input_file(path) as stream:
        ranker.load_state_dict(torch.load(io.BytesIO(stream.read()), weights_only=True))
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


def _state_files(fitter: Fitter, rank: int) -> dict[str, dict[str, Any]]:
    """Rank 0 stores everything, the others their random numbers."""
    state = fitter.state_dict()
    if rank > 0:
        state = {key: state[key] for key in ("torch_rng", "cuda_rng") if key in state}
    return {f"state-{rank}.pt": state}


def _final(fitter: Fitter) -> dict[str, Any]:
    weights = {name: value.detach().cpu() for name, value in fitter.ranker.state_dict().items()}
    curve = [asdict(point) for point in fitter.curve]
    return {"weights": weights, "curve": curve, "device": str(fitter.device)}


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
        state: dict[str, Any] = torch.load(found[-1] / file, weights_only=True)
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


def storage_folder(settings: Settings) -> str:
    """Where checkpoints live: beside a local lake unless `ray.storage` is set."""
    if settings.ray.storage:
        return settings.ray.storage
    if "://" in settings.lake_uri:
        raise InputError(
            f"the lake {settings.lake_uri} is remote: set RECKONER_RAY__STORAGE to a folder that "
            "every Ray node reaches"
        )
    return str(Path(settings.lake_uri).absolute().parent / "training")


def store_start(name: str, settings: Settings, state: dict[str, Tensor]) -> str:
    """Write the ranker's first state where every worker reads it; returns the file's address."""
    uri = f"{storage_folder(settings)}/{name}.start.pt"
    files, path = FileSystem.from_uri(uri)
    files.create_dir(path.rsplit("/", 1)[0])
    content = io.BytesIO()
    torch.save(dict(state), content)
    with files.open_output_stream(path) as stream:
        stream.write(content.getvalue())
    return uri


def forget(name: str, settings: Settings) -> None:
    """Delete a finished run's checkpoints and first state."""
    files, folder = FileSystem.from_uri(f"{storage_folder(settings)}/{name}")
    if files.get_file_info(folder).type == FileType.Directory:
        files.delete_dir(folder)
    if files.get_file_info(f"{folder}.start.pt").type == FileType.File:
        files.delete_file(f"{folder}.start.pt")
