"""A catalogue of 1e5 items trains and scores in bounded memory, whole and over two processes."""

import pytest

from pipelines.benchmark_scale import MIB, Stretch, measure

ITEMS = 100_000


@pytest.mark.parametrize("workers", [1, 2])
def test_a_large_catalogue_holds_one_number_of_state_per_row(workers: int) -> None:
    stretch = Stretch(ITEMS, steps=20, users=32, dim=16, length=20, workers=workers)
    reports = measure(stretch)
    assert len(reports) == workers
    rows = -(-(ITEMS + 1) // workers)
    for report in reports:
        # The vectors, and one accumulator per row; Adam would hold three times the vectors.
        assert report["table_mb"] == pytest.approx(rows * (16 + 1) * 4 / MIB, abs=0.1)
        first, last = report["loss"]
        assert last < first
