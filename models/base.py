"""What every ranker is: a config, statistics, losses, queries and scores.

Shape legend: B rows, L positions, K items asked for, N catalogue size (ids run 1..N), C items of
one chunk; `...` is the ranker's own query shape.
"""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from models.batch import SequenceBatch, SequenceStore
from models.item_table import ItemTable
from models.text_vectors import TextVectors
from models.workers import ALONE, Workers


class RankerConfig(BaseModel):
    """Settings of a ranker: frozen, and a name it does not know is an error.

    Attributes:
        max_length: Newest events that are read.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_length: int = Field(default=50, ge=1)


class Ranker(nn.Module, ABC):
    """Base of every ranker.

    A ranker is fitted on training rows (`fit_statistics`, then gradient steps on `losses` where
    `is_trainable`), and afterwards turns histories into queries and queries into scores. Item id 0
    is padding. Items that are not scorable, by default all that training never saw, score minus
    infinity: an untrained random embedding must never be recommended. The same ids inside a history
    are skipped as if they were not there, so a model survives a catalogue that has grown since.

    Attributes:
        name: Name in the registry and on the command line.
        method: What it does, in one line.
        source: The paper it comes from.
        needs: Names of the providers it cannot work without (text vectors, graphs, ...).
        is_trainable: Whether it learns by gradients.
        scores_by_vector: Whether an item's vector is all that its score needs. Where codes are cut
            from the vectors of training, an item that came later has none.
        sized_by_data: Buffers whose size the training rows decide.
        refining: Stages that go on with the scoring of the stage before: they count only where
            they beat its best weights.
        config: Its settings.
        num_items: Catalogue size N.
        known_N1: bool [N + 1], items seen in training.
    """

    name: ClassVar[str]
    method: ClassVar[str]
    source: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ()
    is_trainable: ClassVar[bool] = False
    scores_by_vector: ClassVar[bool] = False
    sized_by_data: ClassVar[tuple[str, ...]] = ()
    refining: ClassVar[tuple[str, ...]] = ()
    config_type: ClassVar[type[RankerConfig]] = RankerConfig

    known_N1: Tensor

    def __init__(self, config: RankerConfig, num_items: int) -> None:
        super().__init__()
        if num_items < 1:
            raise ValueError(f"num_items must be at least 1, got {num_items}")
        self.config = config
        self.num_items = num_items
        self.register_buffer("known_N1", torch.zeros(num_items + 1, dtype=torch.bool))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Let buffers whose size depends on the training data take the saved size first."""
        for name, buffer in self.named_buffers(recurse=False):
            saved = state_dict.get(prefix + name)
            if saved is not None and saved.shape != buffer.shape and name in self.sized_by_data:
                setattr(self, name, buffer.new_zeros(saved.shape))
        super()._load_from_state_dict(state_dict, prefix, *rest)

    @property
    def device(self) -> torch.device:
        """Where the ranker lives."""
        return self.known_N1.device

    @property
    def item_table(self) -> ItemTable | None:
        """The table of item vectors, where there is one."""
        return None

    @property
    def takes_text(self) -> bool:
        """Whether `learn_text` is wanted before training."""
        return False

    @property
    def text_encoder(self) -> str | None:
        """The encoder whose vectors it was trained with, where it takes any."""
        return None

    def learn_text(self, vectors: TextVectors) -> None:
        """Take the items' text vectors; once, after `fit_statistics` and before any gradient step.

        Raises:
            ValueError: If the ranker takes none, or none of this encoder.
        """
        raise ValueError(f"{self.name} takes no text vectors")

    def require_encoder(self, vectors: TextVectors) -> None:
        """Refuse text vectors that the ranker was not trained with.

        Raises:
            ValueError: If the ranker takes none, or none of this encoder.
        """
        raise ValueError(f"{self.name} takes no text vectors")

    def welcome(self, vectors: TextVectors, num_items: int) -> None:
        """Take the text vectors of items newer than the weights, of a catalogue grown since.

        Args:
            vectors: Of any items; those seen in training keep what they were trained with.
            num_items: Catalogue size now.

        Raises:
            ValueError: If the ranker takes none, or none of this encoder.
        """
        raise ValueError(f"{self.name} takes no text vectors")

    @property
    def scorable_N1(self) -> Tensor:
        """Bool [N + 1]: items that may be listed and read in a history."""
        return self.known_N1

    @property
    def workers(self) -> Workers:
        """Who holds the items to score."""
        return ALONE if self.item_table is None else self.item_table.workers

    @property
    def span(self) -> tuple[int, int]:
        """First item id that this process scores, and one past the last."""
        first, last = (1, self.num_items + 1) if self.item_table is None else self.item_table.span
        return max(first, 1), last

    @property
    def learns_few_items(self) -> bool:
        """Whether a training step touches few rows of the item table."""
        return False

    @property
    def num_parameters(self) -> int:
        """Trainable numbers."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)

    def fit_statistics(self, store: SequenceStore) -> None:
        """Take counts from the training rows; called once, before any gradient step.

        Raises:
            ValueError: If a row names an item beyond the catalogue.
        """
        counts = item_counts(store, self.num_items)
        known = torch.from_numpy(counts > 0)
        known[0] = False
        self.known_N1.copy_(known)

    def diagnostics(self) -> dict[str, float]:
        """Numbers that say whether what was derived in training is sound, by name."""
        return {}

    @property
    def stages(self) -> tuple[str, ...]:
        """Names of the training stages, in order; each ends by its own early stopping."""
        return ("fit",)

    def start_stage(self, stage: str) -> None:
        """Get ready for a training stage: freeze parts, derive labels from the weights so far.

        Every worker calls it with the same weights, so what it derives must follow from them (and
        from the buffers of `fit_statistics`) alone. A resumed run calls it before its weights and
        buffers are loaded.
        """

    def start_epoch(self, epoch: int) -> None:
        """Hear that epoch `epoch` (from 0) of the current stage begins, or goes on after a stop."""

    def refresh(self) -> None:
        """Derive from the weights so far what the epoch that begins learns by: clusters, labels.

        Called after `start_epoch`, but not where a run is resumed inside an epoch: what it derives
        must travel in the state dict. Otherwise as `start_stage`: the same on every worker.
        """

    def losses(self, batch: SequenceBatch) -> dict[str, Tensor]:
        """Return named scalar terms whose sum is minimised, over all positions at once.

        Raises:
            ValueError: If the ranker does not learn by gradients.
        """
        raise ValueError(f"{self.name} does not learn by gradients: call fit_statistics alone")

    def num_learnt(self, batch: SequenceBatch) -> int:
        """Count the targets of a batch that `losses` learns from."""
        return batch.num_targets

    def forward(self, batch: SequenceBatch) -> dict[str, Tensor]:
        """Return `losses`: the entry point that wrappers for parallel training call."""
        return self.losses(batch)

    def encode(self, batch: SequenceBatch) -> Tensor:
        """Turn each row's history into the query of its next item: [B, ...]."""
        known, _ = self.known_only(batch)
        return self._encode(known)

    def encode_steps(self, batch: SequenceBatch) -> Tensor:
        """Turn each row's history into the query of each reasoning state: [B, S, ...].

        A ranker that does not reason has one state, which is what `encode` returns.
        """
        return self.encode(batch)[:, None]

    def scores(self, queries: Tensor, start: int, stop: int) -> Tensor:
        """Score item ids start..stop-1 for each query: float32 [B, C], -inf for items not scorable.

        The tensor is the caller's to write to.
        """
        raw_BC = self._scores(queries, start, stop)
        open_C = self.scorable_N1[start:stop]
        return raw_BC if bool(open_C.all()) else raw_BC.masked_fill(~open_C, -torch.inf)

    def contributions(self, batch: SequenceBatch, items_BK: Tensor) -> Tensor:
        """Say how much each history position carried each item's score: float32 [B, K, L]."""
        known, source_BL = self.known_only(batch)
        given_BKL = self._contributions(known, items_BK) * known.valid_BL[:, None, :]
        out_BKL = torch.zeros_like(given_BKL)
        index_BKL = source_BL[:, None, :].expand_as(given_BKL)
        return out_BKL.scatter_(2, index_BKL, given_BKL)

    def known_only(self, batch: SequenceBatch) -> tuple[SequenceBatch, Tensor]:
        """Drop items that are not scorable and close the gaps; positions stay left padded.

        Returns:
            The batch, and int64 [B, L]: where each of its positions stood before.
        """
        inside_BL = batch.item_ids_BL <= self.num_items
        ids_BL = torch.where(inside_BL, batch.item_ids_BL, 0)
        valid_BL = batch.valid_BL & self.scorable_N1[ids_BL]
        at_BL = torch.arange(batch.length, device=ids_BL.device).expand_as(ids_BL)
        if bool((valid_BL == batch.valid_BL).all()):
            return batch, at_BL
        # Stable: padding first, then what is real in its own order.
        order_BL = torch.argsort(valid_BL.to(torch.int8), dim=1, stable=True)
        valid_BL = valid_BL.gather(1, order_BL)

        def moved(values_BL: Tensor) -> Tensor:
            return values_BL.gather(1, order_BL) * valid_BL

        compact = SequenceBatch(
            moved(ids_BL), valid_BL, moved(batch.times_BL), moved(batch.actions_BL), None
        )
        return compact, order_BL

    @abstractmethod
    def _encode(self, batch: SequenceBatch) -> Tensor:
        """Encode a batch of known items only."""

    @abstractmethod
    def _scores(self, queries: Tensor, start: int, stop: int) -> Tensor:
        """Score a chunk of the catalogue, unknown items included, in memory of its own."""

    @abstractmethod
    def _contributions(self, batch: SequenceBatch, items_BK: Tensor) -> Tensor:
        """Explain scores on a batch of known items only."""


def item_counts(store: SequenceStore, num_items: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Count the events of each item, int64 [N + 1].

    Raises:
        ValueError: If a row names an item beyond the catalogue.
    """
    _, places = store.flat_events()
    items = store.items[places]
    if len(items) and int(items.max()) > num_items:
        raise ValueError(f"item id {int(items.max())} is beyond the catalogue of {num_items} items")
    return np.bincount(items, minlength=num_items + 1).astype(np.int64)
