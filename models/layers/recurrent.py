"""A core of layers that is applied again and again to all positions of a sequence.

Shape legend: B rows, L positions, D width.
"""

from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from models.encoders.base import BasePass, initialise
from models.layers.attention import AttentionLayer, BlockSettings
from models.layers.transformer import Block

Adapter = Literal["average", "linear", "gate"]


class RecurrentCore(nn.Module):
    """One recurrence: inject the input into the state, normalise, run the shared layers.

    Args:
        settings: Shape of a layer.
        num_layers: Layers of the core.
        adapter: How the input meets the state: their average, a linear map of both, or a mix by one
            learned gate.
    """

    def __init__(self, settings: BlockSettings, num_layers: int, adapter: Adapter) -> None:
        super().__init__()
        self.adapter = adapter
        dim = settings.dim
        self.join = nn.Linear(2 * dim, dim) if adapter == "linear" else None
        self.mix = nn.Parameter(torch.zeros(())) if adapter == "gate" else None
        self.norm = nn.LayerNorm(dim)
        self.blocks = nn.ModuleList(Block(settings) for _ in range(num_layers))
        self.apply(initialise)

    def inject(self, state_BLD: Tensor, input_BLD: Tensor) -> Tensor:
        """Let the input into the state."""
        if self.join is not None:
            joined: Tensor = self.join(torch.cat([state_BLD, input_BLD], dim=-1))
            return joined
        share = 0.5 if self.mix is None else self.mix.sigmoid()
        return share * state_BLD + (1 - share) * input_BLD

    def forward(
        self, state_BLD: Tensor, input_BLD: Tensor, mask_B1LL: Tensor, plain: bool
    ) -> Tensor:
        """Take one step from a state.

        Args:
            state_BLD: Where the recurrence stands.
            input_BLD: What every step is reminded of.
            mask_B1LL: True where a position may look.
            plain: The mask is causal and no row is padded.
        """
        x_BLD = self.norm(self.inject(state_BLD, input_BLD))
        for block in (cast(AttentionLayer, module) for module in self.blocks):
            heads = block.heads(x_BLD)
            mixed = block.attend(heads, mask_B1LL, None, plain)
            x_BLD = block.finish(x_BLD, mixed, heads.gate)
        out_BLD: Tensor = x_BLD
        return out_BLD

    def unroll(
        self, state_BLD: Tensor, base: BasePass, depth: int, kept: int, plain: bool = False
    ) -> list[Tensor]:
        """Recur `depth` times over all positions of a base pass.

        Args:
            state_BLD: The state to start from.
            base: The pass that every recurrence is reminded of.
            depth: Recurrences.
            kept: Last recurrences whose activations wait for the backward pass; those before are
                computed again there, which bounds memory whatever the depth.
            plain: See `forward`.

        Returns:
            The state of each recurrence, [B, L, D].
        """
        states: list[Tensor] = []
        for step in range(depth):
            inputs = (state_BLD, base.hidden_BQD, base.mask_B1QL, plain)
            if torch.is_grad_enabled() and step < depth - kept:
                state_BLD = cast(Tensor, checkpoint(self, *inputs, use_reentrant=False))
            else:
                state_BLD = self(*inputs)
            states.append(state_BLD)
        return states
