"""What text vectors add to a ranker: how they come in, and whose texts are like a history's.

Shape legend: B rows, L positions, K items asked for, N catalogue size, C directions of a text.
"""

import torch
from torch import Tensor, nn

from models.base import Ranker, RankerConfig
from models.fused_items import FusedItems
from models.item_table import ItemTable
from models.places import first_places
from models.text_vectors import TextChoice, TextSettings, TextVectors


class TextConfig(RankerConfig):
    """Settings of a ranker that can take text vectors.

    Attributes:
        text_vectors: Fuse frozen text vectors with the id vectors (`FusedItems`): "off", "on", an
            encoder's name, or settings such as {"id_dropout": 0.2}. Items that training never saw
            are then scored by their text.
    """

    text_vectors: TextChoice = None


class TextRanker(Ranker):
    """A ranker whose item table can be `FusedItems`."""

    config: TextConfig
    items: ItemTable
    repeat_rate: nn.Parameter | None

    @property
    def text(self) -> TextSettings | None:
        """How text vectors are used, where they are."""
        return self.config.text_vectors

    @property
    def texts(self) -> FusedItems:
        """The item table, which has texts."""
        assert isinstance(self.items, FusedItems)
        return self.items

    @property
    def takes_text(self) -> bool:
        """Whether `learn_text` is wanted before training."""
        return self.text is not None

    @property
    def text_encoder(self) -> str | None:
        """The encoder whose vectors it was trained with, where it takes any."""
        return None if self.text is None else self.text.encoder

    def learn_text(self, vectors: TextVectors) -> None:
        """Take the items' text vectors, whose encoder the settings then name in full.

        Raises:
            ValueError: If the settings ask for another encoder; a name's leading part is enough.
        """
        text = self._text_of(vectors, leading=True)
        text.start(vectors)
        named = text.settings.model_copy(update={"encoder": vectors.encoder})
        text.settings = named
        self.config = self.config.model_copy(update={"text_vectors": named})

    def require_encoder(self, vectors: TextVectors) -> None:
        """Refuse text vectors of another encoder or width."""
        self._text_of(vectors).require_width(vectors)

    def welcome(self, vectors: TextVectors, num_items: int) -> None:
        """Take the text vectors of items newer than the weights, of a catalogue grown since."""
        text = self._text_of(vectors)
        if not self.scores_by_vector:
            return
        size = max(num_items, self.num_items) + 1
        text.welcome(vectors, size - 1)
        for name, buffer in self.named_buffers(recurse=False):
            axes = name.rpartition("_")[2]
            if "N1" in axes:
                at = axes.index("N1")
                more = [*buffer.shape[:at], size - buffer.shape[at], *buffer.shape[at + 1 :]]
                setattr(self, name, torch.cat([buffer, buffer.new_zeros(more)], dim=at))
        self.num_items = size - 1

    def _text_of(self, vectors: TextVectors, leading: bool = False) -> FusedItems:
        if not isinstance(self.items, FusedItems):
            raise ValueError(f"{self.name} was set up without text vectors: set text_vectors=on")
        wanted = self.items.settings.encoder
        fits = leading and vectors.encoder.startswith(f"{wanted}-")
        if not fits and wanted not in ("", vectors.encoder):
            raise ValueError(
                f"{self.name} takes text vectors of encoder {wanted!r}, and these are of "
                f"{vectors.encoder!r}: encode the items with {wanted!r}, or train anew"
            )
        return self.items

    @property
    def scorable_N1(self) -> Tensor:
        """Items seen in training, and those that their text can score."""
        if not isinstance(self.items, FusedItems) or not self.scores_by_vector:
            return self.known_N1
        return self.known_N1 | self.items.has_text_N1

    @property
    def likeness(self) -> float:
        """What the cosine between a history's texts and an item's adds to its score."""
        text = self.text
        if text is None or self.repeat_rate is None or not self.scores_by_vector:
            return 0.0
        return text.likeness

    @property
    def new_item_boost(self) -> float:
        """What is added to the score of an item that training never saw."""
        return 0.0 if self.text is None or not self.scores_by_vector else self.text.new_item_boost

    def profile(self, ids_BL: Tensor) -> Tensor:
        """Unit vectors of the mean text of each row's distinct items: [B, C]."""
        rows_E, places_E = first_places(ids_BL).nonzero(as_tuple=True)
        return self.texts.profiles(rows_E, ids_BL[rows_E, places_E], len(ids_BL))

    def alike(self, ids_BL: Tensor, items_BK: Tensor) -> Tensor:
        """Share out the cosine of items' texts and a history's over its positions: [B, K, L]."""
        own_BLC = self.texts.directions_of(ids_BL) * first_places(ids_BL)[:, :, None]
        norm_B = own_BLC.sum(dim=1).norm(dim=1).clamp(min=1e-12)
        wanted_BKC = self.texts.directions_of(items_BK) / norm_B[:, None, None]
        shares_BKL: Tensor = wanted_BKC @ own_BLC.transpose(1, 2)
        return shares_BKL
