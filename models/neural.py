"""Base of the rankers that score by the dot product of a query and an item vector.

Shape legend: B rows, L positions, D width, N catalogue size, K items asked for, C items of a chunk.
"""

from abc import abstractmethod
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from models.base import Ranker, RankerConfig
from models.batch import SequenceBatch
from models.layers.transformer import INIT_STD


class NeuralConfig(RankerConfig):
    """Settings that every neural ranker shares.

    Attributes:
        dim: Width of item vectors and hidden states.
        max_length: Newest events that are read.
        num_layers: Layers of the encoder.
        num_heads: Attention heads; must divide `dim`.
        dropout: Share of activations dropped in training.
        loss: "ce" is cross-entropy over the full catalogue.
        scoring: "dot", or "cosine" between query and item vector.
        temperature: Divides the scores.
    """

    dim: int = Field(default=64, ge=1)
    max_length: int = Field(default=50, ge=1)
    num_layers: int = Field(default=2, ge=1)
    num_heads: int = Field(default=2, ge=1)
    dropout: float = Field(default=0.5, ge=0, lt=1)
    loss: Literal["ce"] = "ce"
    scoring: Literal["dot", "cosine"] = "dot"
    temperature: float = Field(default=1.0, gt=0)


class NeuralRanker(Ranker):
    """A ranker with an item table, an encoder over item vectors and tied scoring."""

    is_trainable = True
    config_type = NeuralConfig
    config: NeuralConfig

    def __init__(self, config: NeuralConfig, num_items: int) -> None:
        super().__init__(config, num_items)
        # Row 0 is padding and stays zero: every use of it is masked.
        self.items = nn.Embedding(num_items + 1, config.dim)
        nn.init.normal_(self.items.weight, std=INIT_STD)
        with torch.no_grad():
            self.items.weight[0].zero_()

    @abstractmethod
    def _encode_vectors(self, batch: SequenceBatch, items_BLD: Tensor) -> Tensor:
        """Turn item vectors into each row's last query, [B, D], before scoring's own scaling."""

    def item_vectors(self, start: int, stop: int) -> Tensor:
        """Vectors of the items start..stop-1 as scoring uses them, [C, D]."""
        vectors_CD = self.items.weight[start:stop]
        if self.config.scoring == "cosine":
            return functional.normalize(vectors_CD, dim=-1)
        return vectors_CD

    def scale_queries(self, states: Tensor) -> Tensor:
        """Turn hidden states into queries: normalised for cosine, divided by the temperature."""
        if self.config.scoring == "cosine":
            states = functional.normalize(states, dim=-1)
        return states / self.config.temperature

    def _encode(self, batch: SequenceBatch) -> Tensor:
        return self.scale_queries(self._encode_vectors(batch, self.items(batch.item_ids_BL)))

    def _scores(self, queries: Tensor, start: int, stop: int) -> Tensor:
        return (queries @ self.item_vectors(start, stop).T).float()

    def _contributions(self, batch: SequenceBatch, items_BK: Tensor) -> Tensor:
        """Gradient times input: how a score moves with each position's item vector."""
        with torch.enable_grad():
            vectors_BLD = self.items(batch.item_ids_BL).detach().requires_grad_()
            query_BD = self.scale_queries(self._encode_vectors(batch, vectors_BLD))
            targets_BKD = self.items.weight[items_BK].detach()
            if self.config.scoring == "cosine":
                targets_BKD = functional.normalize(targets_BKD, dim=-1)
            scores_BK = torch.einsum("bd,bkd->bk", query_BD, targets_BKD)
            carried = []
            for k in range(items_BK.shape[1]):
                (grad_BLD,) = torch.autograd.grad(
                    scores_BK[:, k].sum(), vectors_BLD, retain_graph=True
                )
                carried.append((grad_BLD * vectors_BLD.detach()).sum(-1))
        return torch.stack(carried, dim=1).detach()
