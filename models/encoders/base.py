"""What every encoder offers: a pass over the history, and one more token from any position.

Shape legend: B rows, L base positions, Q places to go on from, D width, H heads, W width of a head.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from models.batch import SequenceBatch

INIT_STD = 0.02


@dataclass(frozen=True, eq=False)
class BasePass:
    """What an encoder left behind, seen from the places to go on from (at first every position).

    Attributes:
        batch: The encoded batch.
        hidden_BQD: The encoder's output at the places.
        keys: Per layer [B, H, L, W].
        values: Per layer [B, H, L, W].
        mask_B1QL: bool, True where a place may look.
        places_BQ: int64 positions of the places.
    """

    batch: SequenceBatch
    hidden_BQD: Tensor
    keys: Sequence[Tensor]
    values: Sequence[Tensor]
    mask_B1QL: Tensor
    places_BQ: Tensor

    def at(self, places_BQ: Tensor) -> "BasePass":
        """Look from some of the positions alone; a position may stand there several times."""
        dim, length = self.hidden_BQD.shape[-1], self.mask_B1QL.shape[-1]
        rows_B1QL = places_BQ[:, None, :, None].expand(-1, -1, -1, length)
        return replace(
            self,
            hidden_BQD=self.hidden_BQD.gather(1, places_BQ[:, :, None].expand(-1, -1, dim)),
            mask_B1QL=self.mask_B1QL.gather(2, rows_B1QL),
            places_BQ=self.places_BQ.gather(1, places_BQ),
        )

    def at_last(self) -> "BasePass":
        """Look from the last position alone.

        Keys and values are laid out once here: for so few queries the copy that products make of
        them would be most of what a step costs.
        """
        count = self.hidden_BQD.shape[1]
        last = self.at(self.places_BQ.new_full((self.batch.num_rows, 1), count - 1))
        keys, values = ([one.contiguous() for one in part] for part in (last.keys, last.values))
        return replace(last, keys=keys, values=values)


def every_position(batch: SequenceBatch) -> Tensor:
    """Number the positions of a batch: int64 [B, L]."""
    return torch.arange(batch.length, device=batch.item_ids_BL.device).expand(batch.num_rows, -1)


@dataclass(eq=False)
class Chain:
    """Keys and values of the tokens that each place has added so far, [B, H, Q, W] per token.

    Attributes:
        keys: Per layer, one tensor per token.
        values: Per layer, one tensor per token.
        length: Tokens added so far.
        joined: Whether the places of a row form a block, whose tokens see those of the whole block,
            or think each for itself.
    """

    keys: list[list[Tensor]] = field(default_factory=list)
    values: list[list[Tensor]] = field(default_factory=list)
    length: int = 0
    joined: bool = False


class Encoder(nn.Module, ABC):
    """Turns item vectors into hidden states at every position, and goes on token by token.

    Attributes:
        num_layers: Layers, each with its own keys and values.
        reads_ahead: Whether a position's state holds what stands behind it. Such an encoder learns
            next items from prefixes, at their last position alone.
    """

    num_layers: int
    reads_ahead: ClassVar[bool] = False

    @abstractmethod
    def forward(self, batch: SequenceBatch, items_BLD: Tensor, last_only: bool = False) -> BasePass:
        """Encode a batch whose item vectors are given.

        With `last_only` it is seen from the last position, and what no one else will look at is
        left out: most of the last layer.
        """

    @abstractmethod
    def enter(self, x_BQD: Tensor) -> Tensor:
        """Normalise a new token as the items were before the layers."""

    @abstractmethod
    def step(self, x_BQD: Tensor, base: BasePass, chain: Chain) -> Tensor:
        """Run one new token per place through all layers; it joins the place's own chain.

        It attends to what its place may see of the base pass and to the tokens of its own chain,
        itself included, and to nothing else. In a joined chain these are the tokens of all places.

        Returns:
            Its state, normalised as those of the base pass: [B, Q, D].
        """

    def start_chain(self, joined: bool = False) -> Chain:
        """Begin with no added token."""
        empty: list[list[Tensor]] = [[] for _ in range(self.num_layers)]
        return Chain(empty, [list(tokens) for tokens in empty], joined=joined)


def initialise(module: nn.Module) -> None:
    """Draw linear and embedding weights from N(0, 0.02), biases 0 (as BERT and ReaRec do)."""
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=INIT_STD)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, std=INIT_STD)
