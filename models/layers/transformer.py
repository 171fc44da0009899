"""A causal Transformer over left-padded sequences that hands out its keys and values.

Shape legend: B rows, L positions, D width, H heads, W width of a head, Q queries.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.layers.dropout import dropout

INIT_STD = 0.02


@dataclass(frozen=True)
class BlockSettings:
    """Shape and regularisation of one layer.

    Attributes:
        dim: Width D.
        num_heads: Heads H; must divide D.
        inner: Width of the feed-forward layer.
        dropout: Share dropped from attention weights and from both residual branches.
        norm: "pre" normalises before each branch, "post" after each sum.
        activation: Non-linearity of the feed-forward layer.
    """

    dim: int
    num_heads: int
    inner: int
    dropout: float
    norm: Literal["pre", "post"] = "pre"
    activation: Literal["gelu", "relu"] = "gelu"


class Block(nn.Module):
    """Self-attention and a feed-forward layer, each with a residual connection."""

    def __init__(self, settings: BlockSettings) -> None:
        super().__init__()
        if settings.dim % settings.num_heads:
            raise ValueError(f"dim {settings.dim} must be a multiple of {settings.num_heads} heads")
        self.settings = settings
        self.attention_norm = nn.LayerNorm(settings.dim)
        self.project_in = nn.Linear(settings.dim, 3 * settings.dim)
        self.project_out = nn.Linear(settings.dim, settings.dim)
        self.inner_norm = nn.LayerNorm(settings.dim)
        self.widen = nn.Linear(settings.dim, settings.inner)
        self.narrow = nn.Linear(settings.inner, settings.dim)
        self.activate = nn.GELU() if settings.activation == "gelu" else nn.ReLU()

    def forward(self, x_BLD: Tensor, mask_B1LL: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Run the layer; returns its output and its keys and values, [B, H, L, W] each.

        Args:
            x_BLD: Input.
            mask_B1LL: True where a query may look; None for plain causal rows without padding.
        """
        q, k, v = self.heads(x_BLD)
        mixed = functional.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=mask_B1LL,
            dropout_p=self.settings.dropout if self.training else 0.0,
            is_causal=mask_B1LL is None,
        )
        return self.finish(x_BLD, mixed), k, v

    def heads(self, x_BLD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Project an input to queries, keys and values, [B, H, L, W] each."""
        if self.settings.norm == "pre":
            x_BLD = self.attention_norm(x_BLD)
        batch, length, dim = x_BLD.shape
        heads = self.settings.num_heads
        qkv = self.project_in(x_BLD).view(batch, length, 3, heads, dim // heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        return q, k, v

    def finish(self, x_BLD: Tensor, mixed_BHLW: Tensor) -> Tensor:
        """Complete the layer after attention: projection, residuals, feed-forward."""
        joined_BLD = mixed_BHLW.transpose(1, 2).flatten(2)
        x_BLD = x_BLD + self._drop(self.project_out(joined_BLD))
        if self.settings.norm == "post":
            x_BLD = self.attention_norm(x_BLD)
            return self.inner_norm(x_BLD + self._drop(self._inner(x_BLD)))  # type: ignore[no-any-return]
        return x_BLD + self._drop(self._inner(self.inner_norm(x_BLD)))

    def _inner(self, x_BLD: Tensor) -> Tensor:
        out: Tensor = self.narrow(self._drop(self.activate(self.widen(x_BLD))))
        return out

    def _drop(self, x: Tensor) -> Tensor:
        return dropout(x, self.settings.dropout, self.training)


def causal_mask(valid_BL: Tensor) -> Tensor:
    """Mask of a left-padded batch, bool [B, 1, L, L]: real keys up to the query's own place.

    Every position may look at itself, padding too: a query with nothing to look at would be nan.
    """
    length = valid_BL.shape[1]
    own = torch.eye(length, dtype=torch.bool, device=valid_BL.device)
    past = torch.ones(length, length, dtype=torch.bool, device=valid_BL.device).tril()
    return ((valid_BL[:, None, :] & past) | own)[:, None]


def positions_of(valid_BL: Tensor) -> Tensor:
    """Count the real events up to each position, from 1; padding gets 0: int64 [B, L]."""
    return valid_BL.long().cumsum(dim=1) * valid_BL


def initialise(module: nn.Module) -> None:
    """Draw linear and embedding weights from N(0, 0.02), biases 0 (as BERT and ReaRec do)."""
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=INIT_STD)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, std=INIT_STD)
