"""An order-independent fingerprint of rows: equal contents give equal hashes, on any machine.

Every cell becomes a 64-bit number, a row mixes its cells with their column's name, and the rows are
summed modulo 2**64. A sum can be formed piecewise by executors and does not depend on file layout.
"""

import hashlib

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

U64 = npt.NDArray[np.uint64]
NULL = np.uint64(0x9E3779B97F4A7C15)


def hash_rows(rows: pa.Table | pa.RecordBatch) -> int:
    """Sum the hashes of the rows, modulo 2**64."""
    total = np.zeros(rows.num_rows, dtype=np.uint64)
    for name in sorted(rows.schema.names):
        column = rows[name]
        array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
        if isinstance(array, pa.ChunkedArray):
            array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], array.type)
        total += _mix(_cells(array) ^ _text(name))
    return int(_mix(total).sum(dtype=np.uint64))


def combine(parts: list[int]) -> str:
    """Join the sums of several pieces into the fingerprint that is recorded."""
    return f"{sum(parts) % 2**64:016x}"


def _mix(x: U64) -> U64:
    """Scramble 64-bit numbers (the finaliser of splitmix64)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _text(value: str) -> np.uint64:
    digest = hashlib.blake2b(value.encode(), digest_size=8).digest()
    return np.uint64(int.from_bytes(digest, "little"))


def _cells(array: pa.Array) -> U64:
    kind = array.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_map(kind):
        cells = _lists(array)
    elif pa.types.is_struct(kind):
        cells = np.zeros(len(array), dtype=np.uint64)
        for index in range(kind.num_fields):
            name = kind.field(index).name
            cells += _mix(_cells(pc.struct_field(array, [index])) ^ _text(name))
    elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
        encoded = array.dictionary_encode()
        words = [_text(word) for word in encoded.dictionary.to_pylist()]
        table = np.array([*words, NULL], dtype=np.uint64)
        codes = pc.fill_null(encoded.indices, len(words)).to_numpy(zero_copy_only=False)
        cells = table[codes]
    else:
        cells = _numbers(array)
    if array.null_count:
        cells = np.where(array.is_valid().to_numpy(zero_copy_only=False), cells, NULL)
    return _mix(cells + np.uint64(1))


def _numbers(array: pa.Array) -> U64:
    kind = array.type
    if pa.types.is_null(kind):
        return np.zeros(len(array), dtype=np.uint64)
    if pa.types.is_boolean(kind):
        array = array.cast(pa.int8())
    elif pa.types.is_timestamp(kind):
        array = array.cast(pa.int64())
    if pa.types.is_floating(kind):
        values = pc.fill_null(array.cast(pa.float64()), 0.0).to_numpy(zero_copy_only=False)
        bits: U64 = (values + 0.0).view(np.uint64)  # adding zero folds -0.0 into 0.0
        return bits
    values = pc.fill_null(array.cast(pa.int64()), 0).to_numpy(zero_copy_only=False)
    words: U64 = np.ascontiguousarray(values).view(np.uint64)
    return words


def _lists(array: pa.Array) -> U64:
    """Hash lists by element and place; a map's entries are hashed as an unordered set."""
    offsets = array.offsets.to_numpy(zero_copy_only=False).astype(np.int64)
    lengths = np.diff(offsets)
    if pa.types.is_map(array.type):
        inner = _cells(pa.StructArray.from_arrays([array.keys, array.items], ["key", "value"]))
    else:
        inner = _cells(array.values)
        first = np.zeros(len(inner), dtype=np.int64)
        first[offsets[0] : offsets[-1]] = np.repeat(offsets[:-1], lengths)
        place = np.arange(len(inner), dtype=np.int64) - first + 1
        inner = _mix(inner + place.astype(np.uint64) * NULL)
    sums = np.concatenate([np.zeros(1, dtype=np.uint64), np.cumsum(inner, dtype=np.uint64)])
    cells: U64 = sums[offsets[1:]] - sums[offsets[:-1]] + lengths.astype(np.uint64)
    return cells
