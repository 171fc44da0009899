"""Training on prefixes, for encoders that may look at a whole history at once.

Shape legend: B rows, L positions, P prefixes per row.
"""

import torch
from torch import Tensor

from models.batch import SequenceBatch
from models.encoders.base import every_position


def draw_prefixes(batch: SequenceBatch, per_row: int) -> SequenceBatch:
    """Cut each row at the positions that `draw_ends` draws.

    Where every position of one row may see all others, a next item must not stand in the same row
    as the history that predicts it: each prefix becomes a row of its own, with a target at its last
    position alone. A row with fewer targets gives as many prefixes as it has targets, and a batch
    without any target one row without a target.

    Returns:
        A batch of at most B * P rows of L positions, left padded.
    """
    return prefixes_at(batch, *draw_ends(batch, per_row))


def draw_ends(batch: SequenceBatch, per_row: int) -> tuple[Tensor, Tensor]:
    """Draw up to `per_row` positions of each row that have a target, without replacement.

    Returns:
        Rows and positions of at least one place, int64 [P] each.
    """
    assert batch.targets_BL is not None, "training batches carry targets"
    chosen_BL = (batch.targets_BL > 0) & batch.valid_BL
    # The `per_row` largest of random keys; positions without a target have none.
    keys_BL = torch.rand(chosen_BL.shape, device=chosen_BL.device).masked_fill(~chosen_BL, -1.0)
    drawn_BP = keys_BL.topk(min(per_row, batch.length), dim=1)
    rows_B = torch.arange(batch.num_rows, device=chosen_BL.device)
    real_BP = drawn_BP.values >= 0
    rows = rows_B[:, None].expand_as(real_BP)[real_BP]
    places = drawn_BP.indices[real_BP]
    if len(rows) == 0:
        rows, places = rows_B[:1], rows_B[:1] * 0
    return rows, places


def num_prefixes(batch: SequenceBatch, per_row: int) -> int:
    """Count the targets that `draw_prefixes` keeps of a batch."""
    assert batch.targets_BL is not None, "training batches carry targets"
    chosen_BL = (batch.targets_BL > 0) & batch.valid_BL
    return int(chosen_BL.sum(dim=1).clamp(max=per_row).sum())


def prefixes_at(batch: SequenceBatch, rows_P: Tensor, places_P: Tensor) -> SequenceBatch:
    """Cut prefix p from row `rows_P[p]`, ending at position `places_P[p]`: P rows, left padded."""
    length = batch.length
    from_PL = every_position(batch)[rows_P] - (length - 1) + places_P[:, None]
    inside_PL = from_PL >= 0
    from_PL = from_PL.clamp(min=0)

    def cut(values_BL: Tensor) -> Tensor:
        return values_BL[rows_P].gather(1, from_PL) * inside_PL

    targets_PL = None
    if batch.targets_BL is not None:
        targets_PL = torch.zeros_like(from_PL)
        targets_PL[:, -1] = batch.targets_BL[rows_P, places_P]
    return SequenceBatch(
        cut(batch.item_ids_BL),
        cut(batch.valid_BL),
        cut(batch.times_BL),
        cut(batch.actions_BL),
        targets_PL,
        origins_B4=None if batch.origins_B4 is None else batch.origins_B4[rows_P],
    )
