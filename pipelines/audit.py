"""Check staged lists before they are published: the rows themselves, then against yesterday."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.lists import POPULARITY
from pipelines.monitoring import Check
from pipelines.settings.groups import RecommendSettings

SUBJECT = "recommendations"
# Percentiles of the baseline's scores bound the bins that drift is measured in.
DRIFT_BINS = 10


@dataclass
class ListStatistics:
    """What a pass over lists has counted; files are added one by one and never kept."""

    top_k: int
    rows: int = 0
    users: int = 0
    short_lists: int = 0
    fallback_rows: int = 0
    broken_ranks: int = 0
    rising_scores: int = 0
    repeated_items: int = 0
    barred_items: int = 0
    split_users: int = 0
    items: set[str] = field(default_factory=set)
    scores: list[npt.NDArray[np.float32]] = field(default_factory=list)
    _known_users: set[str] = field(default_factory=set)

    def add(self, lists: pa.Table, allowed: pa.Array | None) -> None:
        """Count one file's rows; a user's rows lie together in one file.

        Args:
            lists: user_id, rank, item_id, score, source.
            allowed: item ids that may appear; None allows all.
        """
        if not lists.num_rows:
            return
        users = lists["user_id"].combine_chunks().dictionary_encode()
        codes = users.indices.to_numpy(zero_copy_only=False)
        ranks = lists["rank"].to_numpy()
        scores = lists["score"].to_numpy()
        starts = np.flatnonzero(np.r_[True, codes[1:] != codes[:-1]])
        lengths = np.diff(np.r_[starts, len(codes)])
        expected = np.arange(len(codes)) - np.repeat(starts, lengths) + 1
        inside = np.r_[False, codes[1:] == codes[:-1]]
        self.rows += len(codes)
        self.users += len(starts)
        self.short_lists += int((lengths < self.top_k).sum())
        self.broken_ranks += int((ranks != expected).sum()) + int((lengths > self.top_k).sum())
        self.rising_scores += int((inside & (scores > np.r_[scores[0], scores[:-1]])).sum())
        items = lists["item_id"].combine_chunks()
        pairs = pa.table({"user": users.indices, "item": items})
        self.repeated_items += len(codes) - pairs.group_by(["user", "item"]).aggregate([]).num_rows
        self.fallback_rows += pc.sum(pc.equal(lists["source"], POPULARITY)).as_py() or 0
        distinct = pc.unique(items)
        self.items.update(distinct.to_pylist())
        if allowed is not None:
            barred = distinct.filter(pc.invert(pc.is_in(distinct, value_set=allowed)))
            self.barred_items += len(barred)
        names = set(users.dictionary.to_pylist())
        self.split_users += len(starts) - len(names) + len(names & self._known_users)
        self._known_users |= names
        ranked = lists.filter(pc.not_equal(lists["source"], POPULARITY))["score"]
        self.scores.append(ranked.to_numpy().astype(np.float32))

    @property
    def fallback_share(self) -> float:
        """Share of rows that the popularity fallback filled."""
        return self.fallback_rows / self.rows if self.rows else 0.0

    def missing(self, expected: Iterable[str]) -> list[str]:
        """Users who should have a list and have none."""
        return sorted(set(expected) - self._known_users)


def row_checks(found: ListStatistics, missing: list[str]) -> list[Check]:
    """What the contract promises of every list; nothing may break it."""

    def none(name: str, count: int, detail: str) -> Check:
        return Check(name, count, None, 0, count == 0, f"{count} {detail}")

    first = f", the first is {missing[0]}" if missing else ""
    return [
        none("ranks dense from 1", found.broken_ranks, "rows break the ranks"),
        none("scores never rise", found.rising_scores, "rows score above the rank before"),
        none("items once per user", found.repeated_items, "rows repeat an item"),
        none("one list per user", found.split_users, "users have more than one list"),
        none("only allowed items", found.barred_items, "items are unavailable or not allowed"),
        none("every user has a list", len(missing), f"users have no list{first}"),
        Check(
            "short lists",
            found.short_lists,
            None,
            None,
            True,
            f"{found.short_lists} users have seen nearly all that is allowed",
        ),
    ]


def band_checks(
    found: ListStatistics,
    yesterday: ListStatistics | None,
    num_allowed: int,
    settings: RecommendSettings,
    *,
    has_champion: bool,
    same_model: bool,
) -> list[Check]:
    """Bounds on the whole: size against yesterday, coverage, fallback share and score drift."""
    few = settings.min_users
    covered = len(found.items) / max(num_allowed, 1)
    checks = [
        Check(
            "users", found.users, None, few, found.users >= few, f"{found.users} users, floor {few}"
        ),
        Check(
            "catalogue coverage",
            covered,
            None,
            settings.min_coverage if has_champion else None,
            covered >= settings.min_coverage or not has_champion,
            f"lists show {covered:.2%} of the allowed items, floor {settings.min_coverage:.2%}",
        ),
        Check(
            "fallback share",
            found.fallback_share,
            None if yesterday is None else yesterday.fallback_share,
            settings.max_fallback_share if has_champion else None,
            found.fallback_share <= settings.max_fallback_share or not has_champion,
            f"{found.fallback_share:.1%} of rows are popularity fallback, "
            f"ceiling {settings.max_fallback_share:.1%}",
        ),
    ]
    if yesterday is None or not yesterday.rows:
        return checks
    change = found.rows / yesterday.rows - 1.0
    checks.append(
        Check(
            "rows against yesterday",
            found.rows,
            yesterday.rows,
            settings.max_row_change,
            abs(change) <= settings.max_row_change,
            f"{found.rows} rows, {change:+.0%} against {yesterday.rows} yesterday, "
            f"band +-{settings.max_row_change:.0%}",
        )
    )
    drift = stability_index(np.concatenate(yesterday.scores), np.concatenate(found.scores))
    checks.append(
        Check(
            "score drift",
            drift,
            0.0,
            settings.max_score_drift if same_model else None,
            drift <= settings.max_score_drift or not same_model,
            f"population stability index of scores is {drift:.3f}, "
            f"ceiling {settings.max_score_drift:g}",
        )
    )
    return checks


def stability_index(baseline: npt.NDArray[np.float32], current: npt.NDArray[np.float32]) -> float:
    """Population stability index over the baseline's deciles: 0 alike, above 0.25 shifted."""
    if not len(baseline) or not len(current):
        return 0.0
    edges = np.quantile(baseline, np.linspace(0, 1, DRIFT_BINS + 1)[1:-1])
    shares = []
    for values in (baseline, current):
        counts = np.bincount(np.searchsorted(edges, values), minlength=DRIFT_BINS)
        shares.append(np.maximum(counts / len(values), 1e-4))
    return float(((shares[1] - shares[0]) * np.log(shares[1] / shares[0])).sum())
