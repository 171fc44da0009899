"""Where and when a key stands from a query: biases on attention scores and turned vectors.

Shape legend: B rows, Q queries, L keys, H heads, W width of a head.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.encoders.base import INIT_STD

NUM_BUCKETS = 128
# Natural logarithm of the ratio between one bucket's seconds and the next one's.
BUCKET_WIDTH = 0.301
ROTARY_BASE = 10_000.0


def time_buckets(seconds: Tensor) -> Tensor:
    """Number the logarithmic bucket of spans of time, int64: 0 up to one second, 60 to two years.

    As in the code published with HSTU: a bucket is 1.35 times as wide as the one before.
    """
    logs = seconds.abs().clamp(min=1).float().log() / BUCKET_WIDTH
    return logs.long().clamp(max=NUM_BUCKETS - 1)


@dataclass(frozen=True, eq=False)
class Gaps:
    """How far keys stand from queries.

    Attributes:
        events: int64, events between the two, 0 for the query itself; broadcasts to [B, Q, L].
        buckets: int64 [B, Q, L] or fewer, see `time_buckets`.
    """

    events: Tensor
    buckets: Tensor


class RelativeBias(nn.Module):
    """One learned number per distance in events, one per bucket of elapsed time, for all heads.

    Source: Zhai et al. 2024 (arXiv 2402.17152), which takes the elapsed time up to the event that
    is to be predicted; here it runs up to the query's own event, since at night nobody knows when
    the next one comes.

    Args:
        longest: Distances beyond it count as it; 0 leaves distance out.
    """

    def __init__(self, longest: int) -> None:
        super().__init__()
        self.longest = longest
        self.by_event = nn.Parameter(torch.empty(longest + 1)) if longest else None
        self.by_time = nn.Parameter(torch.empty(NUM_BUCKETS))
        for table in self.parameters():
            nn.init.normal_(table, std=INIT_STD)

    def forward(self, gaps: Gaps) -> Tensor:
        """Look the biases up: broadcasts to [B, Q, L]."""
        bias = _take(self.by_time, gaps.buckets)
        if self.by_event is None:
            return bias
        return bias + _take(self.by_event, gaps.events.clamp(0, self.longest))


def _take(table: Tensor, index: Tensor) -> Tensor:
    # On a CPU the gradient of index_select takes a quarter of the time of that of indexing.
    return table.index_select(0, index.flatten()).view(index.shape)


def rotate(x_BHQW: Tensor, positions_BQ: Tensor) -> Tensor:
    """Turn pairs of coordinates by angles that grow with position.

    Source: Su et al., RoFormer, 2021 (arXiv 2104.09864): the product of two turned vectors depends
    on the distance between their positions alone.
    """
    half = x_BHQW.shape[-1] // 2
    speeds = ROTARY_BASE ** -(torch.arange(half, device=x_BHQW.device) / half)
    angles = positions_BQ[:, None, :, None] * speeds
    cos, sin = angles.cos(), angles.sin()
    a, b = x_BHQW[..., :half], x_BHQW[..., half:]
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)
