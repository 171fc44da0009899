"""Draws of the places that a costly term of a loss is taken at.

Shape legend: B rows, Q places, R drawn rows.
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
