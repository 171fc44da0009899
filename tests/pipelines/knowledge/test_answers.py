"""What is let in of an answer."""

import json

import pytest

from pipelines.knowledge.answers import (
    MAX_ANSWER_CHARS,
    Answer,
    Facts,
    Needs,
    Ontology,
    Synthesis,
    Verdicts,
    answer_schema,
    read_answer,
)

GOOD = {"keep": [1], "summary": "A hammer for nails."}


def test_a_good_answer_is_read_also_out_of_a_fence() -> None:
    for text in (json.dumps(GOOD), f"```json\n{json.dumps(GOOD)}\n```", f"\n {json.dumps(GOOD)} "):
        assert read_answer(Synthesis, text) == Synthesis(keep=[1], summary="A hammer for nails.")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "the answer is empty"),
        ("I'm sorry, I cannot do that.", "not JSON"),
        (json.dumps(GOOD)[:-3], "not JSON"),
        (json.dumps([GOOD]), "answer: Input should be a valid dictionary"),
        (json.dumps({"keep": [1]}), "summary: Field required"),
        (json.dumps(GOOD | {"item_id": "another"}), "item_id: Extra inputs"),
        (json.dumps(GOOD | {"keep": ["1"]}), "keep.0: Input should be a valid integer"),
        (json.dumps(GOOD | {"keep": [1.0]}), "keep.0: Input should be a valid integer"),
        (json.dumps(GOOD | {"keep": True}), "keep: Input should be a valid list"),
        (json.dumps(GOOD | {"summary": {"text": "x"}}), "summary: Input should be a valid string"),
        (json.dumps(GOOD | {"summary": "x" * 2501}), "at most 2500 characters"),
        (json.dumps(GOOD | {"summary": "bell \x07"}), "control characters"),
        (json.dumps(GOOD | {"keep": list(range(101))}), "at most 100 items"),
        ("x" * MAX_ANSWER_CHARS, f"{MAX_ANSWER_CHARS} characters or more"),
        ("[" * 50_000, "not JSON|nested too deeply"),
    ],
)
def test_what_breaks_the_form_is_refused_in_one_short_line(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint) as caught:
        read_answer(Synthesis, text)
    assert len(str(caught.value)) < 500
    assert "\n" not in str(caught.value)


def test_white_space_is_folded() -> None:
    answer = read_answer(
        Synthesis, json.dumps(GOOD | {"summary": "A\nham\u200bmer \t for\u00a0 nails."})
    )
    assert answer.summary == "A hammer for nails."


@pytest.mark.parametrize("kind", [Ontology, Facts, Needs, Verdicts, Synthesis])
def test_the_schema_that_is_sent_is_closed_and_complete(kind: type[Answer]) -> None:
    def objects(node: object) -> list[dict[str, object]]:
        if isinstance(node, dict):
            mine = [node] if node.get("type") == "object" else []
            return mine + [found for part in node.values() for found in objects(part)]
        return [found for part in node for found in objects(part)] if isinstance(node, list) else []

    schema = answer_schema(kind)
    assert objects(schema)
    for node in objects(schema):
        assert node["additionalProperties"] is False
        assert isinstance(node["properties"], dict)
        assert sorted(node["required"]) == sorted(node["properties"])  # type: ignore[call-overload]
    assert "maxLength" not in json.dumps(schema)
