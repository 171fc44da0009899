"""What an auxiliary objective is, and the fixed training windows that it looks at.

Shape legend: W windows, L positions, B rows, Q places, P states.
"""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from models.batch import SequenceBatch, collate
from models.encoders.base import BasePass
from models.encoding import at_inference
from models.sequences import SequenceStore

if TYPE_CHECKING:
    from models.sequential import SequentialRanker

ENCODE_ROWS = 256


class AuxiliarySettings(BaseModel):
    """Settings of every auxiliary objective.

    Attributes:
        windows: Training windows, drawn once, that clusters and neighbours are taken from.
        temperature: Divides the contrasts' dot products.
        warmup_epochs: Epochs before the objective starts: what it derives from the ranker's own
            weights says nothing until these have learnt something.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    windows: int = Field(default=1024, ge=1)
    temperature: float = Field(default=1.0, gt=0)
    warmup_epochs: int = Field(default=2, ge=0)


class Auxiliary(nn.Module, ABC):
    """An objective beside a ranker's own, and a fixed sample of the training rows' windows.

    Attributes:
        windows_3WL: int64: item ids, times and actions of the sample, left padded with zeros; rows
            of zeros where there are fewer training rows.
        age: int64, epochs that have begun.
        terms: Names of its losses.
    """

    terms: ClassVar[tuple[str, ...]]
    windows_3WL: Tensor
    age: Tensor

    def __init__(self, settings: AuxiliarySettings, max_length: int) -> None:
        super().__init__()
        self.warmup_epochs = settings.warmup_epochs
        self.register_buffer("age", torch.zeros((), dtype=torch.int64))
        shape = (3, settings.windows, max_length)
        self.register_buffer("windows_3WL", torch.zeros(shape, dtype=torch.int64))

    def fit_statistics(self, store: SequenceStore) -> None:
        """Keep the newest windows of training rows that a fixed seed draws."""
        self.age.zero_()
        rows = np.flatnonzero(store.lengths >= 2)
        _, count, length = self.windows_3WL.shape
        drawn = np.sort(np.random.default_rng(0).permutation(rows)[:count])
        sample = collate(store, drawn, length, with_targets=True)
        self.keep_windows(sample.to(self.windows_3WL.device))

    def keep_windows(self, sample: SequenceBatch) -> None:
        """Keep a sample of at most W windows."""
        self.windows_3WL.zero_()
        kept = (sample.item_ids_BL, sample.times_BL, sample.actions_BL)
        self.windows_3WL[:, : sample.num_rows] = torch.stack(kept)

    def windows(self) -> SequenceBatch:
        """Return the sample as one batch."""
        ids_WL, times_WL, actions_WL = self.windows_3WL
        return SequenceBatch(ids_WL, ids_WL > 0, times_WL, actions_WL)

    @torch.no_grad()
    def window_states(self, ranker: "SequentialRanker", last_only: bool = False) -> Tensor:
        """Encode the sample as the ranker encodes a history, without dropout: [W, Q, D].

        Q is every position, or the last alone: where asked for, and where the encoder reads ahead,
        since only the last state is one of a sub-sequence then.
        """
        every, states = self.windows(), []
        with at_inference(ranker):
            for first in range(0, len(every.item_ids_BL), ENCODE_ROWS):
                rows = slice(first, first + ENCODE_ROWS)
                batch = SequenceBatch(
                    every.item_ids_BL[rows],
                    every.valid_BL[rows],
                    every.times_BL[rows],
                    every.actions_BL[rows],
                )
                if last_only or ranker.encoder.reads_ahead:
                    states.append(ranker.history_states(batch)[:, None])
                else:
                    whole = ranker.run_encoder(batch, ranker.items(batch.item_ids_BL))
                    states.append(whole.hidden_BQD)
        return torch.cat(states)

    @property
    def is_warm(self) -> bool:
        """Whether the warm-up is over."""
        return int(self.age) > self.warmup_epochs

    def refresh(self, ranker: "SequentialRanker") -> None:
        """Hear that an epoch begins, and derive clusters or neighbours once the warm-up is over."""
        self.age += 1
        if self._shapes(ranker):
            self.derive(ranker)

    def losses(self, ranker: "SequentialRanker", base: BasePass) -> dict[str, Tensor]:
        """Return named, weighted terms for a training batch that the ranker has encoded."""
        return self.contrasts(ranker, base) if self._shapes(ranker) else self.idle(base)

    def _shapes(self, ranker: "SequentialRanker") -> bool:
        """Whether the warm-up is over and the encoder, which objectives shape, still learns."""
        return self.is_warm and any(p.requires_grad for p in ranker.encoder.parameters())

    def idle(self, base: BasePass) -> dict[str, Tensor]:
        """Zeros: parallel training wants a gradient for every weight, if only a zero."""
        nothing = [0.0 * base.hidden_BQD.sum(), *(0.0 * p.sum() for p in self.parameters())]
        return dict.fromkeys(self.terms, torch.stack(nothing).sum())

    @abstractmethod
    def derive(self, ranker: "SequentialRanker") -> None:
        """Derive clusters or neighbours from the weights at the start of an epoch."""

    @abstractmethod
    def contrasts(self, ranker: "SequentialRanker", base: BasePass) -> dict[str, Tensor]:
        """Return the terms of a training batch."""
