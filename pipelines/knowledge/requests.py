"""One question to a model: its messages, the shape of its answer, and its identity."""

import hashlib
import json
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from typing import Any

from pipelines.knowledge.answers import (
    Answer,
    Facts,
    Interests,
    Judgement,
    Needs,
    Ontology,
    Synthesis,
    Verdicts,
    answer_schema,
)
from pipelines.knowledge.item_text import LANGUAGE_NAMES
from pipelines.settings.groups import LlmSettings

# The prompt files in use; an edited prompt gets a new number and a line of its own in the tests.
PROMPTS: dict[str, tuple[str, type[Answer]]] = {
    "ontology": ("v1", Ontology),
    "attributes": ("v1", Facts),
    "needs": ("v1", Needs),
    "verify": ("v1", Verdicts),
    "synthesis": ("v1", Synthesis),
    "judge": ("v1", Judgement),
    "interests": ("v1", Interests),
}
# The steps whose answers an item's record is made of.
ITEM_CHAIN = ("ontology", "attributes", "needs", "verify", "synthesis")
REPAIR = (
    "Your answer cannot be used: {fault}. Answer again with one JSON object of the given schema "
    "that puts this right, and nothing else."
)
REPEATED_CHARS = 4000
CHARS_PER_TOKEN = 4
# A tokenizer rarely makes more than one token of three characters of running text.
CHARS_PER_TOKEN_AT_LEAST = 3
SCHEMA_TOKENS = 200


@dataclass(frozen=True)
class Request:
    """A question.

    Attributes:
        subject: the item id or category that it is about; it is not sent.
        messages: (role, content) pairs.
    """

    step: str
    subject: str
    model: str
    prompt_version: str
    messages: tuple[tuple[str, str], ...]
    max_tokens: int

    @property
    def body(self) -> dict[str, Any]:
        """The request in the chat-completions protocol."""
        return {
            "model": self.model,
            "messages": [{"role": role, "content": text} for role, text in self.messages],
            "temperature": 0,
            "max_tokens": self.max_tokens,
            "response_format": {
                "type": "json_schema",
                "json_schema": {
                    "name": self.step,
                    "strict": True,
                    "schema": step_schema(self.step),
                },
            },
        }

    @property
    def hash(self) -> str:
        """The identity under which its answer is kept: a digest of subject and all that is sent."""
        asked = json.dumps([self.subject, self.body], sort_keys=True)
        return hashlib.blake2b(asked.encode(), digest_size=16).hexdigest()

    @property
    def most_tokens_in(self) -> int:
        """An upper estimate of the prompt's tokens."""
        chars = sum(len(text) for _, text in self.messages)
        return chars // CHARS_PER_TOKEN_AT_LEAST + SCHEMA_TOKENS

    def repair(self, answer: str, fault: str) -> "Request":
        """Ask once more, with the answer and what is wrong with it."""
        told = ("assistant", answer[:REPEATED_CHARS]), ("user", REPAIR.format(fault=fault))
        return replace(self, messages=(*self.messages, *told))


@dataclass(frozen=True)
class Reply:
    """What came back; an empty text where the model refused."""

    text: str
    tokens_in: int
    tokens_out: int
    cost_usd: float


@cache
def step_schema(step: str) -> dict[str, Any]:
    """The JSON schema of a step's answer."""
    return answer_schema(PROMPTS[step][1])


@cache
def prompt_text(step: str, language: str) -> str:
    """A step's instructions, as the package ships them."""
    file = resources.files("pipelines.knowledge") / "prompts" / f"{step}.{PROMPTS[step][0]}.md"
    name = LANGUAGE_NAMES.get(language, language)
    return file.read_text(encoding="utf-8").replace("{language}", name).strip()


@cache
def step_version(step: str, language: str) -> str:
    """A step's version: its file's number and a digest of instructions and answer schema."""
    said = json.dumps([prompt_text(step, language), step_schema(step), REPAIR], sort_keys=True)
    digest = hashlib.blake2b(said.encode(), digest_size=4).hexdigest()
    return f"{step}.{PROMPTS[step][0]}-{digest}"


def chain_version(language: str) -> str:
    """The version of an item's steps together, as `item_knowledge` carries it."""
    versions = "\n".join(step_version(step, language) for step in ITEM_CHAIN)
    return f"reasoned-{hashlib.blake2b(versions.encode(), digest_size=6).hexdigest()}"


def tokens_of(text: str) -> int:
    """A middling estimate of a text's tokens."""
    return -(-len(text) // CHARS_PER_TOKEN)


def price(tokens_in: int, tokens_out: int, llm: LlmSettings) -> float:
    """Dollars for the tokens of prompts and of answers, at the settings' prices per million."""
    return (tokens_in * llm.price_per_million_in + tokens_out * llm.price_per_million_out) / 1e6
