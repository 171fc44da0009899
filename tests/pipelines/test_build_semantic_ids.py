"""Semantic ids of a night: no two items alike, and an unchanged item keeps its codes."""

from pathlib import Path
from typing import Any

import pytest

from pipelines import build_item_vectors, build_semantic_ids
from pipelines.settings import Settings
from pipelines.settings.groups import SemanticIdSettings, VectorSettings
from tests.command import Command
from tests.pipelines.builders import a_context, a_lake
from tests.pipelines.catalogue import an_item, publish_items, tools

DAYS = ["2026-03-01", "2026-03-02", "2026-03-03"]
NARROW = VectorSettings(hashed_width=32)


def settings(**more: Any) -> Settings:
    coded = SemanticIdSettings(**{"codes": 4, "levels": 2, "epochs": 3} | more)
    return Settings(vectors=NARROW, semantic_ids=coded)


def build(
    folder: Path, ds: str, chosen: Settings, *, refit: bool = False, dry_run: bool = False
) -> dict[str, Any]:
    context = a_context(folder, ds, chosen, dry_run)
    build_item_vectors.run(context)
    return build_semantic_ids.run(a_context(folder, ds, chosen, dry_run), refit=refit)


def codes(folder: Path, ds: str) -> dict[str, tuple[int, ...]]:
    lake = a_lake(folder)
    index = lake.read("item_index")
    names = dict(zip(index["item_idx"].to_pylist(), index["item_id"].to_pylist(), strict=True))
    return {
        names[row["item_idx"]]: tuple(row["codes"])
        for row in lake.read("semantic_ids", ds).to_pylist()
    }


def catalogue(folder: Path) -> None:
    """A first delivery with twins; then a changed item; then new ones, a twin among them."""
    twins = [an_item(f"twin-{n}", "Plane") for n in range(3)]
    publish_items(str(folder), [*tools(20), *twins], DAYS[0])
    publish_items(str(folder), [an_item("item-002", "Wooden mallet")], DAYS[1])
    publish_items(str(folder), [an_item("a-twin", "Plane"), an_item("new", "Saw")], DAYS[2])


@pytest.mark.parametrize("method", ["kmeans", "rqvae"])
def test_no_two_items_share_their_codes_and_unchanged_ones_keep_them(
    tmp_path: Path, method: str
) -> None:
    catalogue(tmp_path)
    told = [build(tmp_path, ds, settings(method=method)) for ds in DAYS]
    nights = [codes(tmp_path, ds) for ds in DAYS]
    for night, about in zip(nights, told, strict=True):
        assert len(set(night.values())) == len(night) == about["rows"]
        assert {len(one) for one in night.values()} == {3}
        assert 0 < about["collision_rate"] <= 1
        assert about["codebook_version"] == told[0]["codebook_version"]
    twins = [nights[2][name] for name in ("twin-0", "twin-1", "twin-2", "a-twin")]
    assert len({one[:2] for one in twins}) == 1
    assert twins[3][2] > max(one[2] for one in twins[:3])  # who comes later stands behind
    changed = {item for item in nights[0] if nights[0][item] != nights[2][item]}
    assert changed <= {"item-002"}
    assert told[1]["unchanged_items"] == 22
    assert told[2]["unchanged_items_kept_codes"] == 1.0
    assert not build(tmp_path, DAYS[2], settings(method=method))["changed"]


def test_an_item_that_comes_back_to_its_text_comes_back_to_its_codes(tmp_path: Path) -> None:
    catalogue(tmp_path)
    publish_items(str(tmp_path), [tools(3)[2]], DAYS[2])
    for ds in DAYS:
        build(tmp_path, ds, settings())
    assert codes(tmp_path, DAYS[2])["item-002"] == codes(tmp_path, DAYS[0])["item-002"]


def test_the_order_of_nights_does_not_matter_once_slots_are_given(tmp_path: Path) -> None:
    catalogue(tmp_path)
    for ds in (DAYS[0], DAYS[2], DAYS[1]):
        build(tmp_path, ds, settings())
    before = [codes(tmp_path, ds) for ds in DAYS]
    for ds in DAYS[::-1]:
        assert not build(tmp_path, ds, settings())["changed"]
    assert [codes(tmp_path, ds) for ds in DAYS] == before
    assert {len(set(night.values())) - len(night) for night in before} == {0}


def test_codebooks_are_fitted_again_on_demand_or_when_they_have_aged(tmp_path: Path) -> None:
    catalogue(tmp_path)
    first = build(tmp_path, DAYS[0], settings())
    again = build(tmp_path, DAYS[1], settings(), refit=True)
    assert again["codebook_version"] != first["codebook_version"]
    assert build(tmp_path, DAYS[0], settings())["codebook_version"] == first["codebook_version"]
    strangers = [an_item(f"book-{n}", f"Novel {n} {'xyz' * n}", brand="B") for n in range(60)]
    publish_items(str(tmp_path), strangers, DAYS[2])
    aged = build(tmp_path, DAYS[2], settings())
    assert aged["codebook_version"] == again["codebook_version"]
    assert aged["drift"] > 0.01
    renewed = build(tmp_path, DAYS[2], settings(max_drift=0.01))
    assert renewed["codebook_version"] != again["codebook_version"]
    assert renewed["drift"] == 0
    assert renewed["unchanged_items_kept_codes"] < 0.5


def test_a_dry_run_keeps_no_slots(tmp_path: Path) -> None:
    catalogue(tmp_path)
    build_item_vectors.run(a_context(tmp_path, DAYS[0], settings()))
    told = build(tmp_path, DAYS[0], settings(), dry_run=True)
    assert told["rows"] == 23
    lake = a_lake(tmp_path)
    assert not any(map(lake.exists, ("semantic_ids", "semantic_slots", "vector_fits")))


def test_a_night_s_knowledge_ends_with_vectors_and_codes(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], spark: object
) -> None:
    catalogue(tmp_path)
    command = Command(str(tmp_path), capfd)
    told = command.json("build-item-knowledge", "--partition", DAYS[0])
    assert (told["built"], told["vectors"]["encoded"]) == (23, 21)
    assert told["semantic_ids"]["rows"] == 23
    assert {"items", "item_knowledge", "item_vectors"} <= set(told["input_versions"])
    later = ("build-item-knowledge", "--partition", DAYS[1])
    told = command.json(*later, "--part", "knowledge")
    assert (told["built"], "vectors" in told) == (1, False)
    told = command.json(*later, "--part", "vectors")
    assert ("built" in told, told["vectors"]["encoded"]) == (False, 1)
    assert a_lake(tmp_path).read("pipeline_runs").num_rows == 3
