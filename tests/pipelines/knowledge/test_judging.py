"""What the judge measures, and when it refuses."""

from typing import Any

import pyarrow as pa
import pytest

from pipelines.knowledge.judging import Quality, compare, last_accepted, quality
from pipelines.settings.groups import KnowledgeSettings
from pipelines.tables.knowledge import ITEM_KNOWLEDGE

SCHEMA = pa.schema([ITEM_KNOWLEDGE.schema.field(c) for c in ("knowledge", "summary", "claims")])


def a_record(summary: str, audiences: list[str], verdicts: str) -> dict[str, Any]:
    words = {"s": "supported", "p": "plausible", "c": "contradicted"}
    return {
        "knowledge": {"audiences": audiences},
        "summary": summary,
        "claims": [{"verdict": words[letter]} for letter in verdicts],
    }


def test_shares_are_counted_over_the_round() -> None:
    records = [
        a_record("One.", ["cooks", "bakers"], "ssp"),
        a_record("Two.", ["Cooks"], "sc"),
        a_record("two.", ["painters"], ""),
    ]
    failed = pa.table({"reason": ["verify: no", "service: HTTP 500"]})
    found = quality(pa.Table.from_pylist(records, schema=SCHEMA), failed)
    assert found.grounded == 3 / 5
    assert found.contradicted == 1 / 5
    assert found.duplicated == 2 / 3
    assert found.failed == 1 / 4
    # "cooks" is borne by one of the two others, twice over; the other two needs by nobody.
    assert found.specific == pytest.approx(1 - (0.5 + 0.5) / 4)


def test_a_round_without_claims_or_needs_is_measured_too() -> None:
    rows = pa.Table.from_pylist([a_record("One.", [], "")], schema=SCHEMA)
    found = quality(rows, pa.table({"reason": pa.array([], pa.string())}))
    assert found == Quality(0, 0, 1, 0, 0)


def test_a_measure_may_fall_behind_by_so_much_and_no_more() -> None:
    settings = KnowledgeSettings(max_quality_loss=0.1)
    accepted = {"grounded": 0.6, "contradicted": 0.1, "specific": 0.9, "duplicated": 0.0}
    good = Quality(grounded=0.51, contradicted=0.19, specific=1.0, duplicated=0.1, failed=0.9)
    assert all(check.passed for check in compare(good, accepted, settings))
    bad = Quality(grounded=0.49, contradicted=0.21, specific=0.79, duplicated=0.11, failed=0.0)
    refused = {check.name for check in compare(bad, accepted, settings) if not check.passed}
    assert refused == {"grounded", "contradicted", "specific", "duplicated"}
    assert {check.status for check in compare(bad, None, settings)} == {"noted"}


def test_the_last_accepted_round_is_the_newest_without_a_failed_check() -> None:
    def row(value: float, status: str, subject: str = "item_knowledge") -> dict[str, Any]:
        return {"subject": subject, "check": "grounded", "value": value, "status": status}

    nights = {
        "2026-03-01": [row(0.5, "noted")],
        "2026-03-02": [row(0.6, "ok"), row(0.1, "failed", "recommendations")],
        "2026-03-03": [row(0.2, "failed")],
        "2026-03-04": [row(0.9, "ok", "recommendations")],
    }
    assert last_accepted(nights) == {"grounded": 0.6}
    assert last_accepted({}) is None
