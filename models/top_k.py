"""Exact top-K over the whole catalogue in bounded memory.

Shape legend: B queries, R rows of one tile, K list length, C items of one chunk, H hits.
"""

from itertools import pairwise

import torch
from torch import Tensor

from models.base import Ranker
from models.item_table import CHUNK_ITEMS
from models.seen import SeenItems
from models.workers import Workers, gather_values

# A row's scores come from products of one fixed shape, whatever the number of queries asked at
# once: matrix products of other shapes may round differently, and a list must not depend on who
# else was scored in the same call.
TILE_ROWS = 256


@torch.no_grad()
def top_k(
    ranker: Ranker,
    queries: Tensor,
    k: int,
    *,
    exclude: SeenItems | None = None,
    allowed_N1: Tensor | None = None,
    chunk: int = CHUNK_ITEMS,
) -> tuple[Tensor, Tensor]:
    """Find each query's k best items among the allowed ones, best first.

    Masks apply before selection and no more than a tile of rows times a chunk of items is held.
    Of equal scores the lower item id comes first, so the answer is unique. Collective where the
    items lie over several workers: all ask for the same queries, and all get the whole answer.

    Args:
        ranker: Scores the items.
        queries: [B, ...] from `ranker.encode`.
        k: List length.
        exclude: Items per query that must not appear.
        allowed_N1: bool [N + 1], False for items no query may get.
        chunk: Items scored at once.

    Returns:
        float32 [B, K] scores and int64 [B, K] item ids; a row with fewer than k eligible items
        ends in score -inf and item 0.

    Raises:
        ValueError: If k or chunk is below 1, a query is not finite, or row counts disagree.
    """
    if k < 1 or chunk < 1:
        raise ValueError(f"k and chunk must be at least 1, got {k} and {chunk}")
    if queries.is_floating_point() and not bool(torch.isfinite(queries).all()):
        raise ValueError("a query is not finite: the model's weights are broken")
    count = queries.shape[0]
    if exclude is not None and len(exclude) != count:
        raise ValueError(f"{count} queries but exclusions for {len(exclude)} rows")
    if allowed_N1 is not None and allowed_N1.shape != ranker.known_N1.shape:
        raise ValueError(f"allowed_N1 must have {ranker.num_items + 1} entries")
    scores_BK = torch.full((count, k), -torch.inf, device=queries.device)
    items_BK = torch.zeros((count, k), dtype=torch.int64, device=queries.device)
    for first in range(0, count, TILE_ROWS):
        last = min(first + TILE_ROWS, count)
        tile = pad_rows(queries[first:last])
        best = _tile_top_k(ranker, tile, k, exclude, (first, last), allowed_N1, chunk)
        scores_BK[first:last] = best[0][: last - first]
        items_BK[first:last] = best[1][: last - first]
    return scores_BK, items_BK


def item_spans(ranker: Ranker, chunk: int) -> list[tuple[int, int]]:
    """Cut the ids that this process scores at multiples of `chunk`."""
    first, last = ranker.span
    return list(pairwise([first, *range((first // chunk + 1) * chunk, last, chunk), last]))


def pad_rows(values: Tensor, rows: int = TILE_ROWS) -> Tensor:
    """Fill a tensor up to `rows` rows by repeating its first one."""
    missing = rows - values.shape[0]
    if missing <= 0:
        return values
    return torch.cat([values, values[:1].expand(missing, *values.shape[1:])])


def _tile_top_k(
    ranker: Ranker,
    tile: Tensor,
    k: int,
    exclude: SeenItems | None,
    span: tuple[int, int],
    allowed_N1: Tensor | None,
    chunk: int,
) -> tuple[Tensor, Tensor]:
    device = tile.device
    scores_RK = torch.full((tile.shape[0], k), -torch.inf, device=device)
    items_RK = torch.zeros((tile.shape[0], k), dtype=torch.int64, device=device)
    seen = exclude.window(*span) if exclude is not None else None
    spans = item_spans(ranker, chunk)
    for start, stop in spans:
        scores_RC = ranker.scores(tile, start, stop)
        if allowed_N1 is not None:
            scores_RC = scores_RC.masked_fill(~allowed_N1[start:stop], -torch.inf)
        if seen is not None:
            rows, columns = seen.chunk(start, stop, device)
            scores_RC[rows, columns] = -torch.inf
        # Later items lose ties, so only what beats a full list's last score can enter it.
        enters_RC = scores_RC > scores_RK[:, -1:]
        if start == spans[0][0] and scores_RC.shape[1] > k:
            enters_RC &= scores_RC >= scores_RC.topk(k, dim=1).values[:, -1:]
        scores_RK, items_RK = _merge(scores_RK, items_RK, scores_RC, enters_RC, start)
    return _best_of_all(ranker.workers, scores_RK, items_RK)


def _best_of_all(workers: Workers, scores_RK: Tensor, items_RK: Tensor) -> tuple[Tensor, Tensor]:
    """Merge the lists of all workers, of which later ones hold higher ids."""
    if workers.world == 1:
        return scores_RK, items_RK
    rows, k = scores_RK.shape
    parts = [
        gather_values(part.flatten(), workers).view(workers.world, rows, k)
        for part in (scores_RK, items_RK)
    ]
    wide_RH, ids_RH = (part.transpose(0, 1).reshape(rows, -1) for part in parts)
    sorted_RH, order_RH = wide_RH.sort(dim=1, descending=True, stable=True)
    return sorted_RH[:, :k].contiguous(), ids_RH.gather(1, order_RH[:, :k])


def _merge(
    scores_RK: Tensor, items_RK: Tensor, scores_RC: Tensor, enters_RC: Tensor, start: int
) -> tuple[Tensor, Tensor]:
    """Merge the marked scores of one chunk into the lists; marked ids exceed all listed ones."""
    rows, columns = enters_RC.nonzero(as_tuple=True)
    if len(rows) == 0:
        return scores_RK, items_RK
    k = scores_RK.shape[1]
    hits_R = torch.bincount(rows, minlength=scores_RK.shape[0])
    place = k + torch.arange(len(rows), device=rows.device) - (hits_R.cumsum(0) - hits_R)[rows]
    width = k + int(hits_R.max())
    wide_RH = scores_RK.new_full((scores_RK.shape[0], width), -torch.inf)
    ids_RH = items_RK.new_zeros((scores_RK.shape[0], width))
    wide_RH[:, :k], ids_RH[:, :k] = scores_RK, items_RK
    wide_RH[rows, place] = scores_RC[rows, columns]
    ids_RH[rows, place] = columns + start
    # The columns stand in id order among equal scores, so a stable sort breaks ties by lower id.
    sorted_RH, order_RH = wide_RH.sort(dim=1, descending=True, stable=True)
    return sorted_RH[:, :k].contiguous(), ids_RH.gather(1, order_RH[:, :k])
