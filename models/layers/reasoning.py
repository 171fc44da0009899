"""Latent reasoning at every position at once.

Thought k of position t is one more token through the encoder's own layers. It attends to the keys
and values that the base pass left at positions <= t, and to the chain of earlier thoughts of the
same position, and to nothing else. All positions advance together, so K thoughts cost K further
passes instead of one pass per prefix.

Shape legend: B rows, Q reasoning positions, D width, S states (K + 1), K thoughts.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from models.encoders.base import INIT_STD, BasePass, Encoder
from models.layers.dropout import dropout


class Reasoning(nn.Module):
    """The chain of K thoughts from each position's hidden state.

    Args:
        dim: Width D.
        steps: Thoughts K.
        form: "replace" lets each thought replace the state, "residual" adds it to the state.
            "gated" adds it through a gate that starts at zero: the ranker starts as its backbone
            exactly and learns from there what reasoning adds, where replacing first has to learn to
            carry the state through the layers again.
        dropout: Share dropped from each thought's input.
    """

    def __init__(
        self,
        dim: int,
        steps: int,
        form: Literal["replace", "residual", "gated"],
        dropout: float,
    ) -> None:
        super().__init__()
        self.steps, self.form, self.dropout = steps, form, dropout
        self.positions_KD = nn.Parameter(torch.empty(steps, dim))
        nn.init.normal_(self.positions_KD, std=INIT_STD)
        self.gates_KD = nn.Parameter(torch.zeros(steps, dim)) if form == "gated" else None

    def forward(
        self,
        encoder: Encoder,
        base: BasePass,
        noise: float = 0.0,
        cue_QD: Tensor | None = None,
        joined: bool = False,
        shape: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """Reason from the places of a base pass: [S, B, Q, D], the first state unreasoned.

        Args:
            encoder: What made the base pass and takes the thoughts.
            base: What the base pass left, seen from the places to reason from.
            noise: Standard deviation of Gaussian noise on every thought's input.
            cue_QD: Added to every thought's input at its place, but never to the states.
            joined: Whether the places of a row think as one block (see `Chain`).
            shape: Applied to every thought before it joins the state.
        """
        state = base.hidden_BQD
        states = [state]
        chain = encoder.start_chain(joined)
        for step in range(self.steps):
            cue = self.positions_KD[step] if cue_QD is None else self.positions_KD[step] + cue_QD
            x_BQD = encoder.enter(state + cue)
            if noise > 0:
                x_BQD = x_BQD + noise * torch.randn_like(x_BQD)
            x_BQD = dropout(x_BQD, self.dropout, self.training)
            thought_BQD = encoder.step(x_BQD, base, chain)
            if shape is not None:
                thought_BQD = shape(thought_BQD)
            if self.gates_KD is not None:
                state = state + self.gates_KD[step] * thought_BQD
            else:
                state = thought_BQD if self.form == "replace" else state + thought_BQD
            states.append(state)
        return torch.stack(states)
