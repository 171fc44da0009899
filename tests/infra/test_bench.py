"""Benchmarks beside peers: an adapter's line, ratios, resuming, the page."""

import json
import math
import sys
from pathlib import Path

import pytest

from infra.bench import __main__ as bench
from infra.bench.contenders import Contender
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
    write_tables(lines, tmp_path)
    page = (tmp_path / "benchmarks.md").read_text()
    assert page.startswith("before\n")
    assert page.endswith("after\n")
    assert "old" not in page
    assert "| Reckoner | 30 | 2 | 3.00 [3.00, 3.00] |" in page
    assert "faiss did not run: no such module" in page
    kept = json.loads((tmp_path / "benchmarks" / "speed" / "peers.json").read_text())
    assert math.isclose(kept["top-1000"]["contenders"]["implicit"]["median"], 10.0)
    assert (tmp_path / "benchmarks" / "top-k.svg").read_text().startswith("<?xml")
