"""Sums over targets x candidate items that are never held at once.

Shape legend: T targets, D width, N candidate items, E bonus entries, X struck entries, C targets of
one chunk.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from models.own_gradient import with_own_gradient
from models.workers import ALONE, Workers

# Of 64 to 1024, what was fastest on a CPU. A GPU takes as many as give this many scores.
CHUNK_TARGETS = 256
CHUNK_SCORES_GPU = 1 << 26
# exp of this, summed over every item there can be, is far from float32's largest number.
SAFE_EXPONENT = 60.0

Reduction = Literal["logsumexp", "softplus"]


def outside_autocast(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Run with autocast off: the function chooses the types of its products itself."""

    def run(ctx: Any, hidden: Tensor, *rest: Any) -> Tensor:
        with torch.autocast(hidden.device.type, enabled=False):
            return function(ctx, hidden, *rest)

    return run


@dataclass(frozen=True, eq=False)
class Bonus:
    """A learned number that is added to some scores.

    Attributes:
        rows_E: int64 target of each entry, non-decreasing.
        columns_E: int64 item of each entry; a (row, column) pair stands once.
        value: The scalar that is added.
    """

    rows_E: Tensor
    columns_E: Tensor
    value: Tensor

    def over(self, temperature: float) -> "Bonus":
        """Divide the number as a temperature divides all scores."""
        return Bonus(self.rows_E, self.columns_E, self.value / temperature)

    def among(self, places_E: Tensor) -> "Bonus":
        """Name each entry's item by another place, and drop those whose place is -1."""
        kept_E = places_E >= 0
        return Bonus(self.rows_E[kept_E], places_E[kept_E], self.value)

    def within(self, first: int, last: int) -> "Bonus":
        """Keep the entries of the items first..last-1, and count these from 0."""
        here_E = (self.columns_E >= first) & (self.columns_E < last)
        return self.among(torch.where(here_E, self.columns_E - first, -1))

    def of(self, targets_T: Tensor) -> Tensor:
        """Return what each target's own score gets: float32 [T]."""
        hit_T = torch.zeros(len(targets_T), device=targets_T.device)
        hit_T[self.rows_E[self.columns_E == targets_T[self.rows_E]]] = 1.0
        return hit_T * self.value


@dataclass(frozen=True, eq=False)
class Candidates:
    """What every target is judged against.

    Attributes:
        vectors_ND: One vector per item.
        offset_N: Added to every score of an item; None for nothing.
        bonus: Added to some scores, its columns counted as the rows of `vectors_ND`.
        struck: int64 [2, X] (target, item) pairs that do not count, targets non-decreasing.
        workers: Hold the rest of the candidates, and call this together with the same targets.
    """

    vectors_ND: Tensor
    offset_N: Tensor | None = None
    bonus: Bonus | None = None
    struck: Tensor | None = None
    workers: Workers = ALONE


def target_scores(
    hidden_TD: Tensor, wanted_TD: Tensor, targets_T: Tensor, bonus: Bonus | None
) -> Tensor:
    """Score each target's own item, bonus included, in float32: [T]."""
    scores_T = (hidden_TD.float() * wanted_TD.float()).sum(dim=1)
    return scores_T if bonus is None else scores_T + bonus.of(targets_T)


def equal_shares(hidden_TD: Tensor) -> Tensor:
    """Weight every target alike: float32 [T], summing to 1."""
    count = len(hidden_TD)
    return torch.full((count,), 1.0 / max(count, 1), device=hidden_TD.device)


def chunked_sum(
    hidden_TD: Tensor,
    candidates: Candidates,
    shares_T: Tensor,
    reduction: Reduction,
    beside_T: Tensor | None = None,
) -> Tensor:
    """Sum over the targets of share x reduction of the scores of all candidates.

    Products run in autocast's type where it is on, in the vectors' own otherwise; everything else
    is float32. The shares get no gradient.

    Args:
        hidden_TD: One query per target.
        candidates: What is scored.
        shares_T: Weight of each target.
        reduction: "logsumexp", or "softplus" for the sum of log(1 + exp(score)).
        beside_T: One more score per target within the logsumexp; None for none.

    Returns:
        A scalar, the same on all workers that share the candidates; gradients are those of the
        candidates held here. Zero, with zero gradients, where there is no target.
    """
    assert candidates.workers.world == 1 or (reduction == "logsumexp" and beside_T is None)
    device, weight_ND = hidden_TD.device.type, candidates.vectors_ND
    reduced = torch.is_autocast_enabled(device)
    dtype = torch.get_autocast_dtype(device) if reduced else weight_ND.dtype
    none = torch.zeros(0, dtype=torch.int64, device=hidden_TD.device)
    bonus = candidates.bonus or Bonus(none, none, hidden_TD.new_zeros((), dtype=torch.float32))
    struck = none.expand(2, 0) if candidates.struck is None else candidates.struck
    if len(hidden_TD) == 0:
        return (hidden_TD.sum() + weight_ND.sum() + bonus.value) * 0.0
    settings = (shares_T, candidates, bonus, struck, reduction, dtype)
    return with_own_gradient(_ChunkedSum, hidden_TD, weight_ND, beside_T, bonus.value, settings)


def _cuts(rows: Tensor, edges: list[int]) -> list[slice]:
    """Find which of the ordered entries belong to each chunk of targets."""
    at = torch.searchsorted(rows, rows.new_tensor(edges)).tolist()
    return [slice(low, high) for low, high in pairwise(at)]


