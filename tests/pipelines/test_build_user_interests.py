"""User interests through the command line: offline, asked of a real endpoint, and recorded."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from pipelines.item_index import ensure_indexed
from pipelines.lineage import stale_partitions
from pipelines.settings import Settings
from tests.command import Command
from tests.llm_server import LlmServer, llm_server
from tests.pipelines.builders import a_lake, days_after, rows_of
from tests.pipelines.catalogue import DS, an_item, publish_items
from tests.pipelines.item_knowledge import use_endpoint

STEP = ("build-user-interests", "--partition", DS)
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
KINDS = ("Hammers", "Saws", "Planes")


def publish_histories(
    lake: str, histories: Mapping[str, Sequence[tuple[str, str, datetime]]], ds: str = DS
) -> None:
    """Publish each user's (item, action, time) as the night's sequences."""
    there = a_lake(lake)
    items = sorted({item for events in histories.values() for item, _, _ in events})
    ensure_indexed(there, pa.array(items, pa.string()), ds)
    there.refresh()
    index = there.read("item_index").to_pydict()
    number = dict(zip(index["item_id"], index["item_idx"], strict=True))
    rows = [
        {
            "user_id": user,
            "item_idx": [number[item] for item, _, _ in events],
            "action": [action for _, action, _ in events],
            "ts": [ts for _, _, ts in events],
            "length": len(events),
            "last_ts": events[-1][2],
        }
        for user, events in histories.items()
    ]
    there.publish("sequences", ds, rows_of("sequences", rows))


def shop(lake: str, people: int = 12) -> dict[str, list[tuple[str, str, datetime]]]:
    """A catalogue of three kinds of things, and people who bought six things in two months."""
    kinds = {kind: ["Tools", kind] for kind in KINDS}
    items = [
        an_item(f"{kind}-{n}", f"{kind[:-1]} number {n}", category=path)
        for kind, path in kinds.items()
        for n in range(4)
    ]
    publish_items(lake, items)
    histories = {}
    for person in range(people):
        bought = [items[(person + 2 * n) % 12]["item_id"] for n in range(6)]
        events = [
            (item, "purchase", NOW - timedelta(days=60 - 11 * n)) for n, item in enumerate(bought)
        ]
        looked = ("Hammers-0", "view", NOW - timedelta(hours=1))
        histories[f"person-{person:02d}"] = [*events, looked]
    publish_histories(lake, histories)
    return histories


def rows(command: Command, table: str = "user_interests", ds: str = DS) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = a_lake(command.lake).read(table, ds).to_pylist()
    return found


@pytest.fixture
def night(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Command:
    return Command(str(tmp_path / "lake"), capfd)


@pytest.fixture
def asked(
    night: Command, tmp_path: Path, spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Command, LlmServer]]:
    """The step's command line with the http backend at a server."""
    with llm_server(tmp_path / "log.jsonl") as server:
        use_endpoint(monkeypatch, server, PRICE_PER_MILLION_IN="1")
        yield night, server


def test_offline_interests_rest_on_what_was_bought(night: Command) -> None:
    histories = shop(night.lake)
    told = night.json(*STEP)
    assert (told["people"], told["told"], told["failed"], told["left"]) == (12, 12, 0, 0)
    for row in rows(night):
        bought = {item for item, action, _ in histories[row["user_id"]] if action == "purchase"}
        assert row["interest"] in KINDS
        assert row["evidence"]
        assert set(row["evidence"]) <= bought
        assert all(item.startswith(row["interest"]) for item in row["evidence"])
        assert row["model"] == "offline-extraction"
    weights = Counter[str]()
    for row in rows(night):
        weights[row["user_id"]] += row["weight"]
    assert list(weights.values()) == pytest.approx([1] * 12)
    version = a_lake(night.lake).version("user_interests")
    night.json(*STEP)
    assert a_lake(night.lake).version("user_interests") == version


def test_people_with_little_history_are_left_out(night: Command) -> None:
    histories = shop(night.lake)
    few = {"new": histories["person-00"][:2], "looker": [("Saws-1", "view", NOW)] * 9}
    publish_histories(night.lake, histories | few)
    told = night.json(*STEP)
    assert (told["people"], told["too_little_history"]) == (12, 2)
    assert not {"new", "looker"} & {row["user_id"] for row in rows(night)}


