"""Chunked cross-entropy over the full catalogue against the plain one."""

import pytest
import torch
from torch.nn import functional

from models.losses import CHUNK_TARGETS, full_cross_entropy
from tests.models.losses.naive import assert_same, drawn_bonus, problem

# One target, part of a chunk, exactly one, and several with a rest.
COUNTS = [1, 100, CHUNK_TARGETS, 2 * CHUNK_TARGETS + 37]


# Scores that exp takes as they are, and scores whose maximum has to go first.
@pytest.mark.parametrize("scale", [0.1, 8.0])
@pytest.mark.parametrize("count", COUNTS)
def test_equals_the_plain_cross_entropy(count: int, scale: float) -> None:
    hidden, weight, targets = problem(count)
    found = full_cross_entropy(scale * hidden, weight, targets)
    expected = functional.cross_entropy(scale * hidden @ weight.T, targets)
    assert_same(found, expected, [hidden, weight])


@pytest.mark.parametrize("scale", [0.1, 8.0])
@pytest.mark.parametrize("count", COUNTS)
def test_bonus_is_added_to_its_logits(count: int, scale: float) -> None:
    hidden, weight, targets = problem(count)
    marked, bonus = drawn_bonus(targets, len(weight))
    logits = scale * hidden @ weight.T + bonus.value * marked
    found = full_cross_entropy(scale * hidden, weight, targets, bonus)
    expected = functional.cross_entropy(logits, targets)
    assert_same(found, expected, [hidden, weight, bonus.value])


def test_targets_can_have_shares() -> None:
    hidden, weight, targets = problem(2 * CHUNK_TARGETS + 5)
    shares = torch.rand(len(targets)).softmax(0)
    found = full_cross_entropy(hidden, weight, targets, shares_T=shares)
    each = functional.cross_entropy(hidden @ weight.T, targets, reduction="none")
    assert_same(found, (each * shares).sum(), [hidden, weight])


def test_survives_scores_that_overflow_exp() -> None:
    hidden, weight, targets = problem(50)
    expected = functional.cross_entropy(1e4 * hidden @ weight.T, targets)
    torch.testing.assert_close(full_cross_entropy(1e4 * hidden, weight, targets), expected)


def test_no_targets_are_no_loss_and_no_gradient() -> None:
    hidden, weight, _ = problem(1)
    none = torch.zeros(0, dtype=torch.int64)
    loss = full_cross_entropy(hidden[:0], weight, none)
    (grad,) = torch.autograd.grad(loss, [weight])
    assert loss.item() == 0.0
    assert not grad.any()


def test_reduced_precision_keeps_gradients_near_and_in_full_precision() -> None:
    hidden, weight, targets = problem(700)
    exact = torch.autograd.grad(functional.cross_entropy(hidden @ weight.T, targets), [weight])[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = full_cross_entropy(hidden, weight, targets)
    (grad,) = torch.autograd.grad(loss, [weight])
    assert grad.dtype == torch.float32
    assert loss.dtype == torch.float32
    assert (grad - exact).norm() / exact.norm() < 0.02
