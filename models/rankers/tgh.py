"""The transition-graph heuristic: rings of items around the last one.

Shape legend: B rows, L positions, K items asked for, N catalogue size, G ring places, C items of
one chunk.
"""

import torch
from pydantic import Field
from torch import Tensor

from models.base import Ranker, RankerConfig, item_counts
from models.batch import SequenceBatch
from models.item_rings import item_rings
from models.registry import register
from models.sequences import SequenceStore
from models.transitions import count_transitions


class TGHConfig(RankerConfig):
    """Settings of the graph heuristic.

    Attributes:
        ring_budgets: Candidates taken from the items one, two and three steps away.
        fan_out: Neighbours of an item, and items of a ring, that paths are followed through.
    """

    ring_budgets: tuple[int, int, int] = (7, 2, 1)
    fan_out: int = Field(default=16, ge=1)


@register
class TGH(Ranker):
    """Candidates from the rings around the last item that training knows, by edge weight alone.

    The published heuristic adds the cosine between text vectors of the two items; without text
    vectors the edge weights log1p(count) / row maximum are what is left, and a ring-2 or ring-3
    candidate takes the product along its best path (an inference: the audit gives no formula).
    Beyond the ring budgets popularity orders the rest below every candidate, so that every score
    is finite and total.
    """

    name = "tgh"
    method = "items 1 to 3 steps from the last one in the transition graph, by edge weight"
    source = "graph heuristic audit of sequential recommendation (GraphRec, TGH-1)"
    config_type = TGHConfig
    config: TGHConfig

    ring_items_NG: Tensor
    ring_scores_NG: Tensor
    fill_N1: Tensor

    def __init__(self, config: TGHConfig, num_items: int) -> None:
        super().__init__(config, num_items)
        places = sum(config.ring_budgets)
        ids = torch.zeros(num_items + 1, places, dtype=torch.int64)
        self.register_buffer("ring_items_NG", ids)
        self.register_buffer("ring_scores_NG", torch.zeros(num_items + 1, places))
        self.register_buffer("fill_N1", torch.zeros(num_items + 1))

    def fit_statistics(self, store: SequenceStore) -> None:
        """Build the graph and the rings of every item."""
        super().fit_statistics(store)
        counts = item_counts(store, self.num_items)
        pairs = count_transitions(store, self.num_items)
        ids, scores = item_rings(pairs, counts, self.config.ring_budgets, self.config.fan_out)
        fill = torch.from_numpy(counts / (counts.max() + 1.0))
        self.ring_items_NG.copy_(torch.from_numpy(ids))
        # A thousandth of the popularity share orders candidates that the graph cannot tell apart.
        self.ring_scores_NG.copy_(torch.from_numpy(scores) + 1e-3 * fill[self.ring_items_NG.cpu()])
        self.fill_N1.copy_(fill - 1.0)

    def _encode(self, batch: SequenceBatch) -> Tensor:
        return batch.item_ids_BL[:, -1]

    def _scores(self, queries: Tensor, start: int, stop: int) -> Tensor:
        scores_BC = self.fill_N1[start:stop].repeat(queries.shape[0], 1)
        ids_BG = self.ring_items_NG[queries]
        inside_BG = (ids_BG >= start) & (ids_BG < stop) & (ids_BG > 0)
        rows, places = inside_BG.nonzero(as_tuple=True)
        ring = self.ring_scores_NG[queries]
        scores_BC[rows, ids_BG[rows, places] - start] = ring[rows, places]
        return scores_BC

    def _contributions(self, batch: SequenceBatch, items_BK: Tensor) -> Tensor:
        """The ring score, all of it on the last position; popularity is nobody's."""
        last_B = self._encode(batch)
        out_BKL = torch.zeros(*items_BK.shape, batch.length, device=self.device)
        hit_BKG = (self.ring_items_NG[last_B][:, None, :] == items_BK[:, :, None]) & (
            items_BK[:, :, None] > 0
        )
        out_BKL[:, :, -1] = (hit_BKG * self.ring_scores_NG[last_B][:, None, :]).sum(-1)
        return out_BKL
