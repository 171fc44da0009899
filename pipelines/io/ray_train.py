"""Train one ranker on Ray Train workers; with none asked for, in this process."""

import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh

from models.base import Ranker
from models.batch import SequenceBatch
from models.fitting import Forward
from models.parallel import fully_sharded, replicated
from models.workers import ALONE, Workers
from pipelines.errors import InputError
from pipelines.io.cluster import ray_cluster, require_room
from pipelines.io.progress import progress_board
from pipelines.io.run_files import storage_folder
from pipelines.io.training_job import (
    KEPT,
    FolderDesk,
    Job,
    Team,
    Trained,
    run_job,
    write_files,
)
from pipelines.settings import Settings


def train(job: Job, settings: Settings, ranker: Ranker) -> Trained:
    """Run the job to its end, resuming what an earlier attempt left; load its weights.

    Raises:
        InputError: the workers never fit on this machine, or the loss stopped being finite; names
            the step and the last good checkpoint.
    """
    if settings.ray.num_workers == 0:
        return _train_here(job, settings, ranker)
    with ray_cluster(settings.ray), progress_board() as board:
        require_room(settings.ray)
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
                checkpoint_config=ray.train.CheckpointConfig(num_to_keep=KEPT),
            ),
        )
        result = trainer.fit()
        refusal = ray.get(board.refusal.remote())
    if refusal is not None:
        raise InputError(refusal)
    assert result.checkpoint is not None, "a finished run reports its final checkpoint"
    with result.checkpoint.as_directory() as folder:
        return Trained.read(folder, ranker)


def _train_here(job: Job, settings: Settings, ranker: Ranker) -> Trained:
    folder = Path(storage_folder(settings)) / job.name
    device = torch.device("cuda" if settings.ray.use_gpu else "cpu")
    alone = Team(0, 1, device, lambda ranker: ranker, lambda values: values)
    run_job(job, FolderDesk(folder), alone)
    return Trained.read(folder / "final", ranker)


def _worker(config: dict[str, Any]) -> None:
    """Train on this worker's shard; runs on every Ray Train worker."""
    context = ray.train.get_context()
    world = context.get_world_size()
    device = ray.train.torch.get_device()

    job = Job(**config["job"])
    mesh = init_device_mesh(device.type, (world,)) if world > 1 else None

    def wrap(ranker: Ranker) -> Forward:
        if mesh is None:
            return ranker
        forward = fully_sharded(ranker, mesh) if job.parallel == "fsdp2" else replicated(ranker)
        return _all_or_none_finite(forward, device)

    def reduce_sum(values: Tensor) -> Tensor:
        if world > 1:
            torch.distributed.all_reduce(values)
        return values

    holders = Workers(mesh) if job.shard_items else ALONE
    team = Team(context.get_world_rank(), world, device, wrap, reduce_sum, holders)
    try:
        run_job(job, RayDesk(config["board"]), team)
    except InputError as error:
        # Raised, it would be retried as a worker's failure, and the same weights diverge again.
        # Reported without a checkpoint, it would never reach the driver.
        ray.get(config["board"].refuse.remote(str(error)))


class RayDesk:
    """Checkpoints that Ray Train keeps in the run's storage."""

    def __init__(self, board: Any) -> None:
        self._board = board

    def load(self, file: str) -> dict[str, Any] | None:
        """Read a file of the checkpoint that the run resumes from."""
        checkpoint = ray.train.get_checkpoint()
        if checkpoint is None:
            return None
        with checkpoint.as_directory() as folder:
            path = Path(folder) / file
            if not path.exists():
                return None
            state: dict[str, Any] = torch.load(path, weights_only=True, mmap=True)
            return state

    def save(self, name: str, files: dict[str, dict[str, Any]]) -> None:
        """Report a checkpoint; a barrier over all workers."""
        with tempfile.TemporaryDirectory() as folder:
            write_files(folder, files)
            checkpoint = ray.train.Checkpoint.from_directory(folder) if files else None
            ray.train.report({}, checkpoint=checkpoint, checkpoint_dir_name=name)

    def note(self, line: dict[str, Any]) -> None:
        """Send a progress line to the driver."""
        self._board.add.remote(line)


def _all_or_none_finite(forward: Forward, device: torch.device) -> Forward:
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
