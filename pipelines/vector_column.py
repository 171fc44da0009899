"""A column of vectors as a matrix, and back.

Shape legend: T rows, V numbers of a vector.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.io.text_encoder import Floats


def matrix(vectors: pa.ChunkedArray) -> Floats:
    """Lay a column of vectors of equal width out as float32 [T, V]; it may be read-only."""
    flat = pc.list_flatten(vectors).to_numpy()
    return np.asarray(flat, np.float32).reshape(len(vectors), -1)


def column(vectors_TV: Floats) -> pa.ListArray:
    """Turn the rows of a matrix into a column of lists."""
    rows, width = vectors_TV.shape
    offsets = np.arange(rows + 1, dtype=np.int32) * width
    return pa.ListArray.from_arrays(offsets, pa.array(vectors_TV.ravel()))
