"""The shape of each step's answer: what is asked of the model, and what is let in.

Every text is bounded and every object refuses unknown fields, so an answer can neither grow the
record nor change a type, whatever the item's text talked the model into.
"""

import json
import unicodedata
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

MAX_ANSWER_CHARS = 65_536
FAULTS_SHOWN = 5
# What a server need not enforce: strict schemas of some endpoints refuse these keywords.
UNSENT = {"maxLength", "minLength", "title", "description", "default"}


def _one_line(text: str) -> str:
    visible = (letter for letter in text if unicodedata.category(letter) != "Cf")
    folded = " ".join("".join(visible).split())
    if not folded.isprintable():
        raise ValueError("holds control characters")
    return folded


Short = Annotated[str, Field(min_length=1, max_length=80), AfterValidator(_one_line)]
Sentence = Annotated[str, Field(min_length=1, max_length=300), AfterValidator(_one_line)]
Paragraph = Annotated[str, Field(min_length=1, max_length=2500), AfterValidator(_one_line)]
Quote = Annotated[str, Field(max_length=400), AfterValidator(_one_line)]


class Answer(BaseModel):
    """A step's answer."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Dimension(Answer):
    """What a buyer of a category looks at."""

    name: Short
    why: Sentence
    values: list[Short] = Field(max_length=12)


class Ontology(Answer):
    """The dimensions of a category."""

    dimensions: list[Dimension] = Field(min_length=1, max_length=12)


class Fact(Answer):
    """What the text states."""

    name: Short
    value: Short
    quote: Quote


class Facts(Answer):
    """The attribute analyst's answer."""

    facts: list[Fact] = Field(max_length=30)


class Needs(Answer):
    """The need analyst's answer; it reasons before it concludes."""

    reasoning: Paragraph
    audiences: list[Short] = Field(max_length=10)
    occasions: list[Short] = Field(max_length=10)
    intents: list[Short] = Field(max_length=10)
    complements: list[Short] = Field(max_length=10)
    substitutes: list[Short] = Field(max_length=10)


class Verdict(Answer):
    """The verifier's word on one claim."""

    id: int = Field(ge=1)
    verdict: Literal["supported", "plausible", "contradicted"]
    quote: Quote


class Verdicts(Answer):
    """The verifier's answer."""

    verdicts: list[Verdict] = Field(max_length=100)


class Synthesis(Answer):
    """The synthesiser's answer: which claims to keep, and a summary."""

    keep: list[int] = Field(max_length=100)
    summary: Paragraph


class Mark(Answer):
    """The judge's mark for one claim."""

    id: int = Field(ge=1)
    mark: Literal["stated", "plausible", "wrong"]


class Judgement(Answer):
    """The judge's answer; it reasons before it grades."""

    reasoning: Paragraph
    marks: list[Mark] = Field(max_length=100)
    specific: int = Field(ge=1, le=5)
    faithful: int = Field(ge=1, le=5)


class Interest(Answer):
    """One interest of a person, with the lines of their history that bear it out."""

    reasoning: Sentence
    interest: Short
    evidence: list[int] = Field(min_length=1, max_length=100)
    tags: list[Short] = Field(max_length=10)


class Interests(Answer):
    """The interest miner's answer."""

    interests: list[Interest] = Field(min_length=1, max_length=32)


AnswerT = TypeVar("AnswerT", bound=Answer)


def answer_schema(kind: type[Answer]) -> dict[str, Any]:
    """The JSON schema that constrains an answer, in the form of `response_format`.

    Every field is required and no other is allowed, as strict modes demand.
    """
    return dict(_sent(kind.model_json_schema()))


def read_answer(kind: type[AnswerT], text: str) -> AnswerT:
    """Parse and check an answer.

    Raises:
        ValueError: says in one line what is wrong, without repeating the answer.
    """
    if not text.strip():
        raise ValueError("the answer is empty")
    if len(text) >= MAX_ANSWER_CHARS:
        raise ValueError(f"the answer has {MAX_ANSWER_CHARS} characters or more")
    try:
        return kind.model_validate(json.loads(_unfenced(text)))
    except json.JSONDecodeError as error:
        raise ValueError(f"the answer is not JSON: {error}") from error
    except RecursionError as error:
        raise ValueError("the answer is nested too deeply") from error
    except ValidationError as error:
        faults = [
            f"{'.'.join(str(part)[:40] for part in fault['loc']) or 'answer'}: {fault['msg']}"
            for fault in error.errors(include_input=False, include_url=False)
        ]
        more = f"; and {len(faults) - FAULTS_SHOWN} more" if len(faults) > FAULTS_SHOWN else ""
        raise ValueError("; ".join(faults[:FAULTS_SHOWN]) + more) from error


def _unfenced(text: str) -> str:
    """Take the object out of a Markdown fence, which many models put around it."""
    lines = text.strip().splitlines()
    if len(lines) > 2 and lines[0].startswith("```") and lines[-1].strip() == "```":
        return "\n".join(lines[1:-1])
    return text


def _sent(node: Any, is_names: bool = False) -> Any:
    """Drop keywords that are only for us; `is_names`: the keys are field names, not keywords."""
    if isinstance(node, dict):
        return {
            key: _sent(value, is_names=key in ("properties", "$defs") and not is_names)
            for key, value in node.items()
            if is_names or key not in UNSENT
        }
    return [_sent(part) for part in node] if isinstance(node, list) else node
