"""Divergence between the item distributions of several states of one target.

Shape legend: T targets, D width, N items, S states, C targets of one chunk.
"""

from typing import Any

import torch
from torch import Tensor

from models.losses.chunked import CHUNK_TARGETS, outside_autocast
from models.own_gradient import with_own_gradient


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
    return with_own_gradient(_PairwiseKL, states_STD, weight_ND, temperature, detach_logs)


class _PairwiseKL(torch.autograd.Function):
    """Pairwise KL whose gradients are taken inside forward, chunk by chunk of the targets."""

    @staticmethod
    @outside_autocast
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
