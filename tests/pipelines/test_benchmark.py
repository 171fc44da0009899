"""The benchmark command: what it writes, what it refuses."""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from models.rankers.sasrec import SASRec
from models.sequences import SequenceStore
from pipelines import benchmark_request
from pipelines.benchmark_report import debiased
from pipelines.cli.main import main
from pipelines.io.dataset import read_dataset
from tests.pipelines.walks import events, write_walks

METRICS = {"ndcg@10", "recall@10", "ndcg@20", "recall@20", "mrr@10", "coverage@10", "gini@10"}
SLICES = {"all", "warm", "cold", "short", "long", "head", "tail"}
CONTRACT = {
    "dataset", "ranker", "protocol", "seed", "threads", "device", "metrics", "slices", "seconds",
    "targets_per_second", "users_per_second", "peak_memory_mb", "epochs", "num_parameters",
    "config",
}  # fmt: skip


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    write_walks(tmp_path)
    return tmp_path


def call(*words: str) -> int:
    return main(["benchmark", *words])


def measure(shop: Path, ranker: str, *words: str) -> Any:
    out = shop / "out.json"
    assert call("--dataset", str(shop), "--ranker", ranker, "--out", str(out), *words) == 0
    return json.loads(out.read_text())


@pytest.mark.parametrize("protocol", ["temporal", "leave-one-out"])
def test_writes_what_the_contract_says(shop: Path, protocol: str) -> None:
    result = measure(shop, "tgh", "--protocol", protocol)
    assert result.keys() >= CONTRACT
    assert set(result["metrics"]) == METRICS
    assert set(result["slices"]) == SLICES
    assert result["seconds"].keys() == {"train", "score"}
    assert ("metrics_seen_excluded" in result) == (protocol == "temporal")
    assert set(result["versus"]) == {"popularity", "last-transition"}
    assert 0 < result["inverse_propensity"]["ndcg@10"] < 1
    assert result["metrics"]["ndcg@10"] > 0.3
    everyone = result["slices"]["all"]
    assert everyone["ndcg@10"] == result["metrics"]["ndcg@10"]
    for halves in (("warm", "cold"), ("short", "long")):
        assert sum(result["slices"][name]["num_users"] for name in halves) == everyone["num_users"]
    assert result["intervals"]["ndcg@10"]["low"] < result["metrics"]["ndcg@10"]


def test_rare_targets_count_more_against_popularity() -> None:
    counts = np.array([0, 100, 4, 1])
    found = debiased(np.array([1.0, 0.5, 0.0]), np.array([1, 2, 3]), counts)
    # Weights 1, sqrt(100 / 4) = 5 and sqrt(100) = 10.
    assert found["ndcg@10"] == pytest.approx((1.0 + 0.5 * 5) / 16)
    assert found["clip"] == 10.0


def test_cold_targets_are_misses(shop: Path) -> None:
    result = measure(shop, "last-transition")
    cold = result["slices"]["cold"]
    assert cold["num_users"] >= 1
    assert cold["ndcg@20"] == 0.0


def test_training_beats_popularity_and_reports_its_work(
    shop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        word
        for pair in ("dim=16", "max_epochs=6", "batch_size=32", "lr=0.02", "dropout=0.1")
        for word in ("--set", pair)
    ]
    result = measure(shop, "rearec-prl", *words, "--set", "reasoning_steps=1")
    assert result["versus"]["popularity"]["low"] > 0
    assert result["best_step_oracle"]["ndcg@10"] >= result["metrics"]["ndcg@10"]
    assert 1 <= result["epochs"] <= 6
    assert result["targets_per_second"] > 0
    assert result["num_parameters"] > 0
    assert result["config"]["reasoning_steps"] == 1
    assert result["config"]["fit"]["batch_size"] == 32
    progress = [line for line in capsys.readouterr().err.splitlines() if "epoch" in line]
    assert len(progress) == result["epochs"]
    assert "validation ndcg@10" in progress[0]


