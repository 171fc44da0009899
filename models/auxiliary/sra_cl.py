"""Contrasts with semantic neighbours: sequences that mean the same, items that stand in.

Shape legend: W windows, B rows, L positions, R drawn rows, D width, N catalogue size, M item
neighbours, k sequence neighbours.
"""

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from models.auxiliary.base import Auxiliary, AuxiliarySettings
from models.batch import SequenceBatch
from models.encoders.base import BasePass, initialise
from models.losses import in_batch_contrast
from models.places import draw_places
from models.prefixes import prefixes_at
from models.similar_items import nearest_items

if TYPE_CHECKING:
    from models.sequential import SequentialRanker


class SRACLSettings(AuxiliarySettings):
    """Settings of the semantic contrasts.

    Attributes:
        name: Says which objective these settings are for.
        inter_weight: Weight of the contrast with the mix of neighbouring sequences.
        intra_weight: Weight of the contrast between two views with items replaced.
        sequence_neighbours: Nearest sequences k that are mixed.
        item_neighbours: Nearest items M that stand in for an item.
        replaced: Share of a view's items that are replaced.
        share: Share of the rows, drawn afresh for each batch, that are anchors; each is encoded
            twice more for its views.
    """

    name: Literal["sra-cl"] = "sra-cl"
    inter_weight: float = Field(default=0.1, ge=0)
    intra_weight: float = Field(default=0.1, ge=0)
    sequence_neighbours: int = Field(default=10, ge=1)
    item_neighbours: int = Field(default=10, ge=1)
    replaced: float = Field(default=0.2, ge=0, le=1)
    share: float = Field(default=0.5, gt=0, le=1)


