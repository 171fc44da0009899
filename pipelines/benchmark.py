"""One ranker, one dataset, one protocol: fit, rank the full catalogue, write what was measured."""

import json
import os
import resource
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models import registry
from models.base import Ranker, RankerConfig
from models.encoding import encode_rows
from models.evaluation import (
    Holdout,
    Split,
    leave_one_out_split,
    target_ranks,
    temporal_split,
    user_slices,
)
from models.fitting import EpochResult, FitConfig, Fitter
from models.metrics import Floats, mean_ci, per_user_metrics
from models.seen import SeenItems
from models.sequences import SequenceStore
from models.top_k import top_k
from pipelines.benchmark_report import Measured, list_metrics, mean, rate, summarise, versus
from pipelines.benchmark_settings import split_settings
from pipelines.errors import InputError
from pipelines.io.dataset import Dataset, read_dataset

PROTOCOLS = ("temporal", "leave-one-out")
LIST_LENGTH = 100
SHOWN = 10
# Heuristics that every ranker is compared with, user by user.
BASELINES = ("popularity", "last-transition", "tgh")


@dataclass(frozen=True)
class Request:
    """What is to be measured."""

    dataset: Dataset
    ranker: str
    protocol: str
    config: RankerConfig
    recipe: FitConfig
    threads: int

    @property
    def repeats_allowed(self) -> bool:
        """Whether the main numbers rank seen items along with the rest."""
        return self.protocol == "temporal"


def run(
    dataset: Path,
    ranker: str,
    protocol: str,
    seeds: int,
    threads: int,
    cpu_seconds: float | None,
    settings: dict[str, str],
    out: Path,
    users_out: Path | None = None,
) -> dict[str, Any]:
    """Measure a ranker and write the JSON that the contract describes.

    Args:
        dataset: Folder with `events.parquet`.
        ranker: Name in the registry.
        protocol: "temporal" or "leave-one-out".
        seeds: Runs with seeds 0, 1, ...; more than one adds a summary.
        threads: CPU threads for torch.
        cpu_seconds: Stop training at that much process CPU time; None stops on validation.
        settings: Settings of the ranker or of the training recipe, as text.
        out: File to write.
        users_out: File for every test user's NDCG@10 (.npz), to pair rankers with each other.

    Raises:
        InputError: If the dataset, ranker, protocol or a setting is not usable.
    """
    if protocol not in PROTOCOLS:
        raise InputError(f"--protocol {protocol!r}: known are temporal and leave-one-out")
    for name, number in (("--seeds", seeds), ("--threads", threads)):
        if number < 1:
            raise InputError(f"{name} {number}: at least 1 is needed")
    if not out.parent.is_dir():
        raise InputError(f"--out {out}: folder {out.parent} does not exist")
    config, recipe = split_settings(ranker, protocol, cpu_seconds, settings)
    data = read_dataset(dataset)
    if protocol == "temporal" and data.order_only:
        raise InputError(
            f"{dataset}/events.parquet: ts counts positions, not time; use --protocol leave-one-out"
        )
    torch.set_num_threads(threads)
    request = Request(data, ranker, protocol, config, recipe, threads)
    split = _trained_items_first(_split(request))
    baselines = {name: _baseline(request, split, name) for name in BASELINES if name != ranker}
    measured = [_measure(request, split, seed, baselines) for seed in range(seeds)]
    result = measured[0].report
    if seeds > 1:
        runs = [one.report for one in measured]
        result = {"runs": runs, "summary": summarise(measured, baselines)}
    _write(out, result)
    if users_out is not None:
        _write_users(users_out, request, measured)
    return result


def _split(request: Request) -> Split:
    store = request.dataset.store
    try:
        split = (
            temporal_split(store) if request.protocol == "temporal" else leave_one_out_split(store)
        )
    except ValueError as error:
        raise InputError(f"{request.dataset.name}/events.parquet: {error}") from error
    if not len(split.test) or not len(split.validation):
        raise InputError(
            f"{request.dataset.name}/events.parquet: {len(split.validation)} users to validate and "
            f"{len(split.test)} to test under the {request.protocol} protocol: too few"
        )
    return split


def _trained_items_first(split: Split) -> Split:
    """Number the training items 1..N and all later ones above: the model never hears of those."""
    _, places = split.train.flat_events()
    store = split.train
    top = max(int(store.items.max()), 1)
    known = np.unique(store.items[places])
    later = np.setdiff1d(np.arange(1, top + 1), known)
    new_id = np.zeros(top + 1, dtype=np.int32)
    new_id[np.concatenate([known, later])] = np.arange(1, top + 1)
    items = new_id[store.items]

    def moved(rows: SequenceStore) -> SequenceStore:
        return SequenceStore(items, rows.times, rows.actions, rows.starts, rows.stops, rows.users)

    def held(part: Holdout) -> Holdout:
        return Holdout(moved(part.history), new_id[part.targets].astype(np.int64))

    return Split(moved(store), held(split.validation), held(split.test))


def _num_items(split: Split) -> int:
    _, places = split.train.flat_events()
    return int(split.train.items[places].max())


