"""Turn measured lines into tables with ratios, an interval each, and a plot."""

import json
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.charts import markdown_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BEGIN, END = "<!-- speed: generated -->", "<!-- end of speed -->"
RESAMPLES = 10_000


def rate_of(line: dict[str, Any]) -> float:
    """Read what a line counts per CPU second."""
    return float(line.get("targets_per_second") or line["users_per_second"])


def ratio(mine: list[float], theirs: list[float]) -> dict[str, float]:
    """Geometric mean of the paired ratios with its 95 % bootstrap interval over the rounds."""
    logs = np.log(np.array(mine) / np.array(theirs))
    drawn = np.random.default_rng(0).integers(0, len(logs), (RESAMPLES, len(logs)))
    low, high = np.quantile(logs[drawn].mean(axis=1), [0.025, 0.975])
    return {
        "ratio": float(np.exp(logs.mean())),
        "low": float(np.exp(low)),
        "high": float(np.exp(high)),
    }


def summarise(lines: list[dict[str, Any]]) -> dict[str, Any]:
    """Per task and contender: median rate, rounds, and Reckoner's rows over it."""
    rates: dict[str, dict[str, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    failed: dict[str, dict[str, str]] = defaultdict(dict)
    for line in lines:
        if "failed" in line:
            failed[line["task"]][line["name"]] = line["failed"]
        else:
            rates[line["task"]][line["name"]][line["round"]] = rate_of(line)
    summary: dict[str, Any] = {}
    for task, names in rates.items():
        summary[task] = {"failed": failed[task], "contenders": {}}
        for name, rounds in names.items():
            entry: dict[str, Any] = {
                "median": float(np.median(list(rounds.values()))),
                "rounds": len(rounds),
                "beside": {},
            }
            for other, theirs in names.items():
                both = sorted(rounds.keys() & theirs.keys())
                if name.startswith("Reckoner") and not other.startswith("Reckoner") and both:
                    pairs = [rounds[at] for at in both], [theirs[at] for at in both]
                    entry["beside"][other] = ratio(*pairs)
            summary[task]["contenders"][name] = entry
    return summary


def table(task: str, measured: dict[str, Any]) -> str:
    """Write one task as a Markdown table."""
    peers = [name for name in measured["contenders"] if not name.startswith("Reckoner")]
    what = "users/s" if task.startswith("top-") else "targets/s"
    head = ["", f"{what}, median", "rounds", *(f"over {peer}" for peer in peers)]
    rows = []
    for name, entry in measured["contenders"].items():
        found = [entry["beside"].get(peer) for peer in peers]
        cells = [
            f"{one['ratio']:.2f} [{one['low']:.2f}, {one['high']:.2f}]" if one else "-"
            for one in found
        ]
        rows.append([name, f"{entry['median']:,.0f}", str(entry["rounds"]), *cells])
    notes = [f"- {name} did not run: {why}" for name, why in measured["failed"].items()]
    lines = [title(task), "", markdown_table(head, rows), *(["", *notes] if notes else [])]
    return "\n".join(lines)


def accuracy_table(task: str, lines: list[dict[str, Any]]) -> str:
    """Write a task's accuracy at each mark, the mean over its rounds, as a Markdown table."""
    points = mean_points(lines)
    marks = [f"{mark:.0f} CPU s" for mark, _ in next(iter(points.values()))]
    rows = []
    for name, found in points.items():
        rounds = sum(line["name"] == name for line in lines)
        rows.append([name, str(rounds), *(f"{value:.4f}" for _, value in found)])
    body = markdown_table(["NDCG@10, seen excluded", "rounds", *marks], rows)
    return f"**Accuracy on {task.removeprefix('accuracy-')}**\n\n{body}"


def mean_points(lines: list[dict[str, Any]]) -> dict[str, list[tuple[float, float]]]:
    """Average each contender's (CPU seconds, NDCG@10) over its rounds."""
    rounds: dict[str, list[list[list[float]]]] = defaultdict(list)
    for line in lines:
        rounds[line["name"]].append(line["points"])
    return {
        name: [(float(mark), float(value)) for mark, value in np.mean(points, axis=0)]
        for name, points in rounds.items()
    }


def plot_accuracy(lines: list[dict[str, Any]], out: Path) -> None:
    """Draw NDCG@10 against the CPU seconds of training."""
    with drawing(out, xlabel="CPU seconds of training, one thread", ylabel="NDCG@10") as axes:
        for name, points in mean_points(lines).items():
            axes.plot(*zip(*points, strict=True), marker="o", label=name)


def title(task: str) -> str:
    """Name a task for a reader."""
    if task.startswith("top-"):
        return f"**Exact top-100 of {int(task.removeprefix('top-')):,} items**"
    return f"**Training on {task.removeprefix('train-')}**"


@contextmanager
def drawing(out: Path, **labels: str) -> "Iterator[Axes]":
    """Give axes to draw on, and save the picture."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4))
    yield axes
    axes.set(**labels)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False)
    figure.tight_layout()
    figure.savefig(out, metadata={"Date": None})
    plt.close(figure)


def plot_top_k(summary: dict[str, Any], out: Path) -> None:
    """Draw users per second against the size of the catalogue, both on log scales."""
    sizes = sorted(int(task.removeprefix("top-")) for task in summary if task.startswith("top-"))
    names = list(dict.fromkeys(n for t in sizes for n in summary[f"top-{t}"]["contenders"]))
    labels = {"xlabel": "items of width 64", "ylabel": "users/s with exact top-100, one thread"}
    with drawing(out, **labels) as axes:
        for name in names:
            found = [(t, summary[f"top-{t}"]["contenders"].get(name)) for t in sizes]
            points = [(size, entry["median"]) for size, entry in found if entry]
            axes.loglog(*zip(*points, strict=True), marker="o", label=name)


def write_tables(lines: list[dict[str, Any]], docs: Path) -> None:
    """Replace the generated part of the page, the plots and the JSON behind them.

    A task that no line is of stays as it was published.

    Args:
        lines: What was measured.
        docs: Holds `benchmarks.md`, which is made where it is missing.
    """
    if not lines:
        return
    page, kept = docs / "benchmarks.md", docs / "benchmarks" / "speed" / "peers.json"
    kept.parent.mkdir(parents=True, exist_ok=True)
    published = json.loads(kept.read_text()) if kept.exists() else {"accuracy": []}
    curves = [line for line in lines if "points" in line]
    measured = {line["task"] for line in curves}
    curves += [line for line in published.pop("accuracy") if line["task"] not in measured]
    summary = published | summarise([line for line in lines if "points" not in line])
    written = page.read_text() if page.exists() else f"# Speed beside peers\n\n{BEGIN}\n{END}\n"
    before, rest = written.split(BEGIN)
    after = rest.split(END)[1]
    tasks = sorted(summary, key=lambda task: (not task.startswith("train"), len(task), task))
    parts = [table(task, summary[task]) for task in tasks]
    if any(task.startswith("top-") for task in tasks):
        plot_top_k(summary, docs / "benchmarks" / "top-k.svg")
        parts.append("![Users per second against items](benchmarks/top-k.svg)")
    for task in sorted({line["task"] for line in curves}):
        chosen = [line for line in curves if line["task"] == task]
        plot_accuracy(chosen, docs / "benchmarks" / f"{task}.svg")
        parts += [accuracy_table(task, chosen), f"![NDCG@10 in time](benchmarks/{task}.svg)"]
    kept.write_text(json.dumps({**summary, "accuracy": curves}, indent=1) + "\n")
    page.write_text(f"{before}{BEGIN}\n\n" + "\n\n".join(parts) + f"\n\n{END}{after}")
