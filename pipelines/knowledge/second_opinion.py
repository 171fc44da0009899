"""A model's own judgement of a sample of records, and how far it agrees with the rules.

The judge reads what the verifier read, but neither its verdicts nor its quotes; the rubric is the
prompt file `judge`. What it says is noted and refuses nothing: a sample is small, and a judge is a
model, too.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pipelines.knowledge.answers import Judgement
from pipelines.knowledge.item_text import item_fields, require_language
from pipelines.knowledge.reasoning import Asker, Chain, require_each_once
from pipelines.knowledge.samples import is_drawn
from pipelines.settings.groups import LlmSettings

HIGHEST_GRADE = 5


def is_judged(item_id: str, share: float) -> bool:
    """Draw by the item's id, others than those that are shown as traces."""
    return is_drawn(f"judge/{item_id}", share)


def judge_record(
    item: Mapping[str, Any], record: Mapping[str, Any], llm: LlmSettings
) -> Chain[dict[str, Any]]:
    """Have one record graded.

    Args:
        item: a catalogue row.
        record: its `summary` and `claims`.
        llm: the model's settings.

    Returns:
        `marks`, one per claim in the record's order, `specific` and `faithful`.
    """
    claims = record["claims"]

    def each_once(answer: Judgement) -> None:
        require_each_once((mark.id for mark in answer.marks), len(claims), "marks must grade")
        require_language(answer.reasoning, llm.language)

    told = [
        {"id": number, "kind": claim["kind"], "claim": claim["claim"]}
        for number, claim in enumerate(claims, start=1)
    ]
    fields = item_fields(item, llm.max_item_chars)
    data = {"item": fields, "claims": told, "summary": record["summary"]}
    answer = yield from Asker(item["item_id"], llm).ask("judge", data, Judgement, each_once)
    marks = {mark.id: mark.mark for mark in answer.marks}
    return {
        "marks": [marks[claim["id"]] for claim in told],
        "specific": answer.specific,
        "faithful": answer.faithful,
    }


def opinion(
    judged: Iterable[tuple[Sequence[Mapping[str, Any]], Mapping[str, Any]]],
) -> dict[str, float]:
    """Sum judgements up, beside the rules' verdicts on the same claims.

    Args:
        judged: pairs of a record's claims and what `judge_record` made of them.

    Returns:
        Shares of claims that the judge found stated or wrong, mean grades from 0 to 1, the share
        of claims on which judge and rules agree whether the text states them, and that agreement
        beyond chance (Cohen's kappa; 0 where only one answer was ever given). Without a claim,
        nothing.
    """
    pairs = list(judged)
    both = [
        (claim["verdict"] == "supported", mark)
        for claims, judgement in pairs
        for claim, mark in zip(claims, judgement["marks"], strict=True)
    ]
    if not both:
        return {}
    count = len(both)
    rules = sum(supported for supported, _ in both) / count
    stated = sum(mark == "stated" for _, mark in both) / count
    agreement = sum(supported == (mark == "stated") for supported, mark in both) / count
    by_chance = rules * stated + (1 - rules) * (1 - stated)
    grades = {
        f"judge_{name}": sum(judgement[name] - 1 for _, judgement in pairs)
        / (len(pairs) * (HIGHEST_GRADE - 1))
        for name in ("specific", "faithful")
    }
    return grades | {
        "judge_records": float(len(pairs)),
        "judge_grounded": stated,
        "judge_wrong": sum(mark == "wrong" for _, mark in both) / count,
        "judge_agreement": agreement,
        "judge_kappa": 0.0 if by_chance == 1 else (agreement - by_chance) / (1 - by_chance),
    }
