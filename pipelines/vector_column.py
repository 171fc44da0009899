"""A column of vectors as a matrix, and back.

Shape legend: T rows, V numbers of a vector.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.io.text_encoder import Floats

# A list array counts its numbers in 32 bits.
MAX_LIST_NUMBERS = 2**31 - 1


def matrix(vectors: pa.ChunkedArray) -> Floats:
    """Lay a column of vectors of equal width out as float32 [T, V]; it may be read-only."""
    flat = pc.list_flatten(vectors).to_numpy()
    return np.asarray(flat, np.float32).reshape(len(vectors), -1)


def column(vectors_TV: Floats, chunk_numbers: int = MAX_LIST_NUMBERS) -> pa.ChunkedArray:
    """Turn the rows of a matrix into a column of lists, in chunks that their offsets can count."""
    rows, width = vectors_TV.shape
    per_chunk = max(chunk_numbers // max(width, 1), 1)
    firsts = range(0, rows, per_chunk)
    chunks = [_lists(vectors_TV[first : first + per_chunk]) for first in firsts]
    return pa.chunked_array(chunks or [_lists(vectors_TV)])


def _lists(vectors_TV: Floats) -> pa.ListArray:
    rows, width = vectors_TV.shape
    offsets = np.arange(rows + 1, dtype=np.int32) * width
    return pa.ListArray.from_arrays(offsets, pa.array(vectors_TV.ravel()))
