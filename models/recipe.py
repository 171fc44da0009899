"""What a training run is told and what it reports back."""

from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from models.batch import BatchPlan


class FitConfig(BaseModel):
    """Training recipe.

    Attributes:
        batch_size: Rows per batch and worker.
        max_epochs: Epochs per stage at most.
        lr: Adam's learning rate.
        weight_decay: Decoupled decay; 0 is plain Adam.
        table_optimiser: "adamw" treats the item table as all other weights; "rows" updates the rows
            that a step touches by Adagrad with one accumulator per row, which needs a fraction of
            the memory and time where a step touches few; "auto" takes "rows" from 1e5 items on
            where the loss samples its negatives.
        table_lr: Learning rate of "rows".
        warmup_steps: Steps over which the learning rate rises from 0.
        cooldown: Last share of a stage over which the learning rate falls in a straight line to 0.
            A stage ends at `max_epochs`, or with its share of `cpu_seconds`; one that stops early
            has not cooled down. None is half of it under `cpu_seconds`, whose end is sure to come,
            and nothing otherwise.
        clip_norm: Largest gradient norm; 0 turns clipping off.
        patience: Epochs without a better validation NDCG@10 before training stops.
        min_epochs: Epochs of a stage before patience can end it: a lucky first epoch would
            otherwise end a run before it has begun to learn.
        seed: Seed of weights, dropout, order and crops.
        precision: "bf16" runs the forward pass under autocast.
        eval_users: Validation users per epoch at most.
        eval_seen: Judge by ranks with seen items allowed or excluded.
        eval_every: Epochs between two validations.
        cpu_seconds: Stop at that much process CPU time spent in training, the mean over the
            workers, whatever else holds; validation is then skipped, and the stages of a ranker
            share the budget equally. Statistics are fitted before and not counted here.
        random_crop: See `BatchPlan`.
        bucket_batches: See `BatchPlan`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    batch_size: int = Field(default=256, ge=1)
    max_epochs: int = Field(default=200, ge=1)
    lr: float = Field(default=3e-3, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    table_optimiser: Literal["auto", "adamw", "rows"] = "auto"
    table_lr: float = Field(default=0.05, gt=0)
    warmup_steps: int = Field(default=0, ge=0)
    cooldown: float | None = Field(default=None, ge=0, le=1)
    clip_norm: float = Field(default=5.0, ge=0)
    patience: int = Field(default=5, ge=1)
    min_epochs: int = Field(default=1, ge=1)
    seed: int = 0
    precision: Literal["fp32", "bf16"] = "fp32"
    eval_users: int = Field(default=3000, ge=1)
    eval_seen: Literal["allowed", "excluded"] = "allowed"
    eval_every: int = Field(default=1, ge=1)
    cpu_seconds: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    random_crop: bool = False
    bucket_batches: int = Field(default=64, ge=1)

    @property
    def falling_share(self) -> float:
        """Last share of a stage over which the learning rate falls."""
        by_default = 0.0 if self.cpu_seconds is None else 0.5
        return by_default if self.cooldown is None else self.cooldown

    def batch_plan(self, max_length: int) -> BatchPlan:
        """Derive the order of batches for windows of `max_length` positions."""
        return BatchPlan(
            batch_size=self.batch_size,
            max_length=max_length,
            seed=self.seed,
            random_crop=self.random_crop,
            bucket_batches=self.bucket_batches,
        )


class NonFiniteLossError(RuntimeError):
    """A loss or gradient was not finite; the weights are those of the step before.

    Attributes:
        step: Optimiser steps taken so far.
        epoch: Epoch of the failing batch.
        batch: Its place in the epoch.
        terms: Value of each loss term.
    """

    def __init__(self, step: int, epoch: int, batch: int, terms: dict[str, float]) -> None:
        self.step, self.epoch, self.batch, self.terms = step, epoch, batch, terms
        values = ", ".join(f"{name}={value:g}" for name, value in terms.items())
        super().__init__(
            f"training diverged at step {step} (epoch {epoch}, batch {batch}): {values}; "
            "the weights were not touched; lower lr or clip_norm"
        )


@dataclass(frozen=True)
class StepState:
    """One finished step, as the step callback sees it."""

    step: int
    epoch: int
    batch: int
    num_batches: int
    loss: float


@dataclass(frozen=True)
class EpochResult:
    """One finished epoch: a point of the training curve."""

    epoch: int
    step: int
    losses: dict[str, float]
    validation: float | None
    best: bool
    targets: int
    cpu_seconds: float
    stage: str = "fit"
