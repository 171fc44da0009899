"""Exact top-K over the whole catalogue in bounded memory.

Shape legend: B queries, R rows of one tile, K list length, C items of one chunk, H hits,
I items of a group, G groups, X groups x rows of a chunk, W places of a list before it is cut.
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
# Items that are skipped together where none of them can enter a list, and those of which the best
# alone is looked at first where a list begins.
GROUP_ITEMS, FIRST_GROUP_ITEMS = 16, 8


@torch.no_grad()
def top_k(
    ranker: Ranker,
    queries: Tensor,
    k: int,
    *,
    exclude: SeenItems | None = None,
    allowed_N1: Tensor | None = None,
    chunk: int | None = None,
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
        chunk: Items scored at once; None for what suits the device.

    Returns:
        float32 [B, K] scores and int64 [B, K] item ids; a row with fewer than k eligible items
        ends in score -inf and item 0.

    Raises:
        ValueError: If k or chunk is below 1, a query is not finite, or row counts disagree.
    """
    chunk = chunk_on(queries.device, ranker.num_items) if chunk is None else chunk
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


def chunk_on(device: torch.device, num_items: int) -> int:
    """Say how many items to score at once.

    A CPU selects from scores that its cache still holds, or from all where they are few.
    """
    if device.type != "cpu":
        return CHUNK_ITEMS
    few = 2 * CHUNK_ITEMS
    return few if num_items < few else CHUNK_ITEMS // 2


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
    best = _Lists(tile.shape[0], k, tile.device)
    seen = exclude.window(*span) if exclude is not None else None
    for start, stop in item_spans(ranker, chunk):
        scores_RC = ranker.scores(tile, start, stop)
        if allowed_N1 is not None and not bool(allowed_N1[start:stop].all()):
            scores_RC = scores_RC.masked_fill(~allowed_N1[start:stop], -torch.inf)
        if seen is not None:
            rows, columns = seen.chunk(start, stop, tile.device)
            scores_RC[rows, columns] = -torch.inf
        best.offer(scores_RC, start)
    best.merge()
    return _best_of_all(ranker.workers, best.scores_RK, best.items_RK)


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


class _Lists:
    """The best so far of each row of a tile; hits wait until they are worth a sort."""

    def __init__(self, rows: int, k: int, device: torch.device) -> None:
        self.scores_RK = torch.full((rows, k), -torch.inf, device=device)
        self.items_RK = torch.zeros((rows, k), dtype=torch.int64, device=device)
        self._waiting: list[tuple[Tensor, Tensor, Tensor]] = []
        self._num_waiting = 0
        self._empty = True

    def offer(self, scores_RC: Tensor, start: int) -> None:
        """Take what can still enter of the items from `start` on, which are beyond all before."""
        rows, k = self.scores_RK.shape
        if self._empty and scores_RC.shape[1] > k:
            self._begin(scores_RC, start)
        else:
            # Later items lose ties, so only what beats a full list's last score can enter it.
            self._wait(scores_RC, self.scores_RK[:, -1], start)
            if self._empty or self._num_waiting >= rows * k:
                self.merge()
        self._empty = False

    def _begin(self, scores_RC: Tensor, start: int) -> None:
        """Fill the empty lists from more items than they hold."""
        k = self.scores_RK.shape[1]
        sorted_RK, at_RK = _first_best(scores_RC, k + 1)
        self.scores_RK, self.items_RK = sorted_RK[:, :k].contiguous(), at_RK[:, :k] + start
        # Where no two are equal there is one order, and it has been found.
        tied_T = (sorted_RK[:, 1:] >= sorted_RK[:, :-1]).any(dim=1).nonzero()[:, 0]
        if len(tied_T) == 0:
            return
        again = _Lists(len(tied_T), k, scores_RC.device)
        kth_T = sorted_RK[tied_T, k - 1]
        below_T = torch.nextafter(kth_T, torch.full_like(kth_T, -torch.inf))
        again._wait(scores_RC[tied_T], below_T, start)
        again.merge()
        self.scores_RK[tied_T], self.items_RK[tied_T] = again.scores_RK, again.items_RK

    def _wait(self, scores_RC: Tensor, bar_R: Tensor, start: int) -> None:
        """Let what scores above its row's bar wait for the next merge."""
        rows_H, columns_H, scores_H = _above(scores_RC, bar_R)
        self._waiting.append((rows_H, columns_H + start, scores_H))
        self._num_waiting += len(rows_H)

    def merge(self) -> None:
        """Sort the waiting hits into the lists."""
        if self._num_waiting == 0:
            return
        rows_H, items_H, scores_H = (torch.cat(parts) for parts in zip(*self._waiting, strict=True))
        self._waiting, self._num_waiting = [], 0
        # By row, and by id within a row.
        order_H = ((rows_H << 40) + items_H).argsort()
        rows_H = rows_H[order_H]
        rows, k = self.scores_RK.shape
        hits_R = torch.bincount(rows_H, minlength=rows)
        place_H = k + torch.arange(len(rows_H), device=rows_H.device)
        place_H -= (hits_R.cumsum(0) - hits_R)[rows_H]
        wide = (rows, k + int(hits_R.max()))
        scores_RW = self.scores_RK.new_full(wide, -torch.inf)
        items_RW = self.items_RK.new_zeros(wide)
        scores_RW[:, :k], items_RW[:, :k] = self.scores_RK, self.items_RK
        scores_RW[rows_H, place_H] = scores_H[order_H]
        items_RW[rows_H, place_H] = items_H[order_H]
        # The columns stand in id order among equal scores: a stable sort breaks ties by lower id.
        sorted_RW, by_RW = scores_RW.sort(dim=1, descending=True, stable=True)
        self.scores_RK = sorted_RW[:, :k].contiguous()
        self.items_RK = items_RW.gather(1, by_RW[:, :k])


