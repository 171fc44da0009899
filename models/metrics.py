"""Ranking metrics per user, their means with intervals, and differences between two rankers.

Shape legend: U users, K list length. A rank is counted from 1; a missed target has rank inf.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class Interval(NamedTuple):
    """A mean and its 95 % interval."""

    mean: float
    low: float
    high: float


def per_user_metrics(ranks: Floats) -> dict[str, Floats]:
    """Turn target ranks into one number per user and metric: ndcg, recall at 10, 20; mrr at 10."""
    metrics: dict[str, Floats] = {}
    for k in (10, 20):
        inside = ranks <= k
        metrics[f"ndcg@{k}"] = np.where(inside, 1.0 / np.log2(1.0 + ranks), 0.0)
        metrics[f"recall@{k}"] = inside.astype(np.float64)
    metrics["mrr@10"] = np.where(ranks <= 10, 1.0 / ranks, 0.0)
    return metrics


def coverage(items_UK: NDArray[np.int64], num_known: int) -> float:
    """Share of the known items that appear in at least one list (id 0 is an empty place)."""
    shown = np.unique(items_UK)
    return float((shown > 0).sum() / max(num_known, 1))


def gini(items_UK: NDArray[np.int64], num_known: int) -> float:
    """Gini coefficient of how often each known item is shown: 0 all alike, 1 one item alone."""
    counts = np.unique(items_UK[items_UK > 0], return_counts=True)[1].astype(np.float64)
    exposure = np.zeros(max(num_known, len(counts), 1))
    if len(counts) == 0:
        return 0.0
    exposure[len(exposure) - len(counts) :] = np.sort(counts)
    n = len(exposure)
    weights = 2.0 * np.arange(1, n + 1) - n - 1
    return float((weights * exposure).sum() / (n * exposure.sum()))


def mean_ci(values: Floats) -> Interval:
    """Mean of per-user values with its 95 % interval by the normal approximation.

    A mean over thousands of users is as good as normal; fewer than two values have no interval.
    """
    if len(values) == 0:
        return Interval(float("nan"), float("nan"), float("nan"))
    mean = float(np.mean(values))
    if len(values) == 1:
        return Interval(mean, float("nan"), float("nan"))
    half = 1.96 * float(np.std(values, ddof=1)) / float(np.sqrt(len(values)))
    return Interval(mean, mean - half, mean + half)


def paired_bootstrap(a: Floats, b: Floats, seed: int = 0, resamples: int = 10_000) -> Interval:
    """Mean of a - b over the same users with its 95 % percentile bootstrap interval.

    Per-user metrics take few distinct values, and so do their differences; drawing how often each
    distinct difference occurs (one multinomial per resample) is the same as drawing users with
    replacement, at a cost that does not grow with the number of users.

    Raises:
        ValueError: If a and b differ in length or are empty.
    """
    if len(a) != len(b) or len(a) == 0:
        raise ValueError(f"paired values must be as many, and some: {len(a)} and {len(b)}")
    values, counts = np.unique(a - b, return_counts=True)
    draws = np.random.default_rng(seed).multinomial(len(a), counts / len(a), size=resamples)
    means = draws @ values / len(a)
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(float((a - b).mean()), float(low), float(high))
