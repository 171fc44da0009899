"""Losses over the full catalogue that never hold targets x items at once.

Shape legend: T targets, D width, N items, E bonus entries, S reasoning states, C targets of one
chunk.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

# Of 64 to 1024, what was fastest on a CPU; torch's own choice of chunk is a bad one.
CHUNK_TARGETS = 256
HAS_TORCH_FORM = hasattr(functional, "linear_cross_entropy")


def _outside_autocast(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Run with autocast off: the function chooses the types of its products itself."""

    def run(ctx: Any, hidden: Tensor, *rest: Any) -> Tensor:
        with torch.autocast(hidden.device.type, enabled=False):
            return function(ctx, hidden, *rest)

    return run


@dataclass(frozen=True, eq=False)
class Bonus:
    """A learned number that is added to some logits.

    Attributes:
        rows_E: int64 target of each entry, non-decreasing.
        columns_E: int64 item of each entry; a (row, column) pair stands once.
        value: The scalar that is added.
    """

    rows_E: Tensor
    columns_E: Tensor
    value: Tensor


def full_cross_entropy(
    hidden_TD: Tensor,
    weight_ND: Tensor,
    targets_T: Tensor,
    form: Literal["auto", "torch", "own"] = "auto",
    bonus: Bonus | None = None,
) -> Tensor:
    """Mean cross-entropy of softmax(hidden @ weight.T) over all items.

    Args:
        hidden_TD: One query per target.
        weight_ND: One vector per item.
        targets_T: int64 row numbers in weight_ND.
        form: "torch" for torch's own chunked form (2.13 on), "own" for the one here, "auto" for
            the first of them that this torch has.
        bonus: Added to some logits; only the own form can.

    Returns:
        A scalar; zero, with zero gradients, where there is no target.
    """
    if len(targets_T) == 0:
        nothing = (hidden_TD.sum() + weight_ND.sum()) * 0.0
        return nothing if bonus is None else nothing + bonus.value * 0.0
    device = hidden_TD.device.type
    reduced = torch.is_autocast_enabled(device)
    if form == "torch" or (form == "auto" and HAS_TORCH_FORM and bonus is None and not reduced):
        assert bonus is None, "torch's own form takes no bonus"
        # Loaded here: an older torch does not have the name.
        from torch.nn import LinearCrossEntropyOptions  # noqa: PLC0415

        options = LinearCrossEntropyOptions(batch_chunk_size=CHUNK_TARGETS)
        loss: Tensor = functional.linear_cross_entropy(
            hidden_TD, weight_ND, targets_T, options=options
        )
        return loss
    dtype = torch.get_autocast_dtype(device) if reduced else weight_ND.dtype
    return chunked_cross_entropy(hidden_TD, weight_ND, targets_T, bonus, dtype)