def test_seeds_give_a_list_and_a_summary(shop: Path) -> None:
    users = shop / "users.npz"
    result = measure(
        shop, "sasrec", "--seeds", "2", "--set", "dim=8", "--set", "max_epochs=2",
        "--users-out", str(users),
    )  # fmt: skip
    assert [one["seed"] for one in result["runs"]] == [0, 1]
    values = [one["metrics"]["ndcg@10"] for one in result["runs"]]
    summary = result["summary"]["metrics"]["ndcg@10"]
    assert summary["mean"] == pytest.approx(np.mean(values))
    half = 12.706 * np.std(values, ddof=1) / np.sqrt(2)
    assert summary["high"] - summary["mean"] == pytest.approx(half)
    assert set(result["summary"]["versus"]) == {"popularity", "last-transition", "tgh"}
    kept = np.load(users)["ndcg_at_10"]
    assert kept.mean(axis=1).tolist() == pytest.approx(values)


def test_the_same_seed_gives_the_same_numbers(shop: Path) -> None:
    words = ("--set", "dim=8", "--set", "max_epochs=2")
    first, second = (measure(shop, "sasrec", *words)["metrics"] for _ in range(2))
    assert first == second


def test_a_cpu_budget_replaces_early_stopping(shop: Path) -> None:
    result = measure(shop, "sasrec", "--cpu-seconds", "0.5", "--set", "dim=8")
    assert result["config"]["fit"]["cpu_seconds"] == 0.5
    assert result["validation_ndcg@10"] is None
    assert result["seconds"]["train"] >= 0.5


