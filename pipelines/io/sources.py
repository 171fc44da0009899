"""Find a delivery's files and read them as streams of raw rows."""

import difflib
import fnmatch
import re
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError
from pyarrow import fs as pa_fs

from pipelines.errors import InputError
from pipelines.io.csv_source import csv_columns, read_csv
from pipelines.io.json_source import json_columns, read_json
from pipelines.io.raw_rows import CsvStyle, Format, RawBatch, SourceFile

SUFFIXES: dict[str, Format] = {
    ".csv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
}
ROWS = 65_536
DAY = re.compile(r"(?<!\d)(\d{4}-\d{2}-\d{2})(?!\d)")
DAY_COLUMNS = ("ds", "date", "dt", "day")


def find_files(
    source: str, ds: str | None, table: str, patterns: Sequence[str] = ()
) -> list[SourceFile]:
    """List what a delivery consists of, in order of name.

    A folder whose entries carry a date in their name is read by that date alone. Where some files
    of a folder begin with the table's name (events..., items...), only those are read.

    Args:
        source: file, folder or Delta table; `{partition}` becomes the date.
        ds: the night, or None for every date.
        table: `events` or `items`.
        patterns: file names to look for; by default every known suffix.

    Raises:
        InputError: there is nothing to read.
    """
    if "{partition}" in source:
        if ds is None:
            raise InputError(
                f"source {source!r} holds {{partition}}, which --all-partitions cannot fill in: "
                "name the folder above it"
            )
        source = source.replace("{partition}", ds)
    files, path = _open(source)
    info = files.get_file_info(path)
    if info.type == pa_fs.FileType.NotFound:
        raise InputError(f"source {source} does not exist")
    if info.type == pa_fs.FileType.File:
        name = PurePosixPath(path).name
        return [SourceFile(files, path, name, _format(name) or _by_pattern(name, patterns))]
    if _is_delta(files, path):
        return [_delta_table(files, path, source, ds)]
    known = [name for name in _below(files, path) if is_named_like(name, patterns)]
    known = _of_day(known, source, ds)
    own = [name for name in known if PurePosixPath(name).name.lower().startswith(table)]
    if not known:
        what = " or ".join(patterns) if patterns else "no " + ", ".join(SUFFIXES)
        raise InputError(f"source {source} holds no file to read ({what} file)")
    return [
        SourceFile(files, f"{path}/{name}", name, _format(name) or "csv") for name in own or known
    ]


def columns_of(file: SourceFile, style: CsvStyle) -> pa.Schema:
    """A file's columns with their types; text for formats without types.

    Raises:
        InputError: the file cannot be opened as what its name says.
    """
    if file.format == "parquet":
        return _parquet(file).schema_arrow
    if file.format == "delta":
        return pa.schema(_delta(file).to_pyarrow_dataset().schema)
    names = csv_columns(file, style) if file.format == "csv" else json_columns(file)
    return pa.schema([(name, pa.string()) for name in names])


def read_rows(
    file: SourceFile, style: CsvStyle, columns: Sequence[str], nested: frozenset[str]
) -> Iterator[RawBatch]:
    """Stream a file's rows.

    Args:
        file: where.
        style: how delimited text is written.
        columns: the columns that are needed; delimited text yields all of them.
        nested: columns that may hold lists or objects in JSON.

    Raises:
        InputError: the file is damaged.
    """
    if file.format == "csv":
        yield from read_csv(file, style)
    elif file.format == "jsonl":
        yield from read_json(file, columns, nested)
    else:
        first = 1
        for batch in _typed_batches(file, columns):
            numbers = np.arange(first, first + batch.num_rows, dtype=np.int64)
            first += batch.num_rows
            yield RawBatch(file.name, batch, numbers)


def _typed_batches(file: SourceFile, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    try:
        if file.format == "parquet":
            yield from _parquet(file).iter_batches(ROWS, columns=list(columns))
            return
        where = None
        if file.day:  # the column may be a date or a text
            where = pc.field(file.day[0]).cast(pa.string()) == file.day[1]
        data = _delta(file).to_pyarrow_dataset()
        for batch in data.to_batches(columns=list(columns), filter=where, batch_size=ROWS):
            if batch.num_rows:
                yield batch
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"file {file.name} is damaged: {_one_line(error)}") from error


def _open(source: str) -> tuple[pa_fs.FileSystem, str]:
    if "://" not in source:
        return pa_fs.LocalFileSystem(), source.rstrip("/") or "/"
    try:
        files, path = pa_fs.FileSystem.from_uri(source)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InputError(f"source {source} cannot be opened: {_one_line(error)}") from error
    return files, path.rstrip("/")


def _below(files: pa_fs.FileSystem, path: str) -> list[str]:
    found = files.get_file_info(pa_fs.FileSelector(path, recursive=True))
    names = [i.path[len(path) + 1 :] for i in found if i.type == pa_fs.FileType.File]
    # A name that begins with a dot or an underscore is a tool's own: markers, logs, checksums.
    return sorted(name for name in names if not any(part[0] in "._" for part in name.split("/")))


def _of_day(names: list[str], source: str, ds: str | None) -> list[str]:
    days = {name: match[1] for name in names if (match := DAY.search(name))}
    if not days:
        return names
    if ds is None:
        return list(days)
    chosen = [name for name, day in days.items() if day == ds]
    if not chosen:
        near = difflib.get_close_matches(ds, sorted(set(days.values())), n=1, cutoff=0.0)[0]
        raise InputError(f"source {source} has files by date, but none for {ds} (it has {near})")
    return chosen


def is_named_like(name: str, patterns: Sequence[str]) -> bool:
    """Say whether a file's name fits one of the patterns, or a known suffix where there is none."""
    base = PurePosixPath(name).name
    plain = base.removesuffix(".gz")
    if patterns:
        return any(fnmatch.fnmatch(plain, p) or fnmatch.fnmatch(base, p) for p in patterns)
    return _format(name) is not None


def _by_pattern(name: str, patterns: Sequence[str]) -> Format:
    if patterns and is_named_like(name, patterns):
        return "csv"
    raise InputError(
        f"source {name} is of an unknown kind: it should end in {', '.join(SUFFIXES)}, or a "
        "mapping file should declare its format"
    )


def _format(name: str) -> Format | None:
    return SUFFIXES.get(PurePosixPath(name.removesuffix(".gz")).suffix.lower())


def _is_delta(files: pa_fs.FileSystem, path: str) -> bool:
    return bool(files.get_file_info(f"{path}/_delta_log").type == pa_fs.FileType.Directory)


def _delta_table(files: pa_fs.FileSystem, path: str, source: str, ds: str | None) -> SourceFile:
    handle = _delta(SourceFile(files, source, source, "delta"))
    by_day = [name for name in handle.metadata().partition_columns if name in DAY_COLUMNS]
    day = (by_day[0], ds) if by_day and ds else None
    return SourceFile(files, source, PurePosixPath(path).name, "delta", day)


def _delta(file: SourceFile) -> DeltaTable:
    try:
        return DeltaTable(file.path)
    except (DeltaError, OSError) as error:
        raise InputError(f"Delta table {file.path} cannot be read: {_one_line(error)}") from error


def _parquet(file: SourceFile) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(file.files.open_input_file(file.path))
    except (pa.ArrowException, OSError) as error:
        raise InputError(
            f"file {file.name} is not a readable Parquet file: {_one_line(error)}"
        ) from error


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
