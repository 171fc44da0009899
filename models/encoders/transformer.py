"""Encoders that are layers of attention over a left-padded history; SASRec's is the plain one.

Shape legend: B rows, L base positions, Q places, D width, H heads, W width of a head, k tokens of a
chain.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.batch import SequenceBatch
from models.encoders.base import BasePass, Chain, Encoder, every_position, initialise
from models.layers import fused
from models.layers.attention import AttentionLayer, BlockSettings, Heads
from models.layers.dropout import dropout
from models.layers.relative import Gaps, RelativeBias, rotate, time_buckets
from models.layers.transformer import Block, causal_mask, positions_of


@dataclass(frozen=True)
class Placing:
    """How an encoder learns where and when events stand.

    Attributes:
        max_length: Longest history.
        encoding: "learned" adds a vector per position to the items; "rotary" turns queries and
            keys instead (see `rotate`).
        event_bias: Whether attention scores get a learned number per distance in events.
        time_bias: Whether they get one per bucket of elapsed time.
    """

    max_length: int
    encoding: Literal["learned", "rotary"] = "learned"
    event_bias: bool = False
    time_bias: bool = False


class TransformerEncoder(Encoder):
    """Layers of self-attention over items and positions, keys and values kept.

    Args:
        settings: Shape of a layer.
        num_layers: Layers.
        placing: Where and when events stand.
        embedding_norm: LayerNorm on the sum of item and position vectors.
    """

    def __init__(
        self, settings: BlockSettings, num_layers: int, placing: Placing, embedding_norm: bool
    ) -> None:
        super().__init__()
        self.settings, self.num_layers, self.placing = settings, num_layers, placing
        learned = placing.encoding == "learned"
        if not learned and settings.dim // settings.num_heads % 2:
            raise ValueError(
                f"rotary positions turn pairs: dim {settings.dim} over {settings.num_heads} heads "
                "must be even"
            )
        self.positions = nn.Embedding(placing.max_length + 1, settings.dim) if learned else None
        self.embedding_norm = nn.LayerNorm(settings.dim) if embedding_norm else nn.Identity()
        self.blocks = nn.ModuleList(self.build_layer() for _ in range(num_layers))
        self.final_norm = nn.LayerNorm(settings.dim) if settings.norm == "pre" else nn.Identity()
        for part in (self.positions, self.blocks):
            if part is not None:
                part.apply(initialise)
        longest = placing.max_length if placing.event_bias else 0
        biased = placing.event_bias or placing.time_bias
        self.biases = nn.ModuleList(RelativeBias(longest) for _ in range(num_layers * biased))

    def build_layer(self) -> AttentionLayer:
        """Build one layer, untrained."""
        return Block(self.settings)

    @property
    def layers(self) -> list[AttentionLayer]:
        """The layers, first to last."""
        return [cast(AttentionLayer, block) for block in self.blocks]

    def embed(self, batch: SequenceBatch, items_BLD: Tensor) -> Tensor:
        """Add positions to item vectors, normalise and drop: the input of the first layer."""
        if self.positions is not None:
            items_BLD = items_BLD + self.positions(positions_of(batch.valid_BL))
        return dropout(self.enter(items_BLD), self.settings.dropout, self.training)

    def mask(self, batch: SequenceBatch) -> Tensor:
        """Say where each position may look: bool [B, 1, L, L]."""
        return causal_mask(batch.valid_BL)

    def forward(self, batch: SequenceBatch, items_BLD: Tensor, last_only: bool = False) -> BasePass:
        """Encode a batch whose item vectors are given."""
        return self.run(batch, self.embed(batch, items_BLD), self.mask(batch), last_only)

    def run(
        self, batch: SequenceBatch, x_BLD: Tensor, mask_B1LL: Tensor, last_only: bool = False
    ) -> BasePass:
        """Run embedded tokens through the layers under a mask."""
        # In training a batch without padding takes the faster kernel; at inference the kernel must
        # not depend on who shares the batch.
        plain = self.training and not self.reads_ahead and bool(batch.valid_BL.all())
        at_BL, counts_BL = every_position(batch), positions_of(batch.valid_BL)
        bias_of = self._biases(batch, counts_BL, at_BL)
        keys: list[Tensor] = []
        values: list[Tensor] = []
        for layer, block in enumerate(self.layers):
            heads, bias_BLL = self._turned(block.heads(x_BLD), counts_BL), bias_of(layer)
            if last_only and layer == self.num_layers - 1:
                # Of the others the keys and values are all that anyone will look at.
                heads, x_BLD = heads.at_last(), x_BLD[:, -1:]
                mask_B1LL, at_BL = mask_B1LL[:, :, -1:], at_BL[:, -1:]
                bias_BLL = None if bias_BLL is None else bias_BLL[:, -1:]
                plain = False
            mixed_BHLW = block.attend(heads, mask_B1LL, bias_BLL, plain)
            x_BLD = block.finish(x_BLD, mixed_BHLW, heads.gate)
            keys.append(heads.k)
            values.append(heads.v)
        return BasePass(batch, self.final_norm(x_BLD), keys, values, mask_B1LL, at_BL)

    def enter(self, x_BQD: Tensor) -> Tensor:
        """Normalise a new token as the items were before the layers."""
        normalised: Tensor = self.embedding_norm(x_BQD)
        return normalised

    def step(self, x_BQD: Tensor, base: BasePass, chain: Chain) -> Tensor:
        """Run one new token per place through all layers; it joins the place's own chain.

        It stands at the next position, a block's tokens behind the block, and keeps the time of its
        place's event.
        """
        chain.length += 1
        ahead = chain.length * (x_BQD.shape[1] if chain.joined else 1)
        counts_BQ = positions_of(base.batch.valid_BL).gather(1, base.places_BQ) + ahead
        bias_of = self._biases(base.batch, counts_BQ, base.places_BQ)
        for layer, block in enumerate(self.layers):
            heads = self._turned(block.heads(x_BQD), counts_BQ)
            chain.keys[layer].append(heads.k)
            chain.values[layer].append(heads.v)
            mixed_BHQW = self._attend(heads.q, base, chain, layer, bias_of(layer))
            x_BQD = block.finish(x_BQD, mixed_BHQW, heads.gate)
        state: Tensor = self.final_norm(x_BQD)
        return state

    def _attend(
        self, q_BHQW: Tensor, base: BasePass, chain: Chain, layer: int, bias_BQL: Tensor | None
    ) -> Tensor:
        """Attend to the base pass under its mask and to the place's own chain."""
        block = self.layers[layer]
        if bias_BQL is None and not chain.joined and block.is_fused(q_BHQW):
            share = self.settings.dropout if self.training else 0.0
            rows = (base.keys[layer], base.values[layer])
            own = (chain.keys[layer], chain.values[layer])
            return fused.attend(q_BHQW, *rows, base.mask_B1QL, own, share)
        base_BHQL = block.scores(q_BHQW, base.keys[layer])
        own_BHQk = _own_scores(block, q_BHQW, chain, layer)
        if bias_BQL is not None:
            base_BHQL = base_BHQL + bias_BQL[:, None]
            own_k = self._own_bias(layer, chain.length, bias_BQL.device)
            own_BHQk = own_BHQk + own_k.repeat_interleave(own_BHQk.shape[-1] // chain.length)
        allowed = functional.pad(base.mask_B1QL, (0, own_BHQk.shape[-1]), value=True)
        weights = block.weights(torch.cat([base_BHQL, own_BHQk], dim=-1), allowed)
        length = base_BHQL.shape[-1]
        mixed_BHQW = weights[..., :length] @ base.values[layer]
        return mixed_BHQW + _own_values(weights[..., length:], chain, layer)

    def _turned(self, heads: Heads, positions_BQ: Tensor) -> Heads:
        """Turn queries and keys by their positions where the encoding is rotary."""
        if self.positions is not None:
            return heads
        return replace(heads, q=rotate(heads.q, positions_BQ), k=rotate(heads.k, positions_BQ))

    def _biases(
        self, batch: SequenceBatch, counts_BQ: Tensor, event_BQ: Tensor
    ) -> Callable[[int], Tensor | None]:
        """Give each layer's bias of queries that are the `counts_BQ`-th tokens of their rows.

        They are timed as the events at positions `event_BQ`.
        """
        if not len(self.biases):
            return lambda layer: None
        times_BQ = batch.times_BL.gather(1, event_BQ)
        gaps = Gaps(
            counts_BQ[:, :, None] - positions_of(batch.valid_BL)[:, None, :],
            time_buckets(times_BQ[:, :, None] - batch.times_BL[:, None, :]),
        )
        return lambda layer: cast(Tensor, self.biases[layer](gaps))

    def _own_bias(self, layer: int, length: int, device: torch.device) -> Tensor:
        """Bias of the newest token of a chain against all of it, [k]: no time passes in thought."""
        events_k = torch.arange(length - 1, -1, -1, device=device)
        bias_k: Tensor = self.biases[layer](Gaps(events_k, torch.zeros_like(events_k)))
        return bias_k


def _own_scores(block: AttentionLayer, q_BHQW: Tensor, chain: Chain, layer: int) -> Tensor:
    """Compare the newest tokens with their own chains, or with all of their block's."""
    if chain.joined:
        return block.scores(q_BHQW, torch.cat(chain.keys[layer], dim=2))
    alone = [block.scores(q_BHQW[..., None, :], k[..., None, :]) for k in chain.keys[layer]]
    return torch.cat(alone, dim=-1)[..., 0, :]


def _own_values(weights_BHQk: Tensor, chain: Chain, layer: int) -> Tensor:
    """Mix the values of what `_own_scores` compared: [B, H, Q, W]."""
    values = chain.values[layer]
    if chain.joined:
        return weights_BHQk @ torch.cat(values, dim=2)
    mixed = [weights_BHQk[..., place, None] * value for place, value in enumerate(values)]
    return torch.stack(mixed).sum(dim=0)
