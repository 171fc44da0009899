"""Base of the rankers that score by the dot product of a query and an item vector.

Shape legend: B rows, L positions, D width, N catalogue size, K items asked for, C items of a chunk.
"""

from abc import abstractmethod
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from models.base import item_counts
from models.batch import SequenceBatch
from models.encoders.base import INIT_STD
from models.fused_items import FusedItems
from models.item_table import ItemTable
from models.propensity import inverse_propensities
from models.sequences import SequenceStore
from models.text_ranker import TextConfig, TextRanker

# Adam moves every weight by about its learning rate; one number that stands for log odds has
# farther to go than a coordinate of a vector.
REPEAT_SCALE = 10.0
# From so many items on, scoring them all for every target is most of what training costs.
MANY_ITEMS = 100_000
# A query carries the ids of its history as float32, which holds whole numbers up to this exactly.
MOST_ITEMS = 2**24


class NeuralConfig(TextConfig):
    """Settings that every neural ranker shares.

    Attributes:
        dim: Width of item vectors and hidden states.
        num_layers: Layers of the encoder.
        num_heads: Attention heads; must divide `dim`.
        dropout: Share of activations dropped in training.
        loss: "ce" is cross-entropy over the full catalogue; "sampled" the same against drawn
            negatives that a batch shares, corrected for how they were drawn; "gbce" binary
            cross-entropy against them, its positive weakened (gSASRec); "auto" is "sampled" from
            1e5 items on and "ce" below.
        negatives: Draws per batch for "sampled" and "gbce".
        negative_sampling: Draw all items alike, or in proportion to their training events.
        gbce_t: 0 is plain binary cross-entropy, 1 takes back all the overconfidence that sampling
            brings.
        propensity_power: Weigh targets by the inverse of their item's popularity to this power, in
            what `loss` judges and nowhere else; 0 weighs all alike.
        propensity_clip: Largest such weight; a target on the most frequent item has 1.
        scoring: "dot", or "cosine" between query and item vector.
        temperature: Divides the scores.
        repeats: "learned" adds one learned number to the score of every item in the visible
            history, so that the log decides whether people take things again; "plain" leaves it
            to the vectors, which cannot tell an item from its own history.
    """

    dim: int = Field(default=64, ge=1)
    num_layers: int = Field(default=2, ge=1)
    num_heads: int = Field(default=2, ge=1)
    dropout: float = Field(default=0.2, ge=0, lt=1)
    loss: Literal["auto", "ce", "sampled", "gbce"] = "auto"
    negatives: int = Field(default=512, ge=1)
    negative_sampling: Literal["uniform", "popularity"] = "uniform"
    gbce_t: float = Field(default=0.75, ge=0, le=1)
    propensity_power: float = Field(default=0.0, ge=0)
    propensity_clip: float = Field(default=10.0, ge=1)
    scoring: Literal["dot", "cosine"] = "dot"
    temperature: float = Field(default=1.0, gt=0)
    repeats: Literal["learned", "plain"] = "learned"


