"""Contrast between two views of the same targets.

Shape legend: T views, D width, C views of one chunk.
"""

import torch
from torch import Tensor
from torch.nn import functional

from models.losses.chunked import CHUNK_TARGETS


def in_batch_contrast(left_TD: Tensor, right_TD: Tensor, groups_T: Tensor | None = None) -> Tensor:
    """InfoNCE: row t of the left finds row t of the right among all rows of its chunk.

    Inputs are scaled by the temperature already. Negatives are the rows of the same chunk of
    `CHUNK_TARGETS`, which bounds memory by the chunk squared however many targets a batch has.

    Args:
        left_TD: One view.
        right_TD: The other view.
        groups_T: int64; rows of one group are no negatives of each other.
    """
    every_T = torch.arange(len(left_TD), device=left_TD.device)
    losses = []
    for rows_C in torch.split(every_T, CHUNK_TARGETS):
        own_C = torch.arange(len(rows_C), device=rows_C.device)
        logits_CC = left_TD[rows_C] @ right_TD[rows_C].T
        if groups_T is not None:
            groups_C = groups_T[rows_C]
            same_CC = (groups_C[:, None] == groups_C) & (own_C[:, None] != own_C)
            logits_CC = logits_CC.masked_fill(same_CC, -torch.inf)
        losses.append(functional.cross_entropy(logits_CC, own_C, reduction="sum"))
    return torch.stack(losses).sum() / max(len(left_TD), 1)
