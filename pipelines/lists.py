"""Turn histories into top-K lists with reasons: the same rows for any batch size or worker.

Shape legend: R rows (users), K list length, L history positions, N items the index knows.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from models.base import Ranker
from models.encoding import contribute_rows, encode_rows
from models.seen import SeenItems
from models.sequences import SequenceStore
from models.top_k import top_k
from pipelines.reasons import carriers, fallback_sentence, sentence
from pipelines.shared_traits import SharedTraits
from pipelines.tables.publishing import RECOMMENDATIONS

RANKER, POPULARITY = "ranker", "popularity"
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Shelf:
    """What may be recommended tonight, by item index; entry 0 is padding.

    Attributes:
        item_ids: [N + 1].
        titles: [N + 1], the id where an item has no title.
        allowed: bool [N + 1]: available and allowed on the surface.
        popular: allowed items, most popular first.
        popularity: float [len(popular)], share of recent events, falling.
        fallback_days: the days that popularity was counted over.
        traits: what items have in common.
    """

    item_ids: list[str]
    titles: list[str]
    allowed: npt.NDArray[np.bool_]
    popular: Ints
    popularity: npt.NDArray[np.float64]
    fallback_days: int
    traits: SharedTraits = SharedTraits({})


@dataclass(frozen=True)
class ListRules:
    """How lists are made, and what their rows carry."""

    top_k: int
    allow_repeats: bool
    model_name: str
    model_version: str
    generated_at: Any


@dataclass(frozen=True)
class Histories:
    """Users to recommend to.

    Attributes:
        users: [R] ids.
        store: [R] histories, in the same order; empty where a user has none.
        actions: per user, the action of each event.
        bought: per user, further items that must not be listed (older than the history).
    """

    users: list[str]
    store: SequenceStore
    actions: list[list[str]]
    bought: list[Ints]


def make_lists(
    ranker: Ranker | None, histories: Histories, shelf: Shelf, rules: ListRules
) -> pa.Table:
    """Recommend to each user: the ranker's items first, popular ones where it has too few.

    A user whose history holds nothing that the ranker can read gets popular items only.

    Args:
        ranker: the champion; None lists popular items only.
        histories: the users.
        shelf: the catalogue.
        rules: list length and what the rows carry.
    """
    seen = _seen(histories, rules.allow_repeats)
    ranked = None if ranker is None else _rank(ranker, histories, seen, shelf, rules)
    rows = _Rows()
    for row, user in enumerate(histories.users):
        taken: list[int] = []
        if ranked is not None and ranked.usable[row]:
            taken = rows.add_ranked(user, ranked, histories, row, shelf)
        barred = set(taken) | _row_seen(seen, row)
        rows.add_popular(user, len(taken), barred, shelf, rules)
    return rows.table(shelf, rules)


@dataclass(frozen=True)
class _Ranked:
    """The ranker's answer: scores and items [R, K], contributions [R, K, L], rows it can serve."""

    scores_RK: npt.NDArray[np.float32]
    items_RK: Ints
    carried_RKL: npt.NDArray[np.float32]
    usable: npt.NDArray[np.bool_]


def _rank(
    ranker: Ranker, histories: Histories, seen: SeenItems | None, shelf: Shelf, rules: ListRules
) -> _Ranked:
    store = histories.store
    allowed = torch.from_numpy(_fit(shelf.allowed, ranker.num_items + 1))
    queries = encode_rows(ranker, store)
    scores, items = top_k(ranker, queries, rules.top_k, exclude=seen, allowed_N1=allowed)
    carried = contribute_rows(ranker, store, items)
    rows, places = store.flat_events()
    ids = store.items[places]
    inside = ids <= ranker.num_items
    known = inside & ranker.scorable_N1.numpy()[np.where(inside, ids, 0)]
    usable = np.bincount(rows[known], minlength=len(store)) > 0
    return _Ranked(scores.numpy(), items.numpy(), carried.numpy(), usable)


