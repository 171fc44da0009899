"""The processes that train one model together, and what they exchange.

Shape legend: X rows held here, Y rows received, T targets, D width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from models.own_gradient import with_own_gradient


class Workers:
    """A process group; alone, every exchange hands back what it was given.

    All methods are collective: every worker calls them in the same order. They run on a group of
    their own, so that they never meet the collectives of whatever wraps the rest of the model.

    Args:
        mesh: One-dimensional mesh of the workers; None for a process alone.
    """

    def __init__(self, mesh: DeviceMesh | None = None) -> None:
        self.mesh = mesh
        self.rank = 0 if mesh is None else mesh.get_local_rank()
        self.world = 1 if mesh is None else mesh.size()
        self._group = None if mesh is None else dist.new_group(mesh.mesh.flatten().tolist())

    def sum(self, values: Tensor) -> Tensor:
        """Sum a tensor over the workers."""
        return self._reduce(values, dist.ReduceOp.SUM)

    def max(self, values: Tensor) -> Tensor:
        """Take the largest value of any worker, place by place."""
        return self._reduce(values, dist.ReduceOp.MAX)

    def min(self, values: Tensor) -> Tensor:
        """Take the smallest value of any worker, place by place."""
        return self._reduce(values, dist.ReduceOp.MIN)

    def _reduce(self, values: Tensor, how: Any) -> Tensor:
        if self.world == 1:
            return values
        values = values.contiguous().clone()
        dist.all_reduce(values, how, group=self._group)
        return values

    def route(self, counts_W: Tensor) -> "Route":
        """Agree on an exchange in which this worker sends `counts_W` rows to each worker."""
        received_W = counts_W.clone()
        if self.world > 1:
            dist.all_to_all_single(received_W, counts_W, group=self._group)
        return Route(self, counts_W.tolist(), received_W.tolist())

    def broadcast_route(self, count: int, device: torch.device) -> "Route":
        """Agree on an exchange in which every worker sends the same `count` rows to all."""
        return self.route(torch.full((self.world,), count, dtype=torch.int64, device=device))

    def exchange(self, values_X: Tensor, send: Sequence[int], receive: Sequence[int]) -> Tensor:
        """Send consecutive rows to each worker; return what came, in the order of workers: [Y]."""
        if self.world == 1:
            return values_X
        received_Y = values_X.new_empty((sum(receive), *values_X.shape[1:]))
        dist.all_to_all_single(
            received_Y, values_X.contiguous(), list(receive), list(send), group=self._group
        )
        return received_Y

    def gather_objects(self, value: Any) -> list[Any]:
        """Collect a small picklable value of every worker."""
        if self.world == 1:
            return [value]
        found: list[Any] = [None] * self.world
        dist.all_gather_object(found, value, group=self._group)
        return found


ALONE = Workers()


@dataclass(frozen=True, eq=False)
class Route:
    """How many rows go to each worker, and how many come from each."""

    workers: Workers
    sent: list[int]
    received: list[int]

    def there(self, values_X: Tensor) -> Tensor:
        """Send rows off: [Y]."""
        return self.workers.exchange(values_X, self.sent, self.received)

    def back(self, values_Y: Tensor) -> Tensor:
        """Send rows back to where they came from: [X]."""
        return self.workers.exchange(values_Y, self.received, self.sent)


class _Gathered(torch.autograd.Function):
    """Rows of all workers, to be judged in part by each; gradients go back to the rows' owner.

    What wraps the rest of the model averages its gradients over the workers. A gradient that is
    summed here is therefore multiplied by their number.
    """

    @staticmethod
    def forward(ctx: Any, rows_TD: Tensor, route: Route) -> Tensor:
        ctx.route = route
        return route.there(rows_TD.repeat(route.workers.world, 1))

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, None]:
        route: Route = ctx.route
        world = route.workers.world
        parts = route.back(grads[0]).reshape(world, -1, grads[0].shape[1])
        return parts.sum(dim=0) * world, None


def gather_states(rows_TD: Tensor, workers: Workers) -> Tensor:
    """Collect the rows of all workers, in their order; differentiable."""
    route = workers.broadcast_route(len(rows_TD), rows_TD.device)
    return with_own_gradient(_Gathered, rows_TD, route)


def gather_values(values_T: Tensor, workers: Workers) -> Tensor:
    """Collect values without a gradient from all workers, in their order."""
    route = workers.broadcast_route(len(values_T), values_T.device)
    return route.there(values_T.detach().repeat(workers.world))


def felt_by_all(value: Tensor, workers: Workers) -> Tensor:
    """Multiply the gradient of a scalar by the number of workers, each of which sees a part."""
    return value.detach() + (value - value.detach()) * workers.world
