"""SASRec's encoder: causal self-attention over a left-padded history.

Shape legend: B rows, L base positions, Q places, D width, H heads, W width of a head.
"""

from typing import cast

import torch
from torch import Tensor, nn

from models.batch import SequenceBatch
from models.encoders.base import BasePass, Chain, Encoder, every_position, initialise
from models.layers.dropout import dropout
from models.layers.transformer import Block, BlockSettings, causal_mask, positions_of


class TransformerEncoder(Encoder):
    """Layers of self-attention over items and positions, keys and values kept.

    Args:
        settings: Shape of a layer.
        num_layers: Layers.
        max_length: Longest history.
        embedding_norm: LayerNorm on the sum of item and position vectors.
    """

    def __init__(
        self, settings: BlockSettings, num_layers: int, max_length: int, embedding_norm: bool
    ) -> None:
        super().__init__()
        self.settings, self.num_layers = settings, num_layers
        self.positions = nn.Embedding(max_length + 1, settings.dim)
        self.embedding_norm = nn.LayerNorm(settings.dim) if embedding_norm else nn.Identity()
        self.blocks = nn.ModuleList(Block(settings) for _ in range(num_layers))
        self.final_norm = nn.LayerNorm(settings.dim) if settings.norm == "pre" else nn.Identity()
        for part in (self.positions, self.blocks):
            part.apply(initialise)

    @property
    def layers(self) -> list[Block]:
        """The layers, first to last."""
        return [cast(Block, block) for block in self.blocks]

    def embed(self, batch: SequenceBatch, items_BLD: Tensor) -> Tensor:
        """Add positions to item vectors, normalise and drop: the input of the first layer."""
        x_BLD = items_BLD + self.positions(positions_of(batch.valid_BL))
        return dropout(self.enter(x_BLD), self.settings.dropout, self.training)

    def mask(self, batch: SequenceBatch) -> Tensor:
        """Say where each position may look: bool [B, 1, L, L]."""
        return causal_mask(batch.valid_BL)

    def forward(self, batch: SequenceBatch, items_BLD: Tensor) -> BasePass:
        """Encode a batch whose item vectors are given."""
        x_BLD = self.embed(batch, items_BLD)
        mask_B1LL = self.mask(batch)
        # In training a batch without padding takes the faster kernel; at inference the kernel must
        # not depend on who shares the batch.
        full = self.training and bool(batch.valid_BL.all())
        keys: list[Tensor] = []
        values: list[Tensor] = []
        for block in self.layers:
            x_BLD, k, v = block(x_BLD, None if full else mask_B1LL)
            keys.append(k)
            values.append(v)
        hidden_BLD = self.final_norm(x_BLD)
        return BasePass(batch, hidden_BLD, keys, values, mask_B1LL, every_position(batch))

    def enter(self, x_BQD: Tensor) -> Tensor:
        """Normalise a new token as the items were before the layers."""
        normalised: Tensor = self.embedding_norm(x_BQD)
        return normalised

    def step(self, x_BQD: Tensor, base: BasePass, chain: Chain) -> Tensor:
        """Run one new token per place through all layers; it joins the place's own chain."""
        for layer, block in enumerate(self.layers):
            q, k, v = block.heads(x_BQD)
            chain.keys[layer].append(k)
            chain.values[layer].append(v)
            mixed_BHQW = self._attend(q, base, chain, layer)
            x_BQD = block.finish(x_BQD, mixed_BHQW)
        chain.length += 1
        state: Tensor = self.final_norm(x_BQD)
        return state

    def _attend(self, q_BHQW: Tensor, base: BasePass, chain: Chain, layer: int) -> Tensor:
        """Attend to the base pass under its mask and to the place's own chain."""
        q_BHQW = q_BHQW / q_BHQW.shape[-1] ** 0.5
        k_BHLW, v_BHLW = base.keys[layer], base.values[layer]
        base_BHQL = (q_BHQW @ k_BHLW.transpose(-2, -1)).masked_fill(~base.mask_B1QL, -torch.inf)
        own_BHQk = torch.stack([(q_BHQW * k).sum(-1) for k in chain.keys[layer]], dim=-1)
        weights = torch.cat([base_BHQL, own_BHQk], dim=-1).softmax(dim=-1)
        weights = dropout(weights, self.settings.dropout, self.training)
        length = k_BHLW.shape[2]
        mixed = weights[..., :length] @ v_BHLW
        for place, value in enumerate(chain.values[layer]):
            mixed = mixed + weights[..., length + place, None] * value
        return mixed
