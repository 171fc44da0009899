"""Latent reasoning at every position at once.

Thought k of position t is one query through the encoder's own layers. It attends to the keys and
values that the base pass left at positions <= t, and to the chain of earlier thoughts of the same
position, and to nothing else. All positions advance together, so K thoughts cost K further passes
instead of one pass per prefix.

Shape legend: B rows, L base positions, Q reasoning positions, D width, H heads, W width of a head,
S states (K + 1), K thoughts.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from models.layers.dropout import dropout
from models.layers.transformer import INIT_STD, Block


@dataclass(frozen=True, eq=False)
class BasePass:
    """What the encoder left behind: hidden states, keys and values of every layer, and the mask.

    Attributes:
        hidden_BLD: Output of the encoder.
        keys: Per layer [B, H, L, W].
        values: Per layer [B, H, L, W].
        mask_B1LL: bool, True where a position may look.
    """

    hidden_BLD: Tensor
    keys: Sequence[Tensor]
    values: Sequence[Tensor]
    mask_B1LL: Tensor

    def at(self, places_BQ: Tensor) -> tuple[Tensor, Tensor]:
        """Pick some positions: their states [B, Q, D] and their masks [B, 1, Q, L]."""
        length, dim = self.hidden_BLD.shape[1:]
        states_BQD = self.hidden_BLD.gather(1, places_BQ[:, :, None].expand(-1, -1, dim))
        rows_B1QL = places_BQ[:, None, :, None].expand(-1, -1, -1, length)
        return states_BQD, self.mask_B1LL.gather(2, rows_B1QL)


class Reasoning(nn.Module):
    """The chain of K thoughts from each position's hidden state.

    Args:
        dim: Width D.
        steps: Thoughts K.
        form: "published" lets each thought replace the state. "gated" adds the thought to the
            state through a gate that starts at zero: the ranker starts as its backbone exactly and
            learns from there what reasoning adds, where the published form first has to learn to
            carry the state through the layers again.
        dropout: Share dropped from each thought's input.
    """

    def __init__(
        self, dim: int, steps: int, form: Literal["published", "gated"], dropout: float
    ) -> None:
        super().__init__()
        self.steps, self.form, self.dropout = steps, form, dropout
        self.positions_KD = nn.Parameter(torch.empty(steps, dim))
        nn.init.normal_(self.positions_KD, std=INIT_STD)
        self.gates_KD = nn.Parameter(torch.zeros(steps, dim)) if form == "gated" else None

    def forward(
        self,
        blocks: Sequence[Block],
        base: BasePass,
        normalise_input: Callable[[Tensor], Tensor],
        normalise_output: Callable[[Tensor], Tensor],
        places_BQ: Tensor | None = None,
        noise: float = 0.0,
    ) -> Tensor:
        """Reason from every position, or from the given ones: [S, B, Q, D], the first unreasoned.

        Args:
            blocks: The encoder's layers.
            base: What the base pass left.
            normalise_input: Applied to every thought before the layers, as to the items before.
            normalise_output: Applied after the layers, as to the base pass.
            places_BQ: int64 positions to reason from; default all of them.
            noise: Standard deviation of Gaussian noise on every thought's input.
        """
        state, mask = base.hidden_BLD, base.mask_B1LL
        if places_BQ is not None:
            state, mask = base.at(places_BQ)
        states = [state]
        own: list[tuple[list[Tensor], list[Tensor]]] = [([], []) for _ in blocks]
        for step in range(self.steps):
            x_BQD = normalise_input(state + self.positions_KD[step])
            if noise > 0:
                x_BQD = x_BQD + noise * torch.randn_like(x_BQD)
            x_BQD = dropout(x_BQD, self.dropout, self.training)
            for block, k, v, chain in zip(blocks, base.keys, base.values, own, strict=True):
                x_BQD = _think(block, x_BQD, k, v, mask, chain)
            thought_BQD = normalise_output(x_BQD)
            if self.gates_KD is None:
                state = thought_BQD
            else:
                state = state + self.gates_KD[step] * thought_BQD
            states.append(state)
        return torch.stack(states)


def _think(
    block: Block,
    x_BQD: Tensor,
    k_BHLW: Tensor,
    v_BHLW: Tensor,
    mask_B1QL: Tensor,
    chain: tuple[list[Tensor], list[Tensor]],
) -> Tensor:
    """Run one layer on one thought per position and enter its key and value in the chain."""
    q, k, v = block.heads(x_BQD)
    own_keys, own_values = chain
    own_keys.append(k)
    own_values.append(v)
    q = q / q.shape[-1] ** 0.5
    base_BHQL = (q @ k_BHLW.transpose(-2, -1)).masked_fill(~mask_B1QL, -torch.inf)
    own_BHQk = torch.stack([(q * key).sum(-1) for key in own_keys], dim=-1)
    weights = torch.cat([base_BHQL, own_BHQk], dim=-1).softmax(dim=-1)
    weights = dropout(weights, block.settings.dropout, block.training)
    length = k_BHLW.shape[2]
    mixed = weights[..., :length] @ v_BHLW
    for place, value in enumerate(own_values):
        mixed = mixed + weights[..., length + place, None] * value
    return block.finish(x_BQD, mixed)
