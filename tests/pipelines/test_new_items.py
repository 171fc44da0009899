"""A new item is recommended the night it appears: the real steps from vectors to lists."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipelines.io.lake import Lake
from pipelines.io.tracking import Registry
from pipelines.run import Run
from pipelines.settings import load_settings
from tests.command import Command
from tests.pipelines.builders import rows_of

FIRST, NEXT = "2026-03-10", "2026-03-11"
KINDS = ("kettle", "tent", "novel", "guitar")
EACH, USERS, LENGTH = 10, 120, 12
TRAIN = ["--recipe", "smoke", "--set", "text_vectors=on", "--set", "max_epochs=12"]
NEW = "new-kettle"
VECTORS = ("build-item-knowledge", "--part", "vectors")


def item_name(number: int) -> str:
    return f"item-{number:02d}"


def kind_of(item: str) -> str:
    return "kettle" if item == NEW else KINDS[(int(item[-2:]) - 1) % len(KINDS)]


def catalogue(ids: list[str]) -> pa.Table:
    return rows_of(
        "items",
        (
            {
                "item_id": item,
                "title": f"{kind_of(item)} number {item[-2:]}",
                "available": True,
                "content_hash": item,
            }
            for item in ids
        ),
    )


def histories() -> pa.Table:
    """Users who stay with one kind of thing."""
    rng = np.random.default_rng(0)
    start = datetime(2026, 3, 1, tzinfo=UTC)
    rows = []
    for user in range(USERS):
        kind = user % len(KINDS)
        items = [len(KINDS) * int(n) + kind + 1 for n in rng.permutation(EACH)[:6]]
        minutes = np.sort(rng.choice(9 * 24 * 60, len(items), replace=False))
        times = [start + timedelta(minutes=int(minute)) for minute in minutes]
        rows.append(
            {
                "user_id": f"{KINDS[kind]}-{user:03d}",
                "item_idx": items,
                "action": ["view"] * len(items),
                "ts": times,
                "length": len(items),
                "last_ts": times[-1],
            }
        )
    return rows_of("sequences", rows)


@pytest.fixture
def shop(
    tmp_path: Path, one_ray: None, capfd: pytest.CaptureFixture[str], monkeypatch: Any
) -> Command:
    """A champion that was trained with text vectors, and the next night's new kettle."""
    monkeypatch.setenv("RECKONER_RAY__NUM_WORKERS", "0")
    command = Command(str(tmp_path / "lake"), capfd)
    lake = Lake(command.lake, Run.start("plant", FIRST))
    ids = [item_name(n) for n in range(1, EACH * len(KINDS) + 1)]
    index = {
        "item_id": ids,
        "item_idx": range(1, len(ids) + 1),
        "first_seen_ds": [FIRST] * len(ids),
    }
    schema = lake.read("item_index").schema
    lake.append("item_index", lambda _: pa.table(index, schema=schema))
    lake.publish("items", FIRST, catalogue(ids))
    for ds in (FIRST, NEXT):
        lake.publish("sequences", ds, histories())
    assert command(*VECTORS, "--partition", FIRST) == 0, command.errors
    assert command("train-ranker", "--partition", FIRST, *TRAIN) == 0, command.errors
    Registry(load_settings(command.lake)).promote("1")
    lake.refresh()
    lake.publish("items", NEXT, catalogue([NEW]))
    return command


def lists(command: Command, ds: str) -> dict[str, list[dict[str, Any]]]:
    table = Lake(command.lake, Run.unrecorded()).read("recommendations", ds)
    found: dict[str, list[dict[str, Any]]] = {}
    for row in table.sort_by([("user_id", "ascending"), ("rank", "ascending")]).to_pylist():
        found.setdefault(row["user_id"], []).append(row)
    return found