def _fit(request: Request, split: Split, seed: int) -> tuple[Ranker, Fitter | None, float]:
    """Build and fit a ranker; returns it, its fitter and the CPU seconds that fitting took."""
    began = time.process_time()
    torch.manual_seed(seed)
    ranker = registry.ranker_class(request.ranker)(request.config, _num_items(split))
    ranker.fit_statistics(split.train)
    fitter = None
    if ranker.is_trainable:
        recipe = request.recipe.model_copy(update={"seed": seed})
        device = "cuda" if torch.cuda.is_available() else "cpu"
        fitter = Fitter(ranker, split.train, recipe, split.validation, device=device)
        fitter.fit(on_epoch=lambda result: _say(request, seed, result))
    return ranker.eval(), fitter, time.process_time() - began


def _say(request: Request, seed: int, result: EpochResult) -> None:
    terms = " ".join(f"{name} {value:.4f}" for name, value in result.losses.items())
    judged = "" if result.validation is None else f" | validation ndcg@10 {result.validation:.5f}"
    best = " (best)" if result.best else ""
    print(
        f"{request.ranker} on {request.dataset.name}, seed {seed}, epoch {result.epoch}: "
        f"{terms}{judged}{best} | {result.cpu_seconds:.0f} CPU s",
        file=sys.stderr,
        flush=True,
    )


@dataclass(frozen=True, eq=False)
class _Ranks:
    """Ranks of the test targets, repeats allowed and seen items excluded, and the lists."""

    allowed: Floats
    excluded: Floats
    lists: dict[str, Any]
    score_seconds: float


def _rank(ranker: Ranker, holdout: Holdout) -> _Ranks:
    seen = SeenItems.from_store(holdout.history)
    began = time.process_time()
    queries = encode_rows(ranker, holdout.history)
    _, fresh_UK = top_k(ranker, queries, LIST_LENGTH, exclude=seen)
    seconds = time.process_time() - began
    _, any_UK = top_k(ranker, queries, SHOWN)
    allowed, excluded = target_ranks(ranker, queries, holdout.targets, seen)
    lists = {"excluded": fresh_UK[:, :SHOWN].cpu().numpy(), "allowed": any_UK.cpu().numpy()}
    return _Ranks(allowed, excluded, lists, seconds)


def _baseline(request: Request, split: Split, name: str) -> Floats:
    """Per-user NDCG@10 of a heuristic on the same test users."""
    ranker = registry.build(name, _num_items(split))
    ranker.fit_statistics(split.train)
    return _deciding(request, _rank(ranker, split.test))["ndcg@10"]


def _deciding(request: Request, ranks: _Ranks) -> dict[str, Floats]:
    """Per-user metrics of the protocol's main numbers."""
    return per_user_metrics(ranks.allowed if request.repeats_allowed else ranks.excluded)


def _measure(request: Request, split: Split, seed: int, baselines: dict[str, Floats]) -> Measured:
    ranker, fitter, train_seconds = _fit(request, split, seed)
    ranks = _rank(ranker, split.test)
    per_user = _deciding(request, ranks)
    slices = user_slices(split.test, split.train)
    known = int(ranker.known_N1.sum())
    shown_UK = ranks.lists["allowed" if request.repeats_allowed else "excluded"]
    report: dict[str, Any] = {
        "dataset": request.dataset.name,
        "ranker": request.ranker,
        "protocol": request.protocol,
        "seed": seed,
        "threads": request.threads,
        "device": str(ranker.device),
        "metrics": list_metrics(per_user, shown_UK, known),
    }
    if request.repeats_allowed:
        fresh = per_user_metrics(ranks.excluded)
        report["metrics_seen_excluded"] = list_metrics(fresh, ranks.lists["excluded"], known)
    report |= {
        "intervals": {name: mean_ci(values)._asdict() for name, values in per_user.items()},
        "versus": versus(per_user["ndcg@10"], baselines),
        "slices": {
            name: {metric: mean(values[users]) for metric, values in per_user.items()}
            | {"num_users": int(users.sum())}
            for name, users in slices.items()
        },
        "seconds": {"train": round(train_seconds, 3), "score": round(ranks.score_seconds, 3)},
        "targets_per_second": rate(fitter.num_targets, fitter.cpu_seconds) if fitter else None,
        "users_per_second": rate(len(split.test), ranks.score_seconds),
        "peak_memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
        "epochs": fitter.epoch if fitter else 0,
        "validation_ndcg@10": fitter.best_metric if fitter else None,
        "num_parameters": ranker.num_parameters,
        "num_users": len(split.test),
        "config": request.config.model_dump(mode="json")
        | ({"fit": request.recipe.model_dump(mode="json")} if fitter else {}),
    }
    return Measured(report, per_user["ndcg@10"])


def _write(out: Path, result: dict[str, Any]) -> None:
    partial = out.with_name(f"{out.name}.{os.getpid()}.partial")
    partial.write_text(json.dumps(result, indent=1, allow_nan=False) + "\n")
    partial.replace(out)


def _write_users(out: Path, request: Request, measured: list[Measured]) -> None:
    """Keep each test user's NDCG@10 per seed, to pair rankers user by user afterwards."""
    values = np.stack([one.per_user for one in measured])
    with out.open("wb") as file:
        np.savez_compressed(file, ndcg_at_10=values, ranker=np.array(request.ranker))
