"""Losses against shared negatives: naive forms, what they estimate, and every ranker on them."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from models import registry
from models.batch import SequenceBatch, collate
from models.fitting import FitConfig, Fitter
from models.losses import (
    CHUNK_TARGETS,
    Negatives,
    draw_negatives,
    full_cross_entropy,
    generalised_binary_cross_entropy,
    sampled_cross_entropy,
)
from models.propensity import inverse_propensities
from models.sequences import SequenceStore
from models.sequential import SequentialRanker
from tests.models.conftest import NUM_ITEMS, small_ranker
from tests.models.losses.naive import assert_same, drawn_bonus, problem

COUNTS = [1, 100, CHUNK_TARGETS + 37]
SEQUENTIAL = [n for n in registry.names() if issubclass(registry.ranker_class(n), SequentialRanker)]


def everything(num_items: int) -> Negatives:
    ids = torch.arange(num_items)
    return Negatives(ids, torch.zeros(num_items), num_items)


def struck_scores(hidden: Tensor, weight: Tensor, targets: Tensor, bonus: Tensor) -> Tensor:
    """Scores of all items for all targets, the own item at minus infinity."""
    own = functional.one_hot(targets, len(weight)).bool()
    return (hidden @ weight.T + bonus).masked_fill(own, -torch.inf)


@pytest.mark.parametrize("scale", [0.1, 8.0])
@pytest.mark.parametrize("count", COUNTS)
def test_sampled_softmax_equals_the_loop_over_draws(count: int, scale: float) -> None:
    hidden, weight, targets = problem(count)
    counts = torch.randint(1, 50, (len(weight),)).float()
    negatives = draw_negatives(200, counts)
    marked, bonus = drawn_bonus(targets, len(weight))
    vectors = weight[negatives.ids_M]
    found = sampled_cross_entropy(
        scale * hidden, weight[targets], vectors, targets, negatives, bonus
    )
    plain = scale * hidden @ weight.T + bonus.value * marked
    own = plain.gather(1, targets[:, None])
    others = struck_scores(scale * hidden, weight, targets, bonus.value * marked)
    corrected = others[:, negatives.ids_M] + negatives.correction_M
    expected = (torch.cat([own, corrected], dim=1).logsumexp(dim=1) - own[:, 0]).mean()
    assert_same(found, expected, [hidden, weight, bonus.value])


def test_all_items_as_negatives_are_the_full_cross_entropy() -> None:
    hidden, weight, targets = problem(300)
    _, bonus = drawn_bonus(targets, len(weight))
    negatives = everything(len(weight))
    found = sampled_cross_entropy(hidden, weight[targets], weight, targets, negatives, bonus)
    expected = full_cross_entropy(hidden, weight, targets, bonus)
    assert_same(found, expected, [hidden, weight, bonus.value])


def test_a_target_far_above_all_draws_overflows_nothing() -> None:
    hidden = torch.full((3, 4), 5.0)
    own, drawn = torch.full((3, 4), 5.0), torch.full((8, 4), 1e-3)
    found = sampled_cross_entropy(hidden, own, drawn, torch.tensor([20, 21, 22]), everything(8))
    assert found.item() == pytest.approx(0.0, abs=1e-6)


def test_the_corrected_sum_over_the_others_is_unbiased() -> None:
    torch.manual_seed(0)
    scores, counts = torch.randn(30).exp(), torch.randint(1, 50, (30,)).float()
    target = 4
    found = []
    for _ in range(4000):
        negatives = draw_negatives(20, counts)
        others = negatives.ids_M != target
        found.append((scores[negatives.ids_M] * negatives.correction_M.exp())[others].sum())
    sums = torch.stack(found)
    expected = scores.sum() - scores[target]
    assert abs(sums.mean() - expected) < 4 * sums.std() / len(sums) ** 0.5


def test_draws_follow_the_counts_and_never_hit_what_has_none() -> None:
    torch.manual_seed(0)
    counts = torch.tensor([0.0, 5.0, 0.0, 95.0, 0.0])
    negatives = draw_negatives(1000, counts)
    assert negatives.ids_M.tolist() == [1, 3]
    drawn = negatives.correction_M.exp() * counts[negatives.ids_M] * 10
    assert drawn.sum().item() == pytest.approx(1000, rel=1e-5)
    assert 20 < drawn[0] < 90


@pytest.mark.parametrize("calibration", [0.0, 0.75, 1.0])
@pytest.mark.parametrize("count", COUNTS)
def test_gbce_equals_its_definition(count: int, calibration: float) -> None:
    hidden, weight, targets = problem(count)
    negatives = draw_negatives(20, torch.ones(len(weight)))
    marked, bonus = drawn_bonus(targets, len(weight))
    found = generalised_binary_cross_entropy(
        hidden, weight[targets], weight[negatives.ids_M], targets, negatives, calibration, bonus
    )
    drawn = len(negatives.ids_M)
    rate = drawn / (len(weight) - 1)
    power = rate * (calibration * (1 - 1 / rate) + 1 / rate)
    plain = hidden @ weight.T + bonus.value * marked
    own = plain.gather(1, targets[:, None])[:, 0]
    others = struck_scores(hidden, weight, targets, bonus.value * marked)[:, negatives.ids_M]
    kept = torch.isfinite(others)
    against = torch.where(kept, -functional.logsigmoid(-others), 0.0).sum(dim=1)
    expected = ((against - power * functional.logsigmoid(own)) / (drawn + 1)).mean()
    assert_same(found, expected, [hidden, weight, bonus.value])


def test_inverse_propensities_are_clipped_powers() -> None:
    weights = inverse_propensities(np.array([100, 25, 1, 0]), 0.5, 8.0)
    assert weights.tolist() == [1.0, 2.0, 8.0, 8.0]
    assert inverse_propensities(np.array([3, 7]), 0.0, 8.0).tolist() == [1.0, 1.0]


def training_batch(store: SequenceStore) -> SequenceBatch:
    return collate(store, np.arange(20), 12, with_targets=True)


@pytest.mark.parametrize("sampling", ["uniform", "popularity"])
@pytest.mark.parametrize("loss", ["sampled", "gbce"])
@pytest.mark.parametrize("name", SEQUENTIAL)
def test_every_sequential_ranker_takes_every_loss(
    name: str, loss: str, sampling: str, store: SequenceStore
) -> None:
    settings: dict[str, Any] = {"loss": loss, "negative_sampling": sampling, "negatives": 10}
    ranker = small_ranker(name, store, propensity_power=0.5, **settings).train()
    total = torch.stack(list(ranker.losses(training_batch(store)).values())).sum()
    total.backward()
    assert torch.isfinite(total)
    learnt = [p.grad for p in ranker.parameters() if p.requires_grad and p.grad is not None]
    assert all(torch.isfinite(grad).all() for grad in learnt)
    assert any(grad.any() for grad in learnt)
    table = ranker.get_parameter("items.weight")
    if table.requires_grad:  # a last stage may learn on a frozen table
        assert table.grad is not None
        assert table.grad.any()


@pytest.mark.parametrize("scoring", ["dot", "cosine"])
@pytest.mark.parametrize("name", SEQUENTIAL)
def test_single_vectors_are_those_of_the_whole_table(
    name: str, scoring: str, store: SequenceStore
) -> None:
    ranker = small_ranker(name, store, scoring=scoring)
    assert isinstance(ranker, SequentialRanker)
    ids = torch.tensor([7, 1, NUM_ITEMS, 7])
    assert torch.equal(ranker.vectors_of(ids), ranker.training_vectors()[ids - 1])


def test_inverse_propensity_weights_the_targets_of_a_batch(store: SequenceStore) -> None:
    ranker = small_ranker("sasrec", store, propensity_power=1.0, propensity_clip=3.0)
    assert isinstance(ranker, SequentialRanker)
    batch = training_batch(store)
    base = ranker.base_pass(batch)
    chosen, targets = ranker.targets_of(base)
    states = base.hidden_BQD[chosen]
    items = store.items[store.flat_events()[1]]
    counts = np.bincount(items, minlength=NUM_ITEMS + 1)
    rare = np.minimum(counts.max() / np.maximum(counts, 1), 3.0)
    weights = torch.from_numpy(rare).float()[targets]
    bonus = ranker.repeat_bonus(base, chosen)
    assert bonus is not None
    logits = states @ ranker.training_vectors().T
    logits[bonus.rows_E, bonus.columns_E] += bonus.value
    each = functional.cross_entropy(logits, targets - 1, reduction="none")
    expected = (each * weights).sum() / weights.sum()
    torch.testing.assert_close(ranker.losses(batch)["ce"], expected)


@pytest.mark.parametrize("loss", ["sampled", "gbce"])
def test_sampled_losses_learn_a_small_log_by_heart(loss: str) -> None:
    rng = np.random.default_rng(3)
    rows = [[r + 1, *rng.permutation(np.arange(1, 37))[:5].tolist()] for r in range(12)]
    store = SequenceStore.from_lists(rows)
    torch.manual_seed(0)
    settings: dict[str, Any] = {"dim": 32, "max_length": 12, "dropout": 0.0, "temperature": 0.1}
    ranker = registry.build("sasrec", NUM_ITEMS, loss=loss, negatives=16, **settings)
    ranker.fit_statistics(store)
    recipe = FitConfig(batch_size=32, max_epochs=100, lr=5e-3, patience=999)
    Fitter(ranker, store, recipe).fit()
    history = collate(store.drop_last(1), np.arange(12), 12)
    with torch.no_grad():
        best = ranker.scores(ranker.encode(history), 0, NUM_ITEMS + 1).argmax(dim=1)
    assert (best == torch.tensor([row[-1] for row in rows])).float().mean() > 0.9
