"""Open, create and grow one Delta table; every trouble with it becomes one line for the user."""

import os
from pathlib import Path

from deltalake import CommitProperties, DeltaTable, Schema
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError

from pipelines.errors import InputError, ServiceUnavailable
from pipelines.tables.contract import Contract

CONFIGURATION = {
    # Staleness is judged from the commits' own metadata, so the log is kept for ten years.
    "delta.logRetentionDuration": "interval 3650 days",
    "delta.deletedFileRetentionDuration": "interval 7 days",
    "delta.checkpointInterval": "50",
}
# With these the constraints hold from the first version on; added later, they would race. Writer
# version 7 with reader version 1 would be raised to reader version 2, which Polars refuses to read.
CONSTRAINED = {"delta.minReaderVersion": "1", "delta.minWriterVersion": "4"}
VERSION_KEY = "reckoner.contractVersion"
READABLE = {"timestampNtz", "variantType", "variantType-preview"}  # what delta-rs's scan reads
WORDS = {
    "columnMapping": "column mapping",
    "deletionVectors": "deletion vectors",
    "v2Checkpoint": "v2 checkpoints",
}


def is_remote(uri: str) -> bool:
    """Say whether a URI is on an object store rather than a local path."""
    return "://" in uri and not uri.startswith("file://")


def trouble(uri: str, what: str, error: Exception) -> InputError | ServiceUnavailable:
    """Name what could not be done at a URI; an object store that fails is an outage (exit 4)."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    message = f"{what} at {uri}: {lines[0]}"
    if is_remote(uri) and isinstance(error, OSError) and not isinstance(error, PermissionError):
        return ServiceUnavailable(message)
    return InputError(message)


def open_table(name: str, uri: str, storage_options: dict[str, str]) -> DeltaTable | None:
    """Open the newest version of a table; None where there is no table.

    Raises:
        InputError: the log cannot be read, or the table needs a feature that we cannot read.
        ServiceUnavailable: the object store did not answer.
    """
    if not is_remote(uri) and not (Path(uri.removeprefix("file://")) / "_delta_log").is_dir():
        return None
    try:
        handle = DeltaTable(uri, storage_options=storage_options or None)
    except TableNotFoundError as error:
        if "unknown scheme" in str(error).lower():
            raise trouble(uri, f"table {name} cannot be opened", error) from error
        return None
    except (DeltaError, OSError) as error:
        text = str(error).lower()
        for words in WORDS.values():
            if words in text:
                raise _unreadable(name, uri, words) from error
        raise trouble(uri, f"table {name} cannot be opened", error) from error
    features = set(handle.protocol().reader_features or [])
    if handle.metadata().configuration.get("delta.columnMapping.mode", "none") != "none":
        features.add("columnMapping")
    for feature in sorted(features - READABLE):
        raise _unreadable(name, uri, WORDS.get(feature, f"the feature {feature}"))
    return handle


def create_table(contract: Contract, uri: str, storage_options: dict[str, str]) -> None:
    """Create a table from its contract in one commit, unless another writer was first.

    Raises:
        InputError: the place cannot be written.
        ServiceUnavailable: the object store did not answer.
    """
    configuration = {**CONFIGURATION, VERSION_KEY: str(contract.version)}
    if contract.change_feed:
        configuration["delta.enableChangeDataFeed"] = "true"
    if contract.checks:
        configuration |= CONSTRAINED
        configuration |= {f"delta.constraints.{check.name}": check.sql for check in contract.checks}
    try:
        if not is_remote(uri):
            os.makedirs(uri.removeprefix("file://"), exist_ok=True)
        DeltaTable.create(
            uri,
            contract.schema,
            mode="ignore",
            partition_by=["ds"] if contract.by_ds else None,
            description=contract.about,
            configuration=configuration,
            storage_options=storage_options or None,
            raise_if_key_not_exists=False,
            # A retry would lay a second creation on top of the one that was first.
            commit_properties=CommitProperties(max_commit_retries=0),
        )
    except CommitFailedError:
        return  # another writer created it first
    except (DeltaError, OSError) as error:
        raise trouble(uri, f"table {contract.name} cannot be written", error) from error


def grow_table(contract: Contract, handle: DeltaTable) -> bool:
    """Add the contract's new columns and note its version; say whether anything changed.

    Raises:
        InputError: the table follows a newer contract, or a column has another type.
        CommitFailedError: another writer committed in between; open the table and try again.
    """
    written_by = int(handle.metadata().configuration.get(VERSION_KEY) or 0)
    if written_by > contract.version:
        raise InputError(
            f"table {contract.name} follows contract version {written_by}, this code knows "
            f"{contract.version}: upgrade Reckoner before writing it"
        )
    present = {field.name: field.type for field in handle.schema().fields}
    wanted = Schema.from_arrow(contract.schema)
    for field in wanted.fields:
        if field.name in present and present[field.name] != field.type:
            raise InputError(
                f"table {contract.name}: column {field.name} is {present[field.name]}, the "
                f"contract says {field.type}; schemas only grow, so move the old table away"
            )
    added = [field for field in wanted.fields if field.name not in present]
    for field in added:
        if not field.nullable:
            raise InputError(
                f"table {contract.name} at {handle.table_uri} lacks the required column "
                f"{field.name}; only optional columns can be added to a table"
            )
    if added:
        handle.alter.add_columns(added)
    if written_by < contract.version:
        handle.alter.set_table_properties(
            {VERSION_KEY: str(contract.version)}, raise_if_not_exists=False
        )
    return bool(added) or written_by < contract.version


def _unreadable(name: str, uri: str, words: str) -> InputError:
    return InputError(
        f"table {name} at {uri} uses {words}, which this reader cannot read; "
        "rewrite the table without it"
    )
