"""Stages that follow one another, budgets of CPU seconds, and the pace they set."""

import copy
import time

import pytest
import torch

from models.fitting import FitConfig
from tests.models.fitters import CONFIG, TwoStages, assert_same_state, make, two_stages


def test_stages_follow_one_another_and_freeze_what_they_say() -> None:
    fitter = two_stages(CONFIG.model_copy(update={"max_epochs": 3, "patience": 99}))
    for _ in range(3):
        fitter.run_epoch()
    before = copy.deepcopy(dict(fitter.ranker.state_dict()))
    fitter.fit()
    assert [point.stage for point in fitter.curve] == ["all"] * 3 + ["items"] * 3
    after = dict(fitter.ranker.state_dict())
    frozen = [name for name in before if name.startswith("encoder.")]
    assert all(torch.equal(before[name], after[name]) for name in frozen)
    assert not torch.equal(before["items.weight"], after["items.weight"])
    # A gradient that is left over would count in the norm that is clipped.
    assert isinstance(fitter.ranker, TwoStages)
    assert all(p.grad is None for p in fitter.ranker.encoder.parameters())


def test_a_later_stage_resumes_bit_for_bit() -> None:
    recipe = CONFIG.model_copy(update={"max_epochs": 2, "patience": 99})
    whole = two_stages(recipe)
    whole.fit()
    broken = two_stages(recipe)
    for _ in range(3):
        broken.run_epoch()
    state = broken.state_dict()
    resumed = two_stages(recipe)
    resumed.load_state_dict(state)
    resumed.fit()
    assert_same_state(dict(resumed.ranker.state_dict()), dict(whole.ranker.state_dict()))
    assert [point.epoch for point in resumed.curve] == [0, 1, 2, 3]


def test_stages_share_a_cpu_budget() -> None:
    fitter = two_stages(CONFIG.model_copy(update={"cpu_seconds": 0.4}))
    fitter.fit()
    first = [point for point in fitter.curve if point.stage == "all"]
    assert 0.2 <= first[-1].cpu_seconds < fitter.cpu_seconds
    assert fitter.cpu_seconds >= 0.4


def test_what_a_stage_starts_with_is_paid_from_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    """The start is repeated until it costs enough to be told from the steps."""
    fitter = two_stages(CONFIG.model_copy(update={"max_epochs": 1}))
    start = fitter.ranker.start_stage

    def slow(stage: str) -> None:
        until = time.process_time() + 0.3
        while time.process_time() < until:
            start(stage)

    monkeypatch.setattr(fitter.ranker, "start_stage", slow)
    fitter.run_epoch()
    to_the_millisecond = fitter.curve[0].cpu_seconds - 0.0005
    assert fitter.cpu_seconds >= 0.3 + to_the_millisecond


def test_the_learning_rate_falls_to_nothing_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a straight line over the last half of a stage's epochs, after a rise of three steps."""
    fitter = make("sasrec", FitConfig(batch_size=8, max_epochs=4, cooldown=0.5, warmup_steps=3))
    taken: list[float] = []
    monkeypatch.setattr(fitter._optimisers, "step", taken.append)
    monkeypatch.setattr(fitter, "_validation", None)
    fitter.fit()
    steps = len(taken)
    fall = [min(1.0, (1 - step / steps) / 0.5) for step in range(steps)]
    assert steps == fitter.step > 20
    assert taken[:3] == pytest.approx([1 / 3, 2 / 3, 1.0])
    assert taken[3:] == pytest.approx(fall[3:])


def test_the_learning_rate_falls_with_a_budget() -> None:
    """Over its second half, where nothing else is said."""
    fitter = make("sasrec", FitConfig(batch_size=8, cpu_seconds=0.5))
    shares: list[tuple[float, float]] = []
    fitter.fit(on_step=lambda _: shares.append((fitter.cpu_seconds, fitter._pace())))
    assert len(shares) > 3
    for spent, pace in shares:
        assert pace == pytest.approx(min(1.0, max(0.0, 2 - spent / 0.25)))


def test_a_cpu_budget_ends_training_whatever_the_epochs() -> None:
    fitter = make("sasrec", CONFIG.model_copy(update={"cpu_seconds": 0.3, "max_epochs": 1}))
    fitter.fit()
    assert fitter.cpu_seconds >= 0.3
    assert fitter.epoch > 1
    assert all(point.validation is None for point in fitter.curve)


def test_workers_spend_their_mean_of_the_budget() -> None:
    # The other of two workers spends three times as much in each step.
    config = CONFIG.model_copy(update={"cpu_seconds": 1e6})
    fitter = make("sasrec", config, world=2, reduce_sum=lambda mine: mine * 4)
    fitter._spend(2.0)
    assert fitter.cpu_seconds == 4.0
