"""One task's chains: what they cost the second time, and how they share their places."""

import json
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from pipelines.io.answer_store import relevant_files
from pipelines.io.llm_quota import QuotaServer
from pipelines.io.llm_tasks import Job, run_task
from pipelines.knowledge import reasoning, requests
from pipelines.knowledge.quota import Limits
from pipelines.knowledge.requests import chain_version
from pipelines.settings.groups import LlmSettings
from tests.llm_server import LlmServer
from tests.pipelines.builders import a_lake, a_run
from tests.pipelines.catalogue import DS, tools


def ask(
    lake_folder: Path, server: LlmServer, count: int, tasks: int = 1, **more: Any
) -> list[dict[str, Any]]:
    """Ask about some tools in this process, the tasks one after the other."""
    settings = {"backend": "http", "base_url": server.base_url, "model": "m"} | more
    llm = LlmSettings(**settings)
    quota = QuotaServer(Limits(1000))
    lake = a_lake(lake_folder)
    lake.ensure("llm_answers")
    subjects = [
        (item["item_id"], json.dumps({"item": item, "dimensions": []})) for item in tools(count)
    ]
    seen, relevant = relevant_files(lake, {subject for subject, _ in subjects})
    ended = []
    with quota.serving(count, "items") as address:
        for task in range(tasks):
            job = Job(
                "item", llm, address, tasks, lake.uri, {}, a_run(), DS, tuple(seen), tuple(relevant)
            )
            ended += run_task(job, task, subjects[task::tasks]).to_pylist()
    quota.close()
    return sorted(ended, key=lambda one: one["subject"])


def test_a_second_try_of_a_task_pays_nothing(tmp_path: Path, server: LlmServer) -> None:
    first = ask(tmp_path / "lake", server, 6, tasks=2)
    assert {one["status"] for one in first} == {"done"}
    assert len(server.requests()) == 24
    assert ask(tmp_path / "lake", server, 6) == first
    assert len(server.requests()) == 24
    ask(tmp_path / "lake", server, 6, model="another")
    assert len(server.requests()) == 48


@pytest.mark.parametrize(
    ("step", "asked"),
    [
        # The verifier's verdicts stay the same, so what follows costs nothing.
        ("verify", {"verify": 3}),
        ("needs", {"needs": 3}),
        ("synthesis", {"synthesis": 3}),
    ],
)
def test_an_edited_prompt_is_asked_anew_and_what_it_feeds_only_where_that_changed(
    tmp_path: Path,
    server: LlmServer,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    asked: dict[str, int],
) -> None:
    first = ask(tmp_path / "lake", server, 3)
    version = chain_version("en")
    before = len(server.requests())
    real = requests.prompt_text

    @cache
    def edited(name: str, language: str) -> str:
        return real(name, language) + (" Be brief." if name == step else "")

    monkeypatch.setattr(requests, "prompt_text", edited)
    monkeypatch.setattr(reasoning, "prompt_text", edited)
    requests.step_version.cache_clear()
    try:
        assert chain_version("en") != version
        second = ask(tmp_path / "lake", server, 3)
    finally:
        requests.step_version.cache_clear()
    assert Counter(line["step"] for line in server.requests()[before:]) == asked
    assert [one["result"] for one in second] == [one["result"] for one in first]


def test_places_are_shared_out_to_the_last_one() -> None:
    llm = LlmSettings(max_concurrency=11)
    quota = QuotaServer(Limits(1))
    job = Job("item", llm, quota.address, 4, "lake", {}, a_run(), DS)
    quota.close()
    assert [job.places(task) for task in range(4)] == [3, 3, 3, 2]


def test_no_more_requests_are_in_flight_than_allowed(tmp_path: Path, server: LlmServer) -> None:
    server.control(latency=0.05)
    ask(tmp_path / "lake", server, 10, max_concurrency=3)
    assert max(line["in_flight"] for line in server.requests()) == 3
