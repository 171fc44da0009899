"""Read a benchmark folder, `events.parquet` in the contract's columns, into sequences."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from models.sequences import SequenceStore
from pipelines.errors import InputError

REQUIRED = ("user_id", "item_id", "ts")
OPTIONAL = ("position", "action")
# Order-only files count positions in `ts`, from 1970 on; no log of real behaviour is that old.
FIRST_REAL_TIME = 365 * 24 * 3600
MICROS = 1_000_000


@dataclass(frozen=True, eq=False)
class Dataset:
    """All events of a folder.

    Attributes:
        name: The folder's name.
        store: One row per user, ordered by user id; item ids from 1 in the order of their names;
            times in microseconds, so that cuts and orders are as fine as the file's (see
            `in_seconds`).
        items: The items' own ids; item id i is items[i - 1].
        order_only: Whether times only count positions.
    """

    name: str
    store: SequenceStore
    items: NDArray[Any]
    order_only: bool


def in_seconds(store: SequenceStore) -> SequenceStore:
    """Give rows the whole seconds that rankers read."""
    return replace(store, times=store.times // MICROS)


def read_dataset(folder: Path) -> Dataset:
    """Read and order the events of a folder.

    Equal times are ordered by `position` where the file has it (rows without one last, as in the
    nightly sequences), then by item id. Actions, where the file has them, get the codes 1, 2, ...
    in the order of their names.

    Raises:
        InputError: If the file is missing, unreadable or empty, or a column is missing, of the
            wrong type or has an empty value.
    """
    path = folder / "events.parquet"
    if not path.is_file():
        raise InputError(f"{path} does not exist: --dataset names a folder with events.parquet")
    try:
        names = pq.read_schema(path).names
        wanted = [*REQUIRED, *(name for name in OPTIONAL if name in names)]
        missing = [name for name in REQUIRED if name not in names]
        if missing:
            raise InputError(
                f"{path} has no column {', '.join(missing)}; it has {', '.join(names)}"
            )
        table = pq.read_table(path, columns=wanted)
    except pa.ArrowInvalid as error:
        raise InputError(f"{path} is not a readable Parquet file: {error}") from error
    if table.num_rows == 0:
        raise InputError(f"{path} has no rows")
    for name in wanted:
        if name != "position" and table[name].null_count:
            row = pc.index(pc.is_null(table[name]), pa.scalar(True)).as_py()
            raise InputError(f"{path} row {row + 1}: {name} is empty")
    micros = _micros(path, table["ts"])
    users, user_of = _codes(table["user_id"])
    items, item_of = _codes(table["item_id"])
    position = np.zeros(len(micros), np.int64)
    if "position" in wanted:
        kind = table["position"].type
        if not (pa.types.is_integer(kind) or pa.types.is_null(kind)):
            raise InputError(f"{path}: position must be an integer, found {kind}")
        position = table["position"].cast(pa.int64()).fill_null(np.iinfo(np.int64).max).to_numpy()
    action_of = np.zeros(len(micros), np.int64)
    if "action" in wanted:
        action_of = _codes(table["action"])[1] + 1
    order = np.lexsort((item_of, position, micros, user_of))
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.bincount(user_of))])
    store = SequenceStore.from_arrays(
        item_of[order] + 1, offsets, micros[order], action_of[order], users.astype(object)
    )
    return Dataset(folder.name, store, items, int(micros.max()) < FIRST_REAL_TIME * MICROS)


def _micros(path: Path, column: pa.ChunkedArray) -> NDArray[np.int64]:
    if not pa.types.is_timestamp(column.type):
        raise InputError(f"{path}: ts must be a timestamp, found {column.type}")
    # Finer parts of a second than these order nothing.
    micros = column.cast(pa.timestamp("us", tz=column.type.tz), safe=False)
    numbers: NDArray[np.int64] = micros.cast(pa.int64()).to_numpy()
    return numbers


def _codes(column: pa.ChunkedArray) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Number the distinct values of a column in sorted order: (values, code per row)."""
    values = np.array(column.cast(pa.string()).to_pylist(), dtype=object)
    found = pc.unique(pa.array(values, pa.string())).to_pylist()
    names = np.array(sorted(found), dtype=object)
    place = {name: code for code, name in enumerate(names)}
    return names, np.fromiter((place[value] for value in values), np.int64, len(values))
