"""What a person is interested in: asked of a model or read off, and held against their history."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from feature_jobs.item_knowledge import key_phrases
from pipelines.knowledge.answers import Interests
from pipelines.knowledge.item_text import require_language
from pipelines.knowledge.reasoning import Asker, Chain
from pipelines.knowledge.selection import SERVICE
from pipelines.knowledge.user_history import Line, inverted
from pipelines.settings.groups import LlmSettings

SUBJECT_PREFIX = "user:"
MAX_TAGS = 10
OFFLINE_TAGS = 5
WORDS_WORTH_JUDGING = 30

Found = dict[str, Any]


def reason_about_user(
    lines: Sequence[Line], most: int, llm: LlmSettings, subject: str
) -> Chain[Found]:
    """Ask for a person's interests.

    The model is told numbers, not ids; neither the person's id nor another's history is sent.

    Args:
        lines: the person's compressed history.
        most: interests kept at most.
        llm: the model's settings.
        subject: under which answers are kept.

    Returns:
        `interests` (see `kept`), and how many were `claimed`, `dropped` for want of evidence, and
        how many numbers were `cited` and `invented`.
    """
    numbers = {line.number for line in lines}

    def check(answer: Interests) -> None:
        if not any(numbers & set(one.evidence) for one in answer.interests):
            raise ValueError("interests: none names an item of the history as its evidence")
        said = " ".join(f"{one.reasoning} {one.interest}" for one in answer.interests)
        if len(said.split()) >= WORDS_WORTH_JUDGING:
            require_language(said, llm.language)

    asker = Asker(subject, llm)
    told = {"history": inverted(lines)}
    answer = yield from asker.ask("interests", told, Interests, check)
    named = [(one.interest, list(one.evidence), list(one.tags)) for one in answer.interests]
    cited = [number for _, evidence, _ in named for number in evidence]
    interests = kept(named, lines, most)
    return {
        "interests": interests,
        "claimed": len(named),
        "dropped": sum(not numbers & set(evidence) for _, evidence, _ in named),
        "cited": len(cited),
        "invented": sum(number not in numbers for number in cited),
    }


def kept(
    named: Sequence[tuple[str, Sequence[int], Sequence[str]]], lines: Sequence[Line], most: int
) -> list[Found]:
    """Keep the interests that the history bears out, the weightiest first.

    Interests of one name are joined. A weight is the share of the told events that the evidence
    holds.

    Args:
        named: interest, numbers of its evidence and tags of each.
        lines: the history.
        most: interests kept at most.
    """
    by_number = {line.number: line for line in lines}
    total = sum(line.times for line in lines)
    joined: dict[str, tuple[str, dict[int, None], dict[str, None]]] = {}
    for interest, evidence, tags in named:
        real = [number for number in evidence if number in by_number]
        if not real:
            continue
        _, numbers, words = joined.setdefault(interest.casefold(), (interest, {}, {}))
        numbers.update(dict.fromkeys(real))
        words.update(dict.fromkeys(tag.casefold() for tag in tags))
    found = [
        {
            "interest": interest,
            "weight": sum(by_number[number].times for number in numbers) / total,
            "evidence": [by_number[number].item_id for number in sorted(numbers)],
            "tags": list(words)[:MAX_TAGS],
        }
        for interest, numbers, words in joined.values()
    ]
    return sorted(found, key=lambda one: (-float(str(one["weight"])), str(one["interest"])))[:most]


def read_off(
    lines: Sequence[Line], items: Mapping[str, Mapping[str, Any]], most: int
) -> list[Found]:
    """Read interests off the catalogue, without a model: leaf categories, or else brands.

    Args:
        lines: the history.
        items: title, category and brand of its items.
        most: interests kept at most.
    """
    evidence: dict[str, list[int]] = {}
    for line in lines:
        item = items.get(line.item_id)
        if item is None:
            continue
        category = list(item.get("category") or [])
        name = category[-1] if category else item.get("brand")
        if name:
            evidence.setdefault(str(name), []).append(line.number)
    titles = {line.number: items[line.item_id]["title"] for line in lines if line.item_id in items}
    named = [
        (name, numbers, key_phrases([titles[number] for number in numbers])[:OFFLINE_TAGS])
        for name, numbers in evidence.items()
    ]
    return kept(named, lines, most)


def interest_quality(told: Sequence[Mapping[str, Any]], failed: Sequence[str]) -> dict[str, float]:
    """Measure a round of answers, in shares from 0 to 1.

    `grounded`: interests that the history bears out; `invented`: numbers cited that it lacks;
    `specific`: one minus the mean share of other people with the same interest; `failed`: people
    whose answers could not be used.

    Args:
        told: results of `reason_about_user`.
        failed: reasons of failures.
    """
    claimed = sum(one["claimed"] for one in told)
    bearers = Counter(found["interest"].casefold() for one in told for found in one["interests"])
    others = max(1, len(told) - 1)
    shared = [
        (bearers[found["interest"].casefold()] - 1) / others
        for one in told
        for found in one["interests"]
    ]
    return {
        "grounded": 1 - sum(one["dropped"] for one in told) / max(1, claimed),
        "invented": sum(one["invented"] for one in told)
        / max(1, sum(one["cited"] for one in told)),
        "specific": 1 - sum(shared) / max(1, len(shared)),
        "failed": unusable(failed) / max(1, len(told) + unusable(failed)),
    }


def unusable(reasons: Sequence[str]) -> int:
    """Count the failures that were not the service's."""
    return sum(not reason.startswith(SERVICE) for reason in reasons)
