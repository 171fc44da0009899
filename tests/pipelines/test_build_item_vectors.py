"""Item vectors of a night: each text is encoded once, whatever the order of the nights."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines import build_item_vectors
from pipelines.errors import InputError
from pipelines.io.lake import Lake
from pipelines.knowledge.hashed_text import HashedEncoder
from pipelines.lineage import stale_partitions
from pipelines.settings import Settings
from pipelines.settings.groups import LlmSettings, VectorSettings
from pipelines.tables.knowledge import ITEM_KNOWLEDGE
from tests.pipelines.builders import a_context, a_lake
from tests.pipelines.catalogue import an_item, publish_items, tools

DAYS = ["2026-03-01", "2026-03-02", "2026-03-03"]
NARROW = Settings(vectors=VectorSettings(hashed_width=32))
PCA = Settings(vectors=VectorSettings(hashed_width=32, pca=4))


def build(folder: Path, ds: str, settings: Settings = NARROW, **more: Any) -> dict[str, Any]:
    return build_item_vectors.run(a_context(folder, ds, settings), **more)


def vectors(folder: Path, ds: str) -> dict[str, tuple[Any, ...]]:
    lake = a_lake(folder)
    index = lake.read("item_index")
    names = dict(zip(index["item_idx"].to_pylist(), index["item_id"].to_pylist(), strict=True))
    rows = lake.read("item_vectors", ds).to_pylist()
    return {names[row["item_idx"]]: (*row["vector"], row["encoder"]) for row in rows}


def three_nights(folder: Path) -> None:
    publish_items(str(folder), tools(6), DAYS[0])
    publish_items(str(folder), [an_item("item-002", "Wooden mallet")], DAYS[1])
    publish_items(str(folder), [an_item("new", "Steel saw"), tools(1)[0]], DAYS[2])


def knows(lake: Lake, item: dict[str, Any], summary: str, model: str, ds: str) -> None:
    nothing = {"category": [], "brand": None, "attributes": [], "key_phrases": []}
    needs = ("audiences", "occasions", "intents", "complements", "substitutes")
    row = {name: item[name] for name in ("item_id", "content_hash")} | {
        "prompt_version": "p",
        "model": model,
        "knowledge": nothing | {need: [] for need in needs},
        "summary": summary,
        "tokens_in": 0,
        "tokens_out": 0,
        "cost_usd": 0.0,
        "created_ds": ds,
        "status": "reasoned",
        "claims": None,
    }
    import pyarrow as pa

    lake.add("item_knowledge", pa.Table.from_pylist([row], schema=ITEM_KNOWLEDGE.stored))


def test_only_changed_texts_are_encoded(tmp_path: Path) -> None:
    three_nights(tmp_path)
    told = [build(tmp_path, ds) for ds in DAYS]
    assert [night["encoded"] for night in told] == [6, 1, 1]
    assert [night["reused"] for night in told] == [0, 5, 6]
    assert [night["rows"] for night in told] == [6, 6, 7]
    first, last = vectors(tmp_path, DAYS[0]), vectors(tmp_path, DAYS[2])
    assert {item for item in first if first[item] != last[item]} == {"item-002"}
    again = build(tmp_path, DAYS[2])
    assert (again["encoded"], again["changed"]) == (0, False)
    text = "Steel hammer number 0. Ferrum. Tools > Hand tools. " + tools(1)[0]["description"]
    assert first["item-000"] == (*HashedEncoder(32).encode([text])[0].tolist(), "hashed-1-32")


@pytest.mark.parametrize("settings", [NARROW, PCA])
def test_the_order_of_nights_does_not_matter(tmp_path: Path, settings: Settings) -> None:
    there, back = tmp_path / "there", tmp_path / "back"
    for folder in (there, back):
        three_nights(folder)
        build(folder, DAYS[0], settings)  # the projection is this night's either way
    for ds in DAYS[1:]:
        build(there, ds, settings)
    for ds in DAYS[:0:-1]:
        build(back, ds, settings)
    for ds in DAYS:
        assert vectors(there, ds) == vectors(back, ds)


def test_a_late_delivery_makes_later_nights_stale_and_they_are_mended(tmp_path: Path) -> None:
    publish_items(str(tmp_path), tools(2), DAYS[0])
    for ds in (DAYS[0], DAYS[2]):
        build(tmp_path, ds)
    publish_items(str(tmp_path), [an_item("late", "Plane")], DAYS[1])
    reasons = stale_partitions(a_lake(tmp_path), NARROW)
    assert [(one.table, one.ds) for one in reasons] == [("item_vectors", DAYS[2])]
    assert build(tmp_path, DAYS[1])["rebuilt"] == [DAYS[2]]
    assert "late" in vectors(tmp_path, DAYS[2])
    assert stale_partitions(a_lake(tmp_path), NARROW) == []


def test_the_present_model_s_summary_is_part_of_the_text(tmp_path: Path) -> None:
    item = tools(1)[0]
    publish_items(str(tmp_path), [item], DAYS[0])
    build(tmp_path, DAYS[0])
    before = vectors(tmp_path, DAYS[0])["item-000"]
    knows(a_lake(tmp_path), item, "Drives nails.", "mine", DAYS[0])
    knows(a_lake(tmp_path), item, "Something else.", "other", DAYS[1])
    settings = NARROW.model_copy(update={"llm": LlmSettings(model="mine")})
    assert build(tmp_path, DAYS[0], settings)["encoded"] == 1
    after = vectors(tmp_path, DAYS[0])["item-000"]
    text = "Steel hammer number 0. Ferrum. Tools > Hand tools. Drives nails. "
    expected = HashedEncoder(32).encode([text + item["description"]])[0].tolist()
    assert list(after[:-1]) == expected != list(before[:-1])


def test_a_projection_is_fitted_once_and_again_on_demand(tmp_path: Path) -> None:
    three_nights(tmp_path)
    first = build(tmp_path, DAYS[0], PCA)
    assert first["encoder"].startswith("hashed-1-32/pca-")
    assert (first["encoded"], build(tmp_path, DAYS[0], PCA)["encoded"]) == (6, 0)
    assert len(vectors(tmp_path, DAYS[0])["item-000"]) == 4 + 1
    second = build(tmp_path, DAYS[1], PCA)
    assert (second["encoder"], second["encoded"]) == (first["encoder"], 1)
    build(tmp_path, DAYS[2], PCA)
    again = build(tmp_path, DAYS[1], PCA, refit=True)
    assert again["encoder"] != first["encoder"]
    assert build(tmp_path, DAYS[0], PCA)["encoder"] == first["encoder"]
    assert build(tmp_path, DAYS[2], PCA)["encoder"] == again["encoder"]
    fits = a_lake(tmp_path).read("vector_fits").to_pylist()
    assert {(fit["kind"], fit["fitted_ds"]) for fit in fits} == {("pca", d) for d in DAYS[:2]}
    assert len(fits) == 2
    lengths = [np.linalg.norm(row[:-1]) for row in vectors(tmp_path, DAYS[2]).values()]
    np.testing.assert_allclose(lengths, 1, atol=1e-6)


def test_a_dry_run_changes_nothing(tmp_path: Path) -> None:
    publish_items(str(tmp_path), tools(6), DAYS[0])
    context = a_context(tmp_path, DAYS[0], PCA, dry_run=True)
    assert build_item_vectors.run(context)["encoded"] == 6
    lake = a_lake(tmp_path)
    assert not any(map(lake.exists, ("item_vectors", "vector_fits", "item_index")))


def test_too_few_texts_for_the_components(tmp_path: Path) -> None:
    publish_items(str(tmp_path), tools(3), DAYS[0])
    with pytest.raises(InputError, match=r"vectors\.pca=4: .* 3 vectors"):
        build(tmp_path, DAYS[0], PCA)


def test_a_shop_without_a_catalogue_has_no_vectors(tmp_path: Path) -> None:
    assert build(tmp_path, DAYS[0])["rows"] == 0
