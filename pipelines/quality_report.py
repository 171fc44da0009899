"""Turn the fits of the quality study into docs/benchmarks/quality.json, tables and a picture.

Run it with `python -m pipelines.quality_report`; it replaces what stands between the markers in
docs/benchmarks.md. A row that the last report has with more seeds than there are fits stays as it
was published.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import typer

from models.metrics import mean_ci, paired_bootstrap
from pipelines import quality_study
from pipelines.charts import interval_svg, markdown_table
from pipelines.quality_study import (
    CONTROLS,
    DEFAULTS,
    ENTRIES,
    LOGS,
    UNTRIED,
    Entry,
    Log,
    choice,
    final_fits,
    published,
)

BEGIN, END = "<!-- quality study: generated -->", "<!-- end of the quality study -->"
SLICES = ("warm", "cold", "short", "long", "head", "tail")
FIGURES = ["ranker", "seeds", "chosen", "ndcg@10", "95 % (users)", "recall@10", "best-step oracle"]
FIGURES += ["training CPU s", "users/s"]
MAX_SEEDS = 50
Users = np.ndarray[Any, np.dtype[np.float64]]


def collect(log: Log) -> list[dict[str, Any]]:
    """Sum up each row of a log that has at least one seed."""
    found = []
    controls = {one.label: _per_user(log, one) for one in ENTRIES if one.label in CONTROLS}
    for entry in ENTRIES:
        users = _per_user(log, entry)
        if users is None:
            continue
        runs = [json.loads(path.read_text()) for path in _files(log, entry)]
        averaged = users.mean(axis=0)
        row: dict[str, Any] = {
            "label": entry.label,
            "seeds": len(runs),
            "chosen": _chosen(log, entry),
            "ndcg@10": mean_ci(averaged)._asdict(),
            "by_seed": [float(values.mean()) for values in users],
            "recall@10": _mean(runs, "metrics", "recall@10"),
            "validation": _mean(runs, "validation_ndcg@10"),
            "best_step_oracle": _mean(runs, "best_step_oracle", "ndcg@10"),
            "slices": {name: _mean(runs, "slices", name, "ndcg@10") for name in SLICES},
            "train_cpu_seconds": _mean(runs, "seconds", "train"),
            "users_per_second": _mean(runs, "users_per_second"),
            "parameters": _mean(runs, "num_parameters"),
            "config": runs[0]["config"],
        }
        row["gains"] = {
            name: _gain(averaged, control.mean(axis=0))
            for name, control in controls.items()
            if control is not None and name != entry.label
        }
        found.append(row)
    return found


def _gain(users: Users, control: Users) -> dict[str, float]:
    """Pair two rows user by user; the share is of the control's mean."""
    gain = paired_bootstrap(users, control)._asdict()
    return gain | {"share": gain["mean"] / max(float(control.mean()), 1e-12)}


def _chosen(log: Log, entry: Entry) -> str:
    """Say which of a row's trials it runs with."""
    best = choice(log, entry)
    if best is None:
        return UNTRIED
    settings = entry.trial if best else None
    return ", ".join(f"{key}={value}" for key, value in (settings or {}).items()) or DEFAULTS


def _files(log: Log, entry: Entry) -> list[Path]:
    fits = final_fits(log, entry, range(MAX_SEEDS))
    return [fit.out for fit in fits if fit.out.exists()]


def _per_user(log: Log, entry: Entry) -> Users | None:
    """Every test user's NDCG@10, [seeds, users]; None where no seed has run."""
    files = [path.with_suffix(".npz") for path in _files(log, entry)]
    if not files:
        return None
    return np.concatenate([np.load(path)["ndcg_at_10"] for path in files])


def _mean(runs: list[dict[str, Any]], *path: str) -> float | None:
    values = []
    for run in runs:
        value: Any = run
        for key in path:
            value = value.get(key) if isinstance(value, dict) else None
        if value is None:
            return None
        values.append(float(value))
    return sum(values) / len(values)


def tables(log: Log, rows: list[dict[str, Any]]) -> str:
    """Lay a log's rows out as three Markdown tables: figures, gains over controls, slices."""
    figures = markdown_table(
        FIGURES,
        [
            [
                row["label"],
                str(row["seeds"]),
                row["chosen"],
                f"{row['ndcg@10']['mean']:.4f}",
                f"[{row['ndcg@10']['low']:.4f}, {row['ndcg@10']['high']:.4f}]",
                _number(row["recall@10"], ".4f"),
                _number(row["best_step_oracle"], ".4f"),
                _number(row["train_cpu_seconds"], ".0f"),
                _number(row["users_per_second"], ".0f"),
            ]
            for row in rows
        ],
    )
    there = [name for name in CONTROLS if any(row["label"] == name for row in rows)]
    gains = markdown_table(
        ["ndcg@10 minus", *there],
        [[row["label"], *(_interval(row["gains"].get(name)) for name in there)] for row in rows],
    )
    slices = markdown_table(
        ["ndcg@10", *SLICES],
        [[row["label"], *(_number(row["slices"][name], ".4f") for name in SLICES)] for row in rows],
    )
    return "\n\n".join([f"### {log.name}, {log.protocol}", figures, gains, slices]) + "\n"


def _interval(gain: dict[str, float] | None) -> str:
    """Show a difference and its share, in bold where its interval lies above zero."""
    if gain is None:
        return "-"
    text = f"{gain['mean']:+.4f} [{gain['low']:+.4f}, {gain['high']:+.4f}]"
    text = f"**{text}**" if gain["low"] > 0 else text
    return f"{text} {gain['share']:+.0%}"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def picture(rows: list[dict[str, Any]]) -> str:
    """Draw a log's NDCG@10 with intervals as an SVG file's text."""
    svg = interval_svg(
        [
            (row["label"], row["ndcg@10"]["mean"], row["ndcg@10"]["low"], row["ndcg@10"]["high"])
            for row in rows
        ]
    )
    return svg.replace("<svg ", "<svg xmlns='http://www.w3.org/2000/svg' ", 1) + "\n"


def main() -> None:
    """Write the JSON, the pictures and the generated part of docs/benchmarks.md."""
    folder = quality_study.DOCS / "benchmarks"
    summary, parts = {}, []
    for log in LOGS:
        rows = _with_published(log, collect(log))
        if not rows:
            continue
        summary[log.name] = {"protocol": log.protocol, "rows": rows}
        (folder / f"quality-{log.name}.svg").write_text(picture(rows))
        image = f"![NDCG@10 on {log.name}](benchmarks/quality-{log.name}.svg)\n"
        parts += [tables(log, rows), image]
    (folder / "quality.json").write_text(json.dumps(summary, indent=1, allow_nan=False) + "\n")
    page = quality_study.DOCS / "benchmarks.md"
    text = page.read_text()
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    page.write_text("\n".join([before + BEGIN, "", *parts, END]) + after)


def _with_published(log: Log, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Keep the last report's rows whose fits are not all here, best first."""
    here = {row["label"]: row for row in rows}
    for row in published().get(log.name, {}).get("rows", []):
        if row["label"] not in here or here[row["label"]]["seeds"] < row["seeds"]:
            here[row["label"]] = row
    return sorted(here.values(), key=lambda row: -float(row["ndcg@10"]["mean"]))


if __name__ == "__main__":
    typer.run(main)
