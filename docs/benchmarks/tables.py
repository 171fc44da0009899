"""Print the tables of docs/benchmarks.md from the JSON files beside this script.

Usage: python docs/benchmarks/tables.py [NAME ...] (default: every *.json here, by NDCG@10)
"""

import json
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SLICES = ("all", "warm", "cold", "short", "long", "head", "tail")
BASELINES = ("popularity", "last-transition", "tgh")


def runs_of(result: dict[str, Any]) -> list[dict[str, Any]]:
    """List the runs of a result file, one per seed."""
    runs: list[dict[str, Any]] = result.get("runs", [result])
    return runs


def average(runs: list[dict[str, Any]], *path: str) -> float | None:
    """Average a number over the runs; None where a run lacks it."""
    values = []
    for run in runs:
        value: Any = run
        for key in path:
            value = value[key]
        if value is None:
            return None
        values.append(float(value))
    return sum(values) / len(values)


def number(value: float | None, digits: int = 4) -> str:
    """Format a number; a dash for none."""
    return "-" if value is None else f"{value:.{digits}f}"


def interval(entry: dict[str, float] | None) -> str:
    """Format a mean with its interval, bold where the interval excludes zero from above."""
    if entry is None:
        return "-"
    text = f"{entry['mean']:+.4f} [{entry['low']:+.4f}, {entry['high']:+.4f}]"
    return f"**{text}**" if entry["low"] > 0 else text


def row(*cells: str) -> str:
    """Join the cells of one table row."""
    return "| " + " | ".join(cells) + " |"


def print_table(header: tuple[str, ...], rows: list[str]) -> None:
    """Print one Markdown table."""
    print(row(*header))
    print(row(*("---" for _ in header)))
    print("\n".join(rows), end="\n\n")


def main(names: list[str]) -> None:
    """Print accuracy, differences, slices and costs."""
    files = [HERE / f"{name}.json" for name in names] or sorted(HERE.glob("*.json"))
    results = [json.loads(file.read_text()) for file in files]
    # Other summaries lie beside the results of `reckoner benchmark`.
    results = [one for one in results if "metrics" in runs_of(one)[0]]
    results.sort(key=lambda result: average(runs_of(result), "metrics", "ndcg@10") or 0.0)
    accuracy, differences, slices, costs = [], [], [], []
    for result in results:
        runs = runs_of(result)
        name, seeds = runs[0]["ranker"], str(len(runs))
        metrics = ("ndcg@10", "recall@10", "ndcg@20", "recall@20", "mrr@10")
        users = result.get("summary", {}).get("users", runs[0]["intervals"])["ndcg@10"]
        accuracy.append(
            row(
                name,
                seeds,
                *(number(average(runs, "metrics", metric)) for metric in metrics),
                f"[{users['low']:.4f}, {users['high']:.4f}]",
                *(
                    number(average(runs, "metrics_seen_excluded", metric))
                    for metric in ("ndcg@10", "recall@10")
                    if "metrics_seen_excluded" in runs[0]
                ),
                number(average(runs, "metrics", "coverage@10"), 3),
                number(average(runs, "metrics", "gini@10"), 3),
            )
        )
        versus = result.get("summary", runs[0])["versus"]
        differences.append(row(name, *(interval(versus.get(base)) for base in BASELINES)))
        slices.append(row(name, *(number(average(runs, "slices", s, "ndcg@10")) for s in SLICES)))
        costs.append(
            row(
                name,
                number(average(runs, "num_parameters"), 0),
                number(average(runs, "epochs"), 1),
                number(average(runs, "seconds", "train"), 0),
                number(average(runs, "targets_per_second"), 0),
                number(average(runs, "users_per_second"), 0),
                number(average(runs, "peak_memory_mb"), 0),
            )
        )
    seen = ("ndcg@10 unseen", "recall@10 unseen") if "metrics_seen_excluded" in runs[0] else ()
    head = ("ranker", "seeds", "ndcg@10", "recall@10", "ndcg@20", "recall@20", "mrr@10")
    print_table((*head, "95 % (users)", *seen, "coverage@10", "gini@10"), accuracy)
    print_table(("ndcg@10 minus", *BASELINES), differences)
    print_table(("ndcg@10", *SLICES), slices)
    costs_head = ("ranker", "parameters", "epochs", "training CPU s", "targets/s", "users/s", "MB")
    print_table(costs_head, costs)


if __name__ == "__main__":
    main(sys.argv[1:])
