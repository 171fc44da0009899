"""Recommend what most people took.

Shape legend: B rows, L positions, K items asked for, N catalogue size, C items of one chunk.
"""

import torch
from torch import Tensor

from models.base import Ranker, RankerConfig, item_counts
from models.batch import SequenceBatch
from models.registry import register
from models.sequences import SequenceStore


class PopularityConfig(RankerConfig):
    """Popularity has no settings of its own."""


@register
class Popularity(Ranker):
    """Score = number of training events of the item; the same list for everybody."""

    name = "popularity"
    method = "number of events of the item in training"
    source = "baseline"
    config_type = PopularityConfig

    counts_N1: Tensor

    def __init__(self, config: RankerConfig, num_items: int) -> None:
        super().__init__(config, num_items)
        self.register_buffer("counts_N1", torch.zeros(num_items + 1))

    def fit_statistics(self, store: SequenceStore) -> None:
        """Count events per item."""
        super().fit_statistics(store)
        self.counts_N1.copy_(torch.from_numpy(item_counts(store, self.num_items)).float())

    def _encode(self, batch: SequenceBatch) -> Tensor:
        return torch.zeros(batch.num_rows, 1, device=self.device)

    def _scores(self, queries: Tensor, start: int, stop: int) -> Tensor:
        return self.counts_N1[start:stop].repeat(queries.shape[0], 1)

    def _contributions(self, batch: SequenceBatch, items_BK: Tensor) -> Tensor:
        return torch.zeros(*items_BK.shape, batch.length, device=self.device)
