"""Rankers that score items by their codes: which vectors the codes are cut from.

Shape legend: N catalogue size, D width.
"""

from collections.abc import Callable
from typing import Literal

import torch
from pydantic import model_validator
from torch import Tensor

from models.semantic_ids import SemanticIds
from models.sequential import SequentialConfig, SequentialRanker

Cut = Callable[[Tensor, Tensor, int, int], SemanticIds]


class CodedConfig(SequentialConfig):
    """Settings of a ranker that scores by codes.

    Attributes:
        codes_from: What codes are cut from: "items", the vectors that the first stage has learnt,
            or "text", the items' text vectors, which tell items apart that few people have had.
    """

    codes_from: Literal["items", "text"] = "items"

    @model_validator(mode="after")
    def _has_what_codes_are_cut_from(self) -> "CodedConfig":
        if self.codes_from == "text" and self.text_vectors is None:
            raise ValueError("codes_from=text needs text_vectors=on")
        return self


class CodedRanker(SequentialRanker):
    """A sequential ranker whose items have codes once its first stage is over."""

    scores_by_vector = False
    config_type = CodedConfig
    config: CodedConfig

    @torch.no_grad()
    def cut_codes(self, cut: Cut, codes: int, values: int, *, residual: bool) -> SemanticIds:
        """Cut every known item's codes; codebooks are of item vectors whatever was cut.

        Args:
            cut: Turns vectors [N + 1, .] and a mask [N + 1] into codes.
            codes: Codes per item.
            values: Values per code at most.
            residual: Whether a code says what the codes before it left over.
        """
        vectors_N1D = self.item_vectors(0, self.num_items + 1)
        if self.config.codes_from == "items":
            return cut(vectors_N1D, self.known_N1, codes, values)
        directions_N1C = self.texts.directions(0, self.num_items + 1)
        ids = cut(directions_N1C, self.known_N1, codes, values)
        return ids.standing_for(vectors_N1D, residual=residual)
