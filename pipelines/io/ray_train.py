"""Train one ranker on Ray Train workers, from the last checkpoint where there is one.

Every worker streams its own shard of the sequences partition out of the lake (Arrow directly: the
order of rows must be the same after a restart) and all take the same number of steps. A checkpoint
holds the fitter's whole state: weights, optimiser, random numbers and the place in the data.
"""

import io
import os
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import ray.train
import ray.train.torch
import torch
from pyarrow.fs import FileSystem, FileType
from torch import Tensor

from models.base import Ranker
from models.batch import SequenceBatch
from models.fitting import EpochResult, FitConfig, Fitter, NonFiniteLossError, StepState
from models.registry import from_spec
from pipelines.errors import InputError
from pipelines.histories import Shard, read_histories, split_histories
from pipelines.io.cluster import ray_cluster
from pipelines.io.lake import Lake
from pipelines.io.progress import progress_board
from pipelines.run import Run
from pipelines.settings import Settings, TrainSettings

FINAL, FAILED = "final", "failed"
FINAL_FILE = "final.pt"


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


def train_on_ray(job: Job, settings: Settings) -> Trained:
    """Run the job to its end, resuming what an earlier attempt left.

    Raises:
        InputError: the loss stopped being finite; names the step and the last good checkpoint.
    """
    with ray_cluster(settings.ray), progress_board() as board:
        trainer = ray.train.torch.TorchTrainer(
            _worker,
            train_loop_config={"job": asdict(job), "board": board},
            scaling_config=ray.train.ScalingConfig(
                num_workers=settings.ray.num_workers,
                use_gpu=settings.ray.use_gpu,
                resources_per_worker={"CPU": settings.ray.cpus_per_worker}
                | ({"GPU": 1} if settings.ray.use_gpu else {}),
            ),
            run_config=ray.train.RunConfig(
                name=job.name,
                storage_path=storage_folder(settings),
                failure_config=ray.train.FailureConfig(max_failures=settings.ray.max_failures),
                checkpoint_config=ray.train.CheckpointConfig(num_to_keep=2),
            ),
        )
        result = trainer.fit()
    metrics = result.metrics or {}
    if FAILED in metrics:
        raise InputError(str(metrics[FAILED]))
    assert result.checkpoint is not None, "a finished run reports its final checkpoint"
    with result.checkpoint.as_directory() as folder:
        state = torch.load(Path(folder) / FINAL_FILE, weights_only=True)
    curve = [EpochResult(**point) for point in state["curve"]]
    return Trained(state["weights"], curve, str(state["device"]))


def _worker(config: dict[str, Any]) -> None:
    """Train on this worker's shard; runs on every Ray Train worker."""
    job, board = Job(**config["job"]), config["board"]
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    torch.set_num_threads(job.threads)
    device = ray.train.torch.get_device()
    checkpoint = ray.train.get_checkpoint()
    finished = checkpoint and _read(checkpoint, FINAL_FILE)
    if finished:  # the run had ended, but what came after it had not
        _report({}, {FINAL_FILE: finished} if rank == 0 else {}, FINAL)
        return
    fitter = _fitter(job, rank, world, device)
    if checkpoint is not None:
        _resume(fitter, checkpoint, rank)
        board.add.remote({"event": "resumed", "run": job.name, "step": fitter.step})
    saved = [""]

    def after_step(state: StepState) -> None:
        if state.step % job.checkpoint_every == 0 and state.batch < state.num_batches:
            saved[0] = _save(fitter, rank, {"loss": state.loss})

    try:
        while not fitter.finished:
            result = fitter.run_epoch(after_step)
            if rank == 0:
                board.add.remote(_line(result))
            saved[0] = _save(fitter, rank, {"validation": result.validation or 0.0})
    except NonFiniteLossError as error:
        good = saved[0] or "none yet"
        ray.train.report({FAILED: f"{error}; last good checkpoint of run {job.name}: {good}"})
        return
    fitter.restore_best()
    _finish(fitter, rank)