def test_statistics_are_paid_from_the_budget(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are repeated until they cost more than the budget, as on a log too large for a test."""
    fit = SASRec.fit_statistics

    def slow(ranker: SASRec, store: SequenceStore) -> None:
        until = time.process_time() + 1.0
        while time.process_time() < until:
            fit(ranker, store)

    words = ("--cpu-seconds", "0.5", "--set", "dim=8")
    assert measure(shop, "sasrec", *words)["epochs"] > 1
    monkeypatch.setattr(SASRec, "fit_statistics", slow)
    assert measure(shop, "sasrec", *words)["epochs"] == 1


def test_the_model_never_hears_of_later_items(shop: Path) -> None:
    data = read_dataset(shop)
    assert data.items.tolist()[-1] == "new"
    from models.evaluation import temporal_split

    split, _ = benchmark_request.trained_items_first(temporal_split(data.store))
    _, places = split.train.flat_events()
    trained = np.unique(split.train.items[places])
    assert trained.tolist() == list(range(1, len(trained) + 1))
    assert split.test.targets.max() > len(trained)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--ranker", "sasreq"], "nearest: sasrec"),
        (["--set", "dmi=3"], "--set dmi: sasrec has no such setting; nearest: dim"),
        (["--set", "dim=wide"], "--set dim='wide'"),
        (["--set", "dim"], "key=value"),
        (["--set", "seed=4"], "use --seeds"),
        (["--protocol", "random"], "known are temporal and leave-one-out"),
        (["--seeds", "0"], "--seeds 0"),
        (["--ranker", "tgh", "--set", "batch_size=4"], "tgh has no such setting"),
        (["--out", "/no/such/folder/x.json"], "/no/such/folder does not exist"),
        (["--out", "/tmp"], "/tmp is a folder"),
        (["--users-out", "/no/such/folder/x.npz"], "--users-out /no/such/folder/x.npz: folder"),
        (["--validation-only", "--seeds", "3"], "--seeds 3: --validation-only fits one"),
        (["--cpu-seconds", "inf"], "--cpu-seconds inf: Input should be a finite number"),
        (
            ["--ranker", "reg4rec", "--set", "codes_from=text"],
            "reg4rec: these settings do not go together: codes_from=text needs text_vectors=on",
        ),
        (["--set", "dim=33"], "dim 33 must be a multiple of 2 heads"),
        (["--ranker", "mancar", "--set", "backbone=hstu"], "mancar: these settings do not go"),
        (["--ranker", "last-transition", "--set", "max_length=0"], "--set max_length=0"),
        (["--dataset", "/no/such/set"], "/no/such/set/events.parquet does not exist"),
    ],
)
def test_bad_usage_is_one_line_and_exit_2(
    shop: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {"--dataset": str(shop), "--ranker": "sasrec", "--out": str(shop / "x.json")}
    extra = list(words)
    for flag in given:
        if flag in extra:
            given[flag] = extra.pop(extra.index(flag) + 1)
            extra.remove(flag)
    code = call(*[word for pair in given.items() for word in pair], *extra)
    errors = capsys.readouterr().err
    assert code == 2
    assert message in errors
    assert len(errors.strip().splitlines()) == 1
    assert not (shop / "x.json").exists()


def test_diverged_training_is_exit_2(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--dataset", str(shop), "--ranker", "sasrec", "--out", str(shop / "x.json"))
    assert call(*words, "--set", "lr=1e12", "--set", "eval_every=9") == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert "sasrec, seed 0: training diverged at step" in last
    assert not (shop / "x.json").exists()


def broken(table: pa.Table, how: str) -> pa.Table:
    if how == "column":
        return table.drop_columns(["item_id"])
    if how == "type":
        return table.set_column(3, "ts", pa.array(range(table.num_rows)))
    if how == "empty value":
        users = [None if row == 2 else "u" for row in range(table.num_rows)]
        return table.set_column(0, "user_id", pa.array(users, pa.string()))
    if how == "order only":
        times = pa.array(range(table.num_rows), pa.timestamp("us", "UTC"))
        return table.set_column(3, "ts", times)
    return table.slice(0, {"no rows": 0, "few rows": 4}[how])


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("column", "has no column item_id; it has user_id, action, ts"),
        ("type", "ts must be a timestamp, found int64"),
        ("empty value", "row 3: user_id is empty"),
        ("order only", "use --protocol leave-one-out"),
        ("no rows", "has no rows"),
        ("few rows", "4 events are too few"),
    ],
)
def test_a_bad_dataset_is_one_line_and_exit_2(
    shop: Path, how: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = shop / "events.parquet"
    pq.write_table(broken(pq.read_table(path), how), path)
    code = call("--dataset", str(shop), "--ranker", "tgh", "--out", str(shop / "x.json"))
    errors = capsys.readouterr().err
    assert code == 2
    assert message in errors
    assert len(errors.strip().splitlines()) == 1


def test_a_single_test_user_has_no_interval(shop: Path) -> None:
    table = events([("u", f"i{n}", n) for n in range(12)])
    pq.write_table(table, shop / "events.parquet")
    result = measure(shop, "last-transition", "--protocol", "leave-one-out")
    found = result["intervals"]["ndcg@10"]
    assert (found["mean"], found["low"], found["high"]) == (0.0, None, None)


def test_garbage_is_named(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (shop / "events.parquet").write_bytes(b"not parquet at all")
    code = call("--dataset", str(shop), "--ranker", "tgh", "--out", str(shop / "x.json"))
    assert code == 2
    assert "is not a readable Parquet file" in capsys.readouterr().err


def test_order_only_data_serves_leave_one_out(shop: Path) -> None:
    path = shop / "events.parquet"
    pq.write_table(broken(pq.read_table(path), "order only"), path)
    result = measure(shop, "popularity", "--protocol", "leave-one-out")
    assert result["num_parameters"] == 0


def test_validation_alone_tunes_without_a_look_at_the_test(shop: Path) -> None:
    words = ("--set", "dim=8", "--set", "max_epochs=2")
    tuned = measure(shop, "sasrec", "--validation-only", "--first-seed", "3", *words)
    assert tuned["validation_ndcg@10"] > 0
    assert tuned["seed"] == 3
    assert "metrics" not in tuned
    judged = measure(shop, "sasrec", "--first-seed", "3", *words)
    assert judged["seed"] == 3
    assert judged["validation_ndcg@10"] == tuned["validation_ndcg@10"]
    budget = measure(shop, "sasrec", "--validation-only", "--cpu-seconds", "0.5", *words)
    assert budget["validation_ndcg@10"] == budget["validation_slices"]["all"] > 0
    assert call("--dataset", str(shop), "--ranker", "tgh", "--validation-only",
                "--out", str(shop / "out.json")) == 2  # fmt: skip


def test_a_log_that_a_ranker_cannot_learn_from_is_named(
    shop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--dataset", str(shop), "--ranker", "onepiece", "--out", str(shop / "out.json"))
    assert call(*words) == 2
    assert "reasoning_steps = 2 needs as many actions" in capsys.readouterr().err
