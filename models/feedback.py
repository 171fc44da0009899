"""Levels of feedback: how much an action says about what a person wants.

Shape legend: B rows, L positions, K levels, A action codes.
"""

import numpy as np
import torch
from torch import Tensor

from models.batch import SequenceBatch
from models.sequences import SequenceStore


def levels_by_rarity(store: SequenceStore) -> list[int]:
    """List the action codes of a log, weakest first: the more frequent the weaker.

    People look more often than they take, and take more often than they pay. Code 0, an unknown
    action, counts as one of its own only where the log has no other.
    """
    _, places = store.flat_events()
    codes, counts = np.unique(store.actions[places], return_counts=True)
    known = codes > 0 if (codes > 0).any() else codes >= 0
    codes, counts = codes[known], counts[known]
    return [int(code) for code in codes[np.lexsort((codes, -counts))]]


def level_table(weakest_first: list[int], levels: int) -> Tensor:
    """Map action codes to levels 1..`levels`, int64 [A]: stronger ones share the last level."""
    table_A = torch.ones(max([0, *weakest_first]) + 1, dtype=torch.int64)
    for level, code in enumerate(weakest_first, start=1):
        table_A[code] = min(level, levels)
    return table_A


def level_of(actions: Tensor, table_A: Tensor) -> Tensor:
    """Look levels up; an action that the table does not know has the weakest."""
    inside = actions < len(table_A)
    return torch.where(inside, table_A[actions * inside], 1)


def next_of_level(batch: SequenceBatch, table_A: Tensor, levels: int) -> Tensor:
    """Find after each position the next item of level k or above: int64 [B, L, K], 0 for none."""
    assert batch.targets_BL is not None, "training batches carry targets"
    assert batch.target_actions_BL is not None, "training batches carry the targets' actions"
    targets_BL, length = batch.targets_BL, batch.length
    level_BL = level_of(batch.target_actions_BL, table_A) * (targets_BL > 0)
    at_L = torch.arange(length, device=targets_BL.device)
    found = []
    for level in range(1, levels + 1):
        place_BL = torch.where(level_BL >= level, at_L, length)
        next_BL = place_BL.flip(1).cummin(dim=1).values.flip(1)
        item_BL = targets_BL.gather(1, next_BL.clamp(max=length - 1))
        found.append(item_BL * (next_BL < length))
    return torch.stack(found, dim=2)
