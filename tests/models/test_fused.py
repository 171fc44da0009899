"""Fused layers against the same layers op by op."""

from collections.abc import Callable
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from models.layers import fused
from models.layers.attention import BlockSettings
from models.layers.transformer import Block, causal_mask
from tests.models.losses.naive import assert_same

Activation = Literal["gelu", "relu"]


def qkv(rows: int, queries: int, keys: int, tokens: int) -> list[Tensor]:
    torch.manual_seed(rows)
    shapes = [(queries,), (keys,), (keys,), *[(queries,)] * 2 * tokens]
    return [torch.randn(rows, 2, *s, 3, dtype=torch.float64, requires_grad=True) for s in shapes]


def plain_attention(parts: list[Tensor], mask: Tensor) -> Tensor:
    """Every query's keys written out one after the other: those of the row, then its own."""
    q, k, v, *own = parts
    keys, values = own[: len(own) // 2], own[len(own) // 2 :]
    count = q.shape[2]

    def all_of(row: Tensor, alone: list[Tensor]) -> Tensor:
        wide = row[:, :, None].expand(-1, -1, count, -1, -1)
        return torch.cat([wide, *(one[..., None, :] for one in alone)], dim=3)

    scores = (q[..., None, :] * all_of(k, keys)).sum(-1) / q.shape[-1] ** 0.5
    open_ = torch.cat([mask, mask.new_ones(*mask.shape[:3], len(keys))], dim=-1)
    weights = scores.masked_fill(~open_, -torch.inf).softmax(-1)
    return (weights[..., None] * all_of(v, values)).sum(3)


@pytest.mark.parametrize("queries", [4, 7])
@pytest.mark.parametrize("tokens", [0, 1, 3])
def test_attention_equals_the_plain_one(tokens: int, queries: int) -> None:
    parts = qkv(5, queries, 4, tokens)
    mask = torch.rand(5, 1, queries, 4) < 0.6
    mask[..., 0] = True
    chain = (parts[3 : 3 + tokens], parts[3 + tokens :])
    found = fused.attend(*parts[:3], mask, chain, 0.0)
    expected = plain_attention(parts, mask)
    weights = torch.randn_like(expected)
    assert_same((found * weights).sum(), (expected * weights).sum(), parts)


def layer_parts(activation: Activation) -> tuple[nn.LayerNorm, nn.Linear, nn.Linear, Activation]:
    torch.manual_seed(0)
    norm = nn.LayerNorm(6)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    return norm.double(), nn.Linear(6, 9).double(), nn.Linear(9, 6).double(), activation


@pytest.mark.parametrize("activation", ["gelu", "relu"])
def test_feed_forward_equals_the_plain_one(activation: Activation) -> None:
    norm, widen, narrow, _ = parts = layer_parts(activation)
    x = torch.randn(23, 6, dtype=torch.float64, requires_grad=True)
    act = nn.functional.gelu if activation == "gelu" else nn.functional.relu
    expected = x + narrow(act(widen(norm(x))))
    found = fused.feed_forward(x, *parts, 0.0)
    inputs = [x, *(p for one in (norm, widen, narrow) for p in one.parameters())]
    weights = torch.randn_like(expected)
    assert_same((found * weights).sum(), (expected * weights).sum(), inputs)


def seeded(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Drop the same elements in every call."""

    def run(*inputs: Tensor) -> Tensor:
        torch.manual_seed(7)
        return function(*inputs)

    return run


def test_gradients_follow_what_was_dropped() -> None:
    parts = qkv(3, 2, 3, 1)
    mask = torch.ones(3, 1, 2, 3, dtype=torch.bool)
    mask[1, :, :, 0] = False

    def attention(*inputs: Tensor) -> Tensor:
        return fused.attend(*inputs[:3], mask, (inputs[3:4], inputs[4:]), 0.4)

    assert torch.autograd.gradcheck(seeded(attention), parts)
    x = torch.randn(3, 6, dtype=torch.float64, requires_grad=True)
    layers = layer_parts("gelu")
    assert torch.autograd.gradcheck(
        seeded(lambda given: fused.feed_forward(given, *layers, 0.4)), [x]
    )


def test_drops_shares_and_keeps_means() -> None:
    values = torch.ones(64, 2, 30, 8)
    mask = torch.ones(64, 1, 30, 30, dtype=torch.bool)
    torch.manual_seed(0)
    out = fused.attend(torch.zeros_like(values), values, values, mask, ([], []), 0.5)
    # Each sum is over 30 weights of 1/30, half of them doubled.
    assert out.mean().item() == pytest.approx(1.0, abs=0.02)
    assert out[..., 0].std().item() == pytest.approx(30**-0.5, rel=0.1)


@pytest.mark.parametrize("activation", ["gelu", "relu"])
def test_a_layer_in_training_equals_itself_at_inference(activation: Activation) -> None:
    torch.manual_seed(0)
    block = Block(BlockSettings(8, 2, 16, 0.0, activation=activation))
    x = torch.randn(5, 6, 8)
    mask = causal_mask(torch.ones(5, 6, dtype=torch.bool))

    def run() -> Tensor:
        heads = block.heads(x)
        return block.finish(x, block.attend(heads, mask, None), heads.gate)

    trained = run()
    block.eval()
    torch.testing.assert_close(trained, run())
