"""Contrast between two views of the same targets.

Shape legend: T targets, D width, C targets of one chunk.
"""

import torch
from torch import Tensor
from torch.nn import functional

from models.losses.chunked import CHUNK_TARGETS


def in_batch_contrast(left_TD: Tensor, right_TD: Tensor) -> Tensor:
    """InfoNCE: row t of the left finds row t of the right among all rows of its chunk.

    Inputs are scaled by the temperature already. Negatives are the rows of the same chunk of
    `CHUNK_TARGETS`, which bounds memory by the chunk squared however many targets a batch has.
    """
    losses = [
        functional.cross_entropy(
            left_CD @ right_CD.T,
            torch.arange(len(left_CD), device=left_CD.device),
            reduction="sum",
        )
        for left_CD, right_CD in zip(
            torch.split(left_TD, CHUNK_TARGETS), torch.split(right_TD, CHUNK_TARGETS), strict=True
        )
    ]
    return torch.stack(losses).sum() / max(len(left_TD), 1)
