"""A control for reasoning: as many passes, spent on averaging dropout samples.

Shape legend: B rows, L positions, D width.
"""

import torch
from pydantic import Field
from torch import Tensor

from models.batch import SequenceBatch
from models.registry import register
from models.sequential import SequentialConfig, SequentialRanker


class SASRecDropoutConfig(SequentialConfig):
    """Settings of the dropout ensemble.

    Attributes:
        samples: Passes that are averaged at inference.
        sample_dropout: Share of the input's coordinates dropped in each pass but the first.
    """

    samples: int = Field(default=3, ge=1)
    sample_dropout: float = Field(default=0.2, ge=0, lt=1)


@register
class SASRecDropout(SequentialRanker):
    """SASRec that scores with the mean state of several passes under dropout.

    It asks whether a gain of reasoning is one of ensembling (a control, no published method): three
    passes cost what two thoughts at every position do, and at inference, where a reasoner thinks at
    the last position alone, more. Each pass drops coordinates of the item
    vectors, the same ones for every row and position and at every call, so that a list depends on
    nobody else's.
    """

    name = "sasrec-dropout"
    method = "SASRec, the mean of several passes under dropout scores: a control for reasoning"
    source = "after Gal and Ghahramani 2016 (arXiv 1506.02142)"
    config_type = SASRecDropoutConfig
    config: SASRecDropoutConfig
    keep_MD: Tensor

    def __init__(self, config: SASRecDropoutConfig, num_items: int) -> None:
        super().__init__(config, num_items)
        draw = torch.Generator().manual_seed(0)
        share = config.sample_dropout
        keep_MD = (torch.rand(config.samples, config.dim, generator=draw) >= share) / (1 - share)
        keep_MD[0] = 1.0
        self.register_buffer("keep_MD", keep_MD)

    def _encode_vectors(self, batch: SequenceBatch, items_BLD: Tensor) -> Tensor:
        encode = super()._encode_vectors
        states = [encode(batch, items_BLD * keep_D) for keep_D in self.keep_MD]
        return torch.stack(states).mean(dim=0)
