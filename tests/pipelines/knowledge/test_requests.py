"""Prompts are versioned, and a request's identity is all that is sent."""

import re
from dataclasses import replace

import pytest

from pipelines.knowledge import requests
from pipelines.knowledge.reasoning import reason_about_item
from pipelines.knowledge.requests import PROMPTS, chain_version, prompt_text, step_version
from tests.pipelines.knowledge.conversation import HAMMER, LLM

# An edited prompt is a new version: add a file with the next number, name it in PROMPTS, and put
# its version here.
VERSIONS = {
    "ontology": "ontology.v1-1ee7bbe6",
    "attributes": "attributes.v1-0a9f2671",
    "needs": "needs.v1-ac7cc662",
    "verify": "verify.v1-6284af2c",
    "synthesis": "synthesis.v1-7ca7df3c",
    "judge": "judge.v1-fad64293",
    "interests": "interests.v1-8a83f31f",
}


@pytest.mark.parametrize("step", PROMPTS)
def test_prompts_change_only_under_a_new_version(step: str) -> None:
    assert step_version(step, "en") == VERSIONS[step]


@pytest.mark.parametrize("step", PROMPTS)
def test_prompts_say_that_text_is_data_and_are_filled_in(step: str) -> None:
    text = prompt_text(step, "de")
    assert re.search(r"data", text)
    assert "instruction" in text
    assert "{" not in text.replace("{language}", "")
    assert "{language}" not in text


def test_another_language_or_form_is_another_version(monkeypatch: pytest.MonkeyPatch) -> None:
    english = chain_version("en")
    assert chain_version("de") != english
    requests.step_version.cache_clear()
    monkeypatch.setattr(requests, "REPAIR", "Again: {fault}")
    assert chain_version("en") != english
    monkeypatch.undo()
    requests.step_version.cache_clear()
    assert chain_version("en") == english


def test_the_hash_covers_subject_model_messages_and_settings() -> None:
    request = next(reason_about_item(HAMMER, [], LLM))
    others = [
        replace(request, subject="another"),
        replace(request, model="model-2"),
        replace(request, messages=(("system", "x"), *request.messages[1:])),
        replace(request, max_tokens=99),
        replace(request, step="needs"),
        request.repair("{}", "fault"),
    ]
    assert len({request.hash, *(other.hash for other in others)}) == 7
    assert replace(request, prompt_version="only a label").hash == request.hash


def test_the_body_follows_the_protocol() -> None:
    body = next(reason_about_item(HAMMER, [], LLM)).body
    assert [message["role"] for message in body["messages"]] == ["system", "user"]
    schema = body["response_format"]["json_schema"]
    assert (schema["name"], schema["strict"]) == ("attributes", True)
    assert body["temperature"] == 0
    assert body["max_tokens"] == LLM.max_answer_tokens
