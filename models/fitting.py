"""Fit a ranker by gradients: in a plain process or as one of many workers, resumable bit for bit.

Shape legend: U validation users.
"""

import copy
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.base import Ranker
from models.batch import SequenceBatch, SequenceStore, steps_per_epoch, training_batches
from models.evaluation import Holdout
from models.local_state import load_parts, local_parts
from models.optimisers import Optimisers
from models.progress import Progress
from models.recipe import EpochResult, FitConfig, NonFiniteLossError, StepState
from models.validation import users_to_judge, validate

Losses = dict[str, Tensor]
Forward = Callable[[SequenceBatch], Losses]
__all__ = ["EpochResult", "FitConfig", "Fitter", "NonFiniteLossError", "StepState"]


def no_reduction(values: Tensor) -> Tensor:
    """Sum over the workers of a group of one."""
    return values


def unwrapped(ranker: Ranker) -> Forward:
    """Call the ranker itself: training in one process."""
    return ranker


class Fitter:
    """Trains one ranker from wherever it stands to the end of its recipe.

    It knows nothing of process groups: a worker passes its rank, a function that wraps the ranker
    for parallel training and one that sums a tensor over all workers.

    Args:
        ranker: Statistics already fitted (`fit_statistics`).
        train: Training rows: all of them on every rank, or with `num_batches` a shard.
        config: The recipe.
        validation: Held-out users for early stopping; None trains for `max_epochs`.
        rank: This worker among `world`.
        world: Workers that train together.
        device: Where to train.
        wrap: Turns the ranker into what takes a batch and returns the losses; called once per
            stage, since a stage may freeze parts. Default the ranker itself.
        reduce_sum: Sums a tensor over the workers.
        num_batches: Batches per epoch where `train` is this worker's own shard.
    """

    def __init__(
        self,
        ranker: Ranker,
        train: SequenceStore,
        config: FitConfig,
        validation: Holdout | None = None,
        rank: int = 0,
        world: int = 1,
        device: torch.device | str = "cpu",
        wrap: Callable[[Ranker], Forward] = unwrapped,
        reduce_sum: Callable[[Tensor], Tensor] = no_reduction,
        num_batches: int | None = None,
    ) -> None:
        self.ranker = ranker.to(device)
        self.config = config
        self.device = torch.device(device)
        self.curve: list[EpochResult] = []
        self._train = train
        self._plan = config.batch_plan(ranker.config.max_length)
        self._wrap = wrap
        self._reduce_sum = reduce_sum
        self._rank, self._world = rank, world
        self._sharded = num_batches is not None
        self._num_batches = (
            steps_per_epoch(train, self._plan, world) if num_batches is None else num_batches
        )
        if validation is not None:
            validation = users_to_judge(
                validation, config, rank, world, self._sharded, ranker.workers
            )
        self._validation = validation
        self._at = Progress()
        self._sums: dict[str, float] = {}
        self._best: dict[str, Tensor] | None = None
        self._seed_dropout()
        self._start_stage()

    def _start_stage(self) -> None:
        self.ranker.start_stage(self.ranker.stages[self._at.stage])
        # What is frozen now must not leave its last gradient in the norm that is clipped.
        self.ranker.zero_grad(set_to_none=True)
        self._forward = self._wrap(self.ranker)
        self._optimisers = Optimisers(self.ranker, self.config, self._world)

    @property
    def finished(self) -> bool:
        """Whether the recipe has come to its end."""
        return self._at.done

    @property
    def epoch(self) -> int:
        """Epochs completed."""
        return self._at.epoch

    @property
    def step(self) -> int:
        """Optimiser steps taken."""
        return self._at.step

    @property
    def num_targets(self) -> int:
        """Targets this worker has learnt from."""
        return self._at.targets

    @property
    def cpu_seconds(self) -> float:
        """Process CPU seconds spent in training: steps, and what epochs and stages start with."""
        return self._at.cpu_seconds

    @property
    def table_bytes(self) -> int:
        """Bytes of the item table and of its optimiser state that this process holds."""
        return self._optimisers.table_bytes

    @property
    def best_metric(self) -> float | None:
        """Best validation NDCG@10 so far."""
        return None if self._best is None else self._at.best

    def fit(
        self,
        on_step: Callable[[StepState], None] | None = None,
        on_epoch: Callable[[EpochResult], None] | None = None,
    ) -> list[EpochResult]:
        """Train to the end, keep the best weights where there is validation; returns the curve."""
        while not self.finished:
            result = self.run_epoch(on_step)
            if on_epoch is not None:
                on_epoch(result)
        self.restore_best()
        return self.curve

    def run_epoch(self, on_step: Callable[[StepState], None] | None = None) -> EpochResult:
        """Train from the current position to the end of the epoch, then validate.

        Raises:
            NonFiniteLossError: Before the weights of this step are touched.
            ValueError: If training has already finished.
        """
        if self.finished:
            raise ValueError("training has finished: nothing is left to run")
        at = self._at
        self.ranker.train()
        self.ranker.start_epoch(at.epoch - at.stage_began)
        if at.batch == 0:
            with self._paid():
                self.ranker.refresh()
        for batch in self._batches():
            with self._paid():
                loss = self._take_step(batch.to(self.device))
            at.batch += 1
            at.step += 1
            if on_step is not None:
                on_step(StepState(at.step, at.epoch, at.batch, self._num_batches, loss))
            if at.is_out_of_time(self.config, len(self.ranker.stages)):
                break
        return self._close_epoch()

    @contextmanager
    def _paid(self) -> Iterator[None]:
        """Count the process CPU seconds of what happens inside."""
        began = time.process_time()
        yield
        self._spend(time.process_time() - began)

    def _spend(self, seconds: float) -> None:
        if self.config.cpu_seconds is not None:
            # The budget decides pace and end, on which all workers must agree: each takes the mean.
            spent = torch.tensor(seconds, dtype=torch.float64, device=self.device)
            seconds = float(self._reduce_sum(spent)) / self._world
        self._at.cpu_seconds += seconds

    def restore_best(self) -> None:
        """Put the weights of the best validated epoch back, where there is one."""
        if self._best is not None:
            load_parts(self.ranker, self._best)

    def state_dict(self) -> dict[str, Any]:
        """Collect all that a fresh Fitter needs to go on as if nothing had happened."""
        return copy.deepcopy(self.live_state())

    def live_state(self) -> dict[str, Any]:
        """Like `state_dict`, but not copied: the next step changes it.

        Where weights lie in parts over several workers, it holds this worker's parts.
        """
        state: dict[str, Any] = {
            "ranker": local_parts(self.ranker.state_dict()),
            "optimisers": self._optimisers.state_dict(),
            "torch_rng": torch.get_rng_state(),
            "progress": asdict(self._at),
            "sums": dict(self._sums),
            "curve": [asdict(result) for result in self.curve],
            "best": self._best,
            "config": self.config.model_dump(mode="json"),
        }
        if self.device.type == "cuda":
            state["cuda_rng"] = torch.cuda.get_rng_state(self.device)
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state that `state_dict` returned.

        Raises:
            ValueError: If the state was made under another recipe.
        """
        mine = self.config.model_dump(mode="json")
        # A setting that came later stood at its default.
        theirs = FitConfig().model_dump(mode="json") | state["config"]
        changed = sorted(key for key in mine if theirs[key] != mine[key])
        if changed:
            raise ValueError(f"the checkpoint was made with other settings: {', '.join(changed)}")
        # Weights are copied where they are loaded; everything else must not stay the caller's.
        weights = state["ranker"]
        state = copy.deepcopy({key: value for key, value in state.items() if key != "ranker"})
        stage = self._at.stage
        self._at = Progress(**state["progress"])
        if self._at.stage != stage:
            self._start_stage()
        load_parts(self.ranker, weights)
        self._optimisers.load_state_dict(state["optimisers"])
        torch.set_rng_state(state["torch_rng"].cpu())
        if "cuda_rng" in state:
            torch.cuda.set_rng_state(state["cuda_rng"].cpu(), self.device)
        self._sums = state["sums"]
        self.curve = [EpochResult(**point) for point in state["curve"]]
        self._best = state["best"]

    def _seed_dropout(self) -> None:
        # Dropout must differ between workers, and must not depend on how the weights were drawn.
        seed = np.random.SeedSequence([self.config.seed, self._rank]).generate_state(1)[0]
        torch.manual_seed(int(seed))

    def _batches(self) -> Iterator[SequenceBatch]:
        rank, world = (0, 1) if self._sharded else (self._rank, self._world)
        return training_batches(
            self._train,
            self._plan,
            self._at.epoch,
            rank=rank,
            world=world,
            start_batch=self._at.batch,
            num_batches=self._num_batches if self._sharded else None,
        )

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.config.precision == "bf16":
            return torch.autocast(self.device.type, dtype=torch.bfloat16)
        return nullcontext()

    def _take_step(self, batch: SequenceBatch) -> float:
        at, config = self._at, self.config
        with self._autocast():
            terms = self._forward(batch)
        loss = torch.stack([term.float() for term in terms.values()]).sum()
        values = {name: float(term.detach()) for name, term in terms.items()}
        if not np.isfinite(sum(values.values())):
            raise NonFiniteLossError(at.step, at.epoch, at.batch, values)
        self._optimisers.zero_grad()
        loss.backward()
        norm = self._optimisers.clip(config.clip_norm if config.clip_norm > 0 else float("inf"))
        if not np.isfinite(norm):
            raise NonFiniteLossError(at.step, at.epoch, at.batch, values | {"gradient_norm": norm})
        self._optimisers.step(self._pace())
        at.targets += self.ranker.num_learnt(batch)
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        return sum(values.values())

    def _pace(self) -> float:
        return self._at.pace(self.config, len(self.ranker.stages), self._num_batches)

    def _close_epoch(self) -> EpochResult:
        at, config = self._at, self.config
        metric, better = None, False
        watch = self._validation is not None and config.cpu_seconds is None
        if watch and (at.epoch + 1) % config.eval_every == 0:
            metric = self.validate()
            better = at.take_metric(metric, config.eval_every)
            if better:
                self._best = copy.deepcopy(local_parts(self.ranker.state_dict()))
        losses = self._mean_losses()
        stage = self.ranker.stages[at.stage]
        seconds = round(at.cpu_seconds, 3)
        result = EpochResult(at.epoch, at.step, losses, metric, better, at.targets, seconds, stage)
        self.curve.append(result)
        at.epoch, at.batch, self._sums = at.epoch + 1, 0, {}
        if at.ends_stage(config, len(self.ranker.stages)):
            self._close_stage()
        return result

    def _mean_losses(self) -> dict[str, float]:
        """Average the epoch's loss terms over its steps and over the workers."""
        sums = torch.tensor(list(self._sums.values()), dtype=torch.float64)
        steps = max(self._at.batch, 1) * self._world
        means = (self._reduce_sum(sums.to(self.device)) / steps).tolist()
        return dict(zip(self._sums, means, strict=True))

    def _close_stage(self) -> None:
        at, stages = self._at, self.ranker.stages
        if at.stage + 1 == len(stages):
            at.done = True
            return
        self.restore_best()
        at.start_stage()
        if stages[at.stage] not in self.ranker.refining:
            self._best, at.best = None, -1.0
        with self._paid():
            self._start_stage()

    def validate(self) -> float:
        """Mean NDCG@10 over the validation users of all workers."""
        assert self._validation is not None
        return validate(self.ranker, self._validation, self.config.eval_seen, self._reduce_sum)
