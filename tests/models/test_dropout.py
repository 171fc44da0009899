"""The CPU's own dropout keeps the promises of torch's."""

import pytest
import torch

from models.layers.dropout import dropout


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_drops_its_share_and_keeps_the_mean(share: float) -> None:
    torch.manual_seed(0)
    out = dropout(torch.ones(1001, 999), share, training=True)
    assert (out == 0).float().mean().item() == pytest.approx(share, abs=2e-3)
    assert out.mean().item() == pytest.approx(1.0, abs=1e-2)
    assert out.max().item() == pytest.approx(1 / (1 - share))


def test_elements_are_dropped_independently() -> None:
    torch.manual_seed(0)
    kept = (dropout(torch.ones(100_000, 4), 0.5, training=True) > 0).float()
    correlation = torch.corrcoef(kept.T) - torch.eye(4)
    assert correlation.abs().max() < 0.02


def test_follows_the_seed_and_passes_gradients() -> None:
    x = torch.ones(7, 5, requires_grad=True)
    torch.manual_seed(4)
    first = dropout(x, 0.3, training=True)
    torch.manual_seed(4)
    assert torch.equal(dropout(x, 0.3, training=True), first)
    (grad,) = torch.autograd.grad(first.sum(), x)
    assert torch.equal(grad, first.detach())


def test_does_nothing_outside_training() -> None:
    x = torch.randn(3, 3)
    assert dropout(x, 0.5, training=False) is x
    assert dropout(x, 0.0, training=True) is x