def _fitter(job: Job, rank: int, world: int, device: torch.device) -> Fitter:
    lake = Lake(job.lake_uri, Run.unrecorded(), job.storage_options)
    lake.pin("sequences", job.sequences_version)
    store = read_histories(lake, job.ds, job.actions, Shard(rank, world))
    split = split_histories(store, TrainSettings(**job.train), job.cuts)
    ranker = from_spec(job.spec)
    files, path = FileSystem.from_uri(job.start)
    with files.open_input_file(path) as stream:
        ranker.load_state_dict(torch.load(io.BytesIO(stream.read()), weights_only=True))
    forward: Callable[[SequenceBatch], dict[str, Tensor]] = ranker
    if world > 1:
        wrapped = ray.train.torch.prepare_model(ranker)
        forward = _all_or_none_finite(wrapped, device)
    # The shard is this worker's own, so the fitter deals it as if alone and agrees on steps only.
    return Fitter(
        ranker,
        split.train,
        FitConfig(**job.fit),
        split.validation,
        rank=0 if world == 1 else rank,
        world=1,
        device=device,
        forward=forward,
        reduce_sum=_sum_over(world),
        num_batches=job.num_batches,
    )


def _sum_over(world: int) -> Callable[[Tensor], Tensor]:
    def total(values: Tensor) -> Tensor:
        if world > 1:
            torch.distributed.all_reduce(values)
        return values

    return total


def _all_or_none_finite(
    forward: Callable[[SequenceBatch], dict[str, Tensor]], device: torch.device
) -> Callable[[SequenceBatch], dict[str, Tensor]]:
    """Make a loss that is not finite on one worker stop all: others would wait for its gradient."""

    def checked(batch: SequenceBatch) -> dict[str, Tensor]:
        terms = forward(batch)
        total = torch.stack([term.detach().float() for term in terms.values()]).sum()
        broken = (~torch.isfinite(total)).float().reshape(1).to(device)
        torch.distributed.all_reduce(broken)
        if float(broken) > 0:
            return {name: term * float("nan") for name, term in terms.items()}
        return terms

    return checked


def _save(fitter: Fitter, rank: int, metrics: dict[str, float]) -> str:
    """Report a checkpoint: rank 0 stores everything, the others their random numbers."""
    name = f"step-{fitter.step:09d}-epoch-{fitter.epoch:04d}"
    state = fitter.state_dict()
    if rank > 0:
        state = {key: state[key] for key in ("torch_rng", "cuda_rng") if key in state}
    _report(metrics, {f"state-{rank}.pt": state}, name)
    return name


def _finish(fitter: Fitter, rank: int) -> None:
    ranker: Ranker = fitter.ranker
    weights = {name: tensor.detach().cpu() for name, tensor in ranker.state_dict().items()}
    final = {
        "weights": weights,
        "curve": [asdict(point) for point in fitter.curve],
        "device": str(fitter.device),
    }
    _report({}, {FINAL_FILE: final} if rank == 0 else {}, FINAL)


def _report(metrics: dict[str, float], files: dict[str, Any], name: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for file, content in files.items():
            torch.save(content, os.path.join(folder, file))
        checkpoint = ray.train.Checkpoint.from_directory(folder) if files else None
        ray.train.report(metrics, checkpoint=checkpoint, checkpoint_dir_name=name)


def _read(checkpoint: ray.train.Checkpoint, file: str) -> dict[str, Any] | None:
    with checkpoint.as_directory() as folder:
        path = Path(folder) / file
        if not path.exists():
            return None
        state: dict[str, Any] = torch.load(path, weights_only=True)
        return state


def _resume(fitter: Fitter, checkpoint: ray.train.Checkpoint, rank: int) -> None:
    state = _read(checkpoint, "state-0.pt")
    assert state is not None, "every checkpoint but the final one holds rank 0's state"
    if rank > 0:
        state |= _read(checkpoint, f"state-{rank}.pt") or {}
    fitter.load_state_dict(state)


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
