"""A Transformer layer over left-padded sequences.

Shape legend: B rows, L positions, D width, H heads, W width of a head, Q queries.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.layers import fused
from models.layers.attention import AttentionLayer, BlockSettings, Heads
from models.layers.dropout import dropout


class Block(AttentionLayer):
    """Self-attention and a feed-forward layer, each with a residual connection."""

    def __init__(self, settings: BlockSettings) -> None:
        super().__init__(settings)
        self.attention_norm = nn.LayerNorm(settings.dim)
        self.project_in = nn.Linear(settings.dim, 3 * settings.dim)
        self.project_out = nn.Linear(settings.dim, settings.dim)
        self.inner_norm = nn.LayerNorm(settings.dim)
        self.widen = nn.Linear(settings.dim, settings.inner)
        self.narrow = nn.Linear(settings.inner, settings.dim)
        self.activate = nn.GELU() if settings.activation == "gelu" else nn.ReLU()

    def heads(self, x_BQD: Tensor) -> Heads:
        """Project an input to queries, keys and values."""
        if self.settings.norm == "pre":
            x_BQD = self.attention_norm(x_BQD)
        parts = self.project_in(x_BQD).unflatten(-1, (3, self.settings.num_heads, -1))
        parts = parts.permute(2, 0, 3, 1, 4)
        if self.training:  # once for all products to come, those of thoughts too
            parts = parts.contiguous()
        q, k, v = parts.unbind(0)
        return Heads(q, k, v)

    def is_fused(self, x: Tensor) -> bool:
        """Say whether an input takes the fused form of this layer (see `models.layers.fused`)."""
        return x.device.type == "cpu" and not torch.is_autocast_enabled("cpu")

    def attend(
        self, heads: Heads, mask_B1LL: Tensor, bias_BLL: Tensor | None, plain: bool = False
    ) -> Tensor:
        """Attend among the inputs themselves: [B, H, L, W]."""
        share = self.settings.dropout if self.training else 0.0
        # With dropout torch's kernel for a CPU spends most of its time on drawing what to drop.
        dropped_on_cpu = share > 0 and not heads.q.is_cuda
        if bias_BLL is None and dropped_on_cpu and self.is_fused(heads.q):
            return fused.attend(heads.q, heads.k, heads.v, mask_B1LL, ([], []), share)
        if bias_BLL is not None or dropped_on_cpu:
            return super().attend(heads, mask_B1LL, bias_BLL)
        mixed_BHLW: Tensor = functional.scaled_dot_product_attention(
            heads.q,
            heads.k,
            heads.v,
            attn_mask=None if plain else mask_B1LL,
            dropout_p=share,
            is_causal=plain,
        )
        return mixed_BHLW

    def scores(self, q_BHQW: Tensor, k_BHLW: Tensor) -> Tensor:
        """Scaled dot products: [B, H, Q, L]."""
        root: float = q_BHQW.shape[-1] ** 0.5
        return (q_BHQW / root) @ k_BHLW.transpose(-2, -1)

    def weights(self, scores_BHQL: Tensor, mask_B1QL: Tensor) -> Tensor:
        """Softmax over the keys that the mask allows: [B, H, Q, L]; the scores are used up."""
        shut_B1QL = torch.zeros_like(mask_B1QL, dtype=scores_BHQL.dtype)
        # Adding has no gradient to compute, filling has.
        scores_BHQL.add_(shut_B1QL.masked_fill_(~mask_B1QL, -torch.inf))
        return self._drop(scores_BHQL.softmax(dim=-1))

    def finish(self, x_BQD: Tensor, mixed_BHQW: Tensor, gate_BQD: Tensor | None) -> Tensor:
        """Complete the layer after attention: projection, residuals, feed-forward."""
        joined_BQD = mixed_BHQW.transpose(1, 2).flatten(2)
        x_BQD = x_BQD + self._drop(self.project_out(joined_BQD))
        if self.settings.norm == "post":
            x_BQD = self.attention_norm(x_BQD)
            normed_BQD: Tensor = self.inner_norm(x_BQD + self._drop(self._inner(x_BQD)))
            return normed_BQD
        # Its fused form finds slopes on the way, which nobody asks for at inference.
        if not (self.training and self.is_fused(x_BQD)):
            return x_BQD + self._drop(self._inner(self.inner_norm(x_BQD)))
        settings = (self.settings.activation, self.settings.dropout)
        x_TD = x_BQD.flatten(0, 1)
        x_TD = fused.feed_forward(x_TD, self.inner_norm, self.widen, self.narrow, *settings)
        return x_TD.view_as(x_BQD)

    def _inner(self, x_BQD: Tensor) -> Tensor:
        out: Tensor = self.narrow(self._drop(self.activate(self.widen(x_BQD))))
        return out

    def _drop(self, x: Tensor) -> Tensor:
        return dropout(x, self.settings.dropout, self.training)


def causal_mask(valid_BL: Tensor) -> Tensor:
    """Mask of a left-padded batch, bool [B, 1, L, L]: real keys up to the query's own place.

    Every position may look at itself, padding too: a query with nothing to look at would be nan.
    """
    length = valid_BL.shape[1]
    past = torch.ones(length, length, dtype=torch.bool, device=valid_BL.device).tril()
    return open_mask(valid_BL) & past


def open_mask(valid_BL: Tensor) -> Tensor:
    """Mask that lets every position look at all real ones and at itself: bool [B, 1, L, L]."""
    own = torch.eye(valid_BL.shape[1], dtype=torch.bool, device=valid_BL.device)
    return (valid_BL[:, None, :] | own)[:, None]


def positions_of(valid_BL: Tensor) -> Tensor:
    """Count the real events up to each position, from 1; padding gets 0: int64 [B, L]."""
    return valid_BL.long().cumsum(dim=1) * valid_BL
