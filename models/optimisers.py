"""The optimisers of one ranker: AdamW, and one for item tables too large for it.

Shape legend: R rows of the item table that are held here, U touched rows, D width.
"""

from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from models.base import Ranker
from models.item_table import ItemTable
from models.local_state import as_part_of, local_parts
from models.neural import MANY_ITEMS
from models.recipe import FitConfig
from models.row_sums import sum_rows

# What a row's root mean square is at least: a vanishing gradient must not make a giant step.
EPSILON = 1e-10


class RowAdagrad:
    """Adagrad with one accumulator per row, for gradients that reach few rows.

    A row's accumulator grows by the mean square of its gradient, and the row moves by the gradient
    over the accumulator's root. A row without a gradient does not move, so touching few rows is
    exactly what updating all would be; Adam's decaying averages have no such form. It needs one
    number per row where Adam needs two per weight.

    Source: Duchi et al., Adaptive Subgradient Methods, JMLR 2011; one accumulator per row as in
    Mudigere et al., Software-Hardware Co-design for Fast and Scalable Training of Deep Learning
    Recommendation Models, ISCA 2022. That it takes no weight decay is an inference.

    Args:
        table: The item table, whole or in parts; its gradients become touched rows.
    """

    def __init__(self, table: ItemTable) -> None:
        self.sums_R = torch.zeros(len(table.local), device=table.local.device)
        self._table = table
        self._rows_U = torch.zeros(0, dtype=torch.int64, device=table.local.device)
        self._grad_UD = table.local.detach()[:0]

    def collect(self) -> Tensor:
        """Add up what the step's look-ups left; returns the sum of squares over all workers."""
        table = self._table
        rows = [rows_V for rows_V, _ in table.touched]
        grads = [grad_VD for _, grad_VD in table.touched]
        if table.weight.grad is not None:  # a term read the table as a whole
            whole = local_parts(table.weight.grad)
            rows.append(torch.arange(len(whole), device=whole.device))
            grads.append(whole)
        if rows:
            self._rows_U, place = torch.unique(torch.cat(rows), return_inverse=True)
            self._grad_UD = sum_rows(torch.cat(grads), place, len(self._rows_U))
        return table.workers.sum(self._grad_UD.square().sum())

    def scale(self, factor: Tensor) -> None:
        """Multiply the collected gradient."""
        self._grad_UD *= factor

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """Move the touched rows."""
        grown_U = self.sums_R[self._rows_U] + self._grad_UD.square().mean(dim=1)
        self.sums_R[self._rows_U] = grown_U
        rate_U = lr / grown_U.sqrt().clamp(min=EPSILON)
        self._table.local.index_add_(0, self._rows_U, self._grad_UD * -rate_U[:, None])

    def clear(self) -> None:
        """Forget the step's gradients."""
        self._table.touched.clear()
        self._table.weight.grad = None
        self._rows_U, self._grad_UD = self._rows_U[:0], self._grad_UD[:0]


class Optimisers:
    """AdamW over all that learns; where the item table is large, touched rows for it instead.

    Args:
        ranker: Its stage already started: parts that are frozen stay out.
        config: The recipe.
        world: Workers that train together.

    Raises:
        ValueError: If touched rows are asked for where several workers each hold the whole table.
    """

    def __init__(self, ranker: Ranker, config: FitConfig, world: int = 1) -> None:
        self._config = config
        learning = [p for p in ranker.parameters() if p.requires_grad]
        table = ranker.item_table
        self._rows: RowAdagrad | None = None
        if table is not None:
            table.by_rows = table.weight.requires_grad and _by_rows(ranker, config, world)
            if table.by_rows:
                self._rows = RowAdagrad(table)
                learning = [p for p in learning if p is not table.weight]
        self._table, self._learning = table, learning
        # Tensors in parts cannot stand in one fused update with whole ones.
        kinds = [[p for p in learning if isinstance(p, DTensor) == parted] for parted in (0, 1)]
        self._adamw = torch.optim.AdamW(
            [{"params": kind} for kind in kinds if kind],
            lr=config.lr,
            weight_decay=config.weight_decay,
        )

    @property
    def table_bytes(self) -> int:
        """Bytes of the item table and of its optimiser state that this process holds."""
        if self._table is None:
            return 0
        held = [self._table.local]
        held += [] if self._rows is None else [self._rows.sums_R]
        moments = self._adamw.state.get(self._table.weight, {})
        held += [local_parts(value) for name, value in moments.items() if name != "step"]
        return sum(tensor.nbytes for tensor in held)

    def zero_grad(self) -> None:
        """Forget the gradients of the step before."""
        self._adamw.zero_grad(set_to_none=True)
        if self._rows is not None:
            self._rows.clear()

    def clip(self, limit: float) -> float:
        """Scale all gradients down to a norm of `limit`; returns the norm before."""
        learning = [p for p in self._learning if p.grad is not None]
        parted = [p for p in learning if isinstance(p, DTensor)]
        if self._rows is None and not parted:
            return float(torch.nn.utils.clip_grad_norm_(learning, limit))
        grads = [p.grad for p in learning if p.grad is not None and not isinstance(p, DTensor)]
        square = torch.nn.utils.get_total_norm(grads) ** 2
        if parted:
            norm = torch.nn.utils.get_total_norm([p.grad for p in parted if p.grad is not None])
            square = square + (norm.full_tensor() if isinstance(norm, DTensor) else norm) ** 2
        if self._rows is not None:
            square = square + self._rows.collect()
        norm = square.sqrt()
        factor = (limit / (norm + 1e-6)).clamp(max=1.0)
        for grad in [*grads, *(local_parts(p.grad) for p in parted)]:
            grad *= factor
        if self._rows is not None:
            self._rows.scale(factor)
        return float(norm)

    def step(self, rise: float) -> None:
        """Move the weights at a share `rise` of the learning rates."""
        for group in self._adamw.param_groups:
            group["lr"] = self._config.lr * rise
        self._adamw.step()
        if self._rows is not None:
            self._rows.step(self._config.table_lr * rise)

    def state_dict(self) -> dict[str, Any]:
        """Collect this worker's part of the state, not copied."""
        rows = None if self._rows is None else self._rows.sums_R
        return {"adamw": local_parts(self._adamw.state_dict()), "rows": rows}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a state that `state_dict` returned on the same worker."""
        adamw = state["adamw"]
        parameters = [p for group in self._adamw.param_groups for p in group["params"]]
        moments = {
            place: {
                name: as_part_of(parameters[place].detach(), value)
                for name, value in values.items()
            }
            for place, values in adamw["state"].items()
        }
        self._adamw.load_state_dict(adamw | {"state": moments})
        if self._rows is not None:
            self._rows.sums_R.copy_(state["rows"])


def _by_rows(ranker: Ranker, config: FitConfig, world: int) -> bool:
    """Say whether the settings, or the size of the table, ask for touched rows."""
    # Whole tables on several workers take the average of whole gradients.
    possible = ranker.workers.world == world
    if config.table_optimiser == "rows" and not possible:
        raise ValueError(
            f"table_optimiser=rows: {world} workers each hold the whole item table; lay it over "
            "them (ray.shard_items) or take table_optimiser=adamw"
        )
    if config.table_optimiser != "auto":
        return config.table_optimiser == "rows"
    return possible and ranker.learns_few_items and ranker.num_items >= MANY_ITEMS
