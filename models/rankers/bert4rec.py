"""Self-attention in both directions, trained to fill in masked events.

Shape legend: B rows, L positions of a history, X = L + 1 positions with its next item, D width.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from models.batch import SequenceBatch
from models.encoders.base import INIT_STD, BasePass
from models.registry import register
from models.sequential import SequentialConfig, SequentialRanker


class BERT4RecConfig(SequentialConfig):
    """Settings of BERT4Rec.

    Attributes:
        mask_share: Share of a row's events that a batch masks; at least one.
        last_share: Share of rows that mask their last event alone, as scoring does.
    """

    backbone: Literal["bert4rec"] = "bert4rec"
    mask_share: float = Field(default=0.2, gt=0, le=1)
    last_share: float = Field(default=0.1, ge=0, le=1)


@register
class BERT4Rec(SequentialRanker):
    """Cloze training; a mask behind the history asks for what comes next.

    Source: Sun et al., BERT4Rec, CIKM 2019 (arXiv 1904.06690). Masks are drawn afresh for each
    batch; the published code draws ten times beforehand and adds one copy of each row that masks
    its last event. A masked event takes the time of the newest unmasked event before it, because
    the time of the next event is what scoring cannot know. The first event of a window is never
    masked: it is no target of any other ranker either.
    """

    name = "bert4rec"
    method = "attention in both directions, fills in masked events"
    source = "Sun et al. 2019 (arXiv 1904.06690)"
    config_type = BERT4RecConfig
    config: BERT4RecConfig

    def __init__(self, config: BERT4RecConfig, num_items: int) -> None:
        super().__init__(config, num_items)
        self.mask_token_D = nn.Parameter(torch.empty(config.dim))
        nn.init.normal_(self.mask_token_D, std=INIT_STD)

    @classmethod
    def extra_tokens(cls, config: SequentialConfig) -> int:
        """Count the mask behind the history."""
        return 1

    def base_pass(self, batch: SequenceBatch) -> BasePass:
        """Encode whole rows with some events masked; the masked items are the targets."""
        cloze = self.mask_events(batch)
        return self.noted(self._fill_in(cloze, self.items(cloze.item_ids_BL)))

    def num_learnt(self, batch: SequenceBatch) -> int:
        """Count the targets that a batch masks, in expectation."""
        return round(batch.num_targets * self.config.mask_share)

    def mask_events(self, batch: SequenceBatch) -> SequenceBatch:
        """Join each history with its next item and mask a share: X positions, id 0 at a mask."""
        assert batch.targets_BL is not None, "training batches carry targets"
        ids_BX = torch.cat([batch.item_ids_BL, batch.targets_BL[:, -1:]], dim=1)
        valid_BX = torch.cat([batch.valid_BL, batch.targets_BL[:, -1:] > 0], dim=1)
        maskable_BX = functional.pad((batch.targets_BL > 0) & batch.valid_BL, (1, 0))
        after_BX = maskable_BX.flip(1).cumsum(dim=1).flip(1)
        last_BX = maskable_BX & (after_BX == 1)
        share_BX, share_B1 = (
            torch.rand(like.shape, device=self.device) for like in (ids_BX, ids_BX[:, :1])
        )
        drawn_BX = maskable_BX & (share_BX < self.config.mask_share)
        alone_B1 = (share_B1 < self.config.last_share) | ~drawn_BX.any(dim=1, keepdim=True)
        masked_BX = torch.where(alone_B1, last_BX, drawn_BX)
        times_BX = torch.cat([batch.times_BL, batch.times_BL[:, -1:]], dim=1)
        places_X = torch.arange(ids_BX.shape[1], device=self.device)
        seen_BX = (places_X * ~masked_BX).cummax(dim=1).values
        return SequenceBatch(
            ids_BX * ~masked_BX,
            valid_BX,
            times_BX.gather(1, seen_BX),
            functional.pad(batch.actions_BL, (0, 1)) * ~masked_BX,
            ids_BX * masked_BX,
            origins_B4=batch.origins_B4,
        )

    def _fill_in(
        self, cloze: SequenceBatch, items_BXD: Tensor, last_only: bool = False
    ) -> BasePass:
        """Encode a batch in which id 0 at a real position is a mask."""
        masked_BX = (cloze.item_ids_BL == 0) & cloze.valid_BL
        base: BasePass = self.encoder(
            cloze, torch.where(masked_BX[:, :, None], self.mask_token_D, items_BXD), last_only
        )
        return base

    def history_states(self, batch: SequenceBatch) -> Tensor:
        """Ask for the event behind histories: [B, D]; nothing for empty rows."""
        return self._encode_vectors(batch, self.items(batch.item_ids_BL))

    def prefix_states(self, batch: SequenceBatch) -> Tensor:
        """Encode prefixes that end in a mask, seen from there: [B, D]."""
        items_BLD = self.items(batch.item_ids_BL)
        return self._fill_in(batch, items_BLD, last_only=True).hidden_BQD[:, -1]

    def _encode_vectors(self, batch: SequenceBatch, items_BLD: Tensor) -> Tensor:
        """Ask for the event behind the history: [B, D]; nothing for empty rows."""
        asked = SequenceBatch(
            functional.pad(batch.item_ids_BL, (0, 1)),
            torch.cat([batch.valid_BL, batch.valid_BL[:, -1:]], dim=1),
            torch.cat([batch.times_BL, batch.times_BL[:, -1:]], dim=1),
            functional.pad(batch.actions_BL, (0, 1)),
        )
        base = self._fill_in(asked, functional.pad(items_BLD, (0, 0, 0, 1)), last_only=True)
        return base.hidden_BQD[:, -1] * batch.valid_BL[:, -1:]
