"""What a benchmark reports beside one run: lists, differences to heuristics, means over seeds."""

from dataclasses import dataclass
from math import isnan
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.metrics import Floats, Interval, coverage, gini, mean_ci, paired_bootstrap
from models.propensity import inverse_propensities

# How strongly the secondary NDCG weighs against popularity.
PROPENSITY_POWER, PROPENSITY_CLIP = 0.5, 10.0
# Two-sided 95 % quantile of Student's t for 1, 2, ... degrees of freedom.
T_QUANTILES = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


@dataclass(frozen=True, eq=False)
class Measured:
    """One seed's report, and the per-user NDCG@10 behind it."""

    report: dict[str, Any]
    per_user: Floats


def list_metrics(per_user: dict[str, Floats], lists_UK: Any, known: int) -> dict[str, float | None]:
    """Average the users' metrics and add coverage and Gini of the lists."""
    metrics = {name: mean(values) for name, values in per_user.items()}
    return metrics | {"coverage@10": coverage(lists_UK, known), "gini@10": gini(lists_UK, known)}


def mean(values: Floats) -> float | None:
    """Average; None where there is nobody."""
    return float(values.mean()) if len(values) else None


def rate(count: int, seconds: float) -> float | None:
    """Things per second; None where no time was spent."""
    return round(count / seconds, 1) if seconds > 0 else None


def debiased(
    per_user: Floats, targets: NDArray[np.int64], counts: NDArray[np.int64]
) -> dict[str, float | None]:
    """NDCG@10 with users weighed against the popularity of their target, beside the settings.

    Source: see `inverse_propensities`; the power and the clip are an inference.
    """
    weights = inverse_propensities(counts, PROPENSITY_POWER, PROPENSITY_CLIP)[targets]
    value = float(np.average(per_user, weights=weights)) if len(targets) else None
    return {"ndcg@10": value, "power": PROPENSITY_POWER, "clip": PROPENSITY_CLIP}


def as_entry(interval: Interval) -> dict[str, float | None]:
    """An interval for JSON: bounds that a single user or seed does not have are None."""
    return {key: None if isnan(value) else value for key, value in interval._asdict().items()}


def versus(per_user: Floats, baselines: dict[str, Floats]) -> dict[str, dict[str, float]]:
    """Difference in NDCG@10 to each heuristic on the same users, by paired bootstrap."""
    return {
        name: paired_bootstrap(per_user, theirs)._asdict() for name, theirs in baselines.items()
    }


def t_quantile(degrees: int) -> float:
    """Two-sided 95 % quantile of Student's t; past the table by its expansion around the normal."""
    if degrees <= len(T_QUANTILES):
        return T_QUANTILES[degrees - 1]
    z = 1.959964
    return z + (z**3 + z) / (4 * degrees) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * degrees**2)


def summarise(measured: list[Measured], baselines: dict[str, Floats]) -> dict[str, Any]:
    """Mean over the seeds with a t interval, and the seed-averaged users against the heuristics."""
    reports = [one.report for one in measured]
    quantile = t_quantile(len(reports) - 1)

    def over_seeds(key: str) -> dict[str, dict[str, float]]:
        rows = {name: np.array([r[key][name] for r in reports]) for name in reports[0][key]}
        return {
            name: {
                "mean": float(values.mean()),
                "low": float(values.mean() - quantile * values.std(ddof=1) / len(values) ** 0.5),
                "high": float(values.mean() + quantile * values.std(ddof=1) / len(values) ** 0.5),
            }
            for name, values in rows.items()
        }

    averaged = np.mean([one.per_user for one in measured], axis=0)
    summary: dict[str, Any] = {
        **{key: reports[0][key] for key in ("dataset", "ranker", "protocol")},
        "seeds": len(reports),
        "metrics": over_seeds("metrics"),
    }
    if "metrics_seen_excluded" in reports[0]:
        summary["metrics_seen_excluded"] = over_seeds("metrics_seen_excluded")
    return summary | {
        "users": {"ndcg@10": as_entry(mean_ci(averaged))},
        "versus": versus(averaged, baselines),
    }
