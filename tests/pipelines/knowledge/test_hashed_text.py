"""Vectors of words, without a model."""

import subprocess
import sys

import numpy as np

from pipelines.knowledge.hashed_text import HashedEncoder

TEXTS = [
    "Steel hammer with a handle of ash",
    "Steel hammers, ash handles",
    "Cotton tablecloth, blue",
    "",
    "the of and",
    "Ämter & Œuvre ½ 東京",
]


def test_vectors_are_of_unit_length_and_alone_their_texts() -> None:
    encoder = HashedEncoder(64)
    vectors = encoder.encode(TEXTS)
    assert vectors.dtype == np.float32
    assert vectors.shape == (6, 64)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    turned = encoder.encode(TEXTS[::-1])
    assert np.array_equal(turned[::-1], vectors)
    assert np.array_equal(vectors[3], vectors[4])  # neither says anything
    assert encoder.encode([]).shape == (0, 64)


def test_texts_that_share_words_are_near_each_other() -> None:
    alike = (vectors := HashedEncoder(256).encode(TEXTS)) @ vectors.T
    assert alike[0, 1] > 0.4
    assert abs(alike[0, 2]) < 0.3
    assert HashedEncoder(256).encode(["RED Hammer"]) @ HashedEncoder(256).encode(
        ["red hammer"]
    ).T > 0.999  # fmt: skip


def test_another_process_gives_the_same_vectors() -> None:
    program = (
        "from pipelines.knowledge.hashed_text import HashedEncoder as E\n"
        f"print(E(16).encode({TEXTS!r}).tobytes().hex())"
    )
    told = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout.strip()
    assert told == HashedEncoder(16).encode(TEXTS).tobytes().hex()
