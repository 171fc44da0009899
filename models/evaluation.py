"""Splits by time and by last event, target ranks over the full catalogue, and slices of users.

Shape legend: U users, R rows of one tile, C items of one chunk.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.base import Ranker, item_counts
from models.metrics import Floats
from models.seen import SeenItems, SeenWindow
from models.sequences import SequenceStore
from models.top_k import TILE_ROWS, chunk_on, item_spans, pad_rows

HEAD_SHARE = 0.2


@dataclass(frozen=True, eq=False)
class Holdout:
    """Users to evaluate: what is known of each, and the one item that came next.

    Attributes:
        history: Rows of events before the cut, at least one each.
        targets: int64 [U], item ids.
    """

    history: SequenceStore
    targets: NDArray[np.int64]

    def __len__(self) -> int:
        """Count the users."""
        return len(self.targets)

    def sample(self, limit: int, seed: int) -> "Holdout":
        """Keep at most `limit` users, drawn without replacement, in their own order."""
        if len(self) <= limit:
            return self
        rows = np.sort(np.random.default_rng(seed).permutation(len(self))[:limit])
        return Holdout(self.history.take(rows), self.targets[rows])

    @classmethod
    def joined(cls, parts: "list[Holdout]") -> "Holdout":
        """Put the users of several groups one after the other."""
        histories = SequenceStore.joined([part.history for part in parts])
        return cls(histories, np.concatenate([part.targets for part in parts]))

    def shard(self, rank: int, world: int) -> "Holdout":
        """Keep every `world`-th user from `rank` on."""
        rows = np.arange(rank, len(self), world)
        return Holdout(self.history.take(rows), self.targets[rows])


@dataclass(frozen=True, eq=False)
class Split:
    """Training rows and the two groups of users that are held out."""

    train: SequenceStore
    validation: Holdout
    test: Holdout


def temporal_cuts(times: NDArray[Any]) -> tuple[int, int]:
    """Find the unix times below which 80 % and 90 % of all events lie (ties go after the cut)."""
    if len(times) < 10:
        raise ValueError(f"{len(times)} events are too few to cut at 80 % and 90 % of them")
    ordered = np.sort(times)
    return int(ordered[int(0.8 * len(ordered))]), int(ordered[int(0.9 * len(ordered))])


def temporal_split(store: SequenceStore, cuts: tuple[int, int] | None = None) -> Split:
    """Cut the whole log at two instants, the same for every user.

    Training sees events before the first cut. Validation users have an event between the cuts,
    test users one at or after the second; each user's history is what lies before that cut (at
    least one event) and the target is the first event at or after it.

    Args:
        store: All rows.
        cuts: Unix times of the two cuts; default 80 % and 90 % of the events by time.
    """
    if cuts is None:
        _, places = store.flat_events()
        cuts = temporal_cuts(store.times[places])
    first, second = cuts
    return Split(
        store.before(first),
        _next_after(store.before(second), first),
        _next_after(store, second),
    )


def _next_after(store: SequenceStore, cut: int) -> Holdout:
    history = store.before(cut)
    chosen = np.flatnonzero((history.lengths > 0) & (history.lengths < store.lengths))
    history = history.take(chosen)
    return Holdout(history, store.items[history.stops].astype(np.int64))


def leave_one_out_split(store: SequenceStore) -> Split:
    """Hold out each user's last event for test and the one before it for validation.

    It leaks the future of other users into training and exists to compare with published tables.
    Rows of fewer than three events train and are not evaluated.
    """
    enough = store.lengths >= 3
    stops = np.where(enough, store.stops - 2, store.stops)
    train = SequenceStore(store.items, store.times, store.actions, store.starts, stops, store.users)
    validation, test = (store.take(enough).drop_last(count) for count in (2, 1))
    return Split(
        train,
        Holdout(validation, store.items[validation.stops].astype(np.int64)),
        Holdout(test, store.items[test.stops].astype(np.int64)),
    )


@torch.no_grad()
def target_ranks(
    ranker: Ranker,
    queries: Tensor,
    targets: NDArray[np.int64],
    seen: SeenItems,
    chunk: int | None = None,
) -> tuple[Floats, Floats]:
    """Rank each user's target among the whole catalogue, in one pass over tiles of users.

    Collective where the items lie over several workers: all judge the same users and get the same
    ranks. Ties count against the target. A target that the ranker cannot score, or (in the second
    answer) that the user has seen, or whose score is nan, is a miss: its rank is inf.

    Args:
        ranker: Scores the items.
        queries: [U, ...] from `encode_rows`.
        targets: int64 [U].
        seen: What each user has had before.
        chunk: Items scored at once; None for what suits the device.

    Returns:
        float64 [U] ranks with repeats allowed, and [U] with seen items excluded.
    """
    chunk = chunk_on(queries.device, ranker.num_items) if chunk is None else chunk
    scorable_N1 = ranker.scorable_N1.cpu().numpy()
    inside = targets <= ranker.num_items
    scored = inside & scorable_N1[np.where(inside, targets, 0)]
    allowed = np.full(len(targets), np.inf)
    excluded = np.full(len(targets), np.inf)
    for first in range(0, len(targets), TILE_ROWS):
        last = min(first + TILE_ROWS, len(targets))
        ids = torch.from_numpy(np.where(scored, targets, 0)[first:last]).to(queries.device)
        tile = pad_rows(queries[first:last])
        above, above_seen = _count_above(
            ranker, tile, pad_rows(ids), seen.window(first, last), chunk
        )
        allowed[first:last] = above[: last - first]
        excluded[first:last] = (above - above_seen)[: last - first]
    # Every target counts itself, but for one whose score is nan.
    nowhere = ~scored | (allowed < 1)
    allowed[nowhere] = np.inf
    excluded[nowhere | seen.contains(targets)] = np.inf
    return allowed, excluded


def _count_above(
    ranker: Ranker, tile: Tensor, targets_R: Tensor, seen: SeenWindow, chunk: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Count the items (and among them the seen ones) that score at least as much as the target.

    The target itself is among them, so the count is its pessimistic rank. Its score is read from
    the same product that scores everybody else: computed apart it could differ in the last bit.
    """
    spans = item_spans(ranker, chunk)
    only = ranker.scores(tile, *spans[0]) if len(spans) == 1 else None
    wanted_R = torch.full((tile.shape[0],), torch.inf, device=tile.device)
    for start, stop in spans:
        here = (targets_R >= start) & (targets_R < stop)
        if bool(here.any()):
            scores_RC = only if only is not None else ranker.scores(tile, start, stop)
            wanted_R[here] = scores_RC[here, targets_R[here] - start]
    wanted_R = ranker.workers.min(wanted_R)
    above_R = torch.zeros(tile.shape[0], dtype=torch.int64, device=tile.device)
    above_seen_R = torch.zeros_like(above_R)
    for start, stop in spans:
        scores_RC = only if only is not None else ranker.scores(tile, start, stop)
        beats_RC = scores_RC >= wanted_R[:, None]
        above_R += beats_RC.sum(1)
        rows, columns = seen.chunk(start, stop, tile.device)
        above_seen_R.index_add_(0, rows, beats_RC[rows, columns].to(torch.int64))
    above_2R = ranker.workers.sum(torch.stack([above_R, above_seen_R])).cpu().numpy()
    return above_2R[0], above_2R[1]


def user_slices(holdout: Holdout, train: SequenceStore) -> dict[str, NDArray[np.bool_]]:
    """Mark the users of each slice: bool [U] per name.

    - all: everybody; a cold target is a miss.
    - warm, cold: the target does, or does not, occur in the training rows.
    - short, long: the history is at most as long as the median user's, or longer.
    - head, tail: the target is among the most frequent fifth of the training items (ties go to the
      lower id), or is one of the other training items.
    """
    top = int(max(holdout.targets.max(initial=0), train.items.max(initial=0)))
    counts = item_counts(train, top)
    known = np.flatnonzero(counts)
    order = known[np.argsort(-counts[known], kind="stable")]
    is_head = np.zeros(top + 1, dtype=np.bool_)
    is_head[order[: int(np.ceil(HEAD_SHARE * len(order)))]] = True
    warm = counts[holdout.targets] > 0
    lengths = holdout.history.lengths
    short = lengths <= (np.median(lengths) if len(lengths) else 0)
    return {
        "all": np.ones(len(holdout), dtype=np.bool_),
        "warm": warm,
        "cold": ~warm,
        "short": short,
        "long": ~short,
        "head": is_head[holdout.targets],
        "tail": warm & ~is_head[holdout.targets],
    }
