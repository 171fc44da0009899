"""Places of rows that something is taken at: drawn ones, and the first of each item.

Shape legend: B rows, L positions, Q places, R drawn rows, T targets.
"""

import torch
from torch import Tensor


def draw_places(chosen_BQ: Tensor, share: float = 1.0) -> tuple[Tensor, Tensor]:
    """Draw one marked place from each of a share of the rows that have any.

    Returns:
        int64 [R] rows, ascending, and int64 [R] places.
    """
    rows_R = chosen_BQ.any(dim=1).nonzero()[:, 0]
    if share < 1:
        count = -int(-share * len(rows_R) // 1)
        drawn = torch.randperm(len(rows_R), device=rows_R.device)[:count]
        rows_R = rows_R[drawn.sort().values]
    if len(rows_R) == 0:
        return rows_R, rows_R
    return rows_R, torch.multinomial(chosen_BQ[rows_R].float(), 1)[:, 0]


def same_target_pairs(targets_T: Tensor, rows_T: Tensor) -> tuple[Tensor, Tensor]:
    """Pair targets with another place of the same target in another row of the batch.

    Places of one target form a ring in random order; each is paired with the next, and left out
    where that stands in its own row.

    Returns:
        int64 places of both sides, in random order.
    """
    order_T = torch.randperm(len(targets_T), device=targets_T.device)
    order_T = order_T[torch.argsort(targets_T[order_T], stable=True)]
    _, sizes = torch.unique_consecutive(targets_T[order_T], return_counts=True)
    starts_T = (sizes.cumsum(0) - sizes).repeat_interleave(sizes)
    place_T = torch.arange(len(order_T), device=order_T.device)
    is_last_T = place_T + 1 == starts_T + sizes.repeat_interleave(sizes)
    next_T = order_T[torch.where(is_last_T, starts_T, place_T + 1)]
    apart_T = rows_T[order_T] != rows_T[next_T]
    left, right = order_T[apart_T], next_T[apart_T]
    mixed = torch.randperm(len(left), device=left.device)
    return left[mixed], right[mixed]


def first_places(ids_BL: Tensor) -> Tensor:
    """Mark the first place of each item of a row; padding is none: bool [B, L]."""
    earlier_BLL = (ids_BL[:, :, None] == ids_BL[:, None, :]).tril(-1)
    return (ids_BL > 0) & ~earlier_BLL.any(dim=2)