class NeuralRanker(TextRanker):
    """A ranker with an item table, an encoder over item vectors and tied scoring."""

    is_trainable = True
    scores_by_vector = True
    config_type = NeuralConfig
    config: NeuralConfig
    next_draw: Tensor
    counts_N: Tensor
    weights_N: Tensor

    def __init__(self, config: NeuralConfig, num_items: int) -> None:
        super().__init__(config, num_items)
        if config.repeats == "learned" and num_items > MOST_ITEMS:
            raise ValueError(
                f"repeats='learned' takes {MOST_ITEMS} items at most, and there are {num_items}: "
                "set repeats=plain"
            )
        text = config.text_vectors
        self.items: ItemTable = (
            ItemTable(num_items, config.dim)
            if text is None
            else FusedItems(num_items, config.dim, text)
        )
        self.items.draw(INIT_STD)
        self.repeat_rate = nn.Parameter(torch.zeros(())) if config.repeats == "learned" else None
        if self.loss != "ce":
            # Seeds the next draw of negatives. Workers hold the same number: their negatives are
            # the same, and those that a process alone would draw.
            self.register_buffer("next_draw", torch.randint(2**31, ()))
        # What losses know of each item's training events, where they ask for it.
        if self.loss != "ce" and config.negative_sampling == "popularity":
            self.register_buffer("counts_N", torch.ones(num_items))
        if config.propensity_power > 0:
            self.register_buffer("weights_N", torch.ones(num_items))

    def fit_statistics(self, store: SequenceStore) -> None:
        """Mark the known items; start the repeat number at the log of the share of repeats."""
        super().fit_statistics(store)
        counts_N1 = item_counts(store, self.num_items)
        config, counts = self.config, counts_N1[1:]
        if isinstance(self.items, FusedItems):
            self.items.count(counts_N1)
        if self.loss != "ce" and config.negative_sampling == "popularity":
            self.counts_N.copy_(torch.from_numpy(counts))
        if config.propensity_power > 0:
            weights = inverse_propensities(counts, config.propensity_power, config.propensity_clip)
            self.weights_N.copy_(torch.from_numpy(weights))
        if self.repeat_rate is None:
            return
        rows, places = store.flat_events()
        distinct = len(np.unique(rows * (self.num_items + 1) + store.items[places]))
        share = (len(rows) - distinct + 1) / (len(rows) + 1)
        with torch.no_grad():
            self.repeat_rate.fill_(np.log(share) / REPEAT_SCALE)

    @property
    def loss(self) -> str:
        """The loss that the settings and the size of the catalogue name."""
        if self.config.loss != "auto":
            return self.config.loss
        return "sampled" if self.num_items >= MANY_ITEMS else "ce"

    @property
    def item_table(self) -> ItemTable:
        """The table of item vectors."""
        return self.items

    @property
    def learns_few_items(self) -> bool:
        """Whether a training step touches few rows of the item table."""
        return self.loss != "ce"

    @property
    def repeat_bias(self) -> Tensor | None:
        """The number that is added to the score of what the history holds already."""
        return None if self.repeat_rate is None else REPEAT_SCALE * self.repeat_rate

    @abstractmethod
    def _encode_vectors(self, batch: SequenceBatch, items_BLD: Tensor) -> Tensor:
        """Turn item vectors into each row's last query, [B, D], before scoring's own scaling."""

    def item_vectors(self, start: int, stop: int) -> Tensor:
        """Vectors of the items start..stop-1 as scoring uses them, [C, D]."""
        return self._shaped(self.items.rows(start, stop))

    def vectors_of(self, ids: Tensor) -> Tensor:
        """Vectors of single items as scoring uses them, [..., D]."""
        return self._shaped(self.items(ids))

    def _shaped(self, vectors: Tensor) -> Tensor:
        return functional.normalize(vectors, dim=-1) if self.config.scoring == "cosine" else vectors

    def scale_queries(self, states: Tensor) -> Tensor:
        """Turn hidden states into queries: normalised for cosine, divided by the temperature."""
        if self.config.scoring == "cosine":
            states = functional.normalize(states, dim=-1)
        return states / self.config.temperature

    def as_query(self, state_BD: Tensor) -> Tensor:
        """Turn what `_encode_vectors` returns into what scores: [B, `query_width`]."""
        return self.scale_queries(state_BD)

    @property
    def query_width(self) -> int:
        """Numbers of a query, the visible item ids not counted."""
        return self.config.dim

    def chunk_scores(self, query_BD: Tensor, start: int, stop: int) -> Tensor:
        """Score the items start..stop-1 by queries alone: [B, C]."""
        # Items first: a CPU multiplies that way round a third faster.
        return (self.item_vectors(start, stop) @ query_BD.T).T

    def pair_scores(self, query_BD: Tensor, items_BK: Tensor) -> Tensor:
        """Score each row's own items by queries alone, with weights held still: [B, K]."""
        return torch.einsum("bd,bkd->bk", query_BD, self.vectors_of(items_BK).detach())

    def _encode(self, batch: SequenceBatch) -> Tensor:
        return self._query(batch, self._encode_vectors(batch, self.items(batch.item_ids_BL)))

    def encode_steps(self, batch: SequenceBatch) -> Tensor:
        """Turn each row's history into the query of each reasoning state: [B, S, ...]."""
        known, _ = self.known_only(batch)
        states_SBD = self._step_vectors(known, self.items(known.item_ids_BL))
        states_SBD = states_SBD * known.valid_BL[:, -1:]
        return torch.stack([self._query(known, state_BD) for state_BD in states_SBD], dim=1)

    def _step_vectors(self, batch: SequenceBatch, items_BLD: Tensor) -> Tensor:
        """Turn item vectors into each row's states, [S, B, D]: one where nothing reasons."""
        return self._encode_vectors(batch, items_BLD)[None]

    def _query(self, batch: SequenceBatch, state_BD: Tensor) -> Tensor:
        """Scale a state, and put the visible item ids behind it where repeats are learned."""
        query_BD = self.as_query(state_BD)
        if self.repeat_bias is None:
            return query_BD
        # Queries of rows that were padded to other lengths must still line up.
        ids_BL = functional.pad(batch.item_ids_BL, (self.config.max_length - batch.length, 0))
        parts = [query_BD.float(), ids_BL.float()]
        if self.likeness > 0:
            parts.append(self.likeness * self.profile(batch.item_ids_BL))
        return torch.cat(parts, dim=1)

    def _scores(self, queries: Tensor, start: int, stop: int) -> Tensor:
        query_BD = queries[:, : self.query_width].contiguous()
        scores_BC = self.chunk_scores(query_BD, start, stop).float()
        if self.new_item_boost > 0:
            scores_BC = scores_BC + self.new_item_boost * self.texts.is_new(start, stop)
        bias = self.repeat_bias
        if bias is None:
            return scores_BC
        behind = self.query_width + self.config.max_length
        if self.likeness > 0:
            scores_BC = scores_BC + queries[:, behind:] @ self.texts.directions(start, stop).T
        ids_BL = queries[:, self.query_width : behind].long()
        rows, places = ((ids_BL >= max(start, 1)) & (ids_BL < stop)).nonzero(as_tuple=True)
        columns = ids_BL[rows, places] - start
        # Put, not add: an item that stands in the history twice gets the number once.
        scores_BC[rows, columns] = scores_BC[rows, columns] + bias
        return scores_BC

    def _contributions(self, batch: SequenceBatch, items_BK: Tensor) -> Tensor:
        """Gradient times input: how a score moves with each position's item vector."""
        with torch.enable_grad():
            vectors_BLD = self.items(batch.item_ids_BL).detach().requires_grad_()
            query_BD = self.as_query(self._encode_vectors(batch, vectors_BLD))
            scores_BK = self.pair_scores(query_BD, items_BK)
            carried = []
            for k in range(items_BK.shape[1]):
                (grad_BLD,) = torch.autograd.grad(
                    scores_BK[:, k].sum(), vectors_BLD, retain_graph=True
                )
                carried.append((grad_BLD * vectors_BLD.detach()).sum(-1))
        carried_BKL = torch.stack(carried, dim=1).detach()
        if self.likeness > 0:
            carried_BKL = carried_BKL + self.likeness * self.alike(batch.item_ids_BL, items_BK)
        return carried_BKL
