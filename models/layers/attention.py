"""What a layer of attention owes to the encoder that runs it.

Shape legend: B rows, Q queries, L keys, D width, H heads, W width of a head.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn


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


@dataclass(frozen=True, eq=False)
class Heads:
    """An input as one layer's attention sees it.

    Attributes:
        q, k, v: [B, H, Q, W] each.
        gate: [B, Q, D], where the layer gates what attention brings; else None.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    gate: Tensor | None = None

    def at_last(self) -> "Heads":
        """Ask from the last place alone, all keys and values kept."""
        gate = None if self.gate is None else self.gate[:, -1:]
        return Heads(self.q[:, :, -1:], self.k, self.v, gate)


class AttentionLayer(nn.Module, ABC):
    """A layer in three parts, so that new tokens can go through it one by one."""

    def __init__(self, settings: BlockSettings) -> None:
        super().__init__()
        if settings.dim % settings.num_heads:
            raise ValueError(f"dim {settings.dim} must be a multiple of {settings.num_heads} heads")
        self.settings = settings

    @abstractmethod
    def heads(self, x_BQD: Tensor) -> Heads:
        """Project an input to queries, keys and values."""

    @abstractmethod
    def scores(self, q_BHQW: Tensor, k_BHLW: Tensor) -> Tensor:
        """Compare queries with keys: [B, H, Q, L]."""

    @abstractmethod
    def weights(self, scores_BHQL: Tensor, mask_B1QL: Tensor) -> Tensor:
        """Turn scores into attention weights, zero where the mask is False: [B, H, Q, L]."""

    @abstractmethod
    def finish(self, x_BQD: Tensor, mixed_BHQW: Tensor, gate_BQD: Tensor | None) -> Tensor:
        """Complete the layer after attention."""

    def is_fused(self, x: Tensor) -> bool:
        """Say whether an input takes the fused form of this layer (see `models.layers.fused`)."""
        return False

    def attend(
        self, heads: Heads, mask_B1LL: Tensor, bias_BLL: Tensor | None, plain: bool = False
    ) -> Tensor:
        """Attend among the inputs themselves: [B, H, L, W], or with the last query alone.

        Args:
            heads: The inputs.
            mask_B1LL: bool, True where a query may look.
            bias_BLL: Added to the scores of all heads.
            plain: The mask is causal and no row is padded, so that a faster kernel will do.
        """
        scores_BHLL = self.scores(heads.q, heads.k)
        if bias_BLL is not None:
            scores_BHLL = scores_BHLL + bias_BLL[:, None]
        return self.weights(scores_BHLL, mask_B1LL) @ heads.v

    def split(self, x_BQX: Tensor) -> Tensor:
        """Cut the last axis into heads: [B, H, Q, W]."""
        rows, length, _ = x_BQX.shape
        return x_BQX.view(rows, length, self.settings.num_heads, -1).transpose(1, 2)
