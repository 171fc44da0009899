"""The quality study: every ranker on every log, tuned on validation, several seeds, resumable.

Run it with `python -m pipelines.quality_study --data DIR`. Each fit is a process of its own, and
one that has left its file under `.reckoner/bench/quality` is not run again, so that the study can
be stopped at any moment and goes on where it was. The first seeds of all rankers come before the
second ones. `pipelines.quality_report` turns what is there into docs/benchmarks/quality.json.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer

HOME = Path(".reckoner/bench/quality")


@dataclass(frozen=True)
class Log:
    """A real log and the protocol it is judged under."""

    name: str
    protocol: str


@dataclass(frozen=True)
class Entry:
    """One row of the study.

    Attributes:
        label: Name of the row.
        ranker: Name in the registry.
        settings: What makes it this row.
        trials: Settings tried on validation beside the row's own; every trained ranker gets as
            many, and the best trial's settings are what its seeds run with.
        logs: The logs it can run on; all where empty.
    """

    label: str
    ranker: str
    settings: dict[str, str] = field(default_factory=dict)
    trials: tuple[dict[str, str], ...] = ()
    logs: tuple[str, ...] = ()


LOGS = (
    Log("amazon2014-beauty", "temporal"),
    Log("amazon2014-sports", "temporal"),
    Log("taobao", "temporal"),
    Log("ml-1m", "leave-one-out"),
)
# The same for every trained ranker: what one of them gains by tuning the control could gain too.
RECIPE = {
    "batch_size": "128",
    "patience": "3",
    "max_epochs": "60",
    # A quarter of the full cross-entropy's seconds, and on validation of the first log its equal.
    "loss": "sampled",
    "table_optimiser": "rows",
}
SHARED_TRIALS: tuple[dict[str, str], ...] = (
    {"dropout": "0.3"},
    {"lr": "0.003"},
    {"scoring": "cosine", "temperature": "0.1"},
)
BACKBONE_TRIAL = ({"num_layers": "3"},)
STEPS_TRIAL = ({"reasoning_steps": "1"},)


def _trained(label: str, ranker: str, own: tuple[dict[str, str], ...], **settings: str) -> Entry:
    return Entry(label, ranker, settings, SHARED_TRIALS + own)


CONTROL = "sasrec"
ENTRIES = (
    Entry("popularity", "popularity"),
    Entry("last-transition", "last-transition"),
    Entry("tgh", "tgh"),
    _trained("sasrec", "sasrec", BACKBONE_TRIAL),
    # Two thoughts at every position cost two further passes: three times the layers.
    _trained("sasrec-deep", "sasrec", ({"lr": "0.0005"},), num_layers="6"),
    _trained("sasrec-dropout", "sasrec-dropout", ({"sample_dropout": "0.1"},)),
    _trained("hstu", "hstu", BACKBONE_TRIAL),
    _trained("rearec-erl", "rearec-erl", STEPS_TRIAL),
    _trained("rearec-prl", "rearec-prl", STEPS_TRIAL),
    _trained("plr", "plr", STEPS_TRIAL),
    _trained("lares", "lares", ({"reasoning_steps": "2"},)),
    _trained("dtrec", "dtrec", STEPS_TRIAL),
    _trained("stream-rec", "stream-rec", ({"code_levels": "4"},)),
    _trained("reg4rec", "reg4rec", ({"books": "8"},)),
    _trained("sasrec+icsrec", "sasrec", BACKBONE_TRIAL, auxiliary="icsrec"),
    _trained("sasrec+sra-cl", "sasrec", BACKBONE_TRIAL, auxiliary="sra-cl"),
    _trained("bert4rec", "bert4rec", ({"mask_share": "0.4"},)),
    _trained("mancar", "mancar", STEPS_TRIAL),
    # It needs feedback of several levels.
    Entry("onepiece", "onepiece", {}, (*SHARED_TRIALS, {"lr": "0.0005"}), ("taobao",)),
)


@dataclass(frozen=True)
class Fit:
    """One process of the study: a trial on validation, or a seed that is tested."""

    log: Log
    entry: Entry
    settings: dict[str, str]
    seed: int
    out: Path
    is_trial: bool

    def command(self, data: Path) -> list[str]:
        """The command line that measures it."""
        words = [sys.executable, "-m", "pipelines.cli", "benchmark"]
        words += ["--dataset", str(data / self.log.name), "--ranker", self.entry.ranker]
        words += ["--protocol", self.log.protocol, "--first-seed", str(self.seed)]
        for key, value in self.settings.items():
            words += ["--set", f"{key}={value}"]
        if self.is_trial:
            words.append("--validation-only")
        else:
            words += ["--users-out", str(self.out.with_suffix(".npz"))]
        return [*words, "--out", str(self.out)]


def study(
    data: Annotated[Path, typer.Option(help="Folder of dataset folders.")],
    logs: Annotated[str, typer.Option(help="Names of logs, comma separated; default all.")] = "",
    labels: Annotated[str, typer.Option(help="Rows, comma separated; default all.")] = "",
    seeds: Annotated[int, typer.Option(min=1, help="Seeds per trained ranker.")] = 5,
    hours: Annotated[float, typer.Option(help="Start no fit after that long.")] = 1e6,
    tune: Annotated[bool, typer.Option(help="Try each row's settings on validation first.")] = True,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the missing fits.")] = False,
) -> None:
    """Run what is missing of the study.

    Example: python -m pipelines.quality_study --data data --logs amazon2014-beauty --seeds 2
    """
    chosen_logs = [log for log in LOGS if not logs or log.name in logs.split(",")]
    entries = [one for one in ENTRIES if not labels or one.label in labels.split(",")]
    HOME.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    for fit in missing(chosen_logs, entries, seeds, tune):
        if (time.monotonic() - began) / 3600 >= hours:
            print("out of time: run the same command again to go on")
            return
        print(f"{fit.log.name}: {fit.entry.label}, {'trial' if fit.is_trial else fit.seed}")
        if not dry_run:
            environment = os.environ | {"OMP_NUM_THREADS": "1"}
            subprocess.run(fit.command(data), env=environment, check=True)


def missing(logs: list[Log], entries: list[Entry], seeds: int, tune: bool) -> Iterator[Fit]:
    """Find the fits without a file, in the order they should run; trials before their seeds."""
    for seed in range(seeds):
        for log in logs:
            for entry in entries:
                if entry.logs and log.name not in entry.logs:
                    continue
                trials = trials_of(log, entry) if tune else []
                yield from (trial for trial in trials if not trial.out.exists())
                fit = final_fit(log, entry, seed, tune)
                is_one_of_many = bool(entry.trials) or seed == 0
                if is_one_of_many and not fit.out.exists():
                    yield fit


def trials_of(log: Log, entry: Entry) -> list[Fit]:
    """The fits that settings are chosen by: the row as it is and each of its trials."""
    if not entry.trials:
        return []
    return [
        Fit(log, entry, RECIPE | entry.settings | trial, 0, _file(log, entry, f"trial{n}"), True)
        for n, trial in enumerate(({}, *entry.trials))
    ]


def final_fit(log: Log, entry: Entry, seed: int, tune: bool) -> Fit:
    """The fit of one seed, under the best trial's settings."""
    settings = (RECIPE if entry.trials else {}) | entry.settings
    done = [trial for trial in trials_of(log, entry) if tune and trial.out.exists()]
    if done:
        best = max(done, key=lambda trial: _validated(trial.out))
        settings = best.settings
    return Fit(log, entry, settings, seed, _file(log, entry, f"seed{seed}"), False)


def _validated(out: Path) -> float:
    return float(json.loads(out.read_text())["validation_ndcg@10"])


def _file(log: Log, entry: Entry, part: str) -> Path:
    return HOME / f"{log.name}.{entry.label.replace(' ', '')}.{part}.json"


if __name__ == "__main__":
    typer.run(study)