class _ChunkedSum(torch.autograd.Function):
    """Sum whose gradients are taken inside forward, chunk by chunk of the targets.

    Scores lie items first: with few columns in the product a CPU multiplies that way round in less
    than half the time.
    """

    @staticmethod
    @outside_autocast
    def forward(
        ctx: Any,
        hidden_TD: Tensor,
        weight_ND: Tensor,
        beside_T: Tensor | None,
        value: Tensor,
        rest: tuple[Any, ...],
    ) -> Tensor:
        shares_T, candidates, bonus, struck, reduction, dtype = rest
        offset_N, rows_E, columns_E = candidates.offset_N, bonus.rows_E, bonus.columns_E
        count, items = hidden_TD.shape[0], weight_ND.shape[0]
        low_TD, low_ND = hidden_TD.to(dtype), weight_ND.to(dtype)
        size = CHUNK_TARGETS
        if hidden_TD.is_cuda:
            size = max(size, CHUNK_SCORES_GPU // items)
        buffer = low_TD.new_empty(items * min(size, count))
        workers = candidates.workers
        safe = reduction == "logsumexp" and _is_safe(
            hidden_TD, weight_ND, beside_T, value, candidates
        )
        total = hidden_TD.new_zeros((), dtype=torch.float32)
        grad_TD = torch.empty_like(hidden_TD, dtype=torch.float32)
        grad_ND = torch.zeros_like(weight_ND, dtype=torch.float32)
        grad_T = None if beside_T is None else torch.empty_like(beside_T)
        grad_value = torch.zeros_like(value)
        edges = [*range(0, count, size), count]
        bonuses, strikes = _cuts(rows_E, edges), _cuts(struck[0], edges)
        for chunk, (start, stop) in enumerate(pairwise(edges)):
            low_CD, shares_C = low_TD[start:stop], shares_T[start:stop]
            scores_NC = buffer[: items * len(low_CD)].view(items, len(low_CD))
            scores_NC = torch.mm(low_ND, low_CD.T, out=scores_NC).float()
            if offset_N is not None:
                scores_NC += offset_N[:, None]
            # Flat places: indexing by two tensors costs a CPU several times as much.
            entries = columns_E[bonuses[chunk]] * len(low_CD) + (rows_E[bonuses[chunk]] - start)
            flat = scores_NC.view(-1)
            flat[entries] += value
            gone = struck[:, strikes[chunk]]
            flat[gone[1] * len(low_CD) + (gone[0] - start)] = -torch.inf
            if reduction == "softplus":
                values_C = functional.softplus(scores_NC).sum(dim=0)
                errors_NC, scale_C = scores_NC.sigmoid_(), shares_C
            else:
                beside_C = None if beside_T is None else beside_T[start:stop]
                values_C, errors_NC, sums_C = _logsumexp(scores_NC, beside_C, safe, workers)
                scale_C = shares_C / sums_C
                if grad_T is not None and beside_C is not None:
                    grad_T[start:stop] = shares_C * (beside_C - values_C).exp()
            total += (values_C * shares_C).sum()
            of_entry = (rows_E[bonuses[chunk]] - start, entries)
            grad_value += (errors_NC.view(-1)[of_entry[1]] * scale_C[of_entry[0]]).sum()
            errors_NC = errors_NC.to(dtype)
            grad_TD[start:stop] = torch.mm(errors_NC.T, low_ND).float() * scale_C[:, None]
            scaled_CD = (hidden_TD[start:stop] * scale_C[:, None]).to(dtype)
            if dtype == torch.float32:
                grad_ND.addmm_(errors_NC, scaled_CD)
            else:
                grad_ND += torch.mm(errors_NC, scaled_CD)
        ctx.save_for_backward(grad_TD, grad_ND, grad_T, grad_value)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        by = grads[0]
        return *(None if grad is None else grad * by for grad in ctx.saved_tensors), None


def _logsumexp(
    scores_NC: Tensor, beside_C: Tensor | None, safe: bool, workers: Workers
) -> tuple[Tensor, Tensor, Tensor]:
    """Overwrite scores by shares that are not yet divided: (logsumexp, shares, their sums).

    Args:
        scores_NC: Scores.
        beside_C: One more score per target, which has no row.
        safe: No score can overflow exp, so that the two passes for the maximum are not needed.
        workers: Hold the scores of other candidates.
    """
    if safe:
        top_C = torch.zeros_like(scores_NC[0])
        shares_NC = scores_NC.exp_()
    else:
        top_C = workers.max(scores_NC.amax(dim=0))
        top_C = top_C if beside_C is None else torch.maximum(top_C, beside_C)
        shares_NC = scores_NC.sub_(top_C).exp_()
    sums_C = workers.sum(shares_NC.sum(dim=0))
    if beside_C is not None:
        sums_C = sums_C + (beside_C - top_C).exp()
    return top_C + sums_C.log(), shares_NC, sums_C


def _is_safe(
    hidden_TD: Tensor,
    weight_ND: Tensor,
    beside_T: Tensor | None,
    value: Tensor,
    candidates: Candidates,
) -> bool:
    """Bound every score by Cauchy and Schwarz and say whether exp of it is harmless."""
    bound = hidden_TD.float().norm(dim=1).amax() * weight_ND.float().norm(dim=1).amax()
    bound = bound + value.abs()
    if candidates.offset_N is not None:
        bound = bound + candidates.offset_N.abs().amax()
    if beside_T is not None:
        # A candidate too: a target may score far above all that was drawn.
        bound = torch.maximum(bound, beside_T.float().amax())
    return bool(candidates.workers.max(bound) < SAFE_EXPONENT)
