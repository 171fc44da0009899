"""The quality study: every ranker on every log, tuned on validation, several seeds, resumable.

Run it with `python -m pipelines.quality_study --data DIR`. Each fit is a process of its own and
leaves its report and every test user's figure in `docs/benchmarks/quality`, which is committed: a
fit that is there is not run again, on whichever machine. The first seeds of all rankers come
before the second ones. `pipelines.quality_report` sums up what is there.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from models import registry

DOCS = Path("docs")


@dataclass(frozen=True)
class Log:
    """A real log and the protocol it is judged under.

    Attributes:
        name: Folder of the dataset.
        protocol: How it is split.
        recipe: What all trained rankers run with there, chosen on the control's validation figure.
        tuned_on: The log whose trials choose each row's settings; this one where empty.
    """

    name: str
    protocol: str
    recipe: dict[str, str] = field(default_factory=dict)
    tuned_on: str = ""


@dataclass(frozen=True)
class Entry:
    """One row of the study.

    Attributes:
        label: Name of the row.
        ranker: Name in the registry.
        settings: What makes it this row.
        trial: What is tried beside the row as it is; every trained ranker gets one such trial, and
            the better of the two on validation is what its seeds run with. None for a row of one
            seed: nothing of it is drawn, or its settings were chosen before.
        logs: The logs it can run on; all where empty.
    """

    label: str
    ranker: str
    settings: dict[str, str] = field(default_factory=dict)
    trial: dict[str, str] | None = None
    logs: tuple[str, ...] = ()

    def runs_on(self, log: Log) -> bool:
        """Whether it can run on a log."""
        return not self.logs or log.name in self.logs


UNTRIED, DEFAULTS = "-", "defaults"
# A quarter of the full cross-entropy's seconds, and on Beauty's validation users its equal.
SAMPLED = {"batch_size": "128", "loss": "sampled", "table_optimiser": "rows", "lr": "0.003"}
SPARSE = SAMPLED | {"negatives": "2048", "dropout": "0.3", "patience": "3", "min_epochs": "8"}
# As many epochs for all: the learning rate falls to 0 at the end, which is where they are judged.
DENSE = SAMPLED | {"negatives": "1024", "random_crop": "true", "cooldown": "0.6"}
DENSE |= {"max_epochs": "30", "patience": "30", "eval_every": "5", "eval_seen": "excluded"}
TUNING = "amazon2014-beauty"
LOGS = (
    Log(TUNING, "temporal", SPARSE),
    Log("amazon2014-sports", "temporal", SPARSE, TUNING),
    Log("taobao", "temporal", SPARSE, TUNING),
    Log("ml-1m", "leave-one-out", DENSE, TUNING),
)
# What a reasoning ranker must beat: the control, the same with a slower recipe, as much arithmetic
# in layers or in passes, plain transitions, and ManCAR's neighbours and teacher without a thought.
CONTROLS = ("sasrec", "sasrec-slow", "sasrec-deep", "sasrec-dropout", "tgh", "mancar-teacher")
SLOW = {"lr": "0.001", "dropout": "0.5"}
# How far the control goes with more of everything: no control for rows at the common effort.
LARGE = {"dim": "128", "num_layers": "3", "max_length": "200", "dropout": "0.3"}
LARGE |= {"max_epochs": "100", "patience": "100", "eval_every": "25", "precision": "bf16"}
# Where ManCAR gains, and so where its gain is taken apart.
AMAZON = (TUNING, "amazon2014-sports")
THOUGHTLESS = {"reasoning_steps": "0", "teach_base": "true"}
DEEPER, ONE_THOUGHT = {"num_layers": "3"}, {"reasoning_steps": "1"}
ENTRIES = (
    Entry("popularity", "popularity"),
    Entry("last-transition", "last-transition"),
    Entry("tgh", "tgh"),
    Entry("sasrec", "sasrec", {}, DEEPER),
    Entry("sasrec-large", "sasrec", LARGE, None, ("ml-1m",)),
    Entry("sasrec-large-ce", "sasrec", LARGE | {"loss": "ce"}, None, ("ml-1m",)),
    # A recipe of its time: no better on validation users, and better later on.
    Entry("sasrec-slow", "sasrec", SLOW, DEEPER),
    Entry("rearec-erl", "rearec-erl", {}, ONE_THOUGHT),
    Entry("rearec-prl", "rearec-prl", {}, ONE_THOUGHT),
    Entry("plr", "plr", {}, ONE_THOUGHT),
    Entry("lares", "lares", {}, {"reasoning_steps": "2"}),
    # Two thoughts at every position cost two further passes: three times the layers.
    Entry("sasrec-deep", "sasrec", {"num_layers": "6"}, {"lr": "0.001"}),
    Entry("sasrec-dropout", "sasrec-dropout", {}, {"sample_dropout": "0.1"}),
    Entry("hstu", "hstu", {}, DEEPER),
    Entry("dtrec", "dtrec", {}, ONE_THOUGHT),
    Entry("mancar", "mancar", {}, ONE_THOUGHT),
    Entry("mancar-slow", "mancar", SLOW, ONE_THOUGHT, AMAZON),
    # Context differs from prefix to prefix, so that a row teaches by two prefixes an epoch where
    # others learn from every place: few targets where rows are long.
    Entry("mancar-prefixes", "mancar", {"prefixes_per_row": "6"}, None, ("ml-1m",)),
    # The same neighbours before the history, and no thoughts.
    Entry("mancar-context", "mancar", {"reasoning_steps": "0"}, DEEPER, AMAZON),
    # The teacher without thoughts, and thoughts without the teacher.
    Entry("mancar-teacher", "mancar", THOUGHTLESS, DEEPER),
    Entry("mancar-teacher-slow", "mancar", SLOW | THOUGHTLESS, DEEPER, AMAZON),
    Entry("mancar-untaught", "mancar", {"teacher_weight": "0"}, ONE_THOUGHT, AMAZON),
    Entry("igr-sr", "igr-sr", {}, ONE_THOUGHT),
    Entry("sasrec+icsrec", "sasrec", {"auxiliary": "icsrec"}, DEEPER),
    Entry("sasrec+sra-cl", "sasrec", {"auxiliary": "sra-cl"}, DEEPER),
    Entry("stream-rec", "stream-rec", {}, {"code_levels": "4"}),
    Entry("reg4rec", "reg4rec", {}, {"books": "8"}),
    Entry("bert4rec", "bert4rec", {}, {"mask_share": "0.4"}),
    # It needs feedback of several levels.
    Entry("onepiece", "onepiece", {}, {"lr": "0.001"}, ("taobao",)),
)


@dataclass(frozen=True)
class Fit:
    """One process of the study. It also tests, but choices are made by its validation figure."""

    log: Log
    entry: Entry
    settings: dict[str, str]
    seed: int
    out: Path

    def command(self, data: Path) -> list[str]:
        """The command line that measures it."""
        words = [sys.executable, "-m", "pipelines.cli", "benchmark"]
        words += ["--dataset", str(data / self.log.name), "--ranker", self.entry.ranker]
        words += ["--protocol", self.log.protocol, "--first-seed", str(self.seed)]
        for key, value in self.settings.items():
            words += ["--set", f"{key}={value}"]
        return [*words, "--users-out", str(self.out.with_suffix(".npz")), "--out", str(self.out)]


def study(
    data: Annotated[Path, typer.Option(help="Folder of dataset folders.")],
    logs: Annotated[str, typer.Option(help="Names of logs, comma separated; default all.")] = "",
    labels: Annotated[str, typer.Option(help="Rows, comma separated; default all.")] = "",
    seeds: Annotated[int, typer.Option(min=1, help="Seeds per trained ranker.")] = 5,
    hours: Annotated[float, typer.Option(help="Start no fit after that long.")] = 1e6,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the missing fits.")] = False,
) -> None:
    """Run what is missing of the study.

    Example: python -m pipelines.quality_study --data data --logs amazon2014-beauty --seeds 2
    """
    chosen_logs = [log for log in LOGS if not logs or log.name in logs.split(",")]
    entries = [one for one in ENTRIES if not labels or one.label in labels.split(",")]
    home().mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    for fit in missing(chosen_logs, entries, seeds):
        if (time.monotonic() - began) / 3600 >= hours:
            print("out of time: run the same command again to go on")
            return
        print(f"{fit.out.stem}: {fit.settings}", flush=True)
        if not dry_run:
            environment = os.environ | {"OMP_NUM_THREADS": "1"}
            subprocess.run(fit.command(data), env=environment, check=True)


def missing(logs: list[Log], entries: list[Entry], seeds: int) -> Iterator[Fit]:
    """Find the fits without a file, in the order they should run; trials before their seeds.

    A choice between trials is made when its fit's turn comes.
    """
    for seed in range(seeds):
        for log in logs:
            for entry in entries:
                if not entry.runs_on(log):
                    continue
                known = choice(log, entry) is not None
                trials = [] if known else [t for t in trials_of(log, entry) if not t.out.exists()]
                yield from trials
                fit = final_fit(log, entry, seed)
                is_one_of_many = entry.trial is not None or seed == 0
                if is_one_of_many and fit not in trials and not fit.out.exists():
                    yield fit


def trials_of(log: Log, entry: Entry) -> list[Fit]:
    """The fits that a row's settings on a log are chosen by; none for a heuristic."""
    if entry.trial is None:
        return []
    tuning = next((one for one in LOGS if one.name == log.tuned_on), log)
    where = tuning if entry.runs_on(tuning) else log
    settings = where.recipe | entry.settings
    return [
        Fit(where, entry, settings | more, 0, _file(where, entry, f"trial{n}"))
        for n, more in enumerate(({}, entry.trial))
    ]


