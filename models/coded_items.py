"""Rankers that score items by their codes: which vectors the codes are cut from.

Shape legend: N catalogue size, D width.
"""

from collections.abc import Callable
from typing import ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from models.semantic_ids import SemanticIds
from models.sequential import SequentialConfig, SequentialRanker

Cut = Callable[[Tensor, Tensor, int, int], SemanticIds]


class CodedConfig(SequentialConfig):
    """Settings of a ranker that scores by codes.

    Attributes:
        codes_from: What codes are cut from: "items", the vectors that the first stage has learnt,
            or "text", the items' text vectors, which tell items apart that few people have had.
        policy_weight: Weight of the policy gradient; 0 leaves the stage of rewards out.
        rollouts: What is drawn from one place.
        rollout_share: Share of the rows that roll out, from one place each.
    """

    codes_from: Literal["items", "text"] = "items"
    policy_weight: float = Field(default=0.1, ge=0)
    rollouts: int = Field(default=8, ge=2)
    rollout_share: float = Field(default=0.5, gt=0, le=1)

    @model_validator(mode="after")
    def _has_what_codes_are_cut_from(self) -> "CodedConfig":
        if self.codes_from == "text" and self.text_vectors is None:
            raise ValueError("codes_from=text needs text_vectors=on")
        return self


class CodedRanker(SequentialRanker):
    """A sequential ranker whose items have codes once its first stage is over.

    Attributes:
        course: Names of all its stages: "vectors" trains the backbone, "rl" follows rewards.
    """

    course: ClassVar[tuple[str, ...]] = ("vectors", "rl")
    scores_by_vector = False
    config_type = CodedConfig
    config: CodedConfig

    stage_number: Tensor

    def __init__(self, config: CodedConfig, num_items: int) -> None:
        super().__init__(config, num_items)
        self.register_buffer("stage_number", torch.zeros((), dtype=torch.int64))

    @property
    def stages(self) -> tuple[str, ...]:
        """Its course, with rewards where their weight is not zero."""
        return self.course if self.config.policy_weight > 0 else self.course[:-1]

    @property
    def stage(self) -> str:
        """The stage that the weights are from; it travels with them."""
        return self.course[int(self.stage_number)]

    def start_stage(self, stage: str) -> None:
        """Note the stage; the learned number for repeats is that of the first one."""
        self.stage_number.fill_(self.course.index(stage))
        if self.repeat_rate is not None:
            self.repeat_rate.requires_grad_(stage == self.course[0])

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
