"""Causal self-attention over the history, trained on every next item at once."""

from typing import Literal

from models.registry import register
from models.sequential import SequentialConfig, SequentialRanker


class SASRecConfig(SequentialConfig):
    """Settings of SASRec: those of every ranker on a sequence encoder."""

    backbone: Literal["sasrec"] = "sasrec"


@register
class SASRec(SequentialRanker):
    """SASRec with tied item vectors and cross-entropy.

    Source: Kang and McAuley, Self-Attentive Sequential Recommendation, ICDM 2018. The loss is
    cross-entropy over the whole catalogue, or over shared draws where that is large (`loss`),
    instead of one sampled negative, and positions count the
    real events of a row, so that padding never shifts them.
    """

    name = "sasrec"
    method = "causal self-attention, every position predicts its next item"
    source = "Kang and McAuley 2018 (arXiv 1808.09781)"
    config_type = SASRecConfig
    config: SASRecConfig
