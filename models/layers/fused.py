"""Attention and feed-forward layers on a CPU, each as one operation with its dropout.

Op by op a layer keeps nearly every intermediate value for the backward pass. Here it keeps what its
gradients need, already multiplied by what dropout multiplies by.

Shape legend: B rows, Q queries, L keys, H heads, W width of a head, T tokens, D width.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.layers.dropout import factors
from models.own_gradient import with_own_gradient


def attend(
    q_BHQW: Tensor,
    k_BHLW: Tensor,
    v_BHLW: Tensor,
    mask_B1QL: Tensor,
    chain: tuple[Sequence[Tensor], Sequence[Tensor]],
    share: float,
) -> Tensor:
    """Softmax attention with dropout to keys of the row and to each place's own chain.

    Args:
        q_BHQW: Queries.
        k_BHLW: Keys of the row.
        v_BHLW: Their values.
        mask_B1QL: bool, True where a query may look; at one key at least.
        chain: Keys and values that each query alone sees, [B, H, Q, W] per token; none is fine.
        share: Share dropped from the attention weights.

    Returns:
        What each query takes up: [B, H, Q, W].
    """
    keys, values = chain
    inputs = (q_BHQW, k_BHLW, v_BHLW, *keys, *values)
    # A CPU adds and multiplies in a twentieth of the time that filling and choosing take.
    shut_B1QL = mask_B1QL.view(torch.uint8).to(q_BHQW.dtype).sub_(1)
    shut_B1QL.mul_(torch.finfo(q_BHQW.dtype).max)
    return with_own_gradient(_Attention, shut_B1QL, share, len(keys), *inputs)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, shut: Tensor, share: float, own: int, *inputs: Tensor) -> Tensor:
        q, k, v = (one.contiguous() for one in inputs[:3])
        keys, values = inputs[3 : 3 + own], inputs[3 + own :]
        rows, heads, count, width = q.shape
        length, root = k.shape[2], width**-0.5
        scores = q.new_empty(rows * heads, count, length)
        torch.baddbmm(scores, _folded(q), _folded(k).mT, beta=0, alpha=root, out=scores)
        wide = scores.view(rows, heads, count, length).add_(shut)
        if own:
            alone = [(q * key).sum(-1, keepdim=True).mul_(root) for key in keys]
            wide = torch.cat([wide, *alone], dim=-1)
        weights = wide.softmax(dim=-1)
        kept = weights if share == 0 else weights * _kept_of(weights, share)
        mixed = torch.bmm(_folded(kept)[..., :length], _folded(v)).view_as(q)
        for place, value in enumerate(values):
            mixed.addcmul_(kept[..., length + place, None], value)
        ctx.save_for_backward(q, k, v, *keys, *values, weights, kept)
        return mixed

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        q, k, v, *rest, weights, kept = ctx.saved_tensors
        own, grad = len(rest) // 2, grads[0].contiguous()
        rows, heads, count, width = q.shape
        length = k.shape[2]
        back = torch.bmm(_folded(grad), _folded(v).mT).view(rows, heads, count, length)
        if own:
            alone = [(grad * value).sum(-1, keepdim=True) for value in rest[own:]]
            back = torch.cat([back, *alone], dim=-1)
        back.mul_(kept)
        back.addcmul_(weights, back.sum(-1, keepdim=True), value=-1).mul_(width**-0.5)
        errors, shares = (_folded(one)[..., :length] for one in (back, kept))
        of_q = torch.bmm(errors, _folded(k)).view_as(q)
        of_k = torch.bmm(errors.mT, _folded(q)).view_as(k)
        of_v = torch.bmm(shares.mT, _folded(grad)).view_as(v)
        of_keys, of_values = [], []
        for place in range(own):
            error = back[..., length + place, None]
            of_q.addcmul_(error, rest[place])
            of_keys.append(error * q)
            of_values.append(kept[..., length + place, None] * grad)
        return None, None, None, of_q, of_k, of_v, *of_keys, *of_values


def _folded(x_BHLW: Tensor) -> Tensor:
    return x_BHLW.view(-1, *x_BHLW.shape[2:])


def feed_forward(
    x_TD: Tensor,
    norm: nn.LayerNorm,
    widen: nn.Linear,
    narrow: nn.Linear,
    activation: Literal["gelu", "relu"],
    share: float,
) -> Tensor:
    """Return x + dropout(narrow(dropout(activation(widen(norm(x)))))): [T, D]."""
    weights = (norm.weight, norm.bias, widen.weight, widen.bias, narrow.weight, narrow.bias)
    settings = (norm.eps, activation, share)
    return with_own_gradient(_FeedForward, settings, x_TD, *weights)


class _FeedForward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, settings: tuple[float, str, float], *inputs: Tensor) -> Tensor:
        eps, activation, share = settings
        x, scale, bias, widen, widen_bias, narrow, narrow_bias = inputs
        normed, *moments = torch.native_layer_norm(x, x.shape[1:], scale, bias, eps)
        wide = torch.addmm(widen_bias, normed, widen.T)
        of_wide, of_out = _kept_of(wide, share), _kept_of(x, share)
        # What the inner layer passes on, and the slope at which it does.
        if activation == "gelu":
            active = functional.gelu(wide).mul_(of_wide)
            slope = torch.ops.aten.gelu_backward(of_wide, wide)
        else:
            active = wide.relu().mul_(of_wide)
            slope = torch.ops.aten.threshold_backward(of_wide, wide, 0)
        branch = torch.addmm(narrow_bias, active, narrow.T)
        ctx.save_for_backward(*inputs, normed, *moments, active, slope, of_out)
        return torch.addcmul(x, branch, of_out)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        x, scale, bias, widen, _, narrow, _, *kept = ctx.saved_tensors
        normed, mean, spread, active, slope, of_out = kept
        branch = grads[0] * of_out
        back = torch.mm(branch, narrow).mul_(slope)
        of_x, of_scale, of_bias = torch.ops.aten.native_layer_norm_backward(
            torch.mm(back, widen), x, x.shape[1:], mean, spread, scale, bias, [True] * 3
        )
        of_widen, of_narrow = torch.mm(back.T, normed), torch.mm(branch.T, active)
        of_weights = (of_scale, of_bias, of_widen, back.sum(0), of_narrow, branch.sum(0))
        return None, of_x.add_(grads[0]), *of_weights


def _kept_of(like: Tensor, share: float) -> Tensor:
    """Draw what dropout multiplies a tensor by."""
    return torch.ones_like(like) if share == 0 else factors(like.shape, share, like.dtype)
