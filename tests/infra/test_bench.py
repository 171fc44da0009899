"""Benchmarks beside peers: an adapter's line, ratios, resuming, the page."""

import json
import math
import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infra.bench import __main__ as bench
from infra.bench.contenders import SCRIPTS, Contender
from infra.bench.tables import BEGIN, END, ratio, write_tables

PLAIN = Contender("torch matmul + topk", "torch_adapter.py")
OURS = Contender("Reckoner", "reckoner_adapter.py")
WORDS = ["--items", "2000", "--seconds", "0.01"]


def line(name: str, turn: int, rate: float) -> dict[str, object]:
    return {"task": "top-1000", "round": turn, "name": name, "users_per_second": rate}


@pytest.mark.parametrize("contender", [PLAIN, OURS])
def test_an_adapter_answers_with_one_line(contender: Contender) -> None:
    found = bench.measure(contender, sys.executable, WORDS)
    assert found["users_per_second"] == found["users"] / found["cpu_seconds"]


def write_rows(file: Path, rows: list[list[int]]) -> None:
    pairs = [(user, item) for user, items in enumerate(rows) for item in items]
    users, items = (np.array(values, dtype=np.int32) for values in zip(*pairs, strict=True))
    pq.write_table(pa.table({"user": users, "item": items}), file)


def test_accuracy_is_taken_at_each_mark(tmp_path: Path) -> None:
    rounds = [[1 + (start + step) % 9 for step in range(6)] for start in range(40)]
    write_rows(tmp_path / "train", rounds)
    write_rows(tmp_path / "test", [[*row, 1 + row[-1] % 9] for row in rounds])
    words = ["--train", str(tmp_path / "train"), "--test", str(tmp_path / "test")]
    ours = Contender("Reckoner", "reckoner_adapter.py", variant="sasrec")
    found = bench.measure(ours, sys.executable, [*words, "--marks", "0.01,1.5"])
    (early, _), (late, learnt) = found["points"]
    assert early >= 0.01
    assert late >= 1.5
    # Three items are left when six of nine are seen, and ranked by chance they would give .71.
    assert learnt == found["ndcg_at_10"] > 0.9


def test_accuracy_by_hand(tmp_path: Path) -> None:
    measuring = runpy.run_path(str(SCRIPTS / "measuring.py"))
    write_rows(tmp_path / "test", [[3, 1, 2], [1, 3], [2, 2]])
    scores = np.array([[-9.0, 5.0, 1.0, 4.0], [-9.0, 9.0, 2.0, 2.0], [-9.0, 3.0, 1.0, 2.0]])

    def score(rows: Any) -> Any:
        assert rows[:, -2:].tolist() == [[3, 1], [0, 1], [0, 2]]
        return scores

    # Of the first, both others are seen; the second ties with an item; the third was seen itself.
    wanted = (1.0 + 1 / math.log2(3) + 1 / math.log2(4)) / 3
    found = measuring["mean_ndcg"](str(tmp_path / "test"), score, 0)
    assert found == pytest.approx(wanted)


def test_an_adapter_that_fails_says_why() -> None:
    missing = Contender("faiss", "faiss_adapter.py")
    found = bench.measure(missing, sys.executable, WORDS)
    assert found == {"failed": "ModuleNotFoundError: No module named 'faiss'"}


def test_rounds_that_are_kept_are_not_taken_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "HOME", tmp_path)
    monkeypatch.setattr(bench, "ROUNDS", 2)
    kept = tmp_path / "top-1000.jsonl"
    kept.write_text(json.dumps(line(PLAIN.name, 0, 5.0)) + "\n")
    bench.take_rounds("top-1000", (PLAIN,), WORDS)
    first, second = bench.lines_of(kept)
    assert first["users_per_second"] == 5.0
    assert second["round"] == 1


def test_a_peer_that_cannot_be_built_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench, "HOME", tmp_path)
    (tmp_path / "environments").write_text("in the way")
    bench.take_rounds("top-9", (Contender("faiss", "faiss_adapter.py", ("faiss-cpu",)),), WORDS)
    assert "faiss is left out" in capsys.readouterr().out


def test_ratios_pair_the_rounds() -> None:
    found = ratio([20.0, 40.0, 80.0], [10.0, 10.0, 10.0])
    assert found["ratio"] == pytest.approx(4.0)
    assert found["low"] >= 2.0
    assert found["high"] <= 8.0
    assert ratio([30.0] * 5, [10.0] * 5) == pytest.approx({"ratio": 3, "low": 3, "high": 3})


def test_the_page_keeps_what_is_around_its_tables(tmp_path: Path) -> None:
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks.md").write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    lines = [line(n, t, r) for t in range(2) for n, r in (("Reckoner", 30.0), ("implicit", 10.0))]
    lines.append({"task": "top-1000", "round": 0, "name": "faiss", "failed": "no such module"})
    curve = {"task": "accuracy-log", "name": "Reckoner"}
    lines += [curve | {"points": [[30, rate], [60, 0.2]]} for rate in (0.1, 0.15)]
    write_tables(lines, tmp_path)
    page = (tmp_path / "benchmarks.md").read_text()
    assert page.startswith("before\n")
    assert page.endswith("after\n")
    assert "old" not in page
    assert "| Reckoner | 30 | 2 | 3.00 [3.00, 3.00] |" in page
    assert "faiss did not run: no such module" in page
    kept = json.loads((tmp_path / "benchmarks" / "speed" / "peers.json").read_text())
    assert math.isclose(kept["top-1000"]["contenders"]["implicit"]["median"], 10.0)
    assert "| Reckoner | 2 | 0.1250 | 0.2000 |" in page
    for picture in ("top-k.svg", "accuracy-log.svg"):
        assert (tmp_path / "benchmarks" / picture).read_text().startswith("<?xml")
    # Another machine measures one of the tasks; the others stay as they are.
    write_tables([line("Reckoner", 0, 55.0)], tmp_path)
    page = (tmp_path / "benchmarks.md").read_text()
    assert "| Reckoner | 55 | 1 |" in page
    assert "| implicit | 10 |" not in page
    assert "| Reckoner | 2 | 0.1250 | 0.2000 |" in page


def test_a_quick_look_leaves_the_docs_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(bench, "QUICK", True)
    monkeypatch.setattr(bench, "CATALOGUES", ())
    monkeypatch.setenv("DATASET", "nowhere")
    bench.HOME.mkdir(parents=True)
    measured = [json.dumps(line(name, 0, 20.0)) for name in ("Reckoner", "implicit")]
    (bench.HOME / "top-1000-quick.jsonl").write_text("\n".join(measured) + "\n")
    (bench.HOME / "top-1000.jsonl").write_text(json.dumps(line("faiss", 0, 1.0)) + "\n")
    bench.bench()
    page = (bench.HOME / "quick" / "benchmarks.md").read_text()
    assert "| Reckoner | 20 | 1 |" in page
    assert "faiss" not in page
    assert not (tmp_path / "docs").exists()
    assert ".reckoner/bench/quick/benchmarks.md" in capsys.readouterr().out
