"""The table of item vectors: whole in one process, or by rows over the workers that train it.

Shape legend: N catalogue size (row 0 is padding), D width, X ids looked up, U distinct ids, V ids
that workers ask of this one, C ids of a span.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Shard

from models.own_gradient import with_own_gradient
from models.row_sums import sum_rows
from models.workers import ALONE, Route, Workers

# Chunks of scores end at multiples of this many ids, whoever holds them: the matrix products of a
# table in shards then have the shapes of those of a whole one.
CHUNK_ITEMS = 8192
_workers: ContextVar[Workers] = ContextVar("workers", default=ALONE)


@contextmanager
def tables_over(workers: Workers) -> Iterator[None]:
    """Lay item tables that are built inside out by rows over the workers."""
    token = _workers.set(workers)
    try:
        yield
    finally:
        _workers.reset(token)


def rows_per_worker(num_items: int, world: int) -> int:
    """Count the rows of each worker's shard; a whole number of chunks where there are many.

    Raises:
        ValueError: If a worker would hold no item.
    """
    rows = -(-(num_items + 1) // world)
    if rows > 8 * CHUNK_ITEMS and world > 1:
        rows = -(-rows // CHUNK_ITEMS) * CHUNK_ITEMS
    if (world - 1) * rows > num_items:
        raise ValueError(f"{num_items} items are too few to lie over {world} workers")
    return rows


class PartedTableError(ValueError):
    """What asks for the whole item table meets one of which others hold the rest."""


class ItemTable(nn.Embedding):
    """One vector per item id; row 0 is padding and stays zero, for every use of it is masked.

    Over several workers, worker w holds the rows w R to (w + 1) R - 1 as the local part of a
    `DTensor` with placement `Shard(0)`. Looking ids up and going backward are collective: every
    worker takes part in each, with ids of its own. The gradient of a row is the average over the
    workers of the gradients of their losses, as data-parallel training has it for the rest.

    Args:
        num_items: Items N.
        dim: Width D.

    Attributes:
        workers: Who holds the table.
        by_rows: Keep gradients as touched rows, in `touched`, instead of as a whole table.
        touched: (row numbers of the local part, gradients) of each look-up since the last step.
    """

    def __init__(self, num_items: int, dim: int) -> None:
        workers = _workers.get()
        rows = rows_per_worker(num_items, workers.world)
        if workers.mesh is None:
            super().__init__(num_items + 1, dim)
        else:
            local = torch.zeros(rows, dim, device=workers.mesh.device_type)
            weight = DTensor.from_local(local, workers.mesh, [Shard(0)], run_check=False)
            super().__init__(rows * workers.world, dim, _weight=weight)
        self.workers = workers
        self.by_rows = False
        self.touched: list[tuple[Tensor, Tensor]] = []
        self._first = workers.rank * rows
        self._last = min(self._first + rows, num_items + 1)
        self._height = rows

    @property
    def span(self) -> tuple[int, int]:
        """First id held here, and one past the last; the padding's 0 among them."""
        return self._first, self._last

    @property
    def local(self) -> Tensor:
        """The rows held here, as a plain tensor that shares memory and gradients."""
        weight: Tensor = self.weight
        return weight.to_local() if isinstance(weight, DTensor) else weight

    @torch.no_grad()
    def draw(self, std: float) -> None:
        """Draw all vectors from N(0, std), the padding's excepted."""
        local = self.local
        local.normal_(std=std)
        if self._first == 0:
            local[0].zero_()

    def rows(self, start: int, stop: int) -> Tensor:
        """Vectors of the ids start..stop-1, which must be held here: [C, D].

        Raises:
            PartedTableError: If another worker holds some of them.
        """
        if not self._first <= start <= stop <= self._last:
            raise PartedTableError(
                f"this worker holds the vectors of items {self._first} to {self._last - 1}, not "
                f"{start} to {stop - 1}: a term that reads the whole item table cannot be trained "
                "on a sharded one; let the loss sample, or switch the term or ray.shard_items off"
            )
        return self.local[start - self._first : stop - self._first]

    def forward(self, ids: Tensor) -> Tensor:
        """Look ids up, whoever holds them: [..., D]."""
        if self.workers.world == 1 and not self.by_rows:
            return super().forward(ids)
        flat_XD = with_own_gradient(_LookUp, self.weight, ids.flatten(), self)
        return flat_XD.view(*ids.shape, self.embedding_dim)

    def route(self, distinct_U: Tensor) -> Route:
        """Agree on who asks whom for which ids; ids are sorted."""
        world = self.workers.world
        return self.workers.route(torch.bincount(distinct_U // self._height, minlength=world))

    def shares(self, weights_T: Tensor) -> Tensor:
        """Turn the weights of this worker's targets into shares of the loss.

        They sum to 1 over the targets of one process alone. Over several workers they sum to the
        number of workers: the average of the workers' losses is then the loss over all targets.
        """
        total = self.workers.sum(weights_T.sum())
        return weights_T * (self.workers.world / total.clamp(min=torch.finfo(total.dtype).tiny))


def state_of(tensors: list[Tensor]) -> list[tuple[int, int]]:
    """What changes whenever one of the tensors does: what was derived from them is kept by it."""
    return [(tensor.data_ptr(), tensor._version) for tensor in tensors]


class _LookUp(torch.autograd.Function):
    """Ask each distinct id's holder for its vector, and send the holder its gradient."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, ids_X: Tensor, table: ItemTable) -> Tensor:
        distinct_U, place_X = torch.unique(ids_X, return_inverse=True)
        route = table.route(distinct_U)
        rows_V = route.there(distinct_U) - table.span[0]
        ctx.table, ctx.route = table, route
        ctx.save_for_backward(rows_V, place_X)
        return route.back(table.local.detach()[rows_V])[place_X]

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, None, None]:
        rows_V, place_X = ctx.saved_tensors
        table: ItemTable = ctx.table
        grad_UD = sum_rows(grads[0], place_X, sum(ctx.route.sent))
        grad_VD = ctx.route.there(grad_UD) / table.workers.world
        if table.by_rows:
            table.touched.append((rows_V, grad_VD))
            return None, None, None
        grad = sum_rows(grad_VD, rows_V, len(table.local))
        if table.workers.mesh is None:
            return grad, None, None
        return DTensor.from_local(grad, table.workers.mesh, [Shard(0)], run_check=False), None, None
