"""Publishing lists: what they promise, what refuses them, and that nothing else changes them."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipelines.audit import SUBJECT
from pipelines.io.lake import Lake
from pipelines.io.tracking import Registry
from pipelines.run import Run
from pipelines.settings import load_settings
from pipelines.tables.behaviour import EVENTS
from tests.command import Command
from tests.pipelines.planted import DS, NUM_ITEMS, NUM_USERS, catalogue, item_name

LONG_AGO_DS = "2024-05-06"
LONG_AGO = datetime(2024, 5, 6, tzinfo=UTC)


@pytest.fixture
def promoted(trained: Command) -> Command:
    """The trained lake with its ranker as champion, by the gate."""
    assert trained("promote-ranker", "--partition", DS) == 0, trained.errors
    return trained


def lists(command: Command, ds: str = DS) -> pa.Table:
    return Lake(command.lake, Run.unrecorded()).read("recommendations", ds).drop("ds")


def by_user(table: pa.Table) -> dict[str, list[dict[str, Any]]]:
    grouped: dict[str, list[dict[str, Any]]] = {}
    for row in table.sort_by([("user_id", "ascending"), ("rank", "ascending")]).to_pylist():
        grouped.setdefault(row["user_id"], []).append(row)
    return grouped


def publish_items(command: Command, unavailable: set[str]) -> None:
    ids = [item_name(i) for i in range(1, NUM_ITEMS + 1)]
    lake = Lake(command.lake, Run.start("test", DS))
    lake.publish("items", DS, catalogue(ids, frozenset(unavailable)))


def test_lists_keep_every_promise(promoted: Command) -> None:
    result = promoted.json("recommend", "--partition", DS)
    assert result["published"] is True
    histories = Lake(promoted.lake, Run.unrecorded()).read("sequences", DS).to_pylist()
    seen = {row["user_id"]: {item_name(i) for i in row["item_idx"]} for row in histories}
    found = by_user(lists(promoted))
    assert len(found) == NUM_USERS
    for user, rows in found.items():
        assert [row["rank"] for row in rows] == list(range(1, 11))
        items = [row["item_id"] for row in rows]
        assert len(set(items)) == 10
        assert not seen[user] & set(items)
        scores = [row["score"] for row in rows]
        assert scores == sorted(scores, reverse=True)
        assert {row["model_version"] for row in rows} == {"1"}
        assert all(row["reason"].startswith("Because you ") for row in rows)
        assert rows[0]["generated_at"].isoformat() == "2026-03-11T00:00:00+00:00"


def test_reasons_name_history_items_by_title(promoted: Command) -> None:
    assert promoted("recommend", "--partition", DS) == 0
    shown = promoted.json("show", "--user", "user-0001")
    assert len(shown["history"]) == 10
    histories = Lake(promoted.lake, Run.unrecorded()).read("sequences", DS).to_pylist()
    titles = {row["user_id"]: [f"Thing {i:03d}" for i in row["item_idx"]] for row in histories}
    late = []
    for user, rows in by_user(lists(promoted)).items():
        for row in rows:
            named = row["reason"].split("'")[1::2]
            assert named
            assert set(named) <= set(titles[user])
        late.append(rows[0]["reason"].split("'")[1] in titles[user][-5:])
    # A walk's next step follows from its last ones: they are named more often than the quarter of
    # the history that they are.
    assert sum(late) / len(late) > 0.35


def test_the_same_lists_for_any_batch_size_and_number_of_actors(
    promoted: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert promoted("recommend", "--partition", DS) == 0
    before = lists(promoted).sort_by([("user_id", "ascending"), ("rank", "ascending")])
    version = Lake(promoted.lake, Run.unrecorded()).version("recommendations")
    monkeypatch.setattr("pipelines.io.ray_score.USERS_PER_TASK", 70)
    for batch, actors in ((7, 2), (64, 1)):
        monkeypatch.setenv("RECKONER_RECOMMEND__BATCH_SIZE", str(batch))
        monkeypatch.setenv("RECKONER_RECOMMEND__NUM_ACTORS", str(actors))
        result = promoted.json("recommend", "--partition", DS)
        assert result["published"] is False, "equal contents are not committed again"
    lake = Lake(promoted.lake, Run.unrecorded())
    assert lake.version("recommendations") == version
    assert lists(promoted).sort_by([("user_id", "ascending"), ("rank", "ascending")]) == before


def test_masks_apply_before_selection(promoted: Command, tmp_path: Path, monkeypatch: Any) -> None:
    publish_items(promoted, {item_name(i) for i in range(1, 6)})
    surface = tmp_path / "surface.txt"
    surface.write_text("\n".join(item_name(i) for i in range(1, 36)) + "\n")
    monkeypatch.setenv("RECKONER_RECOMMEND__ALLOWED_ITEMS", str(surface))
    assert promoted.json("recommend", "--partition", DS, "--top-k", "5")["rows"] == 5 * NUM_USERS
    shown = set(lists(promoted)["item_id"].to_pylist())
    assert shown <= {item_name(i) for i in range(6, 36)}


def test_what_was_bought_before_the_lookback_stays_off_the_lists(promoted: Command) -> None:
    assert promoted("recommend", "--partition", DS) == 0
    first_choices = {user: rows[0]["item_id"] for user, rows in by_user(lists(promoted)).items()}
    lake = Lake(promoted.lake, Run.start("test", DS))
    rows = [
        {
            "user_id": user,
            "item_id": item,
            "action": "purchase",
            "ts": LONG_AGO,
            "source_file": "",
            "ingested_ds": LONG_AGO_DS,
        }
        for user, item in [*first_choices.items(), ("somebody-else", item_name(1))]
    ]
    lake.publish("events", LONG_AGO_DS, pa.Table.from_pylist(rows, schema=EVENTS.stored))
    (stale,) = [row for row in promoted.json("stale") if row["table"] == SUBJECT]
    assert stale["reasons"] == [f"events/{LONG_AGO_DS} has appeared"]
    assert promoted.json("recommend", "--partition", DS)["published"] is True
    found = by_user(lists(promoted))
    assert found.keys() == first_choices.keys()
    for user, item in first_choices.items():
        assert len(found[user]) == 10
        assert item not in {row["item_id"] for row in found[user]}
    assert not [row for row in promoted.json("stale") if row["table"] == SUBJECT]


def test_without_a_champion_lists_are_marked_popularity(trained: Command) -> None:
    result = trained.json("recommend", "--partition", DS)
    assert (result["model"], result["fallback_share"]) == ("popularity", 1.0)
    rows = by_user(lists(trained))
    assert len(rows) == NUM_USERS
    assert {row["source"] for user in rows.values() for row in user} == {"popularity"}


def test_a_new_user_with_new_items_only_gets_a_marked_list(promoted: Command) -> None:
    lake = Lake(promoted.lake, Run.start("test", DS))
    new = {"item_id": ["brand-new"], "item_idx": [NUM_ITEMS + 1], "first_seen_ds": [DS]}
    schema = lake.read("item_index").schema
    lake.append("item_index", lambda _: pa.table(new, schema=schema))
    rows = lake.read("sequences", DS).drop("ds")
    stranger = rows.slice(0, 1).to_pylist()[0] | {
        "user_id": "stranger",
        "item_idx": [NUM_ITEMS + 1],
        "action": ["view"],
        "length": 1,
    }
    stranger["ts"] = [stranger["last_ts"]]
    one = pa.Table.from_pylist([stranger], schema=rows.schema)
    lake.publish("sequences", DS, pa.concat_tables([rows, one]))
    assert promoted("recommend", "--partition", DS) == 0, promoted.errors
    found = by_user(lists(promoted))["stranger"]
    assert [row["source"] for row in found] == ["popularity"] * 10
    assert "brand-new" not in {row["item_id"] for row in found}


def test_a_failed_audit_leaves_what_is_there(promoted: Command, monkeypatch: Any) -> None:
    assert promoted("recommend", "--partition", DS) == 0
    before = lists(promoted)
    monkeypatch.setenv("RECKONER_RECOMMEND__MIN_USERS", "1000000")
    assert promoted("recommend", "--partition", DS, "--top-k", "3") == 3
    assert "300 users, floor 1000000" in promoted.last_line
    assert lists(promoted) == before
    monitoring = Lake(promoted.lake, Run.unrecorded()).read("monitoring", DS).to_pylist()
    assert {row["check"]: row["status"] for row in monitoring}["users"] == "failed"
    runs = Lake(promoted.lake, Run.unrecorded()).read("pipeline_runs").to_pylist()
    assert "refused" in [run["status"] for run in runs if run["step"] == "recommend"]


def test_commits_say_where_they_come_from(promoted: Command) -> None:
    result = promoted.json("recommend", "--partition", DS)
    commit = Lake(promoted.lake, Run.unrecorded()).provenance("recommendations", DS)
    assert commit["run_id"] == result["run_id"]
    assert commit["model_version"] == "1"
    assert commit["code_version"]
    assert '"sequences"' in commit["input_versions"]


def test_a_model_of_another_index_is_refused(promoted: Command, tmp_path: Path) -> None:
    other = Lake(str(tmp_path / "other" / "lake"), Run.start("test", DS))
    old = Lake(promoted.lake, Run.unrecorded())
    index = old.read("item_index")
    turned = index.set_column(1, index.schema.field(1), index["item_idx"][::-1])
    other.append("item_index", lambda _: turned)
    other.publish("sequences", DS, old.read("sequences", DS).drop("ds"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RECKONER_MLFLOW__TRACKING_URI", Registry(load_settings(old.uri)).tracking_uri)
        elsewhere = Command(other.uri, promoted._capfd)
        assert elsewhere("recommend", "--partition", DS) == 2
    assert "trained on another item index" in elsewhere.last_line


def test_a_version_is_not_judged_on_a_night_before_its_own(trained: Command) -> None:
    """It has learnt from events that such a night still has to foresee."""
    lake = Lake(trained.lake, Run.start("test", "2026-03-09"))
    lake.publish("sequences", "2026-03-09", lake.read("sequences", DS).drop("ds"))
    words = ["--partition", "2026-03-09", "--model", "reckoner-ranker@1"]
    assert trained("evaluate-ranker", *words) == 2
    because = f"reckoner-ranker version 1 was trained on {DS}, after 2026-03-09"
    assert because in trained.errors
    assert trained("promote-ranker", "--partition", "2026-03-09") == 3
    assert because in trained.errors
    assert trained.json("evaluate-ranker", "--partition", DS, *words[2:])["test_users"] > 0


def test_promote_refuses_a_heuristic_and_rolls_back(promoted: Command) -> None:
    words = ("--recipe", "smoke", "--set", "ranker=popularity")
    assert promoted.json("train-ranker", "--partition", DS, *words)["version"] == "2"
    assert promoted("promote-ranker", "--partition", DS) == 3
    assert "gain over popularity is +0.00000" in promoted.last_line
    registry = Registry(load_settings(promoted.lake))
    assert registry.resolve("champion") == "1"
    assert promoted("rollback-ranker") == 2
    assert "no previous champion" in promoted.last_line
    registry.promote("2")
    assert promoted.json("rollback-ranker")["champion"] == "1"


def test_report_and_tables_on_the_published_night(promoted: Command, tmp_path: Path) -> None:
    assert promoted("recommend", "--partition", DS) == 0
    out = tmp_path / "night.html"
    result = promoted.json("report", "--partition", DS, "--out", str(out))
    page = out.read_text(encoding="utf-8")
    assert result["bytes"] == len(page.encode())
    assert "<svg" in page
    assert "reckoner-ranker 1 (champion)" in page
    names = {one["table"] for one in promoted.json("tables")}
    assert {"recommendations", "monitoring", "ranker_metrics", "pipeline_runs"} <= names
    assert promoted("report", "--partition", "2020-01-01") == 2
    assert promoted("show", "--user", "nobody") == 2