def _first_best(scores_RC: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Find each row's k best scores, best first, and their columns; the order of ties is open.

    The items of the k groups with the best maxima are enough: each of these groups has an item
    that is no worse than all items of the others. Rows stand last, as in `_above`.
    """
    rows, count = scores_RC.shape
    groups = count // FIRST_GROUP_ITEMS
    if groups < 4 * k:
        return scores_RC.topk(k, dim=1)
    grouped = groups * FIRST_GROUP_ITEMS
    groups_IX = scores_RC[:, :grouped].T.reshape(FIRST_GROUP_ITEMS, -1)
    maxima_RG = groups_IX.amax(dim=0).view(groups, rows).T
    group_RK = maxima_RG.topk(k, dim=1, sorted=False).indices
    cells_X = group_RK * rows + torch.arange(rows, device=group_RK.device)[:, None]
    picked_IX = groups_IX.index_select(1, cells_X.flatten())
    candidates_RW = picked_IX.view(FIRST_GROUP_ITEMS, rows, k).transpose(0, 1).flatten(1)
    candidates_RW = torch.cat([candidates_RW, scores_RC[:, grouped:]], dim=1)
    best_RK, at_RK = candidates_RW.topk(k, dim=1)
    columns_RK = at_RK // k * groups + group_RK.gather(1, at_RK % k)
    beyond_RK = at_RK - FIRST_GROUP_ITEMS * k
    return best_RK, torch.where(beyond_RK < 0, columns_RK, beyond_RK + grouped)


def _above(scores_RC: Tensor, bar_R: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Find what scores above its row's bar: rows, columns and scores, in no order.

    Nearly nothing does: one pass takes the largest of every few items, and only where that is above
    the bar are they looked at. The items of such a group stand a stride apart, and rows stand last:
    in that order a CPU takes maxima at the speed of its memory.
    """
    rows, count = scores_RC.shape
    if count % GROUP_ITEMS:
        rows_H, columns_H = (scores_RC > bar_R[:, None]).nonzero(as_tuple=True)
        return rows_H, columns_H, scores_RC[rows_H, columns_H]
    # One flat axis of groups x rows: picking by several indices costs a CPU several times as much.
    groups_IX = scores_RC.T.reshape(GROUP_ITEMS, -1)
    above_X = (groups_IX.amax(dim=0).view(-1, rows) > bar_R).flatten()
    cells_H = above_X.nonzero()[:, 0]
    picked_IH = groups_IX.index_select(1, cells_H)
    inside, hit = (picked_IH > bar_R[cells_H % rows]).nonzero(as_tuple=True)
    cells_H = cells_H[hit]
    columns_H = inside * (count // GROUP_ITEMS) + cells_H // rows
    return cells_H % rows, columns_H, picked_IH[inside, hit]