class SRACL(Auxiliary):
    """InfoNCE with a mix of the nearest sequences' states, and between two altered views.

    Source: Cui et al., Semantic Retrieval Augmented Contrastive Learning, 2025 (arXiv 2503.04162).
    There the neighbours come from text vectors that a language model wrote. Inferences: vectors are
    the ranker's own item vectors at the start of the epoch, a sequence's is the mean of its
    items', and its neighbours are windows of a fixed training sample whose states are those of the
    start of the epoch, so that no neighbour is encoded again. Windows of a row that
    begins with the same two events as the anchor's are taken to be its own and left out. Both start
    after a warm-up.
    """

    terms = ("sra_inter", "sra_intra")
    neighbours_N1M: Tensor
    origins_W4: Tensor
    meanings_WD: Tensor
    states_WD: Tensor

    def __init__(self, settings: SRACLSettings, max_length: int, dim: int, num_items: int) -> None:
        super().__init__(settings, max_length)
        self.settings = settings
        own_N1M = torch.arange(num_items + 1)[:, None].repeat(1, settings.item_neighbours)
        self.register_buffer("neighbours_N1M", own_N1M)
        self.register_buffer("origins_W4", torch.zeros(settings.windows, 4, dtype=torch.int64))
        self.register_buffer("meanings_WD", torch.zeros(settings.windows, dim))
        self.register_buffer("states_WD", torch.zeros(settings.windows, dim))
        self.project = nn.Linear(dim, dim, bias=False)
        self.attend = nn.Linear(2 * dim, 1, bias=False)
        self.apply(initialise)

    def keep_windows(self, sample: SequenceBatch) -> None:
        """Keep the sample, and which row each of its windows is of."""
        super().keep_windows(sample)
        assert sample.origins_B4 is not None, "training batches carry their rows' origins"
        self.origins_W4.zero_()
        self.origins_W4[: sample.num_rows] = sample.origins_B4

    @torch.no_grad()
    def derive(self, ranker: "SequentialRanker") -> None:
        """Find the item neighbours, and encode the sample of windows."""
        vectors_N1D = ranker.item_vectors(0, ranker.num_items + 1)
        wanted = self.settings.item_neighbours
        self.neighbours_N1M.copy_(nearest_items(vectors_N1D, ranker.known_N1, wanted))
        self.meanings_WD.copy_(self.meanings(ranker, self.windows()))
        self.states_WD.copy_(self.window_states(ranker, last_only=True)[:, 0])

    def meanings(self, ranker: "SequentialRanker", batch: SequenceBatch) -> Tensor:
        """Mean direction of each row's item vectors, of length 1: [B, D]."""
        vectors_BLD = functional.normalize(ranker.items(batch.item_ids_BL).detach(), dim=2)
        return functional.normalize((vectors_BLD * batch.valid_BL[:, :, None]).sum(dim=1), dim=1)

    def contrasts(self, ranker: "SequentialRanker", base: BasePass) -> dict[str, Tensor]:
        """Weighted contrasts between and within the sequences of a batch."""
        settings = self.settings
        chosen_BQ, _ = ranker.targets_of(base)
        rows_R, at_R = draw_places(chosen_BQ, settings.share)
        if len(rows_R) == 0:
            return self.idle(base)
        prefixes = prefixes_at(base.batch, rows_R, base.places_BQ[rows_R, at_R])
        terms = {}
        if settings.inter_weight > 0:
            anchors_RD = base.hidden_BQD[rows_R, at_R]
            inter = self.inter(ranker, prefixes, anchors_RD)
            terms["sra_inter"] = settings.inter_weight * inter
        if settings.intra_weight > 0:
            terms["sra_intra"] = settings.intra_weight * self.intra(ranker, prefixes)
        return terms

    def inter(
        self, ranker: "SequentialRanker", prefixes: SequenceBatch, anchors_RD: Tensor
    ) -> Tensor:
        """InfoNCE of each anchor and the attentive mix of its nearest windows' states."""
        near_Rk, real_Rk = self.nearest_windows(ranker, prefixes)
        has_R = real_Rk.any(dim=1)
        anchors_RD = anchors_RD[has_R]
        mixed_RD = self.mix(anchors_RD, self.states_WD[near_Rk[has_R]], real_Rk[has_R])
        return in_batch_contrast(anchors_RD / self.settings.temperature, mixed_RD)

    @torch.no_grad()
    def nearest_windows(
        self, ranker: "SequentialRanker", prefixes: SequenceBatch
    ) -> tuple[Tensor, Tensor]:
        """Find the nearest windows of other rows: int64 [R, k], and bool [R, k] where real."""
        assert prefixes.origins_B4 is not None, "training batches carry their rows' origins"
        with torch.autocast(self.meanings_WD.device.type, enabled=False):
            alike_RW = self.meanings(ranker, prefixes).float() @ self.meanings_WD.T
        own_RW = (prefixes.origins_B4[:, None] == self.origins_W4).all(dim=2)
        out_RW = own_RW | ~self.windows().valid_BL[:, -1]
        best = min(self.settings.sequence_neighbours, len(self.states_WD))
        found = alike_RW.masked_fill(out_RW, -torch.inf).topk(best, dim=1)
        return found.indices, torch.isfinite(found.values)

    def mix(self, anchors_RD: Tensor, states_RkD: Tensor, real_Rk: Tensor) -> Tensor:
        """Mix neighbours by graph attention: softmax of leaky_relu(a . [W anchor, W state])."""
        left_RkD = self.project(anchors_RD)[:, None].expand_as(states_RkD)
        pairs = torch.cat([left_RkD, self.project(states_RkD)], dim=2)
        scores_Rk = functional.leaky_relu(self.attend(pairs)[:, :, 0], 0.2)
        weights_Rk = scores_Rk.masked_fill(~real_Rk, -torch.inf).softmax(dim=1)
        return (weights_Rk[:, :, None] * states_RkD).sum(dim=1)

    def intra(self, ranker: "SequentialRanker", prefixes: SequenceBatch) -> Tensor:
        """InfoNCE between the states of two views of each prefix."""
        first_RD, second_RD = (ranker.prefix_states(self.altered(prefixes)) for _ in range(2))
        return in_batch_contrast(first_RD / self.settings.temperature, second_RD)

    def altered(self, batch: SequenceBatch) -> SequenceBatch:
        """Replace a share of the items, drawn afresh, by neighbours of theirs."""
        ids_BL = batch.item_ids_BL
        swapped_BL = torch.rand(ids_BL.shape, device=ids_BL.device) < self.settings.replaced
        which_BL = torch.randint(self.neighbours_N1M.shape[1], ids_BL.shape, device=ids_BL.device)
        others_BL = self.neighbours_N1M[ids_BL, which_BL]
        return replace(
            batch, item_ids_BL=torch.where(swapped_BL & batch.valid_BL, others_BL, ids_BL)
        )
