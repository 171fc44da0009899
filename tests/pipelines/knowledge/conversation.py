"""Hold a conversation with a chain in a test."""

from collections.abc import Callable, Mapping
from typing import Any

from pipelines.knowledge.reasoning import Chain
from pipelines.knowledge.requests import Reply, Request
from pipelines.settings.groups import LlmSettings
from tests.llm_answers import fair_answer

LLM = LlmSettings(backend="http", base_url="http://127.0.0.1:1/v1", model="model-1")
HAMMER = {
    "item_id": "hammer",
    "title": "Steel hammer, 500 g",
    "description": "<p>A hammer with a handle of ash.</p> It drives nails into soft wood.",
    "category": ["Tools", "Hammers"],
    "brand": "Ferrum",
    "attributes": [("weight", "500 g")],
    "content_hash": "hash-1",
}


def fairly(request: Request) -> dict[str, Any]:
    """What the test server would answer."""
    return fair_answer(request.step, request.messages[1][1])


def talk(
    chain: Chain[Any], answer: Callable[[Request], str | Mapping[str, Any]]
) -> tuple[Any, list[Request]]:
    """Answer a chain's requests until it ends; returns its result and the requests."""
    import json

    asked: list[Request] = []
    try:
        request = next(chain)
        while True:
            asked.append(request)
            said = answer(request)
            text = said if isinstance(said, str) else json.dumps(said)
            request = chain.send(Reply(text, 10, 5, 0.001))
    except StopIteration as end:
        return end.value, asked