def _seen(histories: Histories, allow_repeats: bool) -> SeenItems | None:
    if allow_repeats:
        return None
    own = SeenItems.from_store(histories.store)
    if not any(len(extra) for extra in histories.bought):
        return own
    rows = [
        np.union1d(own.items[own.offsets[row] : own.offsets[row + 1]], extra)
        for row, extra in enumerate(histories.bought)
    ]
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum([len(row) for row in rows])])
    return SeenItems(offsets, np.concatenate(rows).astype(np.int64))


def _row_seen(seen: SeenItems | None, row: int) -> set[int]:
    if seen is None:
        return set()
    return set(seen.items[seen.offsets[row] : seen.offsets[row + 1]].tolist())


def _fit(mask: npt.NDArray[np.bool_], length: int) -> npt.NDArray[np.bool_]:
    """Cut or extend the shelf's mask to a ranker's catalogue: it may be older than the index."""
    return np.concatenate([mask[:length], np.zeros(max(length - len(mask), 0), np.bool_)])


class _Rows:
    """Collects the rows of `recommendations`, list by list."""

    def __init__(self) -> None:
        self._users: list[str] = []
        self._ranks: list[int] = []
        self._items: list[int] = []
        self._scores: list[float] = []
        self._reasons: list[str] = []
        self._sources: list[str] = []

    def add_ranked(
        self, user: str, ranked: _Ranked, histories: Histories, row: int, shelf: Shelf
    ) -> list[int]:
        """Append a user's ranked items with their reasons; return the items."""
        items = ranked.items_RK[row][ranked.items_RK[row] > 0]
        width = ranked.carried_RKL.shape[2]
        length = min(width, int(histories.store.lengths[row]))
        history = histories.store.row(row)[-length:].astype(np.int64)
        actions = histories.actions[row][-length:]
        weights_KL = ranked.carried_RKL[row, : len(items), width - length :]
        for rank, places in enumerate(carriers(weights_KL, history, items), start=1):
            named = [(shelf.titles[history[place]], actions[place]) for place in places]
            item = int(items[rank - 1])
            shared = shelf.traits.between(int(history[places[0]]), item)
            score = float(ranked.scores_RK[row, rank - 1])
            self._add(user, rank, item, score, sentence(named, shared), RANKER)
        taken: list[int] = items.tolist()
        return taken

    def add_popular(
        self, user: str, rank: int, barred: set[int], shelf: Shelf, rules: ListRules
    ) -> None:
        """Complete a list with popular items, marked as such; scores go on falling."""
        last = self._scores[-1] if rank else float("inf")
        reason = fallback_sentence(shelf.fallback_days)
        for place, item in enumerate(shelf.popular.tolist()):
            if rank == rules.top_k:
                return
            if item not in barred:
                rank += 1
                score = min(float(shelf.popularity[place]), last)
                self._add(user, rank, item, score, reason, POPULARITY)

    def _add(self, user: str, rank: int, item: int, score: float, reason: str, source: str) -> None:
        self._users.append(user)
        self._ranks.append(rank)
        self._items.append(item)
        self._scores.append(score)
        self._reasons.append(reason)
        self._sources.append(source)

    def table(self, shelf: Shelf, rules: ListRules) -> pa.Table:
        """All rows in the contract's columns."""
        count = len(self._users)
        columns = {
            "user_id": self._users,
            "rank": self._ranks,
            "item_id": [shelf.item_ids[item] for item in self._items],
            "score": self._scores,
            "reason": self._reasons,
            "source": self._sources,
            "model_name": [rules.model_name] * count,
            "model_version": [rules.model_version] * count,
            "generated_at": [rules.generated_at] * count,
        }
        schema = RECOMMENDATIONS.stored
        return pa.table(
            {name: pa.array(columns[name], schema.field(name).type) for name in schema.names}
        )
