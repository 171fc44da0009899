"""Gated pointwise attention with relative position and time, trained on every next item at once."""

from typing import Literal

from models.registry import register
from models.sequential import SequentialConfig, SequentialRanker


class HSTUConfig(SequentialConfig):
    """Settings of HSTU: those of every ranker on a sequence encoder."""

    backbone: Literal["hstu"] = "hstu"


@register
class HSTU(SequentialRanker):
    """HSTU as a sequential ranker with tied item vectors and cross-entropy.

    Source: Zhai et al., Actions Speak Louder than Words, ICML 2024 (arXiv 2402.17152). The
    published code samples negatives; here the loss ranks the whole catalogue unless that is large
    (`loss`).
    """

    name = "hstu"
    method = "gated attention without softmax, biased by distance and elapsed time"
    source = "Zhai et al. 2024 (arXiv 2402.17152)"
    config_type = HSTUConfig
    config: HSTUConfig
