"""What the latent-reasoning rankers on a SASRec backbone share.

Shape legend: B rows, L positions, D width, T real targets, S states (K + 1).
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from models.batch import SequenceBatch
from models.layers.reasoning import BasePass, Reasoning
from models.rankers.sasrec import SASRec, SASRecConfig


class ReasoningConfig(SASRecConfig):
    """Settings of a latent-reasoning ranker.

    Attributes:
        reasoning_steps: Thoughts K after the base pass; 0 is the backbone, bit for bit.
        reasoning_form: "published": each thought replaces the state. "gated" (the default): each
            thought is added to the state through a gate that starts at zero, so that training
            starts from the backbone; replacing the state makes the model first learn to carry it
            through the layers again, which costs several times the training steps.
        reasoning_dropout: Share dropped from each thought's input.
    """

    reasoning_steps: int = Field(default=2, ge=0)
    reasoning_form: Literal["published", "gated"] = "gated"
    reasoning_dropout: float = Field(default=0.1, ge=0, lt=1)


class LatentReasoner(SASRec):
    """SASRec whose states think for K steps before they score."""

    config_type = ReasoningConfig
    config: ReasoningConfig

    def __init__(self, config: ReasoningConfig, num_items: int) -> None:
        super().__init__(config, num_items)
        steps = config.reasoning_steps
        self.reasoning = (
            Reasoning(config.dim, steps, config.reasoning_form, config.reasoning_dropout)
            if steps
            else None
        )

    def reason(self, base: BasePass, places_BQ: Tensor | None = None, noise: float = 0.0) -> Tensor:
        """Think from every position of a base pass, or from the given ones: [S, B, Q, D]."""
        if self.reasoning is None:
            states = base.hidden_BLD if places_BQ is None else base.at(places_BQ)[0]
            return states[None]
        chain: Tensor = self.reasoning(
            self.layers,
            base,
            self.embedding_norm,
            self.final_norm,
            places_BQ=places_BQ,
            noise=noise,
        )
        return chain

    def aggregate(self, states_SXD: Tensor) -> Tensor:
        """Turn a chain of states into the state that scores."""
        return states_SXD[-1]

    def last_states(self, batch: SequenceBatch, items_BLD: Tensor) -> Tensor:
        """Think from the last position alone: [S, B, D]."""
        base = self.base_pass(batch, items_BLD)
        last_B1 = torch.full((batch.num_rows, 1), batch.length - 1, device=items_BLD.device)
        return self.reason(base, last_B1)[:, :, 0]

    def _encode_vectors(self, batch: SequenceBatch, items_BLD: Tensor) -> Tensor:
        if self.reasoning is None:
            return super()._encode_vectors(batch, items_BLD)
        state_BD = self.aggregate(self.last_states(batch, items_BLD))
        return state_BD * batch.valid_BL[:, -1:]
