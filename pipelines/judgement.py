"""Judge rankers on the test users of the temporal split, all on the same users.

Shape legend: U users, K list length.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import structlog

from models.base import Ranker
from models.encoding import encode_rows
from models.evaluation import Holdout, Split, target_ranks, user_slices
from models.metrics import Interval, coverage, gini, mean_ci, per_user_metrics
from models.seen import SeenItems
from models.top_k import top_k
from pipelines.step import Context
from pipelines.tables.publishing import RANKER_METRICS

log = structlog.get_logger()

Triple = tuple[float, float | None, float | None]
DECIDING = "ndcg@10"
LIST_LENGTH = 10


@dataclass(frozen=True)
class Judgement:
    """One ranker's numbers on the test users.

    Attributes:
        per_user: float64 [U] per metric.
        slices: bool [U] per slice.
        lists: coverage@10 and gini@10 of all users' lists.
    """

    per_user: dict[str, npt.NDArray[np.float64]]
    slices: dict[str, npt.NDArray[np.bool_]]
    lists: dict[str, float]

    def interval(self, metric: str, slice_name: str) -> Interval:
        """Mean of a metric over a slice's users, with its 95 % interval."""
        return mean_ci(self.per_user[metric][self.slices[slice_name]])

    def table(self) -> dict[str, dict[str, Triple]]:
        """Every slice's metrics as (value, low, high); None where there is no interval."""
        table = {
            name: {metric: _triple(self.interval(metric, name)) for metric in self.per_user}
            for name, users in self.slices.items()
            if users.any()
        }
        if "all" in table:
            table["all"] |= {name: (value, None, None) for name, value in self.lists.items()}
        return table


def _triple(interval: Interval) -> Triple:
    """A single user's mean has no interval, and JSON has no nan."""
    if np.isnan(interval.low):
        return interval.mean, None, None
    return interval.mean, interval.low, interval.high


def foreknowledge(trained_on: str, name: str, ds: str) -> str | None:
    """Say why a version may not be judged on a night: it was trained on a later one."""
    if trained_on <= ds:
        return None
    return (
        f"{name} was trained on {trained_on}, after {ds}: it has learnt from what that night's "
        f"test users still had to do; judge it on {trained_on} or later"
    )


def deciding_users(context: Context, split: Split) -> Holdout:
    """The users that decide, at most `gate.max_users` of them, drawn by the training seed."""
    settings = context.settings
    return split.test.sample(settings.gate.max_users, settings.train.seed)


def judge(ranker: Ranker, users: Holdout, split: Split, allow_repeats: bool) -> Judgement:
    """Rank every user's next item among the full catalogue.

    Args:
        ranker: fitted on events before the first cut.
        users: test users.
        split: where the slices' training counts come from.
        allow_repeats: rank seen items too; otherwise they are excluded, as from the lists.
    """
    queries = encode_rows(ranker, users.history)
    seen = SeenItems.from_store(users.history)
    allowed, excluded = target_ranks(ranker, queries, users.targets, seen)
    ranks = allowed if allow_repeats else excluded
    _, items_UK = top_k(ranker, queries, LIST_LENGTH, exclude=None if allow_repeats else seen)
    shown, known = items_UK.numpy(), int(ranker.scorable_N1.sum())
    lists = {"coverage@10": coverage(shown, known), "gini@10": gini(shown, known)}
    return Judgement(per_user_metrics(ranks), user_slices(users, split.train), lists)


def judge_for(context: Context, ranker: Ranker, split: Split) -> Judgement:
    """Judge a ranker on the users that decide, with or without repeats as the lists are made."""
    repeats = context.settings.recommend.allow_repeats
    return judge(ranker, deciding_users(context, split), split, repeats)


def metric_rows(version: str, judgement: Judgement) -> pa.Table:
    """Rows of `ranker_metrics` for one model version."""
    rows: list[dict[str, Any]] = []
    for slice_name, metrics in judgement.table().items():
        count = int(judgement.slices[slice_name].sum())
        for metric, (value, low, high) in metrics.items():
            rows.append(
                {
                    "model_version": version,
                    "split": "test",
                    "slice": slice_name,
                    "metric": metric,
                    "value": value,
                    "ci_low": low,
                    "ci_high": high,
                    "num_users": count,
                }
            )
    schema = RANKER_METRICS.stored
    return pa.Table.from_pylist(rows, schema=schema)


def judged_versions(context: Context) -> set[str]:
    """The versions that have rows in the night's partition."""
    rows = context.lake.unrecorded().read("ranker_metrics", context.ds, ["model_version"])
    return set(rows["model_version"].to_pylist())


def publish_metrics(context: Context, judgements: Mapping[str, Judgement]) -> None:
    """Put the rows of these versions into the night's partition; other versions' rows stay."""
    if context.dry_run or not judgements:
        return
    new = pa.concat_tables([metric_rows(version, one) for version, one in judgements.items()])

    def merge(existing: pa.Table) -> pa.Table:
        kept = [row not in judgements for row in existing["model_version"].to_pylist()]
        others = existing.filter(pa.array(kept, pa.bool_())).select(RANKER_METRICS.stored.names)
        return pa.concat_tables([others, new.cast(others.schema)])

    context.lake.publish_merged("ranker_metrics", context.ds, merge)
