"""The benchmark of rankers that read texts."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.benchmark_text import text_vectors
from pipelines.errors import InputError
from pipelines.settings.groups import VectorSettings
from tests.pipelines.test_benchmark import SLICES, call, measure
from tests.pipelines.walks import events


def write_kinds(folder: Path) -> None:
    """Users who stay with one of three kinds of thing; every kind gets a new item at the end."""
    rng = np.random.default_rng(0)
    kinds = ("kettle", "tent", "novel")
    rows = []
    for user in range(90):
        kind = kinds[user % 3]
        steps = [f"{kind}-{number}" for number in rng.permutation(8)[:6]]
        start = int(rng.integers(80))
        rows += [(f"u{user:02d}", item, start + step) for step, item in enumerate(steps)]
        rows.append((f"u{user:02d}", f"new-{kind}", 100))
    pq.write_table(events(rows), folder / "events.parquet")
    ids = sorted({item for _, item, _ in rows})
    titles = [f"{item.removeprefix('new-').split('-')[0]} of steel" for item in ids]
    pq.write_table(pa.table({"item_id": ids, "title": titles}), folder / "items.parquet")


def test_cold_targets_are_scored_by_their_texts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_kinds(tmp_path)
    small = [f"--set={pair}" for pair in ("dim=16", "max_epochs=25", "lr=0.01", "text_vectors=on")]
    result = measure(tmp_path, "sasrec", *small)
    cold = result["slices"]["cold"]
    assert cold["num_users"] == 90
    assert cold["recall@10"] > 0.9
    assert result["config"]["text_vectors"]["encoder"] == "hashed-1-256"
    kept = list((tmp_path / ".reckoner/bench/vectors").iterdir())
    assert len(kept) == 1
    before = kept[0].stat().st_mtime_ns
    judged = measure(tmp_path, "sasrec", *small, "--validation-only")
    assert set(judged["validation_slices"]) == SLICES
    assert kept[0].stat().st_mtime_ns == before, "texts are encoded once"
    assert measure(tmp_path, "sasrec", "--cpu-seconds", "1")["slices"]["cold"]["recall@10"] == 0


def test_further_texts_come_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_kinds(tmp_path)
    told = pa.table({"item_id": ["new-tent", "tent-1"], "summary": ["for camping", None]})
    pq.write_table(told, tmp_path / "told.parquet")
    own = text_vectors(tmp_path, ["new-tent", "tent-1"], VectorSettings())
    more = text_vectors(
        tmp_path, ["new-tent", "tent-1"], VectorSettings(), (tmp_path / "told.parquet", "summary")
    )
    assert not np.array_equal(own.vectors_XV[0], more.vectors_XV[0])
    assert np.array_equal(own.vectors_XV[1], more.vectors_XV[1])
    with pytest.raises(InputError, match="has no column text; it has item_id, summary"):
        text_vectors(tmp_path, ["new-tent"], VectorSettings(), (tmp_path / "told.parquet", "text"))
    (tmp_path / "items.parquet").unlink()
    with pytest.raises(InputError, match=r"items.parquet does not exist"):
        text_vectors(tmp_path, ["new-tent"], VectorSettings())


def test_another_encoder_than_the_texts_is_exit_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_kinds(tmp_path)
    words = ("--dataset", str(tmp_path), "--ranker", "sasrec", "--out", str(tmp_path / "x.json"))
    assert call(*words, "--set", "text_vectors=yes") == 2
    assert "takes text vectors of encoder 'yes'" in capsys.readouterr().err
