"""Print two benchmark runs side by side, slice by slice, paired over users.

Usage: python docs/benchmarks/compare.py DATASET_DIR WITHOUT WITH

WITHOUT and WITH are given as X where `reckoner benchmark` wrote `--out X.json --users-out X.npz`.
Both must rank the same users: same dataset, same protocol.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.evaluation import leave_one_out_split, temporal_split, user_slices
from models.metrics import paired_bootstrap
from pipelines.benchmark_request import trained_items_first
from pipelines.io.dataset import read_dataset

Floats = NDArray[np.float64]


def load(stem: str) -> tuple[list[dict[str, Any]], Floats]:
    """Read a result's runs, and every user's NDCG@10 averaged over the seeds."""
    result = json.loads(Path(f"{stem}.json").read_text())
    per_user: Floats = np.load(f"{stem}.npz")["ndcg_at_10"]
    return result.get("runs", [result]), per_user.mean(axis=0)


def masks(dataset: str, protocol: str) -> dict[str, NDArray[np.bool_]]:
    """Mark the test users of each slice."""
    store = read_dataset(Path(dataset)).store
    split = temporal_split(store) if protocol == "temporal" else leave_one_out_split(store)
    split, _ = trained_items_first(split)
    return user_slices(split.test, split.train)


def main(dataset: str, without: str, with_: str) -> None:
    """Print the table, and what each cost."""
    (runs, before), (more, after) = load(without), load(with_)
    print("| ndcg@10 | users | without | with | share | with minus without |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, users in masks(dataset, runs[0]["protocol"]).items():
        if not users.any():
            continue
        old, new = before[users], after[users]
        change = paired_bootstrap(new, old)
        text = f"{change.mean:+.4f} [{change.low:+.4f}, {change.high:+.4f}]"
        text = f"**{text}**" if change.low > 0 else text
        share = f"{new.mean() / old.mean() - 1:+.0%}" if old.mean() else "-"
        print(
            f"| {name} | {users.sum()} | {old.mean():.4f} | {new.mean():.4f} | {share} | {text} |"
        )
    for label, all_runs in (("without", runs), ("with", more)):
        seeds = ", ".join(f"{run['metrics']['ndcg@10']:.4f}" for run in all_runs)
        cost = np.mean([run["seconds"]["train"] for run in all_runs])
        epochs = np.mean([run["epochs"] for run in all_runs])
        print(f"\n{label}: seeds {seeds}; {cost:.0f} CPU seconds, {epochs:.1f} epochs", end="")
    print()


if __name__ == "__main__":
    main(*sys.argv[1:])
