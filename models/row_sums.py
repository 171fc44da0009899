"""Sums of rows that share a number, the same on every run.

Shape legend: X rows, D width, K numbers.
"""

import torch
from torch import Tensor


def sum_rows(rows_XD: Tensor, number_X: Tensor, count: int) -> Tensor:
    """Sum the rows of each number 0..count-1: [K, D]."""
    if rows_XD.device.type == "cpu":
        return rows_XD.new_zeros(count, rows_XD.shape[1]).index_add_(0, number_X, rows_XD)
    # Adding by index is atomic there, and atomic sums vary from run to run.
    order_X = torch.argsort(number_X, stable=True)
    sizes_K = torch.bincount(number_X, minlength=count)
    return torch.segment_reduce(rows_XD[order_X], "sum", lengths=sizes_K, axis=0)