def choice(log: Log, entry: Entry) -> int | None:
    """Which trial a row's seeds run with; None while neither its trials nor a report tell."""
    trials = trials_of(log, entry)
    if trials and all(one.out.exists() for one in trials):
        return max(range(len(trials)), key=lambda n: _validated(trials[n].out))
    rows = published().get(trials[0].log.name, {}).get("rows", []) if trials else []
    chosen = next((row["chosen"] for row in rows if row["label"] == entry.label), UNTRIED)
    return None if chosen == UNTRIED else int(chosen != DEFAULTS)


def final_fit(log: Log, entry: Entry, seed: int) -> Fit:
    """The fit of a seed under the better trial's settings; that trial itself is the first seed."""
    return final_fits(log, entry, [seed])[0]


def final_fits(log: Log, entry: Entry, seeds: Iterable[int]) -> list[Fit]:
    """The fits of several seeds, see `final_fit`; the choice is looked up once for all."""
    trials = trials_of(log, entry)
    best = choice(log, entry) or 0
    # A heuristic has none of the settings that a recipe speaks of.
    is_trained = registry.ranker_class(entry.ranker).is_trainable
    settings = (log.recipe if is_trained else {}) | entry.settings
    if best and entry.trial:
        settings |= entry.trial
    fits = [Fit(log, entry, settings, n, _file(log, entry, f"seed{n}")) for n in seeds]
    is_tuned_here = bool(trials) and trials[best].log == log
    return [trials[best] if is_tuned_here and fit.seed == 0 else fit for fit in fits]


def published() -> dict[str, Any]:
    """The last report: its rows by log. Choices stand even where their trials' files are gone."""
    file = DOCS / "benchmarks" / "quality.json"
    return json.loads(file.read_text()) if file.exists() else {}


def _validated(out: Path) -> float:
    return float(json.loads(out.read_text())["validation_ndcg@10"])


def home() -> Path:
    """The folder of the fits."""
    return DOCS / "benchmarks" / "quality"


def _file(log: Log, entry: Entry, part: str) -> Path:
    return home() / f"{log.name}.{entry.label.replace(' ', '')}.{part}.json"


if __name__ == "__main__":
    typer.run(study)
