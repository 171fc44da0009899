"""The items whose vectors point the same way.

Shape legend: N catalogue size, D width, M neighbours of an item, C items of one chunk.
"""

import torch
from torch import Tensor
from torch.nn import functional

# Similarities held at once: 64 MiB of float32.
CHUNK_SIMILARITIES = 2**24


@torch.no_grad()
def nearest_items(vectors_N1D: Tensor, known_N1: Tensor, count: int) -> Tensor:
    """Find each known item's nearest known others by cosine, nearest first: int64 [N + 1, M].

    Where there are fewer others than wanted they come round again; unknown items, and an item that
    is alone, have themselves.

    Args:
        vectors_N1D: One vector per item.
        known_N1: Items that have neighbours and are neighbours.
        count: Neighbours M.
    """
    every = torch.arange(len(known_N1), device=known_N1.device)
    neighbours_N1M = every[:, None].repeat(1, count)
    known = known_N1.nonzero()[:, 0]
    wanted = min(count, len(known) - 1)
    if wanted < 1:
        return neighbours_N1M
    directions_XD = functional.normalize(vectors_N1D[known].float(), dim=1)
    round_M = torch.arange(count, device=known.device) % wanted
    first = 0
    for chunk_CD in torch.split(directions_XD, max(1, CHUNK_SIMILARITIES // len(known))):
        own = torch.arange(first, first + len(chunk_CD), device=known.device)
        alike_CX = chunk_CD @ directions_XD.T
        alike_CX[own - first, own] = -torch.inf
        found_CM = known[alike_CX.topk(wanted, dim=1).indices]
        neighbours_N1M[known[own]] = found_CM[:, round_M]
        first += len(chunk_CD)
    return neighbours_N1M
