"""Text vectors of a benchmark folder's items, encoded once and kept on disk.

Shape legend: T texts, V width.
"""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import structlog
from numpy.typing import NDArray

from models.text_vectors import TextVectors
from pipelines.errors import InputError
from pipelines.io.text_encoder import Floats, open_encoder
from pipelines.knowledge.vector_text import item_text
from pipelines.settings.groups import VectorSettings

log = structlog.get_logger()

KEPT = Path(".reckoner/bench/vectors")
FIELDS = ("title", "brand", "category", "description")


def text_vectors(
    folder: Path,
    item_ids: Sequence[str],
    settings: VectorSettings,
    further: tuple[Path, str] | None = None,
) -> TextVectors:
    """Encode the texts of items 1, 2, ... of a benchmark.

    Args:
        folder: its `items.parquet` holds the items' own text.
        item_ids: own id of item 1, 2, ...; one without a text gets no vector.
        settings: of the encoder.
        further: a Parquet file and its column of texts to add, by `item_id`.

    Raises:
        InputError: a file or column is missing, or there is no text at all.
    """
    own = _own_texts(folder / "items.parquet", settings.max_chars)
    added = {} if further is None else _column(*further)
    texts = [". ".join(filter(None, (own.get(i), added.get(i)))) for i in item_ids]
    told = [number for number, text in enumerate(texts) if text]
    if not told:
        raise InputError(f"{folder}/items.parquet has no text of any item that has events")
    encoder, vectors = encode_once([texts[number] for number in told], settings)
    return TextVectors(encoder, np.array(told, np.int64) + 1, vectors)


def encode_once(
    texts: Sequence[str], settings: VectorSettings, kept: Path = KEPT
) -> tuple[str, Floats]:
    """Encode texts, or find them encoded: the file is named by encoder and contents."""
    encoder = open_encoder(settings)
    digest = hashlib.blake2b(digest_size=12)
    for text in texts:
        digest.update(text.encode() + b"\0")
    path = kept / f"{encoder.name.replace('/', '-')}-{digest.hexdigest()}.npy"
    if path.is_file():
        found: NDArray[np.float32] = np.load(path, allow_pickle=False)
        return encoder.name, found
    log.info("encoding item texts", texts=len(texts), encoder=encoder.name)
    vectors = encoder.encode(texts)
    kept.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    with partial.open("wb") as file:
        np.save(file, vectors, allow_pickle=False)
    partial.replace(path)
    return encoder.name, vectors


def _own_texts(path: Path, max_chars: int) -> dict[str, str]:
    table = _read(path)
    present = [name for name in FIELDS if name in table.column_names]
    if "title" not in present:
        raise InputError(f"{path} has no column title; it has {', '.join(table.column_names)}")
    rows = table.select(["item_id", *present]).to_pylist()
    empty: dict[str, str | list[str] | None] = {"title": "", "brand": "", "category": []}
    return {
        row["item_id"]: item_text(empty | {k: v for k, v in row.items() if v}, None, max_chars)
        for row in rows
    }


def _column(path: Path, column: str) -> dict[str, str]:
    table = _read(path)
    if column not in table.column_names:
        raise InputError(f"{path} has no column {column}; it has {', '.join(table.column_names)}")
    rows = table.select(["item_id", column]).to_pylist()
    return {row["item_id"]: str(row[column]).strip() for row in rows if row[column]}


def _read(path: Path) -> pa.Table:
    if not path.is_file():
        raise InputError(f"{path} does not exist: text vectors are made of its texts")
    try:
        table = pq.read_table(path)
    except pa.ArrowInvalid as error:
        raise InputError(f"{path} is not a readable Parquet file: {error}") from error
    if "item_id" not in table.column_names:
        raise InputError(f"{path} has no column item_id; it has {', '.join(table.column_names)}")
    return table
