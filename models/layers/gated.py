"""HSTU's layer: pointwise attention without softmax, gated element by element.

Shape legend: B rows, Q queries, L keys, D width, H heads, W width of a head.
"""

from torch import Tensor, nn
from torch.nn import functional

from models.layers.attention import AttentionLayer, BlockSettings, Heads
from models.layers.dropout import dropout

# Attention weights of a short history are small numbers over a long one's length: what the
# customary 1e-5 adds to their variance would be felt.
EPSILON = 1e-6


class GatedBlock(AttentionLayer):
    """One projection, SiLU attention, and a gate in place of a feed-forward layer.

    SiLU(q k + bias) / n keeps how strongly a history speaks, where softmax keeps shares alone.
    Source: Zhai et al., Actions Speak Louder than Words, 2024 (arXiv 2402.17152). The published
    code divides by the padded length of a batch; here n is the longest history that the encoder
    reads, so that no row depends on its neighbours.

    Args:
        settings: Its width, heads and dropout count; a gated layer has no feed-forward part and
            normalises before.
        longest: The n of the formula.
    """

    def __init__(self, settings: BlockSettings, longest: int) -> None:
        super().__init__(settings)
        self.longest = longest
        self.norm_in = nn.LayerNorm(settings.dim, EPSILON, elementwise_affine=False)
        self.norm_mixed = nn.LayerNorm(settings.dim, EPSILON, elementwise_affine=False)
        self.project_in = nn.Linear(settings.dim, 4 * settings.dim, bias=False)
        self.project_out = nn.Linear(settings.dim, settings.dim)

    def heads(self, x_BQD: Tensor) -> Heads:
        """Project an input to queries, keys, values and the gate."""
        projected = functional.silu(self.project_in(self.norm_in(x_BQD)))
        gate_BQD, v, q, k = projected.chunk(4, dim=-1)
        return Heads(self.split(q), self.split(k), self.split(v), gate_BQD)

    def scores(self, q_BHQW: Tensor, k_BHLW: Tensor) -> Tensor:
        """Dot products: [B, H, Q, L]."""
        return q_BHQW @ k_BHLW.transpose(-2, -1)

    def weights(self, scores_BHQL: Tensor, mask_B1QL: Tensor) -> Tensor:
        """SiLU of each score by itself: [B, H, Q, L]."""
        return functional.silu(scores_BHQL) * (mask_B1QL / self.longest)

    def finish(self, x_BQD: Tensor, mixed_BHQW: Tensor, gate_BQD: Tensor | None) -> Tensor:
        """Complete the layer after attention: gate, projection, residual."""
        assert gate_BQD is not None, "heads of this layer carry their gate"
        joined_BQD = self.norm_mixed(mixed_BHQW.transpose(1, 2).flatten(2))
        gated_BQD = dropout(joined_BQD * gate_BQD, self.settings.dropout, self.training)
        out_BQD: Tensor = x_BQD + self.project_out(gated_BQD)
        return out_BQD
