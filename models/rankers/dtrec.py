"""DTRec: thoughts that narrow down from clusters of items to the item.

Shape legend: B rows, Q places, D width, T real targets, N catalogue size, S states (K + 1), K
thoughts, C clusters of one step.
"""

import torch
from pydantic import Field
from torch import Tensor

from models.batch import SequenceBatch
from models.clustering import k_means
from models.latent_reasoning import LatentReasoner, ReasoningConfig
from models.layers.halting import HaltingRule
from models.losses import full_cross_entropy
from models.registry import register
from models.sequences import SequenceStore


class DTRecConfig(ReasoningConfig):
    """Settings of DTRec.

    Attributes:
        step_weight: Weight of the mean cross-entropy of the states before the last over clusters.
        early_item_weight: Weight of the mean cross-entropy over items of the states before the
            last; above 0 where rows may halt early, so that early states can score items.
        cluster_iterations: Iterations of k-means at the start of each epoch, from the centres of
            the epoch before.
        halt_entropy: Halt a row once the entropy of its prediction, in nats, is at most this.
        halt_agreement: Halt a row once the Jaccard index of its ten best items with those of the
            thought before is at least this.
        halt_change: Halt a row once its state moves by at most this share of its norm.
    """

    step_weight: float = Field(default=0.5, ge=0)
    early_item_weight: float = Field(default=0.0, ge=0)
    cluster_iterations: int = Field(default=10, ge=1)
    halt_entropy: float | None = Field(default=None, ge=0)
    halt_agreement: float | None = Field(default=None, ge=0, le=1)
    halt_change: float | None = Field(default=None, ge=0)


def cluster_counts(num_items: int, steps: int) -> list[int]:
    """Grow cluster counts geometrically towards the items: round(N ^ ((k + 1) / (K + 1)))."""
    return [round(num_items ** ((step + 1) / (steps + 1))) for step in range(steps)]


@register
class DTRec(LatentReasoner):
    """State k < K learns which of the clusters of step k holds the target, the last the target.

    Source: DTRec, 2025 (arXiv 2512.14036), of which the abstract and second-hand accounts were
    found. Inferences: the states before the last are judged, so the unreasoned state takes the
    coarsest clusters; counts are `cluster_counts` of the items in training; items are clustered by
    their vectors as scoring uses them at the start of every epoch, and the centres, which the
    states are compared with, stand still in between.

    A row halts at its first thought that meets one of three thresholds. A thought is one token more
    through the encoder while measuring it takes a product with the whole catalogue: on this design
    halting serves accuracy, not speed, and the chain is always thought to its end.
    """

    name = "dtrec"
    method = "latent thoughts judged by clusters of the target, coarse to fine, halting per row"
    source = "DTRec 2025 (arXiv 2512.14036)"
    config_type = DTRecConfig
    config: DTRecConfig
    sized_by_data = ("centres_CD",)

    centres_CD: Tensor
    counts_K: Tensor
    cluster_KN1: Tensor

    def __init__(self, config: DTRecConfig, num_items: int) -> None:
        super().__init__(config, num_items)
        steps = config.reasoning_steps
        self.register_buffer("centres_CD", torch.zeros(0, config.dim))
        self.register_buffer("counts_K", torch.zeros(steps, dtype=torch.int64))
        self.register_buffer("cluster_KN1", torch.zeros(steps, num_items + 1, dtype=torch.int64))

    def fit_statistics(self, store: SequenceStore) -> None:
        """Mark the known items, and cluster them by the vectors that training starts from."""
        super().fit_statistics(store)
        counts = cluster_counts(max(int(self.known_N1.sum()), 1), self.config.reasoning_steps)
        self.counts_K.copy_(torch.tensor(counts, dtype=torch.int64))
        self.centres_CD = self.items.weight.new_zeros(0, self.config.dim)
        self._cluster()

    def refresh(self) -> None:
        """Cluster the known items anew, from the centres so far where there are any."""
        super().refresh()
        self._cluster()

    @torch.no_grad()
    def _cluster(self) -> None:
        points_XD = self.item_vectors(0, self.num_items + 1)[self.known_N1]
        if len(points_XD) == 0 or len(self.counts_K) == 0:
            return
        counts = self.counts_K.tolist()
        starts = (
            torch.split(self.centres_CD, counts) if len(self.centres_CD) else [None] * len(counts)
        )
        centres = []
        for step, (count, start_CD) in enumerate(zip(counts, starts, strict=True)):
            clusters = k_means(
                points_XD,
                count,
                seed=step,
                iterations=self.config.cluster_iterations,
                start_KD=start_CD,
            )
            centres.append(clusters.centres_KD)
            self.cluster_KN1[step, self.known_N1] = clusters.assigned_X
        found_CD = torch.cat(centres)
        if found_CD.shape == self.centres_CD.shape:
            self.centres_CD.copy_(found_CD)
        else:
            self.centres_CD = found_CD

    def losses(self, batch: SequenceBatch) -> dict[str, Tensor]:
        """Cross-entropy of the last state over items, of each state before over its clusters."""
        config = self.config
        base = self.base_pass(batch)
        chosen_BQ, targets_T = self.targets_of(base)
        states_STD = self.reason(base)[:, chosen_BQ]
        bonus = self.repeat_bonus(base, chosen_BQ)
        terms = {"ce": self.cross_entropy(states_STD[-1], targets_T, bonus)}
        if config.reasoning_steps and config.step_weight > 0:
            terms["clusters"] = config.step_weight * self.cluster_loss(states_STD[:-1], targets_T)
        if config.reasoning_steps and config.early_item_weight > 0:
            early = [self.cross_entropy(state, targets_T, bonus) for state in states_STD[:-1]]
            terms["early"] = config.early_item_weight * torch.stack(early).mean()
        return terms

    def cluster_loss(self, states_KTD: Tensor, targets_T: Tensor) -> Tensor:
        """Mean cross-entropy of each state over the clusters of its step."""
        losses = []
        centres = torch.split(self.centres_CD, self.counts_K.tolist())
        for step, (states_TD, centres_CD) in enumerate(zip(states_KTD, centres, strict=True)):
            labels_T = self.cluster_KN1[step, targets_T]
            losses.append(full_cross_entropy(self.scale_queries(states_TD), centres_CD, labels_T))
        return torch.stack(losses).mean()

    @property
    def halting_rule(self) -> HaltingRule:
        """The thresholds of the settings."""
        config = self.config
        return HaltingRule(
            entropy=config.halt_entropy,
            agreement=config.halt_agreement,
            change=config.halt_change,
        )
