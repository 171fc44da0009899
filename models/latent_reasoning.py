"""What the latent-reasoning rankers share, on any encoder that can go on token by token.

Shape legend: B rows, Q places, D width, S states (K + 1).
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from models.batch import SequenceBatch
from models.encoders.base import BasePass
from models.layers.halting import HaltingRule, halting_signals, thoughts_taken
from models.layers.reasoning import Reasoning
from models.sequential import SequentialConfig, SequentialRanker


class ReasoningConfig(SequentialConfig):
    """Settings of a latent-reasoning ranker.

    Attributes:
        reasoning_steps: Thoughts K after the base pass; 0 is the backbone's encoder read at the
            last item, bit for bit (for "sasrec" and "hstu" the ranker of that name).
        reasoning_form: "published": each thought replaces the state, or is added to it where the
            ranker's paper says so. "gated" (the default): each thought is added to the state
            through a gate that starts at zero, so that training starts from the backbone; replacing
            the state makes the model first learn to carry it through the layers again, which costs
            several times the training steps.
        reasoning_dropout: Share dropped from each thought's input.
    """

    reasoning_steps: int = Field(default=2, ge=0)
    reasoning_form: Literal["published", "gated"] = "gated"
    reasoning_dropout: float = Field(default=0.1, ge=0, lt=1)


class LatentReasoner(SequentialRanker):
    """A backbone whose states think for K steps before they score.

    Attributes:
        published_form: What its paper does with a thought.
    """

    config_type = ReasoningConfig
    config: ReasoningConfig
    published_form: ClassVar[Literal["replace", "residual"]] = "replace"

    def __init__(self, config: ReasoningConfig, num_items: int) -> None:
        super().__init__(config, num_items)
        steps = config.reasoning_steps
        form = "gated" if config.reasoning_form == "gated" else self.published_form
        self.reasoning = (
            Reasoning(config.dim, steps, form, config.reasoning_dropout) if steps else None
        )

    def reason(self, base: BasePass, noise: float = 0.0) -> Tensor:
        """Think from the places of a base pass: [S, B, Q, D]."""
        if self.reasoning is None:
            return base.hidden_BQD[None]
        chain: Tensor = self.reasoning(self.encoder, base, noise=noise)
        return chain

    def aggregate(self, states_SXD: Tensor) -> Tensor:
        """Turn a chain of states into the state that scores."""
        return states_SXD[-1]

    @property
    def halting_rule(self) -> HaltingRule:
        """When a row stops thinking before its last thought; never by default."""
        return HaltingRule()

    def final_states(self, base: BasePass) -> Tensor:
        """Think from the last position alone, and score where the row halts: [B, D]."""
        if self.reasoning is None:
            return super().final_states(base)
        states_SBD = self.reason(base.at_last())[:, :, 0]
        if self.halting_rule.is_off:
            return self.aggregate(states_SBD)
        queries_SBD = self.scale_queries(states_SBD)
        vectors_ND = self.training_vectors()[self.scorable_N1[1:]]
        signals = halting_signals(states_SBD, queries_SBD, vectors_ND)
        taken_B = thoughts_taken(signals, self.halting_rule)
        return states_SBD[taken_B, torch.arange(len(taken_B), device=taken_B.device)]

    def _step_vectors(self, batch: SequenceBatch, items_BLD: Tensor) -> Tensor:
        return self.reason(self.run_encoder(batch, items_BLD, last_only=True).at_last())[:, :, 0]
