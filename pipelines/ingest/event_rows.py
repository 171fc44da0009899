"""Make one row per event: merge, drop what repeats, and put the rest in one order."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.tables.behaviour import EVENTS

KEY = ("user_id", "ts", "item_id", "action")
# The row that stands for an event told more than once: the earliest delivery's, then the least.
TOLD = ("ingested_ds", "position", "session_id", "surface", "query", "value")
DAY_US = 86_400_000_000


@dataclass(frozen=True)
class Tidy:
    """One row per event, and how many rows that took."""

    rows: pa.Table
    duplicates: int
    repeated: int


def days_of(ts: pa.ChunkedArray | pa.Array) -> npt.NDArray[np.int64]:
    """The UTC day of each time, as days since 1970."""
    micros = ts.cast(pa.int64()).to_numpy()
    days: npt.NDArray[np.int64] = np.floor_divide(micros, DAY_US)
    return days


def merge_within(rows: pa.Table, unit: str) -> pa.Table:
    """Merge events alike within a unit of time: at its start, with their values summed."""
    floored = pc.floor_temporal(rows["ts"], unit=unit)
    rows = rows.set_column(rows.schema.get_field_index("ts"), "ts", floored)
    others = [n for n in rows.schema.names if n not in KEY]
    how = [(n, "sum" if n == "value" else "min") for n in others]
    merged = rows.group_by(list(KEY), use_threads=False).aggregate(how)
    names = {f"{name}_{function}": name for name, function in how}
    merged = merged.rename_columns([names.get(n, n) for n in merged.schema.names])
    return merged.select(rows.schema.names).cast(rows.schema)


def one_row_per_event(rows: pa.Table) -> Tidy:
    """Sort and keep one row per event key.

    Exact duplicates differ in nothing but the file they came from; repeated events share the key
    and differ in something else. What stays depends on the rows alone, not on their order.
    """
    if not rows.num_rows:
        return Tidy(rows, 0, 0)
    told = [name for name in TOLD if name in rows.schema.names]
    rows = _sorted(rows, [*KEY, *told, "source_file"])
    again = _like_previous(rows, KEY)
    exact = again & _like_previous(rows, told)
    kept = rows.filter(pa.array(~again)) if again.any() else rows
    return Tidy(kept, int(exact.sum()), int((again & ~exact).sum()))


def merge_deliveries(existing: pa.Table, new: pa.Table, ingested_ds: str) -> pa.Table:
    """Put one delivery's rows of a date in the place of those it brought before.

    The result is a function of the set of deliveries: an event that several brought is the
    earliest's, in whatever order they were ingested.
    """
    names = [name for name in EVENTS.schema.names if name != "ds"]
    others = existing.filter(pc.not_equal(existing["ingested_ds"], ingested_ds)).select(names)
    if not others.num_rows:
        return new.select(names)
    both = pa.concat_tables([others, new.select(names).cast(others.schema)])
    return one_row_per_event(both).rows


def _sorted(rows: pa.Table, by: list[str]) -> pa.Table:
    # Ids repeat a lot: sorting their ranks is several times faster than sorting the texts.
    keys = [ranks for name in by if (ranks := _ranks(rows[name])) is not None]
    order = np.lexsort(keys[::-1])
    return rows.take(pa.array(order)).combine_chunks()


def _ranks(column: pa.ChunkedArray) -> npt.NDArray[np.int64] | None:
    """Numbers in the order of the cells, nulls last; None where all cells are alike."""
    if column.null_count == len(column):
        return None
    if pa.types.is_string(column.type):
        coded = pc.dictionary_encode(column).combine_chunks()
        if isinstance(coded, pa.ChunkedArray):
            coded = coded.chunk(0)
        if len(coded.dictionary) == 1 and not coded.null_count:
            return None
        order = pc.array_sort_indices(coded.dictionary).to_numpy()
        rank = np.empty(len(order) + 1, dtype=np.int64)
        rank[order] = np.arange(len(order))
        rank[-1] = len(order)
        codes = pc.fill_null(coded.indices, len(order)).to_numpy()
        ranks: npt.NDArray[np.int64] = rank[codes]
        return ranks
    # By default nulls come last.
    dense = pc.rank(column, sort_keys="ascending", tiebreaker="dense")
    return np.asarray(dense).astype(np.int64)


def _like_previous(rows: pa.Table, names: list[str] | tuple[str, ...]) -> npt.NDArray[np.bool_]:
    """Mark rows whose cells all equal the row before; two nulls are equal."""
    like = np.ones(rows.num_rows, dtype=bool)
    like[0] = False
    for name in names:
        column = rows[name]
        here, before = column.slice(1), column.slice(0, rows.num_rows - 1)
        same = pc.fill_null(pc.equal(here, before), False)
        both = pc.and_(pc.is_null(here), pc.is_null(before))
        like[1:] &= pc.or_(same, both).to_numpy()
    return like
