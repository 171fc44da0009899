"""Base of the rankers that encode a history position by position and learn from every next item.

Shape legend: B rows, L positions, D width, T real targets, N catalogue size.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from models.batch import SequenceBatch
from models.encoders.base import BasePass, Encoder
from models.encoders.transformer import TransformerEncoder
from models.layers.transformer import BlockSettings
from models.losses import Bonus, full_cross_entropy
from models.neural import NeuralConfig, NeuralRanker


class SequentialConfig(NeuralConfig):
    """Settings of a ranker on a sequence encoder.

    Attributes:
        backbone: The encoder.
        inner: Width of the feed-forward layers; 0 means 4 x dim.
        norm: Where LayerNorm stands in a block.
        activation: Non-linearity of the feed-forward layers.
        embedding_norm: LayerNorm on the sum of item and position vectors.
    """

    backbone: Literal["sasrec"] = "sasrec"
    inner: int = Field(default=0, ge=0)
    norm: Literal["pre", "post"] = "pre"
    activation: Literal["gelu", "relu"] = "gelu"
    embedding_norm: bool = True


def build_encoder(config: SequentialConfig) -> Encoder:
    """Build the encoder that the settings name, untrained."""
    settings = BlockSettings(
        dim=config.dim,
        num_heads=config.num_heads,
        inner=config.inner or 4 * config.dim,
        dropout=config.dropout,
        norm=config.norm,
        activation=config.activation,
    )
    return TransformerEncoder(settings, config.num_layers, config.max_length, config.embedding_norm)


class SequentialRanker(NeuralRanker):
    """An item table, an encoder over it, and losses at every position with a next item."""

    config_type = SequentialConfig
    config: SequentialConfig

    def __init__(self, config: SequentialConfig, num_items: int) -> None:
        super().__init__(config, num_items)
        self.encoder = build_encoder(config)

    def losses(self, batch: SequenceBatch) -> dict[str, Tensor]:
        """Cross-entropy of the next item at every position that has one."""
        base = self.base_pass(batch)
        chosen_BL, targets_T = self.targets_of(batch)
        states_TD = base.hidden_BQD[chosen_BL]
        return {"ce": self.cross_entropy(states_TD, targets_T, self.repeat_bonus(batch, chosen_BL))}

    def base_pass(self, batch: SequenceBatch) -> BasePass:
        """Run the encoder over all positions."""
        base: BasePass = self.encoder(batch, self.items(batch.item_ids_BL))
        return base

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

    def _encode_vectors(self, batch: SequenceBatch, items_BLD: Tensor) -> Tensor:
        """Score with what `final_states` makes of the encoder's pass; nothing for empty rows."""
        state_BD = self.final_states(self.encoder(batch, items_BLD))
        return state_BD * batch.valid_BL[:, -1:]

    def final_states(self, base: BasePass) -> Tensor:
        """Turn a base pass into each row's scoring state: [B, D]."""
        return base.hidden_BQD[:, -1]
