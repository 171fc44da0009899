"""The study runs what is missing, chooses on validation, and reports what is there."""

import json
from pathlib import Path

import pytest

from pipelines import quality_report, quality_study
from pipelines.benchmark_settings import split_settings
from pipelines.quality_study import Entry, Log, final_fit, missing, study, trials_of
from tests.pipelines.walks import write_walks

ROWS = quality_study.ENTRIES
LOG = Log("walks", "temporal")
SMALL = {"dim": "8", "max_epochs": "4", "batch_size": "16", "lr": "0.02"}
ENTRIES = (
    Entry("popularity", "popularity"),
    Entry("sasrec", "sasrec", SMALL, ({"dropout": "0.9"},)),
    Entry("deep", "sasrec", SMALL | {"num_layers": "3"}, ({"dropout": "0.9"},)),
)


@pytest.fixture(autouse=True)
def small_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "walks").mkdir()
    write_walks(tmp_path / "walks")
    monkeypatch.setattr(quality_study, "HOME", tmp_path / "fits")
    for module in (quality_study, quality_report):
        monkeypatch.setattr(module, "LOGS", (LOG,))
        monkeypatch.setattr(module, "ENTRIES", ENTRIES)
    monkeypatch.setattr(quality_report, "DOCS", tmp_path / "docs")
    return tmp_path


def test_trials_come_before_their_seed_and_first_seeds_before_second_ones() -> None:
    order = [
        (fit.entry.label, "trial" if fit.is_trial else fit.seed)
        for fit in missing([LOG], list(ENTRIES), seeds=2, tune=True)
    ]
    firsts = [("sasrec", "trial")] * 2 + [("sasrec", 0)] + [("deep", "trial")] * 2 + [("deep", 0)]
    assert order[:7] == [("popularity", 0), *firsts]
    assert ("popularity", 1) not in order
    assert order[-1] == ("deep", 1)


@pytest.mark.parametrize("entry", ROWS, ids=lambda entry: entry.label)
def test_every_row_and_trial_has_settings_that_exist(entry: Entry) -> None:
    for log in quality_study.LOGS:
        for fit in (*trials_of(log, entry), final_fit(log, entry, 0, tune=False)):
            split_settings(entry.ranker, log.protocol, None, fit.settings)


def test_trained_rows_get_as_many_trials() -> None:
    assert {len(one.trials) for one in ROWS if one.trials} == {4}


def test_the_best_trial_sets_what_the_seeds_run_with(small_study: Path) -> None:
    entry = ENTRIES[1]
    (small_study / "fits").mkdir()
    for trial, value in zip(trials_of(LOG, entry), (0.1, 0.3), strict=True):
        trial.out.write_text(json.dumps({"validation_ndcg@10": value}))
    assert final_fit(LOG, entry, 0, tune=True).settings["dropout"] == "0.9"
    assert "dropout" not in final_fit(LOG, entry, 0, tune=False).settings


def test_a_study_runs_once_and_is_reported(
    small_study: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    study(small_study, labels="popularity,sasrec", seeds=1, tune=False, hours=1.0, logs="")
    capfd.readouterr()
    study(small_study, labels="popularity,sasrec", seeds=1, tune=False, hours=1.0, logs="")
    assert capfd.readouterr().out == ""
    docs = small_study / "docs"
    (docs / "benchmarks").mkdir(parents=True)
    (docs / "benchmarks.md").write_text(
        f"above\n{quality_report.BEGIN}\nearlier table\n{quality_report.END}\nbelow\n"
    )
    quality_report.main()
    page = (docs / "benchmarks.md").read_text()
    assert page.startswith("above")
    assert page.endswith("below\n")
    assert "earlier table" not in page
    summary = json.loads((docs / "benchmarks" / "quality.json").read_text())
    rows = {row["label"]: row for row in summary["walks"]["rows"]}
    assert rows["sasrec"]["ndcg@10"]["mean"] > rows["popularity"]["ndcg@10"]["mean"]
    assert rows["popularity"]["gain"]["high"] < 0
    assert f"| {rows['sasrec']['ndcg@10']['mean']:.4f} |" in page
    assert (docs / "benchmarks" / "quality-walks.svg").read_text().startswith("<svg")
