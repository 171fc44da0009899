"""Causal self-attention over the history, trained on every next item at once.

Shape legend: B rows, L positions, D width, T real targets, N catalogue size.
"""

from typing import Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from models.batch import SequenceBatch
from models.layers.dropout import dropout
from models.layers.reasoning import BasePass
from models.layers.transformer import (
    Block,
    BlockSettings,
    causal_mask,
    initialise,
    positions_of,
)
from models.losses import Bonus, full_cross_entropy
from models.neural import NeuralConfig, NeuralRanker
from models.registry import register


class SASRecConfig(NeuralConfig):
    """Settings of SASRec.

    Attributes:
        inner: Width of the feed-forward layers; 0 means 4 x dim.
        norm: Where LayerNorm stands in a block.
        activation: Non-linearity of the feed-forward layers.
        embedding_norm: LayerNorm on the sum of item and position vectors.
    """

    inner: int = Field(default=0, ge=0)
    norm: Literal["pre", "post"] = "pre"
    activation: Literal["gelu", "relu"] = "gelu"
    embedding_norm: bool = True


@register
class SASRec(NeuralRanker):
    """SASRec with tied item vectors and full cross-entropy.

    Source: Kang and McAuley, Self-Attentive Sequential Recommendation, ICDM 2018. The loss is
    cross-entropy over the whole catalogue instead of one sampled negative, and positions count the
    real events of a row, so that padding never shifts them.
    """

    name = "sasrec"
    method = "causal self-attention, every position predicts its next item"
    source = "Kang and McAuley 2018 (arXiv 1808.09781)"
    config_type = SASRecConfig
    config: SASRecConfig

    def __init__(self, config: SASRecConfig, num_items: int) -> None:
        super().__init__(config, num_items)
        settings = BlockSettings(
            dim=config.dim,
            num_heads=config.num_heads,
            inner=config.inner or 4 * config.dim,
            dropout=config.dropout,
            norm=config.norm,
            activation=config.activation,
        )
        self.positions = nn.Embedding(config.max_length + 1, config.dim)
        self.embedding_norm = nn.LayerNorm(config.dim) if config.embedding_norm else nn.Identity()
        self.blocks = nn.ModuleList(Block(settings) for _ in range(config.num_layers))
        self.final_norm = nn.LayerNorm(config.dim) if config.norm == "pre" else nn.Identity()
        for part in (self.positions, self.blocks):
            part.apply(initialise)

    @property
    def layers(self) -> list[Block]:
        """The encoder's layers, first to last."""
        return [cast(Block, block) for block in self.blocks]

    def losses(self, batch: SequenceBatch) -> dict[str, Tensor]:
        """Cross-entropy of the next item at every position that has one."""
        base = self.base_pass(batch, self.items(batch.item_ids_BL))
        chosen_BL, targets_T = self.targets_of(batch)
        states_TD = base.hidden_BLD[chosen_BL]
        return {"ce": self.cross_entropy(states_TD, targets_T, self.repeat_bonus(batch, chosen_BL))}

    def targets_of(self, batch: SequenceBatch) -> tuple[Tensor, Tensor]:
        """Mark the positions with a target, bool [B, L], and list their targets, int64 [T]."""
        assert batch.targets_BL is not None, "training batches carry targets"
        chosen_BL = (batch.targets_BL > 0) & batch.valid_BL
        return chosen_BL, batch.targets_BL[chosen_BL]

    def repeat_bonus(self, batch: SequenceBatch, chosen_BL: Tensor) -> Bonus | None:
        """Point the learned repeat number at what each target's position has behind it."""
        bias = self.repeat_bias
        if bias is None:
            return None
        ids_BL = batch.item_ids_BL
        square = (batch.length, batch.length)
        past_LL = torch.ones(square, dtype=torch.bool, device=self.device).tril()
        earlier_BLL = (ids_BL[:, :, None] == ids_BL[:, None, :]) & past_LL.tril(-1)
        first_BL = batch.valid_BL & ~earlier_BLL.any(dim=2)
        of_row, at = chosen_BL.nonzero(as_tuple=True)
        rows_E, places_E = (first_BL[of_row] & past_LL[at]).nonzero(as_tuple=True)
        return Bonus(rows_E, ids_BL[of_row[rows_E], places_E] - 1, bias)

    def cross_entropy(
        self, states_TD: Tensor, targets_T: Tensor, bonus: Bonus | None, temperature: float = 1.0
    ) -> Tensor:
        """Full cross-entropy of states against their targets at an extra temperature."""
        queries_TD = self.scale_queries(states_TD) / temperature
        if bonus is not None and temperature != 1.0:
            bonus = Bonus(bonus.rows_E, bonus.columns_E, bonus.value / temperature)
        return full_cross_entropy(queries_TD, self.training_vectors(), targets_T - 1, bonus=bonus)

    def training_vectors(self) -> Tensor:
        """Item vectors that the loss ranks, [N, D]: row i is item i + 1."""
        return self.item_vectors(1, self.num_items + 1)

    def embed(self, batch: SequenceBatch, items_BLD: Tensor) -> Tensor:
        """Add positions to item vectors, normalise and drop: the encoder's input."""
        x_BLD = items_BLD + self.positions(positions_of(batch.valid_BL))
        return dropout(self.embedding_norm(x_BLD), self.config.dropout, self.training)

    def base_pass(self, batch: SequenceBatch, items_BLD: Tensor) -> BasePass:
        """Run the encoder over all positions."""
        x_BLD = self.embed(batch, items_BLD)
        # In training a batch without padding takes the faster kernel; at inference the kernel must
        # not depend on who shares the batch.
        mask_B1LL = causal_mask(batch.valid_BL)
        full = self.training and bool(batch.valid_BL.all())
        keys: list[Tensor] = []
        values: list[Tensor] = []
        for block in self.layers:
            x_BLD, k, v = block(x_BLD, None if full else mask_B1LL)
            keys.append(k)
            values.append(v)
        return BasePass(self.final_norm(x_BLD), keys, values, mask_B1LL)

    def _encode_vectors(self, batch: SequenceBatch, items_BLD: Tensor) -> Tensor:
        hidden_BLD = self.base_pass(batch, items_BLD).hidden_BLD
        return hidden_BLD[:, -1] * batch.valid_BL[:, -1:]