def test_a_night_needs_sequences(night: Command) -> None:
    assert night(*STEP) == 2
    assert "build-sequences" in night.last_line


def test_a_model_is_asked_once_and_only_what_bears_out_is_published(
    asked: tuple[Command, LlmServer],
) -> None:
    night, server = asked
    shop(night.lake)
    expected = night.json(*STEP, "--dry-run")
    assert (expected["expected_requests"], expected["expected_cost_usd"] > 0) == (12, True)
    assert server.requests() == []
    told = night.json(*STEP)
    assert (told["told"], told["requests"], told["failed"]) == (12, 12, 0)
    assert all(row["interest"].startswith("things of 202") for row in rows(night))
    assert all(row["tags"] == ["steel hammer", "work glove"] for row in rows(night))
    assert "person" not in str([line["title"] for line in server.requests()])
    again = night.json(*STEP)
    assert (again["told"], again["requests"]) == (12, 0)
    assert len(server.requests()) == 12
    answers = a_lake(night.lake).read("llm_answers")["subject"].to_pylist()
    assert sorted(answers)[0] == "user:person-00"
    assert stale_partitions(a_lake(night.lake), Settings(), ["user_interests"]) == []


def test_between_turns_a_person_s_answer_is_known(asked: tuple[Command, LlmServer]) -> None:
    """Fourteen nights with a purchase each cost two or three requests a person, not fourteen."""
    night, server = asked
    histories = shop(night.lake)
    for n in range(14):
        ds = days_after(DS, n)
        for events in histories.values():
            events.append((f"Saws-{n % 4}", "purchase", NOW + timedelta(days=n)))
        publish_histories(night.lake, histories, ds)
        night.json("build-user-interests", "--partition", ds)
    assert len(server.requests()) <= 2 * 12
    assert {row["user_id"] for row in rows(night, ds=ds)} == set(histories)


def test_unusable_answers_end_in_the_dead_letters(asked: tuple[Command, LlmServer]) -> None:
    night, server = asked
    shop(night.lake)
    server.control(shares={"refusal": 0.8})
    told = night.json(*STEP)
    assert told["told"] + told["failed"] == 12
    assert told["failed"] > 0
    failed = rows(night, "user_interests_failed")
    assert len(failed) == told["failed"]
    assert all(row["last_answer"].startswith("I'm sorry") for row in failed)
    assert all(row["reason"].startswith("interests: the answer is not JSON") for row in failed)
    assert not {row["user_id"] for row in failed} & {row["user_id"] for row in rows(night)}


def test_a_cap_leaves_the_rest_and_takes_nothing_away(asked: tuple[Command, LlmServer]) -> None:
    night, server = asked
    shop(night.lake)
    told = night.json(*STEP, "--max-users", "5")
    assert (told["told"], told["left"]) == (5, 7)
    assert len({row["user_id"] for row in rows(night)}) == 5
    told = night.json(*STEP, "--max-tokens", "6000")
    assert told["stopped"].startswith("the next request could exceed a cap")
    first = {row["user_id"] for row in rows(night)}
    assert 5 < len(first) < 12
    night.json(*STEP)
    night.json(*STEP, "--max-users", "5")
    assert len({row["user_id"] for row in rows(night)}) == 12
    assert len(server.requests()) == 12


