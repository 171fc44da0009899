"""Small problems and comparisons that the tests of the losses share."""

import torch
from torch import Tensor

from models.losses import Bonus


def problem(count: int, items: int = 83, dim: int = 12) -> tuple[Tensor, Tensor, Tensor]:
    """Draw queries, item vectors and targets."""
    torch.manual_seed(count)
    hidden = torch.randn(count, dim, requires_grad=True)
    weight = torch.randn(items, dim, requires_grad=True)
    return hidden, weight, torch.randint(0, items, (count,))


def drawn_bonus(targets: Tensor, items: int) -> tuple[Tensor, Bonus]:
    """Mark a tenth of all scores and half of the targets' own: bool [T, N], and as a bonus."""
    count = len(targets)
    marked = torch.rand(count, items) < 0.1
    marked[torch.arange(0, count, 2), targets[::2]] = True
    rows, columns = marked.nonzero(as_tuple=True)
    return marked, Bonus(rows, columns, torch.tensor(-1.5, requires_grad=True))


def assert_same(found: Tensor, expected: Tensor, inputs: list[Tensor]) -> None:
    """Compare values and the gradients with respect to the inputs."""
    torch.testing.assert_close(found, expected)
    wanted = torch.autograd.grad(3.0 * expected, inputs)
    for mine, theirs in zip(torch.autograd.grad(3.0 * found, inputs), wanted, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)
