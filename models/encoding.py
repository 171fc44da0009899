"""Encode many rows in tiles whose shape depends on a row's own length alone.

Shape legend: R rows of a store, `...` the ranker's query shape.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from models.base import Ranker
from models.batch import SequenceBatch, collate
from models.sequences import Ints, SequenceStore

SHORTEST_WINDOW = 8
# What the layers of a tile pass on to each other should fit into a CPU's cache; a GPU wants work.
CPU_TILE_ROWS, TILE_ROWS = 64, 256


@contextmanager
def at_inference(ranker: nn.Module) -> Iterator[None]:
    """Switch all parts to inference, then back to what each was: frozen parts stay at inference."""
    learning = [part for part in ranker.modules() if part.training]
    ranker.eval()
    try:
        yield
    finally:
        for part in learning:
            part.training = True


def window_lengths(store: SequenceStore, max_length: int) -> Ints:
    """Round each row's length up to 8, 16, 32, ... or `max_length`: int64 [R]."""
    doublings = np.ceil(np.log2(np.maximum(store.lengths, 1) / SHORTEST_WINDOW)).clip(min=0)
    rounded = SHORTEST_WINDOW * 2 ** doublings.astype(np.int64)
    return np.minimum(rounded, max_length)


@torch.no_grad()
def encode_rows(ranker: Ranker, store: SequenceStore, steps: bool = False) -> Tensor:
    """Encode every row of a store: [R, ...], in row order.

    With `steps` every reasoning state gives a query: [R, S, ...].

    A row's query does not depend on the rows around it, to the last bit: rows are grouped by
    rounded length and every group is cut into tiles of one fixed size, filled up with empty rows.
    """
    encode = ranker.encode_steps if steps else ranker.encode
    order: list[Ints] = []
    found: list[Tensor] = []
    with at_inference(ranker):
        for rows, batch in _tiles(ranker, store):
            order.append(rows)
            found.append(encode(batch)[: len(rows)])
    if not found:
        empty = SequenceStore.from_lists([[]])
        return encode(collate(empty, np.array([0]), SHORTEST_WINDOW).to(ranker.device))[:0]
    queries = torch.cat(found)
    places = torch.from_numpy(np.concatenate(order))
    back = torch.empty(len(places), dtype=torch.int64)
    back[places] = torch.arange(len(places))
    return queries[back.to(queries.device)]


def _tiles(ranker: Ranker, store: SequenceStore) -> Iterator[tuple[Ints, SequenceBatch]]:
    """Yield (rows, batch) with rows of like length; empty rows fill each batch up to one size."""
    windows = window_lengths(store, ranker.config.max_length)
    order = np.argsort(windows, kind="stable")
    # One empty row at the end is what fills tiles up.
    padded = SequenceStore(
        store.items,
        store.times,
        store.actions,
        np.append(store.starts, 0),
        np.append(store.stops, 0),
    )
    size = CPU_TILE_ROWS if ranker.device.type == "cpu" else TILE_ROWS
    for length in np.unique(windows):
        rows = order[windows[order] == length]
        for first in range(0, len(rows), size):
            tile = rows[first : first + size]
            filled = np.concatenate([tile, np.full(size - len(tile), len(store))])
            yield tile, collate(padded, filled, int(length)).to(ranker.device)


def contribute_rows(ranker: Ranker, store: SequenceStore, items_RK: Tensor) -> Tensor:
    """Explain every row's listed items in the same fixed tiles: float32 [R, K, max_length].

    Positions are left padded to `max_length`; an item id of 0 carries nothing.
    """
    width = ranker.config.max_length
    carried = torch.zeros((len(store), items_RK.shape[1], width))
    with at_inference(ranker):
        for rows, batch in _tiles(ranker, store):
            filled = torch.zeros((batch.num_rows, items_RK.shape[1]), dtype=torch.int64)
            filled[: len(rows)] = items_RK[torch.from_numpy(rows)].cpu()
            found = ranker.contributions(batch, filled.to(ranker.device)).cpu()
            carried[torch.from_numpy(rows), :, width - batch.length :] = found[: len(rows)]
    return carried * (items_RK > 0).cpu()[:, :, None]