def test_a_worse_round_is_refused_until_a_person_accepts_it(
    asked: tuple[Command, LlmServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    night, server = asked
    shop(night.lake, 60)
    night.json(*STEP)
    before = rows(night)
    assert {row["check"] for row in rows(night, "monitoring")} == {
        "grounded",
        "invented",
        "specific",
        "failed",
    }
    monkeypatch.setenv("RECKONER_LLM__MODEL", "model-2")
    server.control(shares={"wrong-shape": 0.5})
    assert night(*STEP) == 3
    assert "failed" in night.last_line
    assert rows(night) == before
    assert night(*STEP, "--accept") == 0
    assert {row["model"] for row in rows(night)} == {"model-2"}


def test_an_outage_ends_with_4_and_blames_nobody(
    asked: tuple[Command, LlmServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    night, server = asked
    shop(night.lake)
    monkeypatch.setenv("RECKONER_LLM__BREAKER_FAILURES", "5")
    monkeypatch.setenv("RECKONER_LLM__BREAKER_SECONDS", "0")
    server.control(is_dead=True)
    assert night(*STEP) == 4
    assert rows(night, "user_interests_failed") == []
    server.control(is_dead=False)
    assert night.json(*STEP)["told"] == 12


def test_real_personas_are_replayed(
    night: Command, shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GPT-3.5's tastes of film lovers: published where the films are in the history."""
    folder = shared_data / "ml-1m"
    if not (folder / "recorded_llm_personas.parquet").is_file():
        pytest.skip(f"no recorded personas in {folder}")
    films = pq.read_table(folder / "items.parquet").to_pylist()
    publish_items(night.lake, [an_item(film["item_id"], film["title"]) for film in films])
    personas = pq.read_table(folder / "recorded_llm_personas.parquet").to_pylist()
    liked = [one for one in personas if one["variant"] == "like_persona_description"][:300]
    histories = _film_histories(folder)
    users = _whose(liked, films, histories)
    assert len(users) > 150  # the others' films are in several people's histories
    chosen = {user: histories[user] for user in users.values()}
    publish_histories(night.lake, chosen)
    recorded = [
        {"user_id": users[one["agent"]], "answer": one["text"]}
        for one in liked
        if one["agent"] in users
    ]
    pq.write_table(pa.Table.from_pylist(recorded), tmp_path / "personas.parquet")
    settings = {"LLM__BACKEND": "recorded", "LLM__MODEL": "gpt-3.5-turbo"}
    settings |= {"LLM__RECORDED": str(tmp_path / "personas.parquet")}
    settings |= {"INTERESTS__MAX_ITEMS": "3000", "INTERESTS__MAX_HISTORY_TOKENS": "100000"}
    for name, value in settings.items():
        monkeypatch.setenv(f"RECKONER_{name}", value)
    told = night.json(*STEP)
    assert told["told"] + told["failed"] == len(users)
    assert told["told"] > 0.95 * len(users)
    for row in rows(night):
        seen = {item for item, _, _ in histories[row["user_id"]]}
        assert set(row["evidence"]) <= seen
    assert 0.5 < told["interests"] / told["claimed"] <= 1


def _film_histories(folder: Path) -> dict[str, list[tuple[str, str, datetime]]]:
    events = pq.read_table(folder / "events.parquet", columns=["user_id", "item_id", "position"])
    histories: dict[str, list[tuple[str, str, datetime]]] = {}
    ordered = events.sort_by([("user_id", "ascending"), ("position", "ascending")]).to_pydict()
    for user, item in zip(ordered["user_id"], ordered["item_id"], strict=True):
        mine = histories.setdefault(user, [])
        mine.append((item, "rate", NOW - timedelta(days=30) + timedelta(seconds=len(mine))))
    return histories


def _whose(
    personas: Sequence[Mapping[str, Any]],
    films: Sequence[Mapping[str, Any]],
    histories: Mapping[str, Sequence[tuple[str, str, datetime]]],
) -> dict[int, str]:
    """Find whose persona it is: the dataset numbers agents anew, in the order of the users."""
    number = {film["title"].strip().casefold(): film["item_id"] for film in films}
    holders: dict[str, set[str]] = {}
    for user, events in histories.items():
        for item, _, _ in events:
            holders.setdefault(item, set()).add(user)
    found: dict[int, str] = {}
    for one in sorted(personas, key=lambda one: one["agent"]):
        lines = [line for line in one["text"].splitlines() if line.startswith("MOVIE:")]
        named = {title.strip().casefold() for line in lines for title in line[6:].split(";")}
        liked = {number[title] for title in named if title in number}
        if len(liked) < 8:
            continue
        fits = set.intersection(*(holders[item] for item in liked if item in holders))
        if len(fits) == 1 and not fits & set(found.values()):
            found[one["agent"]] = fits.pop()
    return found
