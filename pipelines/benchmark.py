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
from models.base import Ranker, item_counts
from models.encoding import encode_rows
from models.evaluation import (
    Holdout,
    Split,
    target_ranks,
    user_slices,
)
from models.fitting import EpochResult, Fitter, NonFiniteLossError
from models.metrics import Floats, mean_ci, per_user_metrics
from models.seen import SeenItems
from models.top_k import top_k
from pipelines.benchmark_report import (
    Measured,
    as_entry,
    debiased,
    list_metrics,
    mean,
    rate,
    summarise,
    versus,
)
from pipelines.benchmark_request import Order, Request, open_request, writable_file
from pipelines.errors import InputError, input_errors

LIST_LENGTH = 100
SHOWN = 10
# Heuristics that every ranker is compared with, user by user.
BASELINES = ("popularity", "last-transition", "tgh")


def run(order: Order, users_out: Path | None = None) -> dict[str, Any]:
    """Measure a ranker and write the JSON that the contract describes.

    Args:
        order: What to measure.
        users_out: File for every test user's NDCG@10 (.npz), to pair rankers with each other.

    Raises:
        InputError: If the dataset, ranker, protocol or a setting is not usable.
    """
    if users_out is not None:
        writable_file("--users-out", users_out)
    request, split = open_request(order)
    baselines = {
        name: _baseline(request, split, name) for name in BASELINES if name != order.ranker
    }
    numbers = range(order.first_seed, order.first_seed + order.seeds)
    measured = [_measure(request, split, seed, baselines) for seed in numbers]
    result = measured[0].report
    if order.seeds > 1:
        runs = [one.report for one in measured]
        result = {"runs": runs, "summary": summarise(measured, baselines)}
    # The report last: whoever finds it finds the users' figures too.
    if users_out is not None:
        _write_users(users_out, request, measured)
    _write(order.out, result)
    return result


def validate(order: Order) -> dict[str, Any]:
    """Fit a ranker and write its validation figure alone: what settings may be chosen by.

    Raises:
        InputError: As `run`, or if the ranker has nothing to validate, or for several seeds.
    """
    if order.seeds > 1:
        raise InputError(f"--seeds {order.seeds}: --validation-only fits one; see --first-seed")
    request, split = open_request(order)
    ranker, fitter, seconds = _fit(request, split, order.first_seed)
    if fitter is None:
        raise InputError(f"{order.ranker} is not trained: nothing to tune")
    slices = _slice_means(request, split, ranker)
    # Under a budget of CPU seconds nothing was validated on the way: the last weights count.
    judged = slices["all"] if fitter.best_metric is None else fitter.best_metric
    result = {
        "dataset": request.dataset.name,
        "ranker": request.ranker,
        "protocol": request.protocol,
        "seed": order.first_seed,
        "settings": order.settings,
        "validation_ndcg@10": judged,
        "validation_slices": slices,
        "epochs": fitter.epoch,
        "seconds": {"train": round(seconds, 3)},
    }
    _write(order.out, result)
    return result


def _slice_means(request: Request, split: Split, ranker: Ranker) -> dict[str, float | None]:
    """Mean NDCG@10 of all validation users by slice, items newer than the weights included."""
    values = _deciding(request, _rank(ranker, split.validation))["ndcg@10"]
    slices = user_slices(split.validation, split.train)
    return {name: mean(values[users]) for name, users in slices.items()}


def _num_items(split: Split) -> int:
    _, places = split.train.flat_events()
    return int(split.train.items[places].max())


def _fit(request: Request, split: Split, seed: int) -> tuple[Ranker, Fitter | None, float]:
    """Build and fit a ranker; returns it, its fitter and the CPU seconds that fitting took."""
    began = time.process_time()
    torch.manual_seed(seed)
    with input_errors(f"{request.ranker}: these settings do not go together"):
        ranker = registry.ranker_class(request.ranker)(request.config, _num_items(split))
    with input_errors(f"{request.dataset.name}/events.parquet"):
        ranker.fit_statistics(split.train)
    if request.text is not None:
        with input_errors("--set text_vectors"):
            ranker.learn_text(request.text)
    fitter = None
    if ranker.is_trainable:
        recipe = request.recipe.model_copy(update={"seed": seed})
        if recipe.cpu_seconds is not None:
            # What is counted before the first step is training, too; one step is taken at least.
            left = max(recipe.cpu_seconds - (time.process_time() - began), 1e-3)
            recipe = recipe.model_copy(update={"cpu_seconds": left})
        device = "cuda" if torch.cuda.is_available() else "cpu"
        fitter = Fitter(ranker, split.train, recipe, split.validation, device=device)
        try:
            fitter.fit(on_epoch=lambda result: _say(request, seed, result))
        except NonFiniteLossError as error:
            raise InputError(f"{request.ranker}, seed {seed}: {error}") from error
    seconds = time.process_time() - began
    if request.text is not None:
        ranker.welcome(request.text, len(request.dataset.items))
    return ranker.eval(), fitter, seconds


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


def _best_step(request: Request, ranker: Ranker, holdout: Holdout) -> dict[str, Floats] | None:
    """Per-user metrics if the best reasoning state were picked with the target in hand.

    A ceiling, not a result: nobody can pick like that. None for a ranker of a single state.
    """
    states = encode_rows(ranker, holdout.history.take(np.arange(1)), steps=True).shape[1]
    if states < 2:
        return None
    queries = encode_rows(ranker, holdout.history, steps=True)
    seen = SeenItems.from_store(holdout.history)
    ranks = [target_ranks(ranker, queries[:, s], holdout.targets, seen) for s in range(states)]
    place = 0 if request.repeats_allowed else 1
    return per_user_metrics(np.minimum.reduce([pair[place] for pair in ranks]))


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
    known = int(ranker.scorable_N1.sum())
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
    counts = item_counts(split.train, max(int(split.train.items.max()), _num_items(split)))
    report["inverse_propensity"] = debiased(per_user["ndcg@10"], split.test.targets, counts)
    best_step = _best_step(request, ranker, split.test)
    if best_step is not None:
        report["best_step_oracle"] = {name: mean(values) for name, values in best_step.items()}
    if diagnostics := ranker.diagnostics():
        report["diagnostics"] = diagnostics
    report |= {
        "intervals": {name: as_entry(mean_ci(values)) for name, values in per_user.items()},
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
        "config": ranker.config.model_dump(mode="json")
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
