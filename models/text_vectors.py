"""Frozen text vectors of items, as an encoder made them, and how a ranker is told to use them.

Shape legend: X items, V numbers of a vector.
"""

import json
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from models.sequences import Ints


@dataclass(frozen=True, eq=False)
class TextVectors:
    """Vectors of some items, all from one encoder.

    Attributes:
        encoder: Name and version of what made them; vectors of different encoders do not mix.
        ids_X: int64 item ids from 1 on, each once.
        vectors_XV: float32, finite.

    Raises:
        ValueError: If shapes disagree, an id is below 1 or stands twice, or a number is not finite.
    """

    encoder: str
    ids_X: Ints
    vectors_XV: NDArray[np.float32]

    def __post_init__(self) -> None:
        if self.vectors_XV.ndim != 2 or len(self.ids_X) != len(self.vectors_XV):
            raise ValueError(
                f"text vectors of {len(self.ids_X)} items have the shape {self.vectors_XV.shape}"
            )
        if len(self.ids_X) and int(self.ids_X.min()) < 1:
            raise ValueError(f"text vectors: item ids start at 1, found {int(self.ids_X.min())}")
        if len(np.unique(self.ids_X)) != len(self.ids_X):
            raise ValueError("text vectors: an item has two of them")
        odd = np.flatnonzero(~np.isfinite(self.vectors_XV).all(axis=1))
        if len(odd):
            raise ValueError(f"text vector of item {int(self.ids_X[odd[0]])} is not finite")

    @property
    def width(self) -> int:
        """Numbers of a vector."""
        return int(self.vectors_XV.shape[1])

    def among(self, num_items: int) -> "TextVectors":
        """Keep the items 1..num_items."""
        kept = self.ids_X <= num_items
        return TextVectors(self.encoder, self.ids_X[kept], self.vectors_XV[kept])


class TextSettings(BaseModel):
    """How text vectors are fused with id vectors.

    Attributes:
        encoder: Whose vectors; empty takes whichever is there, and the trained ranker names it.
        components: Strongest directions of the training items' vectors that are kept.
        hidden: Width of a hidden layer in the adaptor; 0 is a linear one.
        id_dropout: Share of look-ups in training in which an item stands on its text alone.
        likeness: What is added to an item's score for the cosine between its text and the mean text
            of the history; 0 leaves it out. Needs repeats=learned.
        kin: Known items, nearest by text, whose id parts an item without training events borrows
            in their place; 0 leaves it with its text alone.
        new_item_boost: What is added to the score of an item without training events.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    encoder: str = ""
    components: int = Field(default=128, ge=1)
    hidden: int = Field(default=0, ge=0)
    id_dropout: float = Field(default=0.2, ge=0, lt=1)
    likeness: float = Field(default=8.0, ge=0)
    kin: int = Field(default=10, ge=0)
    new_item_boost: float = Field(default=1.0, ge=0)


def _spelled_out(value: Any) -> Any:
    """Read "on", "off", an encoder's name or JSON: what is left out is at its default."""
    if isinstance(value, str) and value.startswith("{"):
        return json.loads(value)
    if value is True or value in ("on", "true"):
        return {}
    if value is False or value in ("", "off", "false"):
        return None
    return {"encoder": value} if isinstance(value, str) else value


TextChoice = Annotated[TextSettings | None, BeforeValidator(_spelled_out)]
