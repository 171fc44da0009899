"""Training: resuming bit for bit, early stopping and broken losses."""

import copy
import random
from typing import Any

import numpy as np
import pytest
import torch

from models import registry
from models.batch import SequenceBatch
from models.evaluation import Holdout, leave_one_out_split
from models.fitting import FitConfig, Fitter, NonFiniteLossError, StepState
from models.sequences import SequenceStore
from tests.models.conftest import NUM_ITEMS, random_store
from tests.models.fitters import CONFIG, assert_same_state, make

NAMES = ["sasrec", "rearec-erl", "rearec-prl", "dtrec", "stream-rec", "reg4rec"]


class Interrupted(Exception):
    """Stands in for a process that dies."""


@pytest.mark.parametrize("name", NAMES)
def test_an_interrupted_run_ends_as_an_undisturbed_one(name: str) -> None:
    undisturbed = make(name)
    undisturbed.fit()
    steps = undisturbed.step
    kill_at = random.Random(name).randrange(1, steps)
    saved: list[dict[str, Any]] = []

    def die(state: StepState) -> None:
        if state.step == kill_at:
            saved.append(first.state_dict())
            raise Interrupted

    first = make(name)
    with pytest.raises(Interrupted):
        first.fit(die)
    torch.rand(17)  # whatever the new process has drawn before must not matter
    second = make(name, seed=99)
    second.load_state_dict(saved[0])
    second.fit()
    assert second.step == steps
    assert_same_state(second.state_dict(), undisturbed.state_dict())


def test_a_saved_state_does_not_change_afterwards() -> None:
    fitter = make("sasrec")
    fitter.run_epoch()
    state = fitter.state_dict()
    before = copy.deepcopy(state)
    fitter.run_epoch()
    assert_same_state(state, before)


def test_state_of_another_recipe_is_refused() -> None:
    state = make("sasrec").state_dict()
    other = make("sasrec", CONFIG.model_copy(update={"lr": 0.5, "batch_size": 9}))
    with pytest.raises(ValueError, match="other settings: batch_size, lr"):
        other.load_state_dict(state)


def test_a_setting_that_came_later_stood_at_its_default() -> None:
    state = make("sasrec").state_dict()
    del state["config"]["min_epochs"]
    make("sasrec").load_state_dict(state)
    other = make("sasrec", CONFIG.model_copy(update={"min_epochs": 3}))
    with pytest.raises(ValueError, match="other settings: min_epochs"):
        other.load_state_dict(state)


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_a_broken_loss_stops_before_the_weights(broken: float) -> None:
    fitter = make("sasrec")
    steps = 0

    def losses(batch: SequenceBatch) -> dict[str, torch.Tensor]:
        nonlocal steps
        steps += 1
        terms = fitter.ranker.losses(batch)
        return terms if steps < 4 else {"ce": terms["ce"], "extra": terms["ce"] * broken}

    fitter._forward = losses
    weights: list[dict[str, torch.Tensor]] = []
    with pytest.raises(NonFiniteLossError, match=r"step 3 \(epoch 0, batch 3\)") as caught:
        fitter.run_epoch(lambda _: weights.append(copy.deepcopy(fitter.ranker.state_dict())))
    assert caught.value.step == 3
    assert np.isfinite(caught.value.terms["ce"])
    assert_same_state(dict(fitter.ranker.state_dict()), dict(weights[-1]))


def test_a_broken_gradient_stops_before_the_weights() -> None:
    fitter = make("sasrec")
    before = copy.deepcopy(dict(fitter.ranker.state_dict()))

    def losses(batch: SequenceBatch) -> dict[str, torch.Tensor]:
        # sqrt has an infinite slope at 0, where its value is finite.
        spike = (0.0 * fitter.ranker.losses(batch)["ce"]).clamp(min=0.0).sqrt()
        return {"ce": spike}

    fitter._forward = losses
    with pytest.raises(NonFiniteLossError, match="gradient_norm=nan"):
        fitter.run_epoch()
    assert_same_state(dict(fitter.ranker.state_dict()), before)