def test_a_new_item_is_recommended_the_night_it_appears(shop: Command) -> None:
    assert shop(*VECTORS, "--partition", NEXT) == 0, shop.errors
    result = shop.json("recommend", "--partition", NEXT)
    assert result["published"] is True
    assert result["items_by_text"] == 1
    got = lists(shop, NEXT)
    with_new = {user for user, rows in got.items() if NEW in [row["item_id"] for row in rows]}
    fans = {user for user in got if user.startswith("kettle")}
    assert len(with_new & fans) > 0.8 * len(fans)
    rank_of_new = {
        user: next((row["rank"] for row in rows if row["item_id"] == NEW), 99)
        for user, rows in got.items()
    }
    others = [rank_of_new[user] for user in got if user not in fans]
    assert np.median([rank_of_new[user] for user in fans]) < np.median(others)
    row = next(row for row in got[min(with_new & fans)] if row["item_id"] == NEW)
    assert row["source"] == "ranker"
    assert row["reason"].startswith("Because you looked at 'kettle number ")
    assert shop.json("recommend", "--partition", NEXT)["published"] is False, "the same lists again"


def test_without_the_nights_vectors_new_items_wait(shop: Command) -> None:
    assert shop("recommend", "--partition", NEXT) == 0, shop.errors
    ranked = [row for rows in lists(shop, NEXT).values() for row in rows]
    assert NEW not in {row["item_id"] for row in ranked if row["source"] == "ranker"}


def test_versions_name_their_encoder_and_the_vectors_read(shop: Command) -> None:
    registry = Registry(load_settings(shop.lake))
    card = registry.card("1")
    encoder = card.spec["config"]["text_vectors"]["encoder"]
    assert encoder == "hashed-1-256"
    assert registry.with_tag("text_encoder", encoder) == "1"
    assert "item_vectors" in card.input_versions
    assert f"item_vectors/{FIRST}" in card.inputs
    again = shop.json("train-ranker", "--partition", FIRST, *TRAIN)
    assert again["registered"] == "already"


def test_vectors_of_another_encoder_are_refused(shop: Command, monkeypatch: Any) -> None:
    monkeypatch.setenv("RECKONER_VECTORS__HASHED_WIDTH", "64")
    assert shop(*VECTORS, "--partition", NEXT) == 0, shop.errors
    for words in (
        ["recommend", "--partition", NEXT],
        ["evaluate-ranker", "--partition", NEXT, "--model", "reckoner-ranker@1"],
    ):
        assert shop(*words) == 2
        assert "takes text vectors of encoder 'hashed-1-256'" in shop.last_line
        assert "version 1, item_vectors as of 2026-03-11" in shop.last_line
    words = ["--set", "text_vectors=minilm", *TRAIN[:2]]
    assert shop("train-ranker", "--partition", NEXT, *words) == 2
    assert "of encoder 'minilm', and these are of 'hashed-1-64'" in shop.last_line


def test_training_without_any_vectors_says_what_to_run(tmp_path: Path, trained: Command) -> None:
    for _ in ("no partition", "a partition without a row"):
        assert trained("train-ranker", "--partition", FIRST, *TRAIN) == 2
        assert "run reckoner build-item-knowledge --partition 2026-03-10" in trained.last_line
        assert trained(*VECTORS, "--partition", "2020-01-01") == 0, trained.errors


def test_what_is_new_counts_when_a_version_is_evaluated(shop: Command) -> None:
    assert shop(*VECTORS, "--partition", NEXT) == 0, shop.errors
    words = ["--model", "reckoner-ranker@1"]
    result = shop.json("evaluate-ranker", "--partition", NEXT, *words)
    assert result["metrics"]["all"]["ndcg@10"][0] > 0
    assert shop("evaluate-ranker", "--partition", NEXT, *words) == 0, shop.errors
    head, _, first, *_ = shop.output.splitlines()
    assert head.startswith(
        f"reckoner-ranker version 1 (sasrec) on {result['test_users']} test users"
    )
    value, low, high = result["metrics"]["all"]["ndcg@10"]
    assert first.split() == ["all", "ndcg@10", f"{value:.4f}", f"[{low:.4f},", f"{high:.4f}]"]
