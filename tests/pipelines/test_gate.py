"""The promotion gate as a pure function."""

import numpy as np

from pipelines.gate import decide, reasons
from pipelines.judgement import Judgement
from pipelines.settings.groups import GateSettings

USERS = 400
SETTINGS = GateSettings(min_users=20, bootstrap_samples=500)


def judgement(hits: float, coverage: float = 0.5, tail_hits: float | None = None) -> Judgement:
    """The first `hits` share of the users get their item; the second half is the tail."""
    values = (np.arange(USERS) % 100 < hits * 100).astype(float)
    tail = np.arange(USERS) >= USERS // 2
    if tail_hits is not None:
        values[tail] = (np.arange(tail.sum()) % 100 < tail_hits * 100).astype(float)
    slices = {"all": np.ones(USERS, bool), "tail": tail, "head": ~tail}
    return Judgement({"ndcg@10": values}, slices, {"coverage@10": coverage, "gini@10": 0.5})


def refusals(*arguments: object, settings: GateSettings = SETTINGS) -> list[str]:
    return reasons(decide(*arguments, settings))  # type: ignore[arg-type]


def test_a_clear_gain_passes() -> None:
    assert refusals(judgement(0.5), None, {"popularity": judgement(0.2)}) == []


def test_a_gain_whose_interval_touches_zero_is_refused_with_the_interval() -> None:
    (reason,) = refusals(judgement(0.21), None, {"tgh": judgement(0.21)})
    assert "gain over tgh is +0.00000" in reason
    assert "its lower bound must exceed 0" in reason


def test_every_baseline_must_be_beaten() -> None:
    baselines = {"popularity": judgement(0.1), "last-transition": judgement(0.6)}
    (reason,) = refusals(judgement(0.5), None, baselines)
    assert "last-transition" in reason


def test_a_worse_challenger_does_not_replace_the_champion() -> None:
    found = refusals(judgement(0.4), judgement(0.5), {})
    assert any("champion on all" in reason for reason in found)


def test_an_equal_challenger_may_replace_the_champion() -> None:
    assert refusals(judgement(0.5), judgement(0.5), {}) == []


def test_a_slice_left_behind_is_refused_though_the_mean_gains() -> None:
    challenger, champion = judgement(0.9, tail_hits=0.3), judgement(0.4)
    (reason,) = refusals(challenger, champion, {})
    assert "champion on tail" in reason


def test_small_slices_are_not_gated() -> None:
    challenger, champion = judgement(0.9, tail_hits=0.3), judgement(0.4)
    relaxed = SETTINGS.model_copy(update={"min_slice_users": USERS})
    assert refusals(challenger, champion, {}, settings=relaxed) == []


def test_coverage_has_a_floor() -> None:
    (reason,) = refusals(judgement(0.5, coverage=0.001), None, {})
    assert "0.10% of the known items" in reason


def test_too_few_users_refuse() -> None:
    few = SETTINGS.model_copy(update={"min_users": USERS + 1})
    (reason,) = refusals(judgement(0.5), None, {}, settings=few)
    assert "400 test users" in reason