def test_best_weights_come_back_and_patience_ends_training(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fitter = make("sasrec", CONFIG.model_copy(update={"max_epochs": 50}))
    values = iter([0.1, 0.4, 0.2, 0.3, 0.9])
    seen: list[dict[str, torch.Tensor]] = []

    def judged() -> float:
        seen.append(copy.deepcopy(dict(fitter.ranker.state_dict())))
        return next(values)

    monkeypatch.setattr(fitter, "validate", judged)
    curve = fitter.fit()
    assert [point.validation for point in curve] == [0.1, 0.4, 0.2, 0.3]
    assert [point.best for point in curve] == [True, True, False, False]
    assert fitter.best_metric == 0.4
    assert_same_state(dict(fitter.ranker.state_dict()), seen[1])
    with pytest.raises(ValueError, match="finished"):
        fitter.run_epoch()


def test_patience_waits_for_the_least_number_of_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    fitter = make("sasrec", CONFIG.model_copy(update={"max_epochs": 50, "min_epochs": 5}))
    values = iter([0.4, 0.1, 0.2, 0.3, 0.5, 0.3, 0.2, 0.9])
    monkeypatch.setattr(fitter, "validate", lambda: next(values))
    curve = fitter.fit()
    assert [point.validation for point in curve] == [0.4, 0.1, 0.2, 0.3, 0.5, 0.3, 0.2]
    assert fitter.best_metric == 0.5


def test_training_improves_what_it_watches() -> None:
    """A log in which the next item follows from the last one is learnt well above chance."""
    rng = np.random.default_rng(0)
    rows = [
        [(int(s) + i) % NUM_ITEMS + 1 for i in range(9)] for s in rng.integers(0, NUM_ITEMS, 200)
    ]
    split = leave_one_out_split(SequenceStore.from_lists(rows))
    torch.manual_seed(0)
    ranker = registry.build("sasrec", NUM_ITEMS, dim=16, dropout=0.1)
    ranker.fit_statistics(split.train)
    fitter = Fitter(
        ranker, split.train, FitConfig(batch_size=32, max_epochs=30, lr=1e-2), split.validation
    )
    before = fitter.validate()
    fitter.fit()
    assert fitter.best_metric is not None
    assert fitter.best_metric > 0.9 > before


def test_workers_share_rows_and_judge_together() -> None:
    """Two ranks see disjoint rows; their validation sums add up to the single process's mean."""
    alone = make("sasrec")
    sums: list[torch.Tensor] = []

    def capture(values: torch.Tensor) -> torch.Tensor:
        sums.append(values)
        return values

    for rank in range(2):
        worker = make("sasrec", rank=rank, world=2, reduce_sum=capture)
        worker.validate()
    total = sums[0] + sums[1]
    assert float(total[0] / total[1]) == pytest.approx(alone.validate(), abs=1e-12)
    ranks = [make("sasrec", rank=rank, world=2) for rank in range(2)]
    targets = [_targets_of_epoch(fitter) for fitter in ranks]
    assert sum(targets) == _targets_of_epoch(alone)


def _targets_of_epoch(fitter: Fitter) -> int:
    fitter.run_epoch()
    return fitter.num_targets


def test_bf16_trains_with_weights_in_full_precision() -> None:
    fitter = make("rearec-prl", CONFIG.model_copy(update={"precision": "bf16", "max_epochs": 2}))
    fitter.fit()
    assert all(p.dtype == torch.float32 for p in fitter.ranker.parameters())
    assert fitter.curve[1].losses["ce"] < fitter.curve[0].losses["ce"]


def test_clipping_bounds_the_step() -> None:
    norms: list[float] = []
    clip = torch.nn.utils.clip_grad_norm_

    def watch(parameters: Any, limit: float) -> torch.Tensor:
        kept = list(parameters)
        norm = clip(kept, limit)
        norms.append(float(torch.stack([p.grad.norm() for p in kept]).norm()))
        return norm

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.utils, "clip_grad_norm_", watch)
        make("sasrec", CONFIG.model_copy(update={"clip_norm": 0.01})).run_epoch()
    assert norms
    assert max(norms) <= 0.0101


def test_holdout_sampling_is_deterministic() -> None:
    store = random_store(rows=30)
    holdout = Holdout(store, np.arange(30))
    assert holdout.sample(7, 1).targets.tolist() == holdout.sample(7, 1).targets.tolist()
    assert holdout.sample(7, 1).targets.tolist() != holdout.sample(7, 2).targets.tolist()
    assert len(holdout.sample(99, 1)) == 30
