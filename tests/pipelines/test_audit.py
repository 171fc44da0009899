"""What the audit counts, and what it refuses."""

import numpy as np
import pyarrow as pa
import pytest

from pipelines.audit import ListStatistics, band_checks, row_checks, stability_index
from pipelines.settings.groups import RecommendSettings

SETTINGS = RecommendSettings()
ALLOWED = pa.array(["a", "b", "c", "d"])
Row = tuple[str, int, str, float, str]
GOOD: list[Row] = [
    ("u1", 1, "a", 3.0, "ranker"),
    ("u1", 2, "b", 2.0, "ranker"),
    ("u2", 1, "c", 1.5, "ranker"),
    ("u2", 2, "d", 0.1, "popularity"),
]


def counted(rows: list[Row], more: list[Row] | None = None) -> ListStatistics:
    found = ListStatistics(top_k=2)
    for part in filter(None, (rows, more)):
        names = ["user_id", "rank", "item_id", "score", "source"]
        found.add(
            pa.table(dict(zip(names, map(list, zip(*part, strict=True)), strict=True))), ALLOWED
        )
    return found


def failed(found: ListStatistics, users: tuple[str, ...] = ("u1", "u2")) -> list[str]:
    return [check.name for check in row_checks(found, found.missing(users)) if not check.passed]


def test_good_lists_pass() -> None:
    found = counted(GOOD)
    assert failed(found) == []
    assert (found.users, found.rows, found.fallback_share) == (2, 4, 0.25)


@pytest.mark.parametrize(
    ("place", "row", "expected"),
    [
        (1, ("u1", 3, "b", 2.0, "ranker"), "ranks dense from 1"),
        (0, ("u1", 2, "a", 3.0, "ranker"), "ranks dense from 1"),
        (1, ("u1", 2, "b", 3.5, "ranker"), "scores never rise"),
        (1, ("u1", 2, "a", 2.0, "ranker"), "items once per user"),
        (3, ("u2", 2, "x", 0.1, "popularity"), "only allowed items"),
    ],
)
def test_each_broken_promise_is_found(place: int, row: Row, expected: str) -> None:
    rows = [row if i == place else one for i, one in enumerate(GOOD)]
    assert expected in failed(counted(rows))


def test_a_missing_user_is_named() -> None:
    found = counted(GOOD)
    checks = row_checks(found, found.missing(["u1", "u2", "u3"]))
    (check,) = [check for check in checks if not check.passed]
    assert check.name == "every user has a list"
    assert "u3" in check.detail


def test_a_user_in_two_files_is_found() -> None:
    again: list[Row] = [("u1", 1, "c", 1.0, "ranker"), ("u1", 2, "d", 0.5, "ranker")]
    assert failed(counted(GOOD, again)) == ["one list per user"]


def test_lists_longer_than_k_are_found() -> None:
    longer = [*GOOD[:2], ("u1", 3, "c", 1.0, "ranker")]
    assert "ranks dense from 1" in failed(counted(longer), ("u1",))


def test_bands_compare_with_yesterday() -> None:
    today, yesterday = counted(GOOD), counted(GOOD * 1)
    yesterday.rows = 100
    checks = band_checks(today, yesterday, 4, SETTINGS, has_champion=True, same_model=True)
    by_name = {check.name: check.status for check in checks}
    assert by_name["rows against yesterday"] == "failed"
    assert by_name["catalogue coverage"] == "ok"
    assert by_name["score drift"] == "ok"


def test_drift_is_only_noted_when_the_model_changed() -> None:
    today, yesterday = counted(GOOD), counted(GOOD)
    today.scores = [np.full(1000, 9.0, np.float32)]
    judged = {
        same: band_checks(today, yesterday, 4, SETTINGS, has_champion=True, same_model=same)[-1]
        for same in (True, False)
    }
    assert (judged[True].status, judged[False].status) == ("failed", "noted")


def test_the_stability_index_tells_a_shift_from_noise() -> None:
    draw = np.random.default_rng(0)
    base = draw.normal(size=5000).astype(np.float32)
    assert stability_index(base, draw.normal(size=5000).astype(np.float32)) < 0.02
    assert stability_index(base, draw.normal(1.0, size=5000).astype(np.float32)) > 0.5
