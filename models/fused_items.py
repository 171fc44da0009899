"""Item vectors of two parts: one learned per item, one made from a frozen vector of its text.

Shape legend: N catalogue size (row 0 is padding), D width, V numbers of a text vector, C kept
directions of it, X items, U distinct ids, K known items, W new items, M kin of one.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from models.encoders.base import initialise
from models.item_table import CHUNK_ITEMS, ItemTable, state_of
from models.kin import Kin, find_kin
from models.sequences import Ints
from models.text_vectors import TextSettings, TextVectors

# Directions with less than this share of the strongest one's variance are noise.
WEAKEST_SHARE = 1e-4
# Where gates start, before the sigmoid: nearly open, or id vectors would learn at half the pace.
OPEN_GATE = 2.0


class FusedItems(ItemTable):
    """v = text + gate * id; an item that training never saw has its text and its kin's id parts.

    text is an adaptor over the frozen vector, which is first centred, turned to the strongest
    directions of the training items' vectors and scaled to equal variance there: raw sentence
    vectors crowd in a narrow cone, and whitening makes them better item vectors (WhitenRec, Zhang
    et al., ICDE 2024). The gate is a learned number per dimension that grows or shrinks with
    the logarithm of an item's training events: rare items can lean on their text. In training an
    item's id part is dropped at random, in histories and among the items to rank alike, so that the
    text part learns to stand alone (dropping a modality: DropoutNet, Volkovs et al., NeurIPS 2017).
    Items that training never saw take no part in it, text included. Outside training they borrow
    the gated id parts of their kin, the known items whose texts are nearest: without, their
    vectors are shorter than those that they compete with.

    Frozen vectors lie in buffers, as float16 of the kept directions: a version of a ranker must
    score as it was judged even after its source was encoded anew, and so they cost no more than the
    table beside them. Outside training all vectors are computed once, in products of fixed shapes:
    no vector depends on what was asked beside it, to the last bit.

    Args:
        num_items: Items N.
        dim: Width D.
        settings: How the parts are fused.

    Raises:
        ValueError: If the table lies in parts over several workers.
    """

    text_N1C: Tensor
    has_text_N1: Tensor
    trained_N1: Tensor
    frequency_N1: Tensor
    mean_V: Tensor
    turn_VC: Tensor

    def __init__(self, num_items: int, dim: int, settings: TextSettings) -> None:
        super().__init__(num_items, dim)
        if self.workers.world > 1:
            raise ValueError(
                f"text_vectors needs the whole item table in each worker, and it lies over "
                f"{self.workers.world}: switch ray.shard_items or text_vectors off"
            )
        self.settings = settings
        wide = (num_items + 1, settings.components)
        self.register_buffer("text_N1C", torch.zeros(wide, dtype=torch.float16))
        for name in ("has_text_N1", "trained_N1"):
            self.register_buffer(name, torch.zeros(num_items + 1, dtype=torch.bool))
        self.register_buffer("frequency_N1", torch.zeros(num_items + 1))
        self.register_buffer("mean_V", torch.zeros(0))
        self.register_buffer("turn_VC", torch.zeros(0, settings.components))
        layers: list[nn.Module] = [nn.Linear(settings.components, settings.hidden or dim)]
        if settings.hidden:
            layers += [nn.GELU(), nn.Linear(settings.hidden, dim)]
        self.adaptor = nn.Sequential(*layers)
        self.adaptor.apply(initialise)
        self.gate_D = nn.Parameter(torch.full((dim,), OPEN_GATE))
        self.gate_by_frequency_D = nn.Parameter(torch.ones(dim))
        self._kept: tuple[Any, Tensor] | None = None
        self._kin: tuple[Any, Kin] | None = None

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Let what the encoder's width decides take the saved size first."""
        for name in ("mean_V", "turn_VC"):
            saved = state_dict.get(prefix + name)
            if saved is not None:
                setattr(self, name, getattr(self, name).new_zeros(saved.shape))
        super()._load_from_state_dict(state_dict, prefix, *rest)

    @torch.no_grad()
    def count(self, counts_N1: Ints) -> None:
        """Take each item's training events: which items have an id part, and how sure it is."""
        logs = np.log1p(counts_N1[counts_N1 > 0].astype(np.float64))
        logs = logs if len(logs) else np.zeros(1)
        spread = max(float(logs.std()), 1e-6)
        standard = (np.log1p(counts_N1) - logs.mean()) / spread
        self.trained_N1.copy_(torch.from_numpy(counts_N1 > 0))
        self.trained_N1[0] = False
        self.frequency_N1.copy_(torch.from_numpy(standard.astype(np.float32)))

    @torch.no_grad()
    def start(self, vectors: TextVectors) -> None:
        """Take the items' text vectors; directions are those of the training items alone.

        Raises:
            ValueError: If no training item has a vector.
        """
        vectors = vectors.among(self.num_embeddings - 1)
        trained = self.trained_N1.cpu().numpy()[vectors.ids_X]
        if not trained.any():
            raise ValueError(
                f"none of the items in training has a text vector of encoder {vectors.encoder!r}"
            )
        known_KV = torch.from_numpy(vectors.vectors_XV[trained]).double()
        mean_V = known_KV.mean(dim=0)
        centred_KV = known_KV - mean_V
        variance, directions_VV = torch.linalg.eigh(centred_KV.T @ centred_KV / len(centred_KV))
        order = variance.argsort(descending=True)[: self.settings.components]
        variance, directions = variance[order], directions_VV[:, order]
        strong = variance > WEAKEST_SHARE * variance[0].clamp(min=1e-12)
        scale = strong / variance.clamp(min=1e-12).sqrt()
        turn_VC = torch.zeros(vectors.width, self.settings.components)
        turn_VC[:, : len(order)] = (directions * scale).float()
        self.mean_V = mean_V.float().to(self.mean_V.device)
        self.turn_VC = turn_VC.to(self.turn_VC.device)
        self._put(vectors)

    def require_width(self, vectors: TextVectors) -> None:
        """Refuse vectors that have not as many numbers as those of training.

        Raises:
            ValueError: If they have not.
        """
        if vectors.width != len(self.mean_V):
            raise ValueError(
                f"text vectors of encoder {vectors.encoder!r} have {vectors.width} numbers, those "
                f"in training had {len(self.mean_V)}"
            )

    @torch.no_grad()
    def welcome(self, vectors: TextVectors, num_items: int) -> None:
        """Grow to `num_items` and take the vectors of items that training did not see.

        Raises:
            ValueError: If a vector has not as many numbers as those of training.
        """
        more = num_items + 1 - len(self.text_N1C)
        if more > 0:
            for name in ("text_N1C", "has_text_N1", "trained_N1", "frequency_N1"):
                old = getattr(self, name)
                setattr(self, name, torch.cat([old, old.new_zeros(more, *old.shape[1:])]))
            learns = self.weight.requires_grad
            wider = torch.cat([self.weight, self.weight.new_zeros(more, self.embedding_dim)])
            self.weight = nn.Parameter(wider, requires_grad=learns)
            self.num_embeddings = self._last = self._height = num_items + 1
        vectors = vectors.among(self.num_embeddings - 1)
        new = ~self.trained_N1.cpu().numpy()[vectors.ids_X]
        self._put(TextVectors(vectors.encoder, vectors.ids_X[new], vectors.vectors_XV[new]))

    def _put(self, vectors: TextVectors) -> None:
        self.require_width(vectors)
        given_XV = torch.from_numpy(vectors.vectors_XV).to(self.mean_V.device)
        ids_X = torch.from_numpy(vectors.ids_X).to(self.mean_V.device)
        # In float64: what is kept must not depend on the vectors beside it.
        turned_XC = (given_XV.double() - self.mean_V.double()) @ self.turn_VC.double()
        self.text_N1C[ids_X] = functional.normalize(turned_XC, dim=1).to(self.text_N1C.dtype)
        self.has_text_N1[ids_X] = True
        self._kept = None

    def is_new(self, start: int, stop: int) -> Tensor:
        """Which of the ids start..stop-1 have a text and no training event: bool [C]."""
        return self.has_text_N1[start:stop] & ~self.trained_N1[start:stop]

    @property
    def _learning(self) -> bool:
        """Whether vectors are learnt from; clusters and validation within training are not."""
        return self.training and torch.is_grad_enabled()

    def rows(self, start: int, stop: int) -> Tensor:
        """Fused vectors of the ids start..stop-1: [C, D]."""
        if not self._learning:
            return self._whole()[start:stop]
        ids_X = torch.arange(start, stop, device=self.weight.device)
        return self._fuse(super().rows(start, stop), ids_X)

    def forward(self, ids: Tensor) -> Tensor:
        """Look fused vectors up: [..., D]."""
        if not self._learning:
            return functional.embedding(ids, self._whole())
        distinct_U, place = torch.unique(ids, return_inverse=True)
        return functional.embedding(place, self._fuse(super().forward(distinct_U), distinct_U))

    def directions(self, start: int, stop: int) -> Tensor:
        """Unit vectors of the texts of ids start..stop-1, zero where there is none: [C, C']."""
        ids_X = torch.arange(start, stop, device=self.weight.device)
        return self.directions_of(ids_X)

    def directions_of(self, ids: Tensor) -> Tensor:
        """Unit vectors of items' texts, zero where there is none or it is not learnt from."""
        found = self.text_N1C[ids].float()
        return found * self.trained_N1[ids][..., None] if self._learning else found

    def profiles(self, rows_E: Tensor, ids_E: Tensor, count: int) -> Tensor:
        """Unit vectors of the mean texts of `count` histories; entry e puts an item into a row."""
        sums = torch.zeros(count, self.text_N1C.shape[1], device=self.weight.device)
        sums.index_add_(0, rows_E, self.directions_of(ids_E))
        return functional.normalize(sums, dim=1)

    def _fuse(self, own_XD: Tensor, ids_X: Tensor) -> Tensor:
        return self._id_part(own_XD, ids_X) + self._text_part(ids_X)

    def _id_part(self, own_XD: Tensor, ids_X: Tensor) -> Tensor:
        kept_X = self.trained_N1[ids_X]
        # Without a text there is nothing to weigh the id part against.
        weighed_X = self._has_text(ids_X)
        if self._learning and self.settings.id_dropout > 0:
            drawn_X = torch.rand(len(ids_X), device=ids_X.device)
            kept_X = kept_X & (drawn_X >= self.settings.id_dropout)
        frequency_X1 = self.frequency_N1[ids_X][:, None]
        gate_XD = torch.sigmoid(self.gate_D + self.gate_by_frequency_D * frequency_X1)
        return torch.where(weighed_X[:, None], gate_XD * kept_X[:, None], 1.0) * own_XD

    def _text_part(self, ids_X: Tensor) -> Tensor:
        text_XD: Tensor = self.adaptor(self.text_N1C[ids_X].float())
        return text_XD * self._has_text(ids_X)[:, None]

    def _has_text(self, ids_X: Tensor) -> Tensor:
        has_text_X = self.has_text_N1[ids_X]
        return has_text_X & self.trained_N1[ids_X] if self._learning else has_text_X

    @torch.no_grad()
    def _whole(self) -> Tensor:
        """All fused vectors, [N + 1, D], computed again only after something has changed."""
        state = state_of([*self.parameters(), *self.buffers()])
        if self._kept is None or self._kept[0] != state:
            ids_N1 = torch.arange(self.num_embeddings, device=self.weight.device)
            chunks = torch.split(ids_N1, CHUNK_ITEMS)
            parts_N1D = torch.cat([self._id_part(self.local[ids], ids) for ids in chunks])
            kin = self._kin_of_new()
            parts_N1D[kin.new_W] = kin.blend(parts_N1D)
            texts_N1D = torch.cat([self._text_part(ids) for ids in chunks])
            self._kept = state, parts_N1D + texts_N1D
        return self._kept[1]

    def _kin_of_new(self) -> Kin:
        """Whose id parts new items borrow; texts alone decide it, so it is found once."""
        state = state_of([self.text_N1C, self.trained_N1, self.has_text_N1])
        if self._kin is None or self._kin[0] != state:
            known_N1 = self.trained_N1 & self.has_text_N1
            new_N1 = self.is_new(0, self.num_embeddings)
            self._kin = state, find_kin(self.text_N1C, known_N1, new_N1, self.settings.kin)
        return self._kin[1]
