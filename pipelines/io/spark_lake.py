"""Delta in Spark without a JAR: a Python Data Source over delta-rs.

Executors read and write Parquet through the same object store client as the driver. A write leaves
staged files and a manifest; the driver reads the manifest and makes the one commit, because Spark
runs a data source's own `commit` in a separate process that knows nothing of the run.
"""

import json
import re
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession, functions
from pyspark.sql.datasource import (
    DataSource,
    DataSourceArrowWriter,
    DataSourceReader,
    InputPartition,
    WriterCommitMessage,
)
from pyspark.sql.pandas.types import from_arrow_schema, to_arrow_schema
from pyspark.sql.types import StructType

from pipelines.errors import InputError, ServiceUnavailable
from pipelines.io.delta_table import trouble
from pipelines.io.lake import Lake
from pipelines.io.staging import StagedFile, stage_file, table_files
from pipelines.tables import CONTRACTS

FORMAT = "reckoner_lake"
BYTES_PER_TASK = 32 << 20
BROADCAST_BYTES = 32 << 20
MANIFESTS = "staged"  # no leading underscore: vacuum leaves hidden folders alone for ever
RAISED = re.compile(r"pipelines\.errors\.(InputError|ServiceUnavailable): (.+)")
MANIFEST = pa.schema(
    [
        ("path", pa.string()),
        ("size", pa.int64()),
        ("rows", pa.int64()),
        ("content", pa.uint64()),
        ("stats", pa.string()),
    ]
)


def spark_schema(schema: pa.Schema) -> StructType:
    """The Spark form of an Arrow schema, every column nullable."""
    loose = pa.schema([column.with_nullable(True) for column in schema])
    return from_arrow_schema(loose)


def read_table(
    spark: SparkSession,
    lake: Lake,
    table: str,
    partitions: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
) -> DataFrame:
    """Read partitions (all where None) of a table's pinned version as a DataFrame.

    Each partition's fingerprint is recorded in the lake's run. A table that does not exist reads
    as no rows.
    """
    contract = CONTRACTS[table]
    names = list(columns) if columns else contract.schema.names
    schema = spark_schema(pa.schema([contract.schema.field(name) for name in names]))
    version = lake.version(table)
    if version is not None:
        lake.run.saw(table, version)
    for ds in partitions or []:
        lake.run.used(table, ds, lake.content(table, ds))
    files = lake.files(table, partitions)
    if not files:
        return spark.createDataFrame([], schema)
    reader = spark.read.format(FORMAT).schema(schema)
    options = _options(lake, table) | {"tasks": json.dumps(_tasks(files))}
    return reader.options(**options).load()


def read_index(spark: SparkSession, lake: Lake) -> DataFrame:
    """Read item_id and item_idx, sent whole to every executor where the index is small."""
    index = read_table(spark, lake, "item_index", columns=["item_id", "item_idx"])
    is_small = sum(lake.files("item_index").values()) <= BROADCAST_BYTES
    return functions.broadcast(index) if is_small else index


def stage_frame(frame: DataFrame, lake: Lake, table: str, ds: str | None) -> list[StagedFile]:
    """Write a DataFrame's rows as uncommitted files of a partition, on the executors.

    Raises:
        InputError: a row breaks the contract, or a file that the frame reads is corrupt.
        ServiceUnavailable: the object store did not answer an executor.
    """
    lake.ensure(table)
    manifest = f"{MANIFESTS}-{uuid.uuid4()}.parquet"
    options = _options(lake, table) | {"ds": ds or "", "manifest": manifest}
    ordered = frame.select(CONTRACTS[table].stored.names)
    with executor_errors():
        ordered.write.format(FORMAT).options(**options).mode("append").save()
    store = table_files(lake.table_uri(table), lake.storage_options)
    with store.open_input_file(manifest) as stream:
        staged = [StagedFile(**piece) for piece in pq.read_table(stream).to_pylist()]
    store.delete_file(manifest)
    return staged


@contextmanager
def executor_errors() -> Iterator[None]:
    """Turn what our own code raised on an executor back into the error that it was."""
    try:
        yield
    except PySparkException as error:
        raised = RAISED.search(str(error))
        if raised is None:
            raise
        kind = InputError if raised[1] == "InputError" else ServiceUnavailable
        raise kind(raised[2].strip()) from error


