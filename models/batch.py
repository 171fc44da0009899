"""Batches of behaviour sequences, left padded, and the order in which training sees them.

Shape legend: B rows of a batch, L positions, R rows of a store.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from models.sequences import Ints, SequenceStore

__all__ = ["BatchPlan", "SequenceBatch", "SequenceStore", "collate", "training_batches"]


@dataclass(frozen=True, eq=False)
class SequenceBatch:
    """Padded windows of behaviour; True in a mask means real.

    Attributes:
        item_ids_BL: int64, 0 is padding and stands on the left.
        valid_BL: bool, True where an event stands.
        times_BL: int64 unix seconds, 0 at padding.
        actions_BL: int64, 0 at padding and where unknown.
        targets_BL: int64 next item per position, 0 for none; None outside training.
        target_actions_BL: int64 action of each target, 0 where unknown; None outside training.
        origins_B4: int64 items and times of the first two events of each whole row, by which
            windows of one row are told; None outside training.
    """

    item_ids_BL: Tensor
    valid_BL: Tensor
    times_BL: Tensor
    actions_BL: Tensor
    targets_BL: Tensor | None = None
    target_actions_BL: Tensor | None = None
    origins_B4: Tensor | None = None

    @property
    def num_rows(self) -> int:
        """Rows in the batch."""
        return self.item_ids_BL.shape[0]

    @property
    def length(self) -> int:
        """Positions per row, padding included."""
        return self.item_ids_BL.shape[1]

    @property
    def num_targets(self) -> int:
        """Positions with a target."""
        return 0 if self.targets_BL is None else int((self.targets_BL > 0).sum())

    def to(self, device: torch.device | str) -> "SequenceBatch":
        """Copy the batch to a device."""
        moved: dict[str, Any] = {
            part.name: None if value is None else value.to(device)
            for part in fields(self)
            for value in [getattr(self, part.name)]
        }
        return replace(self, **moved)


def collate(
    store: SequenceStore,
    rows: NDArray[Any],
    length: int,
    with_targets: bool = False,
    ends: Ints | None = None,
) -> SequenceBatch:
    """Cut one window per row and pad it on the left to `length` positions.

    Args:
        store: Where the rows live.
        rows: int [B] row numbers.
        length: Positions per row.
        with_targets: Give every position the next item as target: a row of n events yields its
            first n - 1 as input and its last n - 1 as targets.
        ends: int64 [B] one past the last input event of each window, as places in the store's flat
            arrays (default: the newest window).
    """
    rows = np.asarray(rows, dtype=np.int64)
    starts = store.starts[rows]
    if ends is None:
        ends = store.stops[rows] - (1 if with_targets else 0)
    place = ends[:, None] - length + np.arange(length)[None, :]
    valid = place >= starts[:, None]
    place = np.where(valid, place, 0)

    def gather(values: NDArray[Any], at: Ints) -> Tensor:
        values = values if len(values) else np.zeros(1, np.int64)
        return torch.from_numpy(np.where(valid, values[at], 0).astype(np.int64))

    next_place = np.where(valid, place + 1, 0)
    targets, target_actions = (
        gather(values, next_place) if with_targets else None
        for values in (store.items, store.actions)
    )
    items, times, actions = (
        gather(values, place) for values in (store.items, store.times, store.actions)
    )
    real = torch.from_numpy(valid)
    origins = _origins(store, rows) if with_targets else None
    return SequenceBatch(items, real, times, actions, targets, target_actions, origins)


def _origins(store: SequenceStore, rows: Ints) -> Tensor:
    """Items and times of the first two events of rows with as many: int64 [B, 4]."""
    first_two = store.starts[rows][:, None] + np.arange(2)
    first_two = np.minimum(first_two, max(len(store.items) - 1, 0))
    parts = [values[first_two].astype(np.int64) for values in (store.items, store.times)]
    return torch.from_numpy(np.concatenate(parts, axis=1))


class BatchPlan(BaseModel):
    """How training rows become batches.

    Attributes:
        batch_size: Rows per batch and rank.
        max_length: Longest window of input positions.
        seed: Seed of the order and of the crops.
        random_crop: Draw a window at random from rows longer than `max_length`; otherwise the
            newest events are taken.
        bucket_batches: Batches that are drawn together and sorted by length, so that a batch holds
            rows of like length; 1 turns bucketing off.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    batch_size: int = Field(default=256, ge=1)
    max_length: int = Field(default=50, ge=1)
    seed: int = 0
    random_crop: bool = False
    bucket_batches: int = Field(default=64, ge=1)


