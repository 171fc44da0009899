"""Write Parquet files into a table's folder without committing them.

A staged file is invisible to readers until a commit names it; one that is never committed is an
orphan that the next vacuum removes. Spark executors, Ray actors and the driver all stage this way.
"""

import json
import os
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake.fs import DeltaStorageHandler
from pyarrow import fs as pa_fs

from pipelines.errors import InputError
from pipelines.io.content_hash import hash_rows
from pipelines.io.delta_table import trouble
from pipelines.tables import CONTRACTS

ROWS_PER_GROUP = 131_072
STATISTICS = (pa.types.is_integer, pa.types.is_floating, pa.types.is_string)


@dataclass(frozen=True)
class StagedFile:
    """A Parquet file that waits for its commit; `content` is the sum of its row hashes."""

    path: str
    size: int
    rows: int
    content: int
    stats: str


def table_files(table_uri: str, storage_options: dict[str, str]) -> pa_fs.FileSystem:
    """Open a table's folder as a pyarrow filesystem, on any store that delta-rs knows.

    A local folder is opened natively: a filesystem written in Python keeps reader threads that can
    abort the interpreter while it shuts down (seen in one of six short commands).
    """
    if "://" in table_uri:
        return pa_fs.PyFileSystem(DeltaStorageHandler(table_uri, options=storage_options or None))
    return pa_fs.SubTreeFileSystem(os.path.abspath(table_uri), pa_fs.LocalFileSystem())


def stage_file(
    table: str,
    table_uri: str,
    storage_options: dict[str, str],
    ds: str | None,
    batches: Iterable[pa.Table | pa.RecordBatch],
) -> StagedFile | None:
    """Write one file from batches in the contract's columns; None where there is no row.

    Raises:
        InputError: a row breaks the contract (the partial file is deleted), or the lake cannot
            be written.
        ServiceUnavailable: the object store did not answer.
    """
    contract = CONTRACTS[table]
    folder = f"ds={ds}/" if contract.by_ds else ""
    path = f"{folder}part-{uuid.uuid4()}.parquet"
    files = table_files(table_uri, storage_options)
    writer: pq.ParquetWriter | None = None
    rows = content = 0
    bounds: dict[str, list[Any]] = {}
    try:
        for batch in batches:
            if not batch.num_rows:
                continue
            piece = contract.conform(pa.table(batch))
            broken = contract.broken_rules(piece)
            if broken:
                raise InputError(f"table {table} ds={ds}: " + "; ".join(broken))
            if writer is None:
                if folder:
                    files.create_dir(folder.rstrip("/"))
                sink = files.open_output_stream(path)
                writer = pq.ParquetWriter(sink, contract.stored, compression="zstd")
            writer.write_table(piece, row_group_size=ROWS_PER_GROUP)
            rows += piece.num_rows
            content = (content + hash_rows(piece)) % 2**64
            _widen(bounds, piece)
        if writer is None:
            return None
        writer.close()
        sink.close()
        size = files.get_file_info(path).size
    except OSError as error:  # what was written of the file is an orphan that vacuum removes
        raise trouble(table_uri, f"table {table} cannot be written", error) from error
    except BaseException:
        if writer is not None:
            writer.close()
            sink.close()
            files.delete_file(path)
        raise
    return StagedFile(path, size, rows, content, _delta_stats(rows, bounds))


def _widen(bounds: dict[str, list[Any]], piece: pa.Table) -> None:
    """Keep each plain column's least and greatest value: readers skip files by them."""
    for column in piece.schema:
        if not any(is_kind(column.type) for is_kind in STATISTICS):
            continue
        extent = pc.min_max(piece[column.name]).as_py()
        if extent["min"] is None:
            continue
        low, high = bounds.get(column.name, [extent["min"], extent["max"]])
        bounds[column.name] = [min(low, extent["min"]), max(high, extent["max"])]


def _delta_stats(rows: int, bounds: dict[str, list[Any]]) -> str:
    # Long texts are left out: Delta would allow a cut prefix, but only with a special upper bound.
    kept = {k: v for k, v in bounds.items() if not isinstance(v[1], str) or len(v[1]) <= 64}
    return json.dumps(
        {
            "numRecords": rows,
            "minValues": {name: extent[0] for name, extent in kept.items()},
            "maxValues": {name: extent[1] for name, extent in kept.items()},
        }
    )
