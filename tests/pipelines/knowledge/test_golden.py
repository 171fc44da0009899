"""Answers as real models give them, flaws included, and the records that must come of them.

A quote that the text lacks, an instruction in a description that the analyst fell for, a quote in
another case: whoever changes prompts, checks or the assembly of records sees here what changes.
"""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipelines.knowledge.judging import quality
from pipelines.knowledge.reasoning import NEEDS, reason_about_item
from pipelines.tables.knowledge import ITEM_KNOWLEDGE
from tests.pipelines.knowledge.conversation import LLM, talk

GOLDEN = json.loads(Path(__file__).with_name("golden.json").read_text(encoding="utf-8"))


def record_of(case: dict[str, Any]) -> Any:
    record, asked = talk(
        reason_about_item(case["item"], [], LLM), lambda request: case["answers"][request.step]
    )
    assert len(asked) == 4  # no answer of the golden set needs a repair
    return record


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: case["item"]["item_id"])
def test_records_are_what_they_were(case: dict[str, Any]) -> None:
    record = record_of(case)
    knowledge = record["knowledge"]
    assert {name: knowledge[name] for name in ("attributes", *NEEDS)} == case["record"]
    assert knowledge["brand"] == case["item"]["brand"]
    assert knowledge["category"] == case["item"]["category"]
    assert record["summary"] == case["answers"]["synthesis"]["summary"]
    assert Counter(claim["verdict"] for claim in record["claims"]) == case["verdicts"]


def test_the_judge_measures_what_it_did() -> None:
    columns = ("knowledge", "summary", "claims")
    rows = [record_of(case) for case in GOLDEN]
    for row in rows:
        row["knowledge"]["attributes"] = list(row["knowledge"]["attributes"].items())
    schema = pa.schema([ITEM_KNOWLEDGE.schema.field(name) for name in columns])
    found = quality(pa.Table.from_pylist(rows, schema=schema), pa.table({"reason": ["needs: no"]}))
    assert found.grounded == pytest.approx(6 / 19)
    assert found.contradicted == pytest.approx(2 / 19)
    assert (found.specific, found.duplicated) == (1, 0)
    assert found.failed == pytest.approx(1 / 3)
