"""The model as a judge: what it is told, what it may answer, and how agreement is counted."""

from collections.abc import Mapping
from typing import Any

import pytest

from pipelines.knowledge.reasoning import Unusable, reason_about_item
from pipelines.knowledge.requests import Request
from pipelines.knowledge.second_opinion import is_judged, judge_record, opinion
from tests.pipelines.knowledge.conversation import HAMMER, LLM, fairly, talk


def a_record() -> dict[str, Any]:
    record, _ = talk(reason_about_item(HAMMER, [], LLM), fairly)
    assert isinstance(record, dict)
    return record


def test_the_judge_sees_claims_without_their_verdicts() -> None:
    record = a_record()
    judged, [request] = talk(judge_record(HAMMER, record, LLM), fairly)
    told = request.messages[1][1]
    assert "ultraviolet" in told
    assert record["summary"] in told
    for hidden in ("supported", "contradicted", "verdict", '"quote"', "hash-1"):
        assert hidden not in told
    assert len(judged["marks"]) == len(record["claims"])
    assert (judged["specific"], judged["faithful"]) == (4, 5)
    assert opinion([(record["claims"], judged)])["judge_agreement"] == 1.0


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"marks": []}, "marks must grade each of the claims 1 to"),
        ({"specific": 6}, "specific: Input should be less than or equal to 5"),
        (
            {"marks": [{"id": 1, "mark": "good"}]},
            "Input should be 'stated', 'plausible' or 'wrong'",
        ),
        ({"item_id": "other"}, "Extra inputs are not permitted"),
        (
            {"reasoning": "Das ist ein Hammer und nicht für das Holz mit dem Nagel."},
            "written in German",
        ),
    ],
)
def test_an_odd_judgement_is_repaired_once_and_then_dropped(
    change: Mapping[str, Any], complaint: str
) -> None:
    asked: list[Request] = []

    def oddly(request: Request) -> dict[str, Any]:
        asked.append(request)
        return fairly(request) | change

    with pytest.raises(Unusable, match=complaint):
        talk(judge_record(HAMMER, a_record(), LLM), oddly)
    assert len(asked) == 2
    judged, _ = talk(
        judge_record(HAMMER, a_record(), LLM),
        lambda request: fairly(request) | (change if len(request.messages) == 2 else {}),
    )
    assert judged["specific"] == 4


def test_agreement_is_counted_claim_by_claim() -> None:
    def claims(verdicts: str) -> list[dict[str, str]]:
        words = {"s": "supported", "p": "plausible", "c": "contradicted"}
        return [{"verdict": words[letter]} for letter in verdicts]

    def judged(marks: str, specific: int, faithful: int) -> dict[str, Any]:
        words = {"s": "stated", "p": "plausible", "w": "wrong"}
        return {
            "marks": [words[letter] for letter in marks],
            "specific": specific,
            "faithful": faithful,
        }

    found = opinion([(claims("sspc"), judged("sppw", 1, 5)), (claims("ssp"), judged("sss", 3, 4))])
    assert found["judge_records"] == 2
    assert found["judge_grounded"] == pytest.approx(4 / 7)
    assert found["judge_wrong"] == pytest.approx(1 / 7)
    # s-s, p-p, c-w, s-s, s-s agree; s-p and p-s do not.
    assert found["judge_agreement"] == pytest.approx(5 / 7)
    by_chance = (4 / 7) ** 2 + (3 / 7) ** 2
    assert found["judge_kappa"] == pytest.approx((5 / 7 - by_chance) / (1 - by_chance))
    assert found["judge_specific"] == pytest.approx(0.25)
    assert found["judge_faithful"] == pytest.approx(0.875)
    assert opinion([]) == {}
    assert opinion([(claims("pp"), judged("pw", 1, 1))])["judge_kappa"] == 0


def test_the_sample_is_drawn_by_the_items_id() -> None:
    ids = [f"item-{number}" for number in range(4000)]
    drawn = [item for item in ids if is_judged(item, 0.1)]
    assert 300 < len(drawn) < 500
    assert drawn == [item for item in ids if is_judged(item, 0.1)]
    assert set(drawn) < {item for item in ids if is_judged(item, 0.2)}
    assert not any(is_judged(item, 0.0) for item in ids)
    assert all(is_judged(item, 1.0) for item in ids)
