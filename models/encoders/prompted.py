"""An encoder that reads context tokens before the history.

Shape legend: B rows, P context tokens, L positions, D width.
"""

from dataclasses import replace

import torch
from torch import Tensor

from models.batch import SequenceBatch
from models.encoders.base import BasePass
from models.encoders.transformer import Placing, TransformerEncoder
from models.layers.attention import BlockSettings
from models.layers.dropout import dropout
from models.layers.transformer import open_mask


class PromptedEncoder(TransformerEncoder):
    """Self-attention over context tokens, which have no order, and the history behind them.

    Context follows from the end of a history, so that training goes by prefixes.

    Args:
        settings: Shape of a layer.
        num_layers: Layers.
        placing: Where events stand; learned positions without biases.
        embedding_norm: LayerNorm on the inputs.
        causal: Whether the history, and context in front of it, may not look ahead.
    """

    reads_ahead = True

    def __init__(
        self,
        settings: BlockSettings,
        num_layers: int,
        placing: Placing,
        embedding_norm: bool,
        causal: bool,
    ) -> None:
        if placing.encoding != "learned" or placing.event_bias or placing.time_bias:
            raise ValueError("context tokens stand nowhere in time: use learned positions alone")
        super().__init__(settings, num_layers, placing, embedding_norm)
        self.causal = causal

    def prompted(
        self,
        batch: SequenceBatch,
        items_BLD: Tensor,
        tokens_BPD: Tensor,
        real_BP: Tensor,
        last_only: bool = False,
    ) -> BasePass:
        """Encode histories behind their context.

        Args:
            batch: The histories.
            items_BLD: Their item vectors.
            tokens_BPD: Vectors of the context tokens.
            real_BP: bool, which of them there are.
            last_only: As in `forward`.

        Returns:
            A pass over the history alone, whose places also see the context.
        """
        count = tokens_BPD.shape[1]
        context_BPD = dropout(self.enter(tokens_BPD), self.settings.dropout, self.training)
        x_BXD = torch.cat([context_BPD, self.embed(batch, items_BLD)], dim=1)
        blank_BP = torch.zeros_like(real_BP, dtype=torch.int64)
        whole = SequenceBatch(
            torch.cat([blank_BP, batch.item_ids_BL], dim=1),
            torch.cat([real_BP, batch.valid_BL], dim=1),
            torch.cat([blank_BP, batch.times_BL], dim=1),
            torch.cat([blank_BP, batch.actions_BL], dim=1),
        )
        mask_B1XX = prompt_mask(whole.valid_BL, count, self.causal)
        base = self.run(whole, x_BXD, mask_B1XX, last_only)
        skipped = 0 if last_only else count
        return replace(
            base,
            batch=batch,
            hidden_BQD=base.hidden_BQD[:, skipped:],
            mask_B1QL=base.mask_B1QL[:, :, skipped:],
            places_BQ=base.places_BQ[:, skipped:] - count,
        )


def prompt_mask(valid_BX: Tensor, count: int, causal: bool) -> Tensor:
    """Mask of context tokens and the history behind them: bool [B, 1, X, X].

    Args:
        valid_BX: Which of the X = P + L tokens there are.
        count: Context tokens P.
        causal: Context sees context, an event sees context and the events up to itself; otherwise
            all see all.
    """
    mask_B1XX = open_mask(valid_BX)
    if not causal:
        return mask_B1XX
    past_XX = torch.ones(mask_B1XX.shape[-2:], dtype=torch.bool, device=valid_BX.device).tril()
    past_XX[:count, :count] = True
    return mask_B1XX & past_XX
