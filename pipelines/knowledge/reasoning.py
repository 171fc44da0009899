"""How knowledge is reasoned out, step by step, as generators that ask and are told.

A chain yields one `Request` at a time and is sent the `Reply`; it returns its result or raises
`Unusable`. Who answers, in which order and how often it is tried is the driver's business, so the
same chain runs over HTTP, on vLLM, and over recorded answers. One chain is one subject: no request
ever holds the text of two items.

The division into an attribute analyst, a need analyst, a verifier and a synthesiser follows
ReaSeq's cooperating agents (abstract only; roles and prompts are an inference).
"""

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from feature_jobs.item_knowledge import MAX_SUMMARY_WORDS, key_phrases
from pipelines.knowledge.answers import (
    AnswerT,
    Facts,
    Needs,
    Ontology,
    Synthesis,
    Verdicts,
    read_answer,
)
from pipelines.knowledge.item_text import (
    as_data,
    item_fields,
    require_language,
    require_summary,
    said,
    stands_in,
)
from pipelines.knowledge.requests import Reply, Request, prompt_text, step_version
from pipelines.settings.groups import LlmSettings

T = TypeVar("T")
Chain = Generator[Request, Reply, T]

SHOWN_CHARS = 4000
NEEDS = ("audiences", "occasions", "intents", "complements", "substitutes")


class Unusable(Exception):
    """A step's answer could not be used, nor could its repair."""

    def __init__(self, reason: str, attempts: int, last_answer: str) -> None:
        self.reason, self.attempts, self.last_answer = reason, attempts, last_answer[:SHOWN_CHARS]
        super().__init__(reason)


@dataclass(frozen=True)
class Claim:
    """One thing said of an item.

    Attributes:
        verdict: supported (its quote stands in the text), plausible or contradicted.
    """

    id: int
    kind: str
    name: str
    value: str
    quote: str
    verdict: str = "plausible"

    @property
    def text(self) -> str:
        """The claim in words."""
        return f"{self.name}: {self.value}"

    @property
    def may_be_kept(self) -> bool:
        """An attribute must be stated by the text; a need may be plausible."""
        kept = {"supported"} if self.kind == "attribute" else {"supported", "plausible"}
        return self.verdict in kept


@dataclass(frozen=True)
class Asker:
    """Builds a subject's requests."""

    subject: str
    llm: LlmSettings

    def ask(
        self,
        step: str,
        data: Mapping[str, Any],
        kind: type[AnswerT],
        check: Callable[[AnswerT], None] = lambda _: None,
    ) -> Chain[AnswerT]:
        """Ask one step, and once more where the answer cannot be used.

        Raises:
            Unusable: nor could the second.
        """
        assert self.llm.model is not None
        told = "\n".join(as_data(tag, value) for tag, value in data.items())
        request = Request(
            step,
            self.subject,
            self.llm.model,
            step_version(step, self.llm.language),
            (("system", prompt_text(step, self.llm.language)), ("user", told)),
            self.llm.max_answer_tokens,
        )
        reply = yield request
        try:
            return _checked(kind, reply, check)
        except ValueError as error:
            repaired = yield request.repair(reply.text, str(error))
        try:
            return _checked(kind, repaired, check)
        except ValueError as error:
            raise Unusable(f"{step}: {error}", 2, repaired.text) from error


def _checked(kind: type[AnswerT], reply: Reply, check: Callable[[AnswerT], None]) -> AnswerT:
    answer = read_answer(kind, reply.text)
    check(answer)
    return answer


def reason_about_category(path: Sequence[str], llm: LlmSettings, subject: str) -> Chain[Any]:
    """Ask for a leaf category's dimensions; returns them as plain dictionaries."""
    asker = Asker(subject, llm)
    answer = yield from asker.ask("ontology", {"category": list(path)}, Ontology)
    return [dimension.model_dump() for dimension in answer.dimensions]


