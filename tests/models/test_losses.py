"""Chunked cross-entropy, torch's form and our own, against the plain one."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from models.losses import (
    CHUNK_TARGETS,
    HAS_TORCH_FORM,
    Bonus,
    chunked_cross_entropy,
    full_cross_entropy,
)

# One target, part of a chunk, exactly one, and several with a rest.
COUNTS = [1, 100, CHUNK_TARGETS, 2 * CHUNK_TARGETS + 37]


def problem(count: int, items: int = 83, dim: int = 12) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(count)
    hidden = torch.randn(count, dim, requires_grad=True)
    weight = torch.randn(items, dim, requires_grad=True)
    return hidden, weight, torch.randint(0, items, (count,))


def assert_same(found: Tensor, expected: Tensor, inputs: list[Tensor]) -> None:
    torch.testing.assert_close(found, expected)
    wanted = torch.autograd.grad(3.0 * expected, inputs)
    for mine, theirs in zip(torch.autograd.grad(3.0 * found, inputs), wanted, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("form", ["auto", "torch", "own"])
def test_equals_the_plain_cross_entropy(form: str, count: int) -> None:
    if form == "torch" and not HAS_TORCH_FORM:
        pytest.skip("this torch has no linear_cross_entropy (2.13 on)")
    hidden, weight, targets = problem(count)
    found = full_cross_entropy(hidden, weight, targets, form)  # type: ignore[arg-type]
    assert_same(found, functional.cross_entropy(hidden @ weight.T, targets), [hidden, weight])


@pytest.mark.parametrize("count", COUNTS)
def test_bonus_is_added_to_its_logits(count: int) -> None:
    hidden, weight, targets = problem(count)
    value = torch.tensor(-1.5, requires_grad=True)
    marked = torch.rand(count, len(weight)) < 0.1
    marked[0, targets[0]] = True
    rows, columns = marked.nonzero(as_tuple=True)
    expected = functional.cross_entropy(hidden @ weight.T + value * marked, targets)
    found = full_cross_entropy(hidden, weight, targets, bonus=Bonus(rows, columns, value))
    assert_same(found, expected, [hidden, weight, value])


def test_survives_scores_that_overflow_exp() -> None:
    hidden, weight, targets = problem(50)
    expected = functional.cross_entropy(1e4 * hidden @ weight.T, targets)
    found = chunked_cross_entropy(1e4 * hidden, weight, targets)
    torch.testing.assert_close(found, expected)


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
