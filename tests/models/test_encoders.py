"""What every encoder and every way to place events in it must keep."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from models import registry
from models.batch import collate
from models.encoding import encode_rows
from models.layers.relative import rotate, time_buckets
from models.sequences import SequenceStore
from tests.models.conftest import random_store, small_ranker

VARIANTS: list[dict[str, Any]] = [
    {"backbone": backbone} | placing
    for backbone in ("sasrec", "hstu", "bert4rec")
    for placing in ({}, {"position_encoding": "rotary"}, {"time_bias": True})
]
variants = pytest.mark.parametrize("variant", VARIANTS, ids=str)


def queries(variant: dict[str, Any], store: SequenceStore, length: int = 12) -> Tensor:
    # Learned repeats travel beside the query; what the encoder makes is judged here.
    ranker = small_ranker("rearec-prl", random_store(longest=6), repeats="plain", **variant)
    with torch.no_grad():
        return ranker.encode(collate(store, np.arange(len(store)), length))


@variants
def test_padding_on_the_left_changes_nothing(variant: dict[str, Any]) -> None:
    store = random_store(rows=9, longest=6)
    torch.testing.assert_close(
        queries(variant, store, 6), queries(variant, store, 12), rtol=1e-4, atol=1e-5
    )


@variants
def test_a_row_does_not_depend_on_the_rows_around_it(variant: dict[str, Any]) -> None:
    store = random_store(rows=150, longest=12)
    ranker = small_ranker("rearec-prl", store, **variant)
    chosen = np.random.default_rng(0).permutation(150)[:20]
    together = encode_rows(ranker, store)
    assert torch.equal(encode_rows(ranker, store.take(chosen)), together[chosen])


@variants
def test_the_last_position_alone_is_as_among_all(variant: dict[str, Any]) -> None:
    store = random_store(rows=9, longest=12)
    ranker = small_ranker("rearec-prl", store, **variant)
    batch = collate(store, np.arange(len(store)), 12)
    with torch.no_grad():
        passes = [
            ranker.run_encoder(batch, ranker.items(batch.item_ids_BL), only) for only in (0, 1)
        ]
        states = [ranker.reason(base.at_last()) for base in passes]
    assert passes[1].hidden_BQD.shape[1] == 1
    torch.testing.assert_close(states[1], states[0], rtol=1e-4, atol=1e-5)


@variants
def test_training_does_not_see_the_future(variant: dict[str, Any], store: SequenceStore) -> None:
    ranker = small_ranker(
        "rearec-prl", store, step_share=1.0, contrast_weight=0.0, prefixes_per_row=12, **variant
    )
    early = SequenceStore.from_lists(
        [[3, 5, 7, 9, 11, 13], [3, 5, 7, 9, 2, 8]], [[0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 70, 900]]
    )
    losses = []
    for row in range(2):
        batch = collate(early, np.array([row]), 5, with_targets=True)
        assert batch.targets_BL is not None
        batch.targets_BL[:, 3:] = 0
        losses.append(sum(term.item() for term in ranker.losses(batch).values()))
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


@variants
def test_order_counts(variant: dict[str, Any]) -> None:
    there = SequenceStore.from_lists([[3, 5, 7, 9]])
    back = SequenceStore.from_lists([[5, 3, 7, 9]])
    assert not torch.allclose(queries(variant, there), queries(variant, back), atol=1e-4)


@variants
def test_elapsed_time_counts_where_it_should(variant: dict[str, Any]) -> None:
    items = [[3, 5, 7, 9]]
    quick = queries(variant, SequenceStore.from_lists(items, [[0, 1, 2, 3]]))
    slow = queries(variant, SequenceStore.from_lists(items, [[0, 1000, 90000, 90001]]))
    later = queries(variant, SequenceStore.from_lists(items, [[500, 501, 502, 503]]))
    reads_time = variant["backbone"] == "hstu" or "time_bias" in variant
    assert torch.equal(quick, slow) != reads_time
    assert torch.equal(quick, later)


def test_a_turned_product_depends_on_distance_alone() -> None:
    torch.manual_seed(0)
    q, k = torch.randn(1, 1, 1, 8), torch.randn(1, 1, 1, 8)

    def product(at_q: int, at_k: int) -> float:
        places = torch.tensor([[at_q]]), torch.tensor([[at_k]])
        return float((rotate(q, places[0]) * rotate(k, places[1])).sum())

    assert product(9, 4) == pytest.approx(product(25, 20), rel=1e-4)
    assert product(9, 4) != pytest.approx(product(9, 5), rel=1e-4)
    torch.testing.assert_close(rotate(q, torch.tensor([[0]])), q)


def test_time_buckets_are_logarithmic() -> None:
    spans = torch.tensor([0, 1, -1, 2, 3600, 86400, 63_072_000, 10**18])
    assert time_buckets(spans).tolist() == [0, 0, 0, 2, 27, 37, 59, 127]


def test_rotary_positions_need_pairs() -> None:
    with pytest.raises(ValueError, match="dim 6 over 2 heads must be even"):
        registry.build("sasrec", 10, dim=6, num_heads=2, position_encoding="rotary")


def test_gated_attention_is_the_published_formula() -> None:
    """One layer against the paper's equations, written out for one row."""
    store = random_store()
    ranker = small_ranker("hstu", store, num_layers=1, embedding_norm=False)
    row = SequenceStore.from_lists([[3, 5, 7]], [[0, 60, 4000]])
    batch = collate(row, np.array([0]), 3)
    weights = {key.removeprefix("encoder."): value for key, value in ranker.state_dict().items()}
    x = ranker.items.weight[[3, 5, 7]] + weights["positions.weight"][1:4]
    normal = torch.nn.functional.layer_norm(x, (16,), eps=1e-6)
    projected = torch.nn.functional.silu(normal @ weights["blocks.0.project_in.weight"].T)
    u, v, q, k = projected.split(16, dim=-1)
    mixed = torch.zeros(3, 16)
    for i in range(3):
        for j in range(i + 1):
            seconds = int(batch.times_BL[0, i] - batch.times_BL[0, j])
            bias = weights["biases.0.by_event"][i - j]
            bias = bias + weights["biases.0.by_time"][time_buckets(torch.tensor(seconds))]
            for head in (slice(0, 8), slice(8, 16)):
                score = torch.nn.functional.silu(q[i, head] @ k[j, head] + bias)
                mixed[i, head] += score / ranker.config.max_length * v[j, head]
    gated = torch.nn.functional.layer_norm(mixed, (16,), eps=1e-6) * u
    out = (
        x + gated @ weights["blocks.0.project_out.weight"].T + weights["blocks.0.project_out.bias"]
    )
    expected = torch.nn.functional.layer_norm(
        out, (16,), weights["final_norm.weight"], weights["final_norm.bias"]
    )
    with torch.no_grad():
        found = ranker.encoder(batch, ranker.items(batch.item_ids_BL)).hidden_BQD[0]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
