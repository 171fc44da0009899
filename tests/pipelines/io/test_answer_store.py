"""Answers that were paid for are found again, whatever ended the process."""

import json
from pathlib import Path

import pytest

from pipelines.io import answer_store
from pipelines.io.answer_store import AnswerStore, recover_journals, relevant_files
from pipelines.knowledge.requests import Reply, Request
from tests.pipelines.builders import a_lake

DS = "2026-03-01"
REPLY = Reply('{"facts": []}', 10, 5, 0.25)


def a_request(subject: str, step: str = "needs") -> Request:
    return Request(step, subject, "model-1", "needs.v1", (("user", subject),), 100)


def journals(lake: Path) -> list[Path]:
    return sorted((lake / "llm_answers" / "journals").glob("*"))


def test_committed_answers_are_known_to_the_next_task(tmp_path: Path) -> None:
    store = AnswerStore(a_lake(tmp_path), DS)
    for subject in ("a", "b"):
        store.keep(a_request(subject), REPLY)
    assert len(journals(tmp_path)) == 1
    store.commit(store.take())
    assert journals(tmp_path) == []
    other = AnswerStore(a_lake(tmp_path), DS)
    assert other.known({"a"}, [], []) == {a_request("a").hash: REPLY}
    assert other.known({"c"}, [], []) == {}
    rows = a_lake(tmp_path).read("llm_answers").to_pylist()
    assert {row["created_ds"] for row in rows} == {DS}
    assert {row["step"] for row in rows} == {"needs"}


def test_files_without_an_answer_about_the_run_are_not_read(tmp_path: Path) -> None:
    for subject in ("a", "b", "c"):
        store = AnswerStore(a_lake(tmp_path), DS)
        store.keep(a_request(subject), REPLY)
        store.commit(store.take())
    seen, relevant = relevant_files(a_lake(tmp_path), {"b", "x"})
    assert (len(seen), len(relevant)) == (3, 1)
    # What another task, or this task's first try, has added since is found too.
    later = AnswerStore(a_lake(tmp_path), DS)
    later.keep(a_request("x"), REPLY)
    later.commit(later.take())
    known = AnswerStore(a_lake(tmp_path), DS).known({"a", "b", "x"}, seen, relevant)
    assert set(known) == {a_request("b").hash, a_request("x").hash}


def test_a_dead_process_journal_is_recovered_once(tmp_path: Path) -> None:
    store = AnswerStore(a_lake(tmp_path), DS)
    store.keep(a_request("a"), REPLY)
    store.keep(a_request("b"), REPLY)
    store.commit(store.take())
    store.keep(a_request("c"), REPLY)
    [journal] = journals(tmp_path)
    dead = journal.with_name("dead.jsonl")
    rows = a_lake(tmp_path).read("llm_answers").to_pylist()
    lines = [json.dumps(rows[0]), journal.read_text().strip(), '{"request_hash": "cut']
    dead.write_text("\n".join(lines))
    journal.unlink()
    # The first line was committed before the kill, the last one was cut by it.
    assert recover_journals(a_lake(tmp_path)) == 1
    assert recover_journals(a_lake(tmp_path)) == 0
    assert journals(tmp_path) == []
    found = a_lake(tmp_path).read("llm_answers")["subject"].to_pylist()
    assert sorted(found) == ["a", "b", "c"]


def test_a_live_process_journal_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answer_store, "LOCK_TRIES", 1)
    store = AnswerStore(a_lake(tmp_path), DS)
    store.keep(a_request("a"), REPLY)
    assert recover_journals(a_lake(tmp_path)) == 0
    assert len(journals(tmp_path)) == 1
    store.commit(store.take())
    assert a_lake(tmp_path).read("llm_answers").num_rows == 1
