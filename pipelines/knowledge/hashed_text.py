"""Texts as vectors without a model: hashed words and their pieces, projected at random.

Nothing is learned, downloaded or drawn: a text has the same vector on any machine. Texts that share
words are near each other; synonyms are not.

Source: Weinberger et al., Feature hashing for large scale multitask learning, ICML 2009; signs and
sparsity as Achlioptas, Database-friendly random projections, PODS 2001.

Shape legend: T texts, V width, W words of a text, F hashed features, S places that a feature falls
on.
"""

import unicodedata
import zlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from feature_jobs.item_knowledge import STOP_WORDS, WORD

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
U64 = npt.NDArray[np.uint64]

VERSION = "hashed-1"
PLACES = 8
PIECE = 4
# A word counts as much as four of its pieces: kinship of spelling must not outweigh identity.
PAIR_WEIGHT, PIECE_WEIGHT = 0.5, 0.25
GOLDEN = np.uint64(0x9E3779B97F4A7C15)
NO_WORDS = [""]
WORDS_KEPT = 50_000


class HashedEncoder:
    """Encodes texts by the words, pairs of words and pieces of words that they hold.

    Args:
        width: coordinates V.
    """

    def __init__(self, width: int) -> None:
        self.width = width
        self.name = f"{VERSION}-{width}"
        self._words: dict[str, tuple[np.uint64, Doubles]] = {}

    def encode(self, texts: Sequence[str]) -> Floats:
        """Turn texts into vectors of unit length: float32 [T, V]."""
        vectors_TV = np.zeros((len(texts), self.width), np.float32)
        for row, text in enumerate(texts):
            vectors_TV[row] = self._vector(words_of(text))
            if len(self._words) > WORDS_KEPT:
                self._words.clear()
        return vectors_TV

    def _vector(self, words: Sequence[str]) -> Doubles:
        known = [self._words.get(word) or self._learn(word) for word in words]
        numbers_W = np.array([number for number, _ in known], np.uint64)
        # In the order of their numbers: sums round by order, and a text must have one vector.
        _, first, counts = np.unique(numbers_W, return_index=True, return_counts=True)
        summed_V = np.zeros(self.width)
        for place, weight in zip(first, 1 + np.log(counts), strict=True):
            summed_V += weight * known[place][1]
        if len(words) > 1:
            pairs, counts = np.unique(
                _mix(numbers_W[:-1] * GOLDEN + numbers_W[1:]), return_counts=True
            )
            summed_V += self._spread(pairs, PAIR_WEIGHT * (1 + np.log(counts)))
        length = float(np.linalg.norm(summed_V))
        if length == 0:  # every place met its opposite; any fixed direction will do
            summed_V[0] = length = 1.0
        return summed_V / length

    def _learn(self, word: str) -> tuple[np.uint64, Doubles]:
        framed = f"<{word}>"
        pieces = [framed[start : start + PIECE] for start in range(len(framed) - PIECE + 1)]
        numbers_F = np.array([_number(word), *(_number(f"#{p}") for p in pieces)], np.uint64)
        weights_F = np.array([1.0, *(PIECE_WEIGHT for _ in pieces)])
        found = self._words[word] = numbers_F[0], self._spread(numbers_F, weights_F)
        return found

    def _spread(self, numbers_F: U64, weights_F: Doubles) -> Doubles:
        """Add each feature's weight, with a sign, to the places that its number leads to."""
        draws_FS = _mix(numbers_F[:, None] + GOLDEN * np.arange(1, PLACES + 1, dtype=np.uint64))
        places_FS = (draws_FS >> np.uint64(1)) % np.uint64(self.width)
        signs_FS = np.where(draws_FS & np.uint64(1), 1.0, -1.0)
        summed_V = np.bincount(
            places_FS.astype(np.int64).ravel(),
            weights=(signs_FS * weights_F[:, None]).ravel(),
            minlength=self.width,
        )
        return np.asarray(summed_V, np.float64)


def words_of(text: str) -> list[str]:
    """Cut a text into the words that tell it from others; one empty word where it has none."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return [word for word in WORD.findall(folded) if word not in STOP_WORDS] or NO_WORDS


def _number(name: str) -> int:
    """A 64-bit number of a feature; two checksums rarely agree on two names."""
    data = name.encode()
    return zlib.crc32(data) << 32 | zlib.adler32(data)


def _mix(x: U64) -> U64:
    """Scramble 64-bit numbers (the finaliser of splitmix64)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
