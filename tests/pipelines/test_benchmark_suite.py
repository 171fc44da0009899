"""What `make bench` measures our own rankers on."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines import benchmark_suite
from tests.pipelines.walks import write_walks


def test_make_bench_takes_the_protocol_that_a_dataset_allows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = tmp_path
    write_walks(shop)
    monkeypatch.setattr(benchmark_suite, "RANKERS", ("tgh",))
    monkeypatch.setenv("DATASET", str(shop))
    path = shop / "events.parquet"
    for protocol in ("temporal", "leave-one-out"):
        monkeypatch.setattr(benchmark_suite, "HOME", shop / protocol)
        benchmark_suite.bench()
        written = (shop / protocol / f"{shop.name}-tgh.json").read_text()
        assert json.loads(written)["protocol"] == protocol
        table = pq.read_table(path)
        order_only = pa.array(range(table.num_rows), pa.timestamp("us", "UTC"))
        pq.write_table(table.set_column(3, "ts", order_only), path)


def test_make_bench_names_a_dataset_that_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark_suite, "HOME", tmp_path)
    monkeypatch.setenv("DATASET", str(tmp_path / "nowhere"))
    with pytest.raises(SystemExit, match=r"DATASET=.*nowhere/events.parquet does not exist"):
        benchmark_suite.bench()
