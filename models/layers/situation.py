"""Tokens that stand around a history: anchors of a person's taste, and the moment.

Shape legend: B rows, L positions of a history, G anchors of a group, A anchor tokens, M tokens of
the moment, D width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.batch import SequenceBatch
from models.encoders.base import INIT_STD, every_position

GROUPS = 2
SITUATION_TOKENS = 2
DAY = 86_400
LENGTH_BUCKETS = 16


@dataclass(frozen=True, eq=False)
class Anchors:
    """Places of a history that anchor it, group by group.

    Attributes:
        places_BGG: int64 [B, 2, G].
        valid_BGG: bool [B, 2, G], False where a history has no more distinct items.
    """

    places_BGG: Tensor
    valid_BGG: Tensor


def find_anchors(batch: SequenceBatch, levels_BL: Tensor, per_group: int) -> Anchors:
    """Pick the most frequent items of a history, and those of the strongest feedback.

    Ties go to the newer item. An item stands at its newest place, once per group.
    """
    ids_BL, length = batch.item_ids_BL, batch.length
    same_BLL = (ids_BL[:, :, None] == ids_BL[:, None, :]) & batch.valid_BL[:, None, :]
    at_BL = every_position(batch)
    later_BLL = same_BLL & (at_BL[:, None, :] > at_BL[:, :, None])
    newest_BL = batch.valid_BL & ~later_BLL.any(dim=2)
    strongest_BL = torch.where(same_BLL, levels_BL[:, None, :], 0).amax(dim=2)
    keys_BGL = torch.stack([same_BLL.sum(dim=2), strongest_BL], dim=1) * length + at_BL[:, None]
    found = keys_BGL.masked_fill(~newest_BL[:, None], -1).topk(min(per_group, length), dim=2)
    return Anchors(found.indices, found.values >= 0)


class Situation(nn.Module):
    """Vectors of the tokens around a history.

    Args:
        dim: Width D.
        per_group: Anchors of a group.
        levels: Levels of feedback.
    """

    def __init__(self, dim: int, per_group: int, levels: int) -> None:
        super().__init__()
        self.per_group = per_group
        self.group_edges = nn.Parameter(torch.empty(GROUPS, 2, dim))
        self.places = nn.Parameter(torch.empty(GROUPS, per_group, dim))
        self.roles = nn.Parameter(torch.empty(SITUATION_TOKENS, dim))
        self.feedback = nn.Embedding(levels + 1, dim)
        self.lengths = nn.Embedding(LENGTH_BUCKETS, dim)
        self.weekdays = nn.Embedding(7, dim)
        self.hours = nn.Embedding(24, dim)
        for weight in self.parameters():
            nn.init.normal_(weight, std=INIT_STD)

    @staticmethod
    def num_tokens(per_group: int) -> int:
        """Count the tokens beside a history."""
        return GROUPS * (per_group + 2) + SITUATION_TOKENS

    def forward(
        self, batch: SequenceBatch, events_BLD: Tensor, levels_BL: Tensor
    ) -> tuple[SequenceBatch, Tensor]:
        """Put the anchors before a history and the moment behind it.

        Args:
            batch: Histories.
            events_BLD: Vectors of their events.
            levels_BL: Levels of their events.

        Returns:
            A batch of A + L + M positions and its vectors. Anchors keep their items' ids, other
            tokens have id 0; each carries the time of its event or of the newest one.
        """
        anchors = find_anchors(batch, levels_BL, self.per_group)
        events_BLD = events_BLD + self.feedback(levels_BL)
        parts = [self._group(batch, events_BLD, anchors, group) for group in range(GROUPS)]
        tokens_BMD = self._moment(batch, levels_BL)
        some_BM = batch.valid_BL[:, -1:].expand(-1, SITUATION_TOKENS)
        times_BM = batch.times_BL[:, -1:].expand_as(some_BM)
        moment = (times_BM * 0, some_BM, times_BM, tokens_BMD)
        history = (batch.item_ids_BL, batch.valid_BL, batch.times_BL, events_BLD)
        ids, valid, times, vectors = (
            torch.cat(list(values), dim=1) for values in zip(*parts, history, moment, strict=True)
        )
        return SequenceBatch(ids, valid, times, torch.zeros_like(ids)), vectors

    def _group(
        self, batch: SequenceBatch, events_BLD: Tensor, anchors: Anchors, group: int
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Wrap one group of anchors: ids, valid, times [B, G + 2] and vectors [B, G + 2, D]."""
        places_BG, valid_BG = anchors.places_BGG[:, group], anchors.valid_BGG[:, group]
        dim, count = events_BLD.shape[2], places_BG.shape[1]
        vectors_BGD = events_BLD.gather(1, places_BG[:, :, None].expand(-1, -1, dim))
        vectors_BGD = vectors_BGD + self.places[group, :count]
        first, last = self.group_edges[group, :, None, None].expand(2, batch.num_rows, 1, dim)
        some_B1, newest_B1 = batch.valid_BL[:, -1:], batch.times_BL[:, -1:]
        ids_BG = batch.item_ids_BL.gather(1, places_BG) * valid_BG
        times_BG = batch.times_BL.gather(1, places_BG)
        return (
            functional.pad(ids_BG, (1, 1)),
            torch.cat([some_B1, valid_BG, some_B1], dim=1),
            torch.cat([newest_B1, times_BG, newest_B1], dim=1),
            torch.cat([first, vectors_BGD, last], dim=1),
        )

    def _moment(self, batch: SequenceBatch, levels_BL: Tensor) -> Tensor:
        """Describe the person (how much is known, what they did last) and the hour: [B, M, D]."""
        counts_B = batch.valid_BL.sum(dim=1).clamp(min=1)
        bucket_B = counts_B.float().log2().long().clamp(max=LENGTH_BUCKETS - 1)
        newest_B = batch.times_BL[:, -1]
        person_BD = self.lengths(bucket_B) + self.feedback(levels_BL[:, -1])
        # The first day of unix time was a Thursday; only that days differ matters here.
        weekday_B, hour_B = newest_B // DAY % 7, newest_B % DAY // 3600
        hour_BD = self.weekdays(weekday_B) + self.hours(hour_B)
        return torch.stack([person_BD, hour_BD], dim=1) + self.roles
