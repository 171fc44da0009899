"""How good a round of reasoned records is, held against the last one that was accepted."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from pipelines.knowledge.reasoning import NEEDS
from pipelines.knowledge.selection import SERVICE
from pipelines.monitoring import Check
from pipelines.settings.groups import KnowledgeSettings

SUBJECT = "item_knowledge"
# Shares of which less is better.
BAD = {"contradicted", "duplicated", "failed", "invented"}
# What a model says of a sample is noted and refuses nothing.
ONLY_NOTED = "judge_"


@dataclass(frozen=True)
class Quality:
    """Shares, each from 0 to 1.

    Attributes:
        grounded: claims whose quote stands in the text, among all claims.
        contradicted: claims that the verifier struck.
        specific: how rarely other records have the same need: one minus the mean share of them.
        duplicated: records whose summary another record has too.
        failed: items whose answers could not be used, among those that were answered.
    """

    grounded: float
    contradicted: float
    specific: float
    duplicated: float
    failed: float


def quality(records: pa.Table, failed: pa.Table) -> Quality:
    """Measure a round of `item_knowledge` and `item_knowledge_failed` rows; records not empty."""
    rows = records.select(["knowledge", "summary", "claims"]).to_pylist()
    verdicts = Counter(claim["verdict"] for row in rows for claim in row["claims"] or [])
    claims = max(1, verdicts.total())
    needs = [_needs(row["knowledge"]) for row in rows]
    bearers = Counter(need for record in needs for need in record)
    others = max(1, len(rows) - 1)
    shared = [(bearers[need] - 1) / others for record in needs for need in record]
    summaries = Counter(row["summary"].casefold() for row in rows)
    unusable = [r for r in failed["reason"].to_pylist() if not r.startswith(SERVICE)]
    return Quality(
        grounded=verdicts["supported"] / claims,
        contradicted=verdicts["contradicted"] / claims,
        specific=1 - sum(shared) / max(1, len(shared)),
        duplicated=sum(n for n in summaries.values() if n > 1) / len(rows),
        failed=len(unusable) / (len(rows) + len(unusable)),
    )


def compare(
    now: Quality | Mapping[str, float],
    accepted: Mapping[str, float] | None,
    settings: KnowledgeSettings,
) -> list[Check]:
    """Check every measure against the last accepted round's; without one they are noted."""
    checks = []
    for name, value in (asdict(now) if isinstance(now, Quality) else now).items():
        last = None if accepted is None else accepted.get(name)
        if last is None or name.startswith(ONLY_NOTED):
            checks.append(Check(name, value, last, None, True, f"{name} {value:.3f}"))
            continue
        sign = -1 if name in BAD else 1
        bound = last - sign * settings.max_quality_loss
        passed = sign * (value - bound) >= 0
        detail = f"{name} {value:.3f}, last accepted {last:.3f}"
        checks.append(Check(name, value, last, bound, passed, detail))
    return checks


def last_accepted(
    rows: Mapping[str, list[dict[str, Any]]], subject: str = SUBJECT
) -> dict[str, float] | None:
    """Find the newest night whose round was accepted; None where there is none.

    Args:
        rows: per night: its rows of `monitoring`.
        subject: what was judged.
    """
    for ds in sorted(rows, reverse=True):
        mine = [row for row in rows[ds] if row["subject"] == subject]
        if mine and all(row["status"] != "failed" for row in mine):
            return {row["check"]: row["value"] for row in mine}
    return None


def _needs(knowledge: Mapping[str, Any]) -> set[str]:
    return {f"{kind}/{need.casefold()}" for kind in NEEDS for need in knowledge[kind] or []}
