"""The study runs what is missing, chooses on validation, and reports what is there."""

import json
from pathlib import Path

import pytest

from models import registry
from pipelines import quality_report, quality_study
from pipelines.benchmark_settings import split_settings
from pipelines.quality_study import Entry, Fit, Log, final_fit, missing, study, trials_of
from tests.pipelines.walks import write_walks

ROWS = quality_study.ENTRIES
REAL_LOGS = quality_study.LOGS
SMALL = {"dim": "8", "max_epochs": "4", "batch_size": "16", "lr": "0.02"}
LOG = Log("walks", "temporal", SMALL)
OTHER = Log("other-walks", "temporal", SMALL | {"lr": "0.01"}, tuned_on="walks")
ENTRIES = (
    Entry("popularity", "popularity"),
    Entry("sasrec", "sasrec", {}, {"dropout": "0.9"}),
    Entry("deep", "sasrec", {"num_layers": "3"}, {"dropout": "0.9"}),
    Entry("elsewhere", "sasrec", {}, {"dropout": "0.9"}, ("other-walks",)),
)


@pytest.fixture(autouse=True)
def small_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for log in (LOG, OTHER):
        (tmp_path / log.name).mkdir()
        write_walks(tmp_path / log.name)
    monkeypatch.setattr(quality_study, "DOCS", tmp_path / "docs")
    for module in (quality_study, quality_report):
        monkeypatch.setattr(module, "LOGS", (LOG, OTHER))
        monkeypatch.setattr(module, "ENTRIES", ENTRIES)
    return tmp_path


def pretend(fit: Fit, value: float) -> None:
    fit.out.parent.mkdir(parents=True, exist_ok=True)
    fit.out.write_text(json.dumps({"validation_ndcg@10": value}))


def test_a_dry_run_names_each_fit_once(
    small_study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study(small_study, logs="walks", labels="sasrec,deep", seeds=1, hours=1.0, dry_run=True)
    named = [line.split(":")[0] for line in capsys.readouterr().out.splitlines()]
    assert named == [f"walks.{label}.trial{n}" for label in ("sasrec", "deep") for n in (0, 1)]
    assert not list(quality_study.home().iterdir())


def test_trials_come_before_their_seed_and_first_seeds_before_second_ones() -> None:
    order = []
    for fit in missing([LOG, OTHER], list(ENTRIES), seeds=2):
        order.append(fit.out.stem)
        pretend(fit, 0.1)
    tried = [f"walks.{label}.trial{n}" for label in ("sasrec", "deep") for n in (0, 1)]
    assert order[:5] == ["walks.popularity.seed0", *tried]
    carried = [f"other-walks.{label}.seed0" for label in ("popularity", "sasrec", "deep")]
    alone = [f"other-walks.elsewhere.trial{n}" for n in (0, 1)]
    assert order[5:10] == [*carried, *alone]
    assert order[10:12] == ["walks.sasrec.seed1", "walks.deep.seed1"]
    assert len(order) == len(set(order)) == 15


@pytest.mark.parametrize("entry", ROWS, ids=lambda entry: entry.label)
def test_every_row_and_trial_has_settings_that_exist(
    entry: Entry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quality_study, "LOGS", REAL_LOGS)
    for log in REAL_LOGS:
        for fit in (*trials_of(log, entry), final_fit(log, entry, 0)):
            split_settings(entry.ranker, log.protocol, None, fit.settings)


def test_every_ranker_has_a_row() -> None:
    assert {row.ranker for row in ROWS} == set(registry.names())


def test_the_better_trial_is_the_first_seed_and_sets_what_others_run_with() -> None:
    entry = ENTRIES[1]
    for trial, value in zip(trials_of(LOG, entry), (0.1, 0.3), strict=True):
        pretend(trial, value)
    assert final_fit(LOG, entry, 0).out.stem == "walks.sasrec.trial1"
    assert final_fit(LOG, entry, 1).settings == SMALL | {"dropout": "0.9"}
    assert final_fit(OTHER, entry, 0).settings == SMALL | {"dropout": "0.9", "lr": "0.01"}


def test_a_study_runs_once_and_is_reported(
    small_study: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    study(small_study, labels="popularity,sasrec", seeds=1, hours=1.0, logs="walks")
    capfd.readouterr()
    study(small_study, labels="popularity,sasrec", seeds=1, hours=1.0, logs="walks")
    assert capfd.readouterr().out == ""
    docs = small_study / "docs"
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
    assert rows["popularity"]["gains"]["sasrec"]["high"] < 0
    assert f"| {rows['popularity']['gains']['sasrec']['mean']:+.4f} [" in page
    assert f"| {rows['sasrec']['ndcg@10']['mean']:.4f} |" in page
    assert (docs / "benchmarks" / "quality-walks.svg").read_text().startswith("<svg")


def test_what_was_published_stays_where_its_fits_are_gone(small_study: Path) -> None:
    docs = small_study / "docs"
    study(small_study, labels="popularity,sasrec", seeds=2, hours=1.0, logs="walks")
    (docs / "benchmarks.md").write_text(f"{quality_report.BEGIN}\n{quality_report.END}\n")
    quality_report.main()
    before = (docs / "benchmarks" / "quality.json").read_text()
    rows = json.loads(before)["walks"]["rows"]
    chosen = next(row["chosen"] for row in rows if row["label"] == "sasrec")
    for fit in quality_study.home().glob("walks.sasrec.*"):
        fit.unlink()
    assert [fit.seed for fit in missing([LOG], [ENTRIES[1]], seeds=2)] == [0, 1]
    best = final_fit(LOG, ENTRIES[1], 1)
    assert (best.settings == SMALL | {"dropout": "0.9"}) == (chosen == "dropout=0.9")
    # A first seed alone does not take the place of two.
    study(small_study, labels="sasrec", seeds=1, hours=1.0, logs="walks")
    quality_report.main()
    assert (docs / "benchmarks" / "quality.json").read_text() == before
    study(small_study, labels="sasrec", seeds=3, hours=1.0, logs="walks")
    quality_report.main()
    rows = json.loads((docs / "benchmarks" / "quality.json").read_text())["walks"]["rows"]
    assert {row["label"]: row["seeds"] for row in rows} == {"sasrec": 3, "popularity": 1}
