"""Recommend what most often followed the last item.

Shape legend: B rows, L positions, K items asked for, N catalogue size, E pairs, C items of a chunk.
"""

import torch
from torch import Tensor

from models.base import Ranker, RankerConfig, item_counts
from models.batch import SequenceBatch
from models.registry import register
from models.sequences import SequenceStore
from models.transitions import count_transitions


class LastTransitionConfig(RankerConfig):
    """Last-transition has no settings of its own."""


@register
class LastTransition(Ranker):
    """Score = how often training saw the item right after the last one of the user's that it knows.

    Popularity, scaled below one count, orders the rest: every score is finite and total.
    """

    name = "last-transition"
    method = "how often the item directly followed the last one in training"
    source = "baseline"
    config_type = LastTransitionConfig
    sized_by_data = ("next_E", "counts_E")

    offsets_N2: Tensor
    next_E: Tensor
    counts_E: Tensor
    fill_N1: Tensor

    def __init__(self, config: RankerConfig, num_items: int) -> None:
        super().__init__(config, num_items)
        self.register_buffer("offsets_N2", torch.zeros(num_items + 2, dtype=torch.int64))
        self.register_buffer("next_E", torch.zeros(0, dtype=torch.int64))
        self.register_buffer("counts_E", torch.zeros(0))
        self.register_buffer("fill_N1", torch.zeros(num_items + 1))

    def fit_statistics(self, store: SequenceStore) -> None:
        """Count consecutive pairs and single items."""
        super().fit_statistics(store)
        pairs = count_transitions(store, self.num_items)
        self.offsets_N2.copy_(torch.from_numpy(pairs.offsets))
        self.next_E = torch.from_numpy(pairs.items).to(self.device)
        self.counts_E = torch.from_numpy(pairs.counts).float().to(self.device)
        counts = item_counts(store, self.num_items)
        self.fill_N1.copy_(torch.from_numpy(counts / (counts.max() + 1.0)))

    def _encode(self, batch: SequenceBatch) -> Tensor:
        return batch.item_ids_BL[:, -1]

    def _pairs_of(self, items_B: Tensor) -> tuple[Tensor, Tensor]:
        """List the pairs of each row's item: the row of each pair and its place in `next_E`."""
        begin_B, end_B = self.offsets_N2[items_B], self.offsets_N2[items_B + 1]
        sizes_B = end_B - begin_B
        rows = torch.arange(len(items_B), device=self.device).repeat_interleave(sizes_B)
        before_B = sizes_B.cumsum(0) - sizes_B
        return rows, begin_B[rows] + torch.arange(len(rows), device=self.device) - before_B[rows]

    def _scores(self, queries: Tensor, start: int, stop: int) -> Tensor:
        scores_BC = self.fill_N1[start:stop].repeat(queries.shape[0], 1)
        rows, places = self._pairs_of(queries)
        inside = (self.next_E[places] >= start) & (self.next_E[places] < stop)
        rows, places = rows[inside], places[inside]
        scores_BC[rows, self.next_E[places] - start] += self.counts_E[places]
        return scores_BC

    def _contributions(self, batch: SequenceBatch, items_BK: Tensor) -> Tensor:
        """The pair count, all of it on the last position; popularity is nobody's."""
        out_BKL = torch.zeros(*items_BK.shape, batch.length, device=self.device)
        rows, places = self._pairs_of(self._encode(batch))
        hit = self.next_E[places][:, None] == items_BK[rows]
        out_BKL[:, :, -1].index_add_(0, rows, hit * self.counts_E[places][:, None])
        return out_BKL
