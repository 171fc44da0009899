"""Encode many rows in tiles whose shape depends on a row's own length alone.

Shape legend: R rows of a store, `...` the ranker's query shape.
"""

import numpy as np
import torch
from torch import Tensor

from models.base import Ranker
from models.batch import collate
from models.sequences import Ints, SequenceStore
from models.top_k import TILE_ROWS

SHORTEST_WINDOW = 8


def window_lengths(store: SequenceStore, max_length: int) -> Ints:
    """Round each row's length up to 8, 16, 32, ... or `max_length`: int64 [R]."""
    doublings = np.ceil(np.log2(np.maximum(store.lengths, 1) / SHORTEST_WINDOW)).clip(min=0)
    rounded = SHORTEST_WINDOW * 2 ** doublings.astype(np.int64)
    return np.minimum(rounded, max_length)


@torch.no_grad()
def encode_rows(ranker: Ranker, store: SequenceStore) -> Tensor:
    """Encode every row of a store: [R, ...], in row order.

    A row's query does not depend on the rows around it, to the last bit: rows are grouped by
    rounded length and every group is cut into tiles of one fixed size, filled up with empty rows.
    """
    was_training = ranker.training
    ranker.eval()
    windows = window_lengths(store, ranker.config.max_length)
    order = np.argsort(windows, kind="stable")
    found: list[Tensor] = []
    # One empty row at the end is what fills tiles up.
    padded = SequenceStore(
        store.items,
        store.times,
        store.actions,
        np.append(store.starts, 0),
        np.append(store.stops, 0),
    )
    for length in np.unique(windows):
        rows = order[windows[order] == length]
        for first in range(0, len(rows), TILE_ROWS):
            tile = rows[first : first + TILE_ROWS]
            filled = np.concatenate([tile, np.full(TILE_ROWS - len(tile), len(store))])
            batch = collate(padded, filled, int(length)).to(ranker.device)
            found.append(ranker.encode(batch)[: len(tile)])
    ranker.train(was_training)
    if not found:
        return ranker.encode(collate(padded, np.array([0]), SHORTEST_WINDOW))[:0]
    queries = torch.cat(found)
    back = torch.empty(len(order), dtype=torch.int64)
    back[torch.from_numpy(order)] = torch.arange(len(order))
    return queries[back.to(queries.device)]
