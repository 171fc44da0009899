"""What a run would cost, before a request is sent."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.knowledge.item_text import item_fields
from pipelines.knowledge.requests import SCHEMA_TOKENS, price, prompt_text, tokens_of
from pipelines.settings.groups import LlmSettings

# Answer tokens to expect before anything has been measured.
EXPECTED_OUT = {
    "ontology": 350,
    "attributes": 350,
    "needs": 300,
    "verify": 600,
    "synthesis": 120,
    "judge": 400,
    "interests": 700,
}
# What a step is told of earlier answers, beside the item.
EXPECTED_TOLD = {
    "ontology": 0,
    "attributes": 300,
    "needs": 450,
    "verify": 350,
    "synthesis": 300,
    "judge": 450,
}
ITEM_STEPS = ("attributes", "needs", "verify", "synthesis")
ANSWERS_WORTH_A_MEAN = 20


@dataclass(frozen=True)
class Estimate:
    """Expected requests, tokens and dollars."""

    requests: int
    tokens_in: int
    tokens_out: int
    cost_usd: float


def estimate(
    items: Sequence[Mapping[str, Any]],
    categories: int,
    llm: LlmSettings,
    measured: Mapping[str, tuple[int, float, float]],
    judge_share: float = 0.0,
) -> Estimate:
    """Estimate a run over items and categories that have nothing yet.

    Args:
        items: catalogue rows.
        categories: how many leaf categories need an ontology.
        llm: the settings: prompts' language, bounds and prices.
        measured: per step: answers so far, mean tokens in and out; used instead of guesses where
            there are enough of them.
        judge_share: of the items, whose records the model grades.
    """
    tokens_in = tokens_out = 0.0
    texts = [tokens_of(json.dumps(item_fields(item, llm.max_item_chars))) for item in items]
    judged = round(judge_share * len(items))
    for step in ("ontology", *ITEM_STEPS, "judge"):
        count = {"ontology": categories, "judge": judged}.get(step, len(items))
        answers, mean_in, mean_out = measured.get(step, (0, 0.0, 0.0))
        if answers >= ANSWERS_WORTH_A_MEAN:
            tokens_in += count * mean_in
            tokens_out += count * mean_out
            continue
        asked = tokens_of(prompt_text(step, llm.language)) + SCHEMA_TOKENS + EXPECTED_TOLD[step]
        text = 0.0 if step == "ontology" or not items else sum(texts) / len(items)
        tokens_in += count * (asked + text)
        tokens_out += count * EXPECTED_OUT[step]
    cost = price(round(tokens_in), round(tokens_out), llm)
    requests = categories + len(items) * len(ITEM_STEPS) + judged
    return Estimate(requests, round(tokens_in), round(tokens_out), round(cost, 6))