def _tasks(files: dict[str, int]) -> list[list[str]]:
    """Pack small files together, so that a year of daily files is not a task each."""
    tasks: list[list[str]] = []
    room = 0
    for path, size in files.items():
        if not tasks or size > room:
            tasks.append([])
            room = BYTES_PER_TASK
        tasks[-1].append(path)
        room -= size
    return tasks


def _options(lake: Lake, table: str) -> dict[str, str]:
    return {
        "table": table,
        "uri": lake.table_uri(table),
        "storage": json.dumps(lake.storage_options),
    }


@dataclass
class Files(InputPartition):
    """Live files of the table that one task reads."""

    paths: list[str]


@dataclass
class Staged(WriterCommitMessage):
    """What a task wrote; None where it had no rows."""

    file: StagedFile | None


class LakeSource(DataSource):
    """The `reckoner_lake` format."""

    @classmethod
    def name(cls) -> str:
        """The format's name."""
        return FORMAT

    def schema(self) -> StructType:
        """The contract's columns."""
        return spark_schema(CONTRACTS[self.options["table"]].schema)

    def reader(self, schema: StructType) -> "LakeReader":
        """Read the files that the options name."""
        return LakeReader(schema, dict(self.options))

    def writer(self, schema: StructType, overwrite: bool) -> "LakeWriter":
        """Stage files for the partition that the options name."""
        return LakeWriter(dict(self.options))


class LakeReader(DataSourceReader):
    """Streams Arrow batches out of the listed files."""

    def __init__(self, schema: StructType, options: dict[str, str]) -> None:
        self.wanted = schema
        self.options = options

    def partitions(self) -> list[InputPartition]:
        """Tasks as the driver packed them."""
        return [Files(paths) for paths in json.loads(self.options["tasks"])]

    def read(self, partition: InputPartition) -> Iterator[pa.RecordBatch]:
        """Yield the files' rows; columns that a file lacks are null."""
        assert isinstance(partition, Files)
        schema = to_arrow_schema(self.wanted, timezone="UTC")
        store = table_files(self.options["uri"], json.loads(self.options["storage"]))
        for path in partition.paths:
            try:
                yield from self._file(store, path, schema)
            except (OSError, pa.ArrowInvalid) as error:
                name = self.options["table"]
                raise trouble(
                    f"{self.options['uri']}/{path}",
                    f"table {name}: a data file cannot be read; restore it, or publish its "
                    "partition again; it is",
                    error,
                ) from error

    def _file(self, store: Any, path: str, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        with store.open_input_file(path) as stream:
            source = pq.ParquetFile(stream)
            present = [name for name in schema.names if name in source.schema_arrow.names]
            for batch in source.iter_batches(columns=present):
                yield _complete(batch, schema, path)


def _complete(batch: pa.RecordBatch, schema: pa.Schema, path: str) -> pa.RecordBatch:
    columns = []
    for column in schema:
        if column.name == "ds":
            ds = path.split("ds=", 1)[1].split("/", 1)[0]
            columns.append(pa.array([ds] * batch.num_rows, pa.string()))
        elif column.name in batch.schema.names:
            columns.append(batch[column.name].cast(column.type))
        else:
            columns.append(pa.nulls(batch.num_rows, column.type))
    return pa.RecordBatch.from_arrays(columns, schema=schema)


class LakeWriter(DataSourceArrowWriter):
    """Stages one file per task and leaves the list of them as a manifest."""

    def __init__(self, options: dict[str, str]) -> None:
        self.options = options

    def write(self, iterator: Iterator[pa.RecordBatch]) -> Staged:
        """Check and write a task's rows."""
        storage = json.loads(self.options["storage"])
        ds = self.options["ds"] or None
        return Staged(stage_file(self.options["table"], self.options["uri"], storage, ds, iterator))

    def commit(self, messages: list[WriterCommitMessage | None]) -> None:
        """Write the manifest; the Delta commit is the driver's."""
        staged = [asdict(file) for file in _files(messages)]
        with self._store().open_output_stream(self.options["manifest"]) as stream:
            pq.write_table(pa.Table.from_pylist(staged, schema=MANIFEST), stream)

    def abort(self, messages: list[WriterCommitMessage | None]) -> None:
        """Delete what the tasks wrote."""
        for file in _files(messages):
            self._store().delete_file(file.path)

    def _store(self) -> Any:
        return table_files(self.options["uri"], json.loads(self.options["storage"]))


def _files(messages: Sequence[WriterCommitMessage | None]) -> list[StagedFile]:
    staged = [message.file for message in messages if isinstance(message, Staged)]
    return [file for file in staged if file is not None]