def chunked_cross_entropy(
    hidden_TD: Tensor,
    weight_ND: Tensor,
    targets_T: Tensor,
    bonus: Bonus | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Mean cross-entropy like `full_cross_entropy`, by the autograd function of this module.

    Matrix products run in `dtype`; softmax and sums always in float32.
    """
    if bonus is None:
        none = targets_T[:0]
        bonus = Bonus(none, none, hidden_TD.new_zeros(()))
    loss: Tensor = _ChunkedCrossEntropy.apply(  # type: ignore[no-untyped-call]
        hidden_TD, weight_ND, targets_T, bonus.rows_E, bonus.columns_E, bonus.value, dtype
    )
    return loss


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Cross-entropy whose gradients are taken inside forward, chunk by chunk of the targets.

    Of the gradient softmax - onehot the first part goes through two matrix products and the second
    is one row per target, so the error matrix itself is never completed. Logits lie items first:
    with few columns in the product a CPU multiplies that way round in less than half the time.
    """

    @staticmethod
    @_outside_autocast
    def forward(
        ctx: Any,
        hidden_TD: Tensor,
        weight_ND: Tensor,
        targets_T: Tensor,
        rows_E: Tensor,
        columns_E: Tensor,
        value: Tensor,
        dtype: torch.dtype,
    ) -> Tensor:
        count, items = len(targets_T), len(weight_ND)
        low_TD, low_ND = hidden_TD.to(dtype), weight_ND.to(dtype)
        buffer = low_TD.new_empty(items * min(CHUNK_TARGETS, count))
        total = hidden_TD.new_zeros((), dtype=torch.float32)
        grad_TD = torch.empty_like(hidden_TD, dtype=torch.float32)
        grad_ND = torch.zeros_like(weight_ND, dtype=torch.float32)
        grad_value = torch.zeros_like(value)
        for start in range(0, count, CHUNK_TARGETS):
            stop = min(start + CHUNK_TARGETS, count)
            targets_C, low_CD = targets_T[start:stop], low_TD[start:stop]
            logits_NC = buffer[: items * len(low_CD)].view(items, len(low_CD))
            logits_NC = torch.mm(low_ND, low_CD.T, out=logits_NC).float()
            inside = slice(*torch.searchsorted(rows_E, rows_E.new_tensor([start, stop])).tolist())
            rows, columns = rows_E[inside] - start, columns_E[inside]
            logits_NC[columns, rows] += value
            top_C = logits_NC.amax(dim=0)
            chosen_C = logits_NC.gather(0, targets_C[None])[0] - top_C
            shares_NC = logits_NC.sub_(top_C).exp_()
            sums_C = shares_NC.sum(dim=0)
            total += (sums_C.log() - chosen_C).sum()
            scale_C = 1.0 / (sums_C * count)
            grad_value += (shares_NC[columns, rows] * scale_C[rows]).sum()
            grad_value -= (columns == targets_C[rows]).sum() / count
            shares_NC = shares_NC.to(dtype)
            grad_TD[start:stop] = torch.mm(shares_NC.T, low_ND).float() * scale_C[:, None]
            scaled_CD = (hidden_TD[start:stop] * scale_C[:, None]).to(dtype)
            if dtype == torch.float32:
                grad_ND.addmm_(shares_NC, scaled_CD)
            else:
                grad_ND += torch.mm(shares_NC, scaled_CD)
        grad_TD.sub_(weight_ND[targets_T], alpha=1.0 / count)
        grad_ND.index_add_(0, targets_T, hidden_TD.float(), alpha=-1.0 / count)
        ctx.save_for_backward(grad_TD, grad_ND, grad_value)
        return total / count

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        grad_TD, grad_ND, grad_value = ctx.saved_tensors
        by = grads[0]
        return grad_TD * by, grad_ND * by, None, None, None, grad_value * by, None


def pairwise_kl(
    states_STD: Tensor, weight_ND: Tensor, temperature: float, detach_logs: bool = True
) -> Tensor:
    """Mean KL divergence between the item distributions of any two different states.

    With p_i = softmax(states_i @ weight.T / temperature), the sum over all ordered pairs of
    KL(p_i || p_j) equals sum_i <p_i, S log p_i - sum_j log p_j>: one pass over each state's
    logits, chunk by chunk, instead of a [T, S, S, N] difference.

    Args:
        states_STD: S states per target.
        weight_ND: One vector per item.
        temperature: Divides the logits.
        detach_logs: Let gradients flow through the probability factor alone, as the published
            code of ReaRec's ERL does.

    Returns:
        A scalar: the mean over ordered pairs i != j and over targets; 0 for fewer than two states.
    """
    if states_STD.shape[0] < 2 or states_STD.shape[1] == 0:
        return (states_STD.sum() + weight_ND.sum()) * 0.0
    loss: Tensor = _PairwiseKL.apply(  # type: ignore[no-untyped-call]
        states_STD, weight_ND, temperature, detach_logs
    )
    return loss


class _PairwiseKL(torch.autograd.Function):
    """Pairwise KL whose gradients are taken inside forward, chunk by chunk of the targets."""

    @staticmethod
    @_outside_autocast
    def forward(
        ctx: Any, states_STD: Tensor, weight_ND: Tensor, temperature: float, detach_logs: bool
    ) -> Tensor:
        states_STD = states_STD.to(weight_ND.dtype)
        states, count, _ = states_STD.shape
        scale = 1.0 / (states * (states - 1) * count)
        total = states_STD.new_zeros((), dtype=torch.float32)
        grad_STD, grad_ND = torch.empty_like(states_STD), torch.zeros_like(weight_ND)
        step = max(CHUNK_TARGETS // states, 1)
        for start in range(0, count, step):
            chunk_SCD = states_STD[:, start : start + step]
            logs_SCN = ((chunk_SCD @ weight_ND.T).float() / temperature).log_softmax(dim=2)
            p_SCN = logs_SCN.exp()
            lead_SCN = logs_SCN.mul_(states) - logs_SCN.sum(dim=0) / states
            mean_SC = (p_SCN * lead_SCN).sum(dim=2, keepdim=True)
            total += mean_SC.sum()
            error_SCN = lead_SCN.sub_(mean_SC).mul_(p_SCN)
            if not detach_logs:
                error_SCN += states * p_SCN - p_SCN.sum(dim=0)
            error_SCN *= scale / temperature
            error_SCN = error_SCN.to(states_STD.dtype)
            grad_STD[:, start : start + step] = error_SCN @ weight_ND
            grad_ND.addmm_(error_SCN.flatten(0, 1).T, chunk_SCD.flatten(0, 1))
        ctx.save_for_backward(grad_STD, grad_ND)
        return total * scale

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, Tensor, None, None]:
        grad_STD, grad_ND = ctx.saved_tensors
        return grad_STD * grads[0], grad_ND * grads[0], None, None


def in_batch_contrast(left_TD: Tensor, right_TD: Tensor) -> Tensor:
    """InfoNCE: row t of the left finds row t of the right among all rows of its chunk.

    Inputs are scaled by the temperature already. Negatives are the rows of the same chunk of
    `CHUNK_TARGETS`, which bounds memory by the chunk squared however many targets a batch has.
    """
    losses = [
        functional.cross_entropy(
            left_CD @ right_CD.T,
            torch.arange(len(left_CD), device=left_CD.device),
            reduction="sum",
        )
        for left_CD, right_CD in zip(
            torch.split(left_TD, CHUNK_TARGETS), torch.split(right_TD, CHUNK_TARGETS), strict=True
        )
    ]
    return torch.stack(losses).sum() / max(len(left_TD), 1)
