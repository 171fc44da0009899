"""Prefixes hold what stood up to the drawn position, and its target alone."""

import numpy as np
import torch

from models.batch import collate
from models.prefixes import draw_prefixes
from models.sequences import SequenceStore
from tests.models.conftest import random_store


def test_prefixes_end_where_their_target_follows(store: SequenceStore) -> None:
    batch = collate(store, np.arange(20), 12, with_targets=True)
    torch.manual_seed(0)
    prefixes = draw_prefixes(batch, per_row=3)
    assert batch.targets_BL is not None
    assert prefixes.targets_BL is not None
    targets = (batch.targets_BL > 0).sum(dim=1).clamp(max=3)
    assert prefixes.num_rows == int(targets.sum())
    found = set()
    for ids, valid, target in zip(
        prefixes.item_ids_BL, prefixes.valid_BL, prefixes.targets_BL, strict=True
    ):
        assert (target[:-1] == 0).all()
        assert (ids[~valid] == 0).all()
        found.add((*ids[valid].tolist(), int(target[-1])))
    rows = zip(batch.item_ids_BL, batch.valid_BL, batch.targets_BL, strict=True)
    possible = {
        (*ids[: at + 1][valid[: at + 1]].tolist(), int(target[at]))
        for ids, valid, target in rows
        for at in target.nonzero()[:, 0].tolist()
    }
    assert found <= possible
    assert len(found) > 20


def test_rows_without_targets_give_no_prefix() -> None:
    batch = collate(random_store(rows=6), np.arange(6), 12, with_targets=True)
    assert batch.targets_BL is not None
    batch.targets_BL[1:] = 0
    assert draw_prefixes(batch, per_row=1).num_rows == 1
    batch.targets_BL[0] = 0
    assert draw_prefixes(batch, per_row=1).num_targets == 0
