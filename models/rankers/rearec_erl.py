"""ReaRec with ensemble reasoning learning: the mean of all states scores.

Shape legend: B rows, Q places, D width, T real targets, S states (K + 1).
"""

from pydantic import Field
from torch import Tensor

from models.batch import SequenceBatch
from models.latent_reasoning import LatentReasoner, ReasoningConfig
from models.losses import pairwise_kl
from models.registry import register


class ReaRecERLConfig(ReasoningConfig):
    """Settings of ERL.

    Attributes:
        kl_weight: Weight of the divergence between the states' item distributions, which the loss
            rewards (the published code's default is .05; .01 is within the grid it searched).
        step_share: Share of the targets, drawn afresh for each batch, that the divergence is taken
            over (published: all). The mean is the same in expectation at a fraction of the cost:
            over all targets it would cost three times what the cross-entropy does. Where the loss
            samples, distributions are over as many drawn items.
        detach_logs: Let the divergence's gradient flow through the probability factor alone, as
            the published code does.
    """

    kl_weight: float = Field(default=0.01, ge=0)
    step_share: float = Field(default=0.05, gt=0, le=1)
    detach_logs: bool = True


@register
class ReaRecERL(LatentReasoner):
    """Mean of all reasoning states, with a reward for states that disagree.

    Source: Tang et al., Think Before Recommend, 2025 (arXiv 2503.22675). As in the published code
    (and unlike the paper's formula) the mean runs over all K + 1 states.
    """

    name = "rearec-erl"
    method = "latent thoughts, the mean of all states scores (ERL)"
    source = "Tang et al. 2025 (arXiv 2503.22675)"
    config_type = ReaRecERLConfig
    config: ReaRecERLConfig

    def aggregate(self, states_SXD: Tensor) -> Tensor:
        """Average the chain."""
        return states_SXD[0] if len(states_SXD) == 1 else states_SXD.mean(dim=0)

    def losses(self, batch: SequenceBatch) -> dict[str, Tensor]:
        """Cross-entropy of the mean state, minus the weighted divergence between states."""
        base = self.base_pass(batch)
        chosen_BQ, targets_T = self.targets_of(base)
        states = self.reason(base)
        mean_TD = self.aggregate(states[:, chosen_BQ])
        terms = {"ce": self.cross_entropy(mean_TD, targets_T, self.repeat_bonus(base, chosen_BQ))}
        if len(states) > 1 and self.config.kl_weight > 0:
            kept_BQ, kept_T = self.targets_of(base, self.config.step_share)
            queries_STD = self.scale_queries(states[:, kept_BQ])
            spread = pairwise_kl(queries_STD, self.compared_vectors(), 1.0, self.config.detach_logs)
            spread = self.mean_over_targets(spread.expand(len(kept_T)))
            terms["divergence"] = -self.config.kl_weight * spread
        return terms
