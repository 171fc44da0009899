"""ReaRec with progressive reasoning learning: every step predicts, flat early and sharp late.

Shape legend: B rows, Q places, D width, T real targets, S states (K + 1).
"""

import torch
from pydantic import Field
from torch import Tensor

from models.batch import SequenceBatch
from models.encoders.base import BasePass
from models.latent_reasoning import LatentReasoner, ReasoningConfig
from models.losses import Bonus, in_batch_contrast
from models.places import draw_places
from models.registry import register


class ReaRecPRLConfig(ReasoningConfig):
    """Settings of PRL.

    Attributes:
        annealing: Base of the step temperatures: step k of K is judged at annealing^(K - k).
        step_weight: Weight of the mean cross-entropy over the steps before the last.
        step_share: Share of the targets, drawn afresh for each batch, that judges the steps before
            the last (published: all). The mean is the same in expectation, and a full softmax per
            step is most of what training costs.
        contrast_weight: Weight of the contrast between noisy and clean chains.
        noise: Standard deviation of the noise on a thought's input.
        noise_warmup_epochs: Epochs before the contrast starts.
    """

    annealing: float = Field(default=5.0, gt=0)
    step_weight: float = Field(default=1.0, ge=0)
    step_share: float = Field(default=0.1, gt=0, le=1)
    contrast_weight: float = Field(default=1.0, ge=0)
    noise: float = Field(default=0.01, ge=0)
    noise_warmup_epochs: int = Field(default=2, ge=0)


@register
class ReaRecPRL(LatentReasoner):
    """The last state scores; earlier ones learn at higher temperatures, and noise must not matter.

    Source: Tang et al., Think Before Recommend, 2025 (arXiv 2503.22675). The contrast pairs each
    noisy thought with its clean twin among the rows of the batch. Published code runs it on a
    duplicated batch of prefixes; here it runs from one position drawn per row on the same base pass
    (an inference: the term asks the chain, not the encoder, to be stable).
    """

    name = "rearec-prl"
    method = "latent thoughts, step temperatures sharpen towards the last state (PRL)"
    source = "Tang et al. 2025 (arXiv 2503.22675)"
    config_type = ReaRecPRLConfig
    config: ReaRecPRLConfig

    def __init__(self, config: ReaRecPRLConfig, num_items: int) -> None:
        super().__init__(config, num_items)
        self._contrasting = config.noise_warmup_epochs == 0

    def start_epoch(self, epoch: int) -> None:
        """Switch the contrast on once the warm-up is over."""
        self._contrasting = epoch >= self.config.noise_warmup_epochs

    def losses(self, batch: SequenceBatch) -> dict[str, Tensor]:
        """Cross-entropy of the last state, annealed ones of the earlier states, noise contrast."""
        config = self.config
        base = self.base_pass(batch)
        chosen_BQ, targets_T = self.targets_of(base)
        states = self.reason(base)
        bonus = self.repeat_bonus(base, chosen_BQ)
        terms = {"ce": self.cross_entropy(states[-1, chosen_BQ], targets_T, bonus)}
        steps = config.reasoning_steps
        if steps and config.step_weight > 0:
            terms["steps"] = config.step_weight * self._early_steps(base, states, bonus)
        if steps and config.contrast_weight > 0 and self._contrasting and len(targets_T):
            contrast = self._noise_contrast(base, states, chosen_BQ)
            terms["contrast"] = config.contrast_weight * contrast
        return terms

    def _early_steps(self, base: BasePass, states: Tensor, bonus: Bonus | None) -> Tensor:
        """Mean cross-entropy of the states before the last, each at its own temperature."""
        chosen_BQ, targets_T = self.targets_of(base, self.config.step_share)
        if self.config.step_share < 1:
            bonus = self.repeat_bonus(base, chosen_BQ)
        steps = self.config.reasoning_steps
        losses = [
            self.cross_entropy(
                states[k, chosen_BQ], targets_T, bonus, self.config.annealing ** (steps - k)
            )
            for k in range(steps)
        ]
        return torch.stack(losses).mean()

    def _noise_contrast(self, base: BasePass, states: Tensor, chosen_BQ: Tensor) -> Tensor:
        """InfoNCE between noisy and clean thoughts at one drawn position per row."""
        rows_R, places_R = draw_places(chosen_BQ)
        places_B1 = places_R.new_zeros(len(chosen_BQ), 1).index_put((rows_R,), places_R[:, None])
        noisy_SBD = self.reason(base.at(places_B1), noise=self.config.noise)[:, :, 0]
        clean_SRD = states[:, rows_R, places_R]
        per_step = [
            in_batch_contrast(self.scale_queries(noisy_RD), self.contrast_keys(clean_RD))
            for noisy_RD, clean_RD in zip(noisy_SBD[1:, rows_R], clean_SRD[1:], strict=True)
        ]
        return torch.stack(per_step).mean()

    def contrast_keys(self, states_BD: Tensor) -> Tensor:
        """Clean states as the contrast compares them: scaled once, on the query side alone."""
        return self.scale_queries(states_BD) * self.config.temperature
