"""Texts as vectors without a model: hashed words and their pieces, projected at random.

Nothing is learned, downloaded or drawn: a text has the same vector on any machine. Texts that share
words are near each other; synonyms are not.

Source: Weinberger et al., Feature hashing for large scale multitask learning, ICML 2009; signs and
sparsity as Achlioptas, Database-friendly random projections, PODS 2001.

Shape legend: T texts, V width, F features of a text, S places that a feature falls on.
"""

import unicodedata
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from feature_jobs.item_knowledge import STOP_WORDS, WORD

Floats = npt.NDArray[np.float32]
VERSION = "hashed-1"
PLACES = 8
PIECE = 4
# A word counts as much as some four of its pieces: kinship of spelling must not outweigh meaning.
WORD_WEIGHT, PAIR_WEIGHT, PIECE_WEIGHT = 1.0, 0.5, 0.25
GOLDEN = np.uint64(0x9E3779B97F4A7C15)


class HashedEncoder:
    """Encodes texts by the words, pairs of words and pieces of words that they hold.

    Args:
        width: coordinates V.
    """

    def __init__(self, width: int) -> None:
        self.width = width
        self.name = f"{VERSION}-{width}"

    def encode(self, texts: Sequence[str]) -> Floats:
        """Turn texts into vectors of unit length: float32 [T, V]."""
        vectors_TV = np.zeros((len(texts), self.width), np.float32)
        for row, text in enumerate(texts):
            vectors_TV[row] = self._vector(text)
        return vectors_TV

    def _vector(self, text: str) -> npt.NDArray[np.float64]:
        counts = Counter(features(text))
        names = np.fromiter((_number(name) for name, _ in counts), np.uint64, len(counts))
        weights_F = np.fromiter(
            (weight * (1 + np.log(n)) for (_, weight), n in counts.items()), np.float64, len(counts)
        )
        draws_FS = _mix(names[:, None] + GOLDEN * np.arange(1, PLACES + 1, dtype=np.uint64))
        places_FS = (draws_FS >> np.uint64(1)) % np.uint64(self.width)
        signs_FS = np.where(draws_FS & np.uint64(1), 1.0, -1.0)
        summed_V = np.bincount(
            places_FS.astype(np.int64).ravel(),
            weights=(signs_FS * weights_F[:, None]).ravel(),
            minlength=self.width,
        )
        length = float(np.linalg.norm(summed_V))
        if length == 0:  # every place met its opposite; any fixed direction will do
            summed_V[0] = length = 1.0
        return summed_V / length


def features(text: str) -> Iterator[tuple[str, float]]:
    """Yield what a text is told by, with its weight; an empty text has one feature of its own."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    words = [word for word in WORD.findall(folded) if word not in STOP_WORDS]
    if not words:
        yield "", WORD_WEIGHT
    for word in words:
        yield word, WORD_WEIGHT
        framed = f"<{word}>"
        for start in range(len(framed) - PIECE + 1):
            yield f"#{framed[start : start + PIECE]}", PIECE_WEIGHT
    for first, second in pairwise(words):
        yield f"{first} {second}", PAIR_WEIGHT


def _number(name: str) -> int:
    """A 64-bit number of a feature; the two checksums fail to tell few pairs of names apart."""
    data = name.encode()
    return zlib.crc32(data) << 32 | zlib.adler32(data)


def _mix(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Scramble 64-bit numbers (the finaliser of splitmix64)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