def steps_per_epoch(store: SequenceStore, plan: BatchPlan, world: int = 1) -> int:
    """Count the batches that each of `world` ranks sees in one epoch."""
    trainable = int((store.lengths >= 2).sum())
    return -(-trainable // (plan.batch_size * world))


def _epoch_batches(
    store: SequenceStore, plan: BatchPlan, epoch: int, world: int
) -> list[list[Ints]]:
    """Deal the trainable rows of one epoch into steps x ranks batches of nearly equal size."""
    lengths = np.minimum(store.lengths - 1, plan.max_length)
    rows = np.flatnonzero(lengths >= 1)
    steps = steps_per_epoch(store, plan, world)
    if steps == 0:
        return []
    order = np.random.default_rng([plan.seed, epoch])
    rows = order.permutation(rows)
    # Every rank needs a row in every step, or its gradient exchange would wait for ever.
    if len(rows) < steps * world:
        rows = np.resize(rows, steps * world)
    dealt: list[list[Ints]] = []
    for bucket in np.array_split(np.arange(steps), -(-steps // plan.bucket_batches)):
        first = bucket[0] * len(rows) // steps
        last = (bucket[-1] + 1) * len(rows) // steps
        drawn = rows[first:last]
        drawn = drawn[np.argsort(lengths[drawn], kind="stable")]
        pieces = np.array_split(drawn, len(bucket) * world)
        dealt += [pieces[i : i + world] for i in range(0, len(pieces), world)]
    return [dealt[i] for i in order.permutation(len(dealt))]


def training_batches(
    store: SequenceStore,
    plan: BatchPlan,
    epoch: int,
    rank: int = 0,
    world: int = 1,
    start_batch: int = 0,
    num_batches: int | None = None,
) -> Iterator[SequenceBatch]:
    """Yield one epoch's batches of one rank.

    The order is a function of (plan.seed, epoch, rank, world) alone, and `start_batch` resumes it
    without drawing what came before. Every rank gets the same number of batches and every row is
    seen once per epoch. Rows of fewer than two events have no target and are left out.

    Args:
        store: Training rows, the same on every rank.
        plan: Batch size, window and order.
        epoch: Number of the epoch, from 0.
        rank: This process among `world`.
        world: Processes that share the epoch.
        start_batch: First batch to yield.
        num_batches: Batches in the epoch where ranks hold shards of their own and must agree on a
            number (use rank 0 of 1 then); the shard is repeated or cut short to fit.
    """
    dealt = _epoch_batches(store, plan, epoch, world)
    total = len(dealt) if num_batches is None else num_batches
    if total and not dealt:
        raise ValueError("no row has two events or more: nothing to learn from")
    for step in range(start_batch, total):
        rows = dealt[step % len(dealt)][rank]
        ends = None
        if plan.random_crop:
            crop = np.random.default_rng([plan.seed, epoch, step, rank])
            newest = store.stops[rows] - 1
            oldest = np.minimum(store.starts[rows] + plan.max_length, newest)
            ends = crop.integers(oldest, newest + 1)
        inputs = np.minimum(store.lengths[rows] - 1, plan.max_length)
        yield collate(store, rows, int(inputs.max()), with_targets=True, ends=ends)