def reason_about_item(
    item: Mapping[str, Any], dimensions: Sequence[Mapping[str, Any]], llm: LlmSettings
) -> Chain[dict[str, Any]]:
    """Reason out one item's record: analyse, ask for needs, verify, synthesise.

    Args:
        item: a catalogue row.
        dimensions: its category's, from `reason_about_category`; may be empty.
        llm: the model's settings.

    Returns:
        `knowledge`, `summary` and `claims` as `item_knowledge` holds them.
    """
    asker = Asker(item["item_id"], llm)
    fields = item_fields(item, llm.max_item_chars)
    seen = {"item": fields, "dimensions": [dict(dimension) for dimension in dimensions]}
    facts = yield from asker.ask("attributes", seen, Facts)
    stated = [{"name": fact.name, "value": fact.value} for fact in facts.facts]
    needs = yield from asker.ask(
        "needs",
        seen | {"facts": stated},
        Needs,
        lambda answer: require_language(answer.reasoning, llm.language),
    )
    claims = yield from _verify(asker, fields, _claims(facts, needs))
    kept = [claim for claim in claims if claim.may_be_kept]
    synthesis = yield from asker.ask(
        "synthesis",
        {"item": fields, "claims": _numbered(kept)},
        Synthesis,
        lambda answer: _check_synthesis(answer, kept, fields, llm.language),
    )
    return _record(fields, claims, synthesis)


def _claims(facts: Facts, needs: Needs) -> list[Claim]:
    said_of_it = [("attribute", fact.name, fact.value, fact.quote) for fact in facts.facts]
    for kind in NEEDS:
        said_of_it += [(kind, kind, value, "") for value in getattr(needs, kind)]
    unique = dict.fromkeys(said_of_it)
    return [Claim(number, *claim) for number, claim in enumerate(unique, start=1)]


def _verify(asker: Asker, fields: Mapping[str, Any], claims: Sequence[Claim]) -> Chain[list[Claim]]:
    """Have each claim judged; `supported` stands only where a quote stands in the text."""
    if not claims:
        return []

    def each_once(answer: Verdicts) -> None:
        ids = (verdict.id for verdict in answer.verdicts)
        require_each_once(ids, len(claims), "verdicts must judge")

    answer = yield from asker.ask(
        "verify", {"item": fields, "claims": _numbered(claims)}, Verdicts, each_once
    )
    verdicts = {verdict.id: verdict for verdict in answer.verdicts}
    text = said(fields)
    judged = []
    for claim in claims:
        verdict = verdicts[claim.id]
        quotes = [quote for quote in (verdict.quote, claim.quote) if stands_in(quote, text)]
        word = verdict.verdict
        if word == "supported" and not quotes:
            word = "plausible"
        quote = quotes[0] if word == "supported" else ""
        judged.append(Claim(claim.id, claim.kind, claim.name, claim.value, quote, word))
    return judged


def require_each_once(ids: Iterable[int], count: int, duty: str) -> None:
    """Refuse an answer that leaves a numbered claim out, repeats or invents one.

    Raises:
        ValueError: it does; the message begins with the duty.
    """
    if sorted(ids) != list(range(1, count + 1)):
        raise ValueError(f"{duty} each of the claims 1 to {count} once")


def _numbered(claims: Sequence[Claim]) -> list[dict[str, Any]]:
    return [{"id": claim.id, "kind": claim.kind, "claim": claim.text} for claim in claims]


def _check_synthesis(
    answer: Synthesis, kept: Sequence[Claim], fields: Mapping[str, Any], language: str
) -> None:
    unknown = sorted(set(answer.keep) - {claim.id for claim in kept})
    if unknown:
        raise ValueError(f"keep: no claims have the ids {unknown[:5]}")
    require_summary(answer.summary, language, MAX_SUMMARY_WORDS)


def _record(
    fields: Mapping[str, Any], claims: Sequence[Claim], synthesis: Synthesis
) -> dict[str, Any]:
    by_id = {claim.id: claim for claim in claims}
    kept = [by_id[number] for number in dict.fromkeys(synthesis.keep)]
    attributes: dict[str, str] = {}
    for claim in kept:
        if claim.kind == "attribute":
            attributes.setdefault(claim.name, claim.value)
    needs = {kind: [claim.value for claim in kept if claim.kind == kind] for kind in NEEDS}
    texts = [fields.get("title", ""), fields.get("description", "")]
    return {
        "knowledge": {
            "category": fields.get("category", []),
            "brand": fields.get("brand"),
            "attributes": attributes,
            "key_phrases": key_phrases(texts),
            **needs,
        },
        "summary": synthesis.summary,
        "claims": [
            {
                "kind": claim.kind,
                "claim": claim.text if claim.kind == "attribute" else claim.value,
                "verdict": claim.verdict,
                "quote": claim.quote or None,
            }
            for claim in claims
        ],
    }
