"""Item knowledge offline, replayed and from recorded texts; and conversations shown in MLflow."""

import json
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.command import Command
from tests.llm_server import LlmServer
from tests.pipelines.builders import a_lake
from tests.pipelines.catalogue import an_item, publish_items, tools
from tests.pipelines.item_knowledge import STEP, ends, rows


def test_the_offline_backend_asks_nobody(
    night: Command, server: LlmServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_items(night.lake, tools(5))
    monkeypatch.setenv("RECKONER_LLM__BACKEND", "offline")
    assert night.json(*STEP, "--max-items", "3", "--dry-run")["expected_requests"] == 0
    assert night.json(*STEP, "--max-items", "3")["left"] == 2
    assert night.json(*STEP)["built"] == 2
    assert night.json(*STEP)["built"] == 0
    records = rows(night, "item_knowledge")
    assert ends(night) == Counter(f"item-{n:03d}" for n in range(5))
    assert {row["model"] for row in records} == {"offline-extraction"}
    assert {row["claims"] for row in records} == {None}
    assert server.requests() == []


def test_a_sample_of_conversations_is_shown_in_mlflow(
    night: Command, server: LlmServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    publish_items(night.lake, [*tools(30), an_item("spoiled", "Saw [[fault:empty]]")])
    monkeypatch.setenv("RECKONER_LLM__TRACE_SHARE", "1")
    night.json(*STEP, "--max-items", "1")
    monkeypatch.setenv("RECKONER_LLM__TRACE_SHARE", "0.2")
    night.json(*STEP)
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("item-knowledge")
    assert experiment is not None
    traces = client.search_traces([experiment.experiment_id])
    assert 1 + 1 <= len(traces) < 31
    [first] = [trace for trace in traces if trace.info.tags["item_id"] == "item-000"]
    spans = {span.name: span for span in first.data.spans}
    assert set(spans) == {"item", "attributes", "needs", "verify", "synthesis"}
    assert "Steel hammer number 0" in json.dumps(spans["needs"].inputs)
    assert "reasoning" in spans["needs"].outputs["answer"]
    assert len(server.billed()) == 1 + 30 * 4 + 2  # showing asks nothing


def test_recorded_answers_replay_a_run_without_an_endpoint(
    night: Command, server: LlmServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_items(night.lake, tools(5))
    night.json(*STEP)
    asked = len(server.requests())
    pq.write_table(a_lake(night.lake).read("llm_answers"), tmp_path / "answers.parquet")
    other = Command(str(tmp_path / "other"), night._capfd)
    publish_items(other.lake, tools(7))
    monkeypatch.setenv("RECKONER_LLM__BACKEND", "recorded")
    monkeypatch.setenv("RECKONER_LLM__RECORDED", str(tmp_path / "answers.parquet"))
    result = other.json(*STEP)
    assert (result["built"], result["left"]) == (5, 2)
    assert len(server.requests()) == asked
    assert rows(other, "item_knowledge")[0] in rows(night, "item_knowledge")


def test_recorded_texts_become_records_or_failures(
    night: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = {
        "item-000": "[description] A sturdy hammer that is made for work in wood.",
        "item-001": "Sorry, but I am unable to generate a description for this item.",
        "item-002": '[description] "Steel hammer number 2"',
        "item-003": "",
    }
    lines = [{"item_id": item, "answer": text} for item, text in texts.items()]
    lines.append({"item_id": "item-003", "answer": "The hammer with a handle for the workshop."})
    path = tmp_path / "texts.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in lines), encoding="utf-8")
    publish_items(night.lake, tools(5))
    monkeypatch.setenv("RECKONER_LLM__BACKEND", "recorded")
    monkeypatch.setenv("RECKONER_LLM__RECORDED", str(path))
    result = night.json(*STEP)
    assert (result["built"], result["failed"], result["left"]) == (2, 2, 1)
    assert (result["not_recorded"], result["recorded_more_than_once"]) == (1, 1)
    records = {row["item_id"]: row for row in rows(night, "item_knowledge")}
    assert records["item-000"]["summary"] == "A sturdy hammer that is made for work in wood."
    assert records["item-000"]["knowledge"]["brand"] == "Ferrum"
    assert {row["status"] for row in records.values()} == {"recorded"}
    failed = {row["item_id"]: row["reason"] for row in rows(night, "item_knowledge_failed")}
    assert failed["item-001"] == "recorded: the summary is a refusal"
    assert failed["item-002"] == "recorded: the summary only repeats the title"
    assert night.json(*STEP)["pending"] == 1
