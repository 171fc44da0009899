"""Vectors go into a column and come back."""

import numpy as np
import pytest

from pipelines.vector_column import column, matrix


@pytest.mark.parametrize(("rows", "chunks"), [(0, 1), (2, 1), (3, 2), (7, 4)])
def test_vectors_come_back_from_a_column_in_chunks(rows: int, chunks: int) -> None:
    vectors = np.arange(rows * 3, dtype=np.float32).reshape(rows, 3)
    lists = column(vectors, chunk_numbers=7)
    assert lists.num_chunks == chunks
    assert lists.to_pylist() == vectors.tolist()
    if rows:
        assert np.array_equal(matrix(lists), vectors)
