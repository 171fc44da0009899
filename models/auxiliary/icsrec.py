"""Intent contrasts: sub-sequences that lead to one item, and prototypes of their states.

Shape legend: W windows, L positions, Q places, D width, T real targets, A anchors, K intents.
"""

from typing import TYPE_CHECKING, Literal

import torch
from pydantic import Field
from torch import Tensor

from models.auxiliary.base import Auxiliary, AuxiliarySettings
from models.clustering import k_means, nearest
from models.encoders.base import BasePass
from models.losses import in_batch_contrast
from models.sequences import SequenceStore

if TYPE_CHECKING:
    from models.sequential import SequentialRanker


class ICSRecSettings(AuxiliarySettings):
    """Settings of the intent contrasts.

    Attributes:
        name: Says which objective these settings are for.
        coarse_weight: Weight of the contrast between sub-sequences with the same target.
        fine_weight: Weight of the contrast between a sub-sequence and its intent prototype.
        clusters: Intent prototypes K.
        cluster_iterations: Iterations of k-means at the start of each epoch.
        share: Share of the targets, drawn afresh for each batch, that are anchors.
    """

    name: Literal["icsrec"] = "icsrec"
    coarse_weight: float = Field(default=0.1, ge=0)
    fine_weight: float = Field(default=0.1, ge=0)
    clusters: int = Field(default=256, ge=1)
    cluster_iterations: int = Field(default=20, ge=1)
    share: float = Field(default=0.25, gt=0, le=1)


class ICSRec(Auxiliary):
    """InfoNCE between sub-sequences of one target (coarse) and with their prototype (fine).

    Source: Qin et al., Intent Contrastive Learning with Cross Subsequences for Sequential
    Recommendation, WSDM 2024. The state of every position is that of the sub-sequence up to it, so
    the published split into all prefixes costs nothing here. Inferences: the partner of an anchor
    is drawn among the positions of the same batch, and one without a partner has no coarse term;
    prototypes come from the states of a fixed sample of training windows; the epochs of warm-up.
    """

    terms = ("icsrec_coarse", "icsrec_fine")
    intents_KD: Tensor
    is_clustered: Tensor

    def __init__(self, settings: ICSRecSettings, max_length: int, dim: int) -> None:
        super().__init__(settings, max_length)
        self.settings = settings
        self.register_buffer("intents_KD", torch.zeros(settings.clusters, dim))
        self.register_buffer("is_clustered", torch.zeros((), dtype=torch.bool))

    def fit_statistics(self, store: SequenceStore) -> None:
        """Keep the sample of windows and forget what was clustered before."""
        super().fit_statistics(store)
        self.is_clustered.fill_(False)

    def derive(self, ranker: "SequentialRanker") -> None:
        """Cluster the states of the sample, from the prototypes of the epoch before."""
        states_WQD = self.window_states(ranker)
        points_PD = states_WQD[self.windows().valid_BL[:, -states_WQD.shape[1] :]]
        count = min(self.settings.clusters, len(points_PD))
        if count == 0:
            return
        start_KD = self.intents_KD[:count] if bool(self.is_clustered) else None
        iterations = self.settings.cluster_iterations
        found_KD = k_means(points_PD, count, iterations=iterations, start_KD=start_KD).centres_KD
        # Copies fill up what a small sample leaves free: ties go to the first, so none is used.
        self.intents_KD.copy_(found_KD[:1].expand_as(self.intents_KD))
        self.intents_KD[:count] = found_KD
        self.is_clustered.fill_(True)

    def contrasts(self, ranker: "SequentialRanker", base: BasePass) -> dict[str, Tensor]:
        """Weighted coarse and fine contrasts over the drawn targets of a batch."""
        settings = self.settings
        chosen_BQ, targets_T = ranker.targets_of(base)
        states_TD = base.hidden_BQD[chosen_BQ]
        # Shuffled: a chunk of the contrast must not hold neighbours of one row alone.
        order_T = torch.randperm(len(targets_T), device=targets_T.device)
        anchors_A = order_T[: -int(-settings.share * len(order_T) // 1)]
        terms = {}
        if settings.coarse_weight > 0:
            coarse = self.coarse(states_TD, targets_T, anchors_A)
            terms["icsrec_coarse"] = settings.coarse_weight * coarse
        if settings.fine_weight > 0:
            terms["icsrec_fine"] = settings.fine_weight * self.fine(states_TD[anchors_A])
        return terms

    def coarse(self, states_TD: Tensor, targets_T: Tensor, anchors_A: Tensor) -> Tensor:
        """InfoNCE of each anchor and a partner of the same target, in both directions."""
        partners_T = draw_partners(targets_T)
        anchors_A = anchors_A[partners_T[anchors_A] != anchors_A]
        left_AD = states_TD[anchors_A] / self.settings.temperature
        right_AD = states_TD[partners_T[anchors_A]]
        groups_A = targets_T[anchors_A]
        there = in_batch_contrast(left_AD, right_AD, groups_A)
        back = in_batch_contrast(
            right_AD / self.settings.temperature, states_TD[anchors_A], groups_A
        )
        return (there + back) / 2

    def fine(self, states_AD: Tensor) -> Tensor:
        """InfoNCE of each anchor and its nearest prototype, false negatives masked."""
        intents_A, _ = nearest(states_AD.detach().float(), self.intents_KD)
        left_AD = states_AD / self.settings.temperature
        return in_batch_contrast(left_AD, self.intents_KD[intents_A], intents_A)


def draw_partners(targets_T: Tensor) -> Tensor:
    """Draw for each place another of the same target: int64 [T]; a lone one is its own partner.

    The places of one target stand on a ring in random order, and each takes the next.
    """
    count = len(targets_T)
    shuffled_T = torch.randperm(count, device=targets_T.device)
    ring_T = shuffled_T[torch.argsort(targets_T[shuffled_T], stable=True)]
    ordered_T = targets_T[ring_T]
    place_T = torch.arange(count, device=targets_T.device)
    starts_T = torch.ones(count, dtype=torch.bool, device=targets_T.device)
    starts_T[1:] = ordered_T[1:] != ordered_T[:-1]
    first_T = torch.where(starts_T, place_T, 0).cummax(dim=0).values
    ends_T = torch.ones_like(starts_T)
    ends_T[:-1] = starts_T[1:]
    following_T = torch.where(ends_T, first_T, place_T + 1)
    partners_T = torch.empty_like(ring_T)
    partners_T[ring_T] = ring_T[following_T]
    return partners_T
