"""What a fair model would answer to each step, from the item's own words, and how it is spoiled."""

import json
import re
from typing import Any

HUGE = 1 << 20
UNUSABLE = (
    "invalid-json",
    "wrong-shape",
    "refusal",
    "empty",
    "huge",
    "wrong-language",
    "injection",
)


def found(messages: str, tag: str) -> Any:
    """Take a delimited value out of a request; None where there is none."""
    match = re.search(rf"<{tag}>(.*?)</{tag}>", messages, re.DOTALL)
    return json.loads(match[1]) if match else None


def fair_answer(step: str, told: str) -> dict[str, Any]:
    """Answer a step from the item's own words."""
    item = found(told, "item") or {}
    words = f"{item.get('title', '')} {item.get('description', '')}".split()
    if step == "ontology":
        return {
            "dimensions": [
                {"name": name, "why": f"the {name} decides whether it fits", "values": ["a", "b"]}
                for name in ("size", "material", "use")
            ]
        }
    if step == "attributes":
        pieces = [" ".join(words[start : start + 3]) for start in range(0, min(12, len(words)), 3)]
        facts = [
            {"name": f"detail {number}", "value": piece, "quote": piece}
            for number, piece in enumerate(pieces, start=1)
            if len(piece) <= 80
        ]
        return {"facts": [*facts, {"name": "colour", "value": "ultraviolet", "quote": "nowhere"}]}
    if step == "needs":
        return {
            "reasoning": "The thing does a job in the workshop, and who has the job is a worker.",
            "audiences": ["workshop owners"],
            "occasions": ["repairs at home"],
            "intents": [f"use {words[0][:40]}" if words else "use it"],
            "complements": ["gloves"],
            "substitutes": ["a rented tool", "perpetual motion"],
        }
    if step == "interests":
        groups = found(told, "history") or []
        numbers = [[int(said.split(":")[0]) for said in group["items"]] for group in groups]
        return {
            "interests": [
                {
                    "reasoning": "These things are for the same work in the same month.",
                    "interest": f"things of {group['month']}",
                    "evidence": evidence,
                    "tags": ["steel hammer", "Steel hammer", "work glove"],
                }
                for group, evidence in zip(groups, numbers, strict=True)
            ]
            + [
                {
                    "reasoning": "Nothing shows it.",
                    "interest": "flying",
                    "evidence": [999],
                    "tags": [],
                }
            ]
        }
    claims = found(told, "claims") or []
    if step == "judge":
        text = " ".join(words)
        return {
            "reasoning": "Most of it is said of the thing, and the rest is what people do with it.",
            "marks": [_mark(claim, text) for claim in claims],
            "specific": 4,
            "faithful": 5,
        }
    if step == "verify":
        return {"verdicts": [_verdict(claim) for claim in claims]}
    title = " ".join(words[:12]) or "It"
    return {
        "keep": [claim["id"] for claim in claims],
        "summary": f"{title} is for the workshop and for repairs at home.",
    }


def _mark(claim: dict[str, Any], text: str) -> dict[str, Any]:
    if claim["claim"].endswith("perpetual motion"):
        return {"id": claim["id"], "mark": "wrong"}
    is_stated = claim["kind"] == "attribute" and claim["claim"].split(": ", 1)[1] in text
    return {"id": claim["id"], "mark": "stated" if is_stated else "plausible"}


def _verdict(claim: dict[str, Any]) -> dict[str, Any]:
    if claim["claim"].endswith("perpetual motion"):
        return {"id": claim["id"], "verdict": "contradicted", "quote": ""}
    if claim["kind"] == "attribute":
        quote = claim["claim"].split(": ", 1)[1]
        return {"id": claim["id"], "verdict": "supported", "quote": quote}
    return {"id": claim["id"], "verdict": "plausible", "quote": ""}


def spoiled(fault: str, step: str, answer: dict[str, Any]) -> str:
    """Turn a fair answer into an unusable one."""
    if fault == "invalid-json":
        return json.dumps(answer)[:-5]
    if fault == "wrong-shape":
        return json.dumps({"result": list(answer.values())})
    if fault == "refusal":
        return "I'm sorry, but as an AI language model I cannot help with that."
    if fault == "empty":
        return ""
    if fault == "huge":
        return json.dumps(answer | {"padding": "x" * HUGE})
    if fault == "injection":
        return json.dumps(answer | {"item_id": "another", "price": 0, "status": "reasoned"})
    assert fault == "wrong-language"
    german = "Das ist ein Werkzeug für die Arbeit und nicht mit dem Hammer zu benutzen."
    name = {"needs": "reasoning", "synthesis": "summary"}.get(step)
    return json.dumps(answer | {name: german}) if name else json.dumps(answer)[:-5]
