"""What every registered ranker must keep where it learns, whatever its method."""

from typing import Any

import numpy as np
import pytest
import torch

from models import registry
from models.batch import collate
from models.encoding import encode_rows
from models.fitting import FitConfig, Fitter
from models.sequences import SequenceStore
from tests.models.conftest import NUM_ITEMS, TEXT, small_ranker

NAMES = registry.names()
TRAINABLE = [name for name in NAMES if registry.ranker_class(name).is_trainable]
FUSED = [name + TEXT for name in TRAINABLE]
LENGTH = 12
# What adds a stage that is off by default.
REWARDED: dict[str, dict[str, Any]] = {
    "lares": {"rollouts": 4},
    "reg4rec": {"policy_weight": 0.1},
}


def _stages() -> list[tuple[str, str, dict[str, Any]]]:
    found = []
    for name in TRAINABLE:
        settings = REWARDED.get(name, {})
        small = registry.build(name, NUM_ITEMS, dim=8, max_length=4, **settings)
        found += [(name, stage, settings) for stage in small.stages]
    return found + [(name, "", {}) for name in FUSED]


# Filling in masked events looks both ways on purpose; what it may not see has tests of its own.
@pytest.mark.parametrize(
    "name", [name for name in TRAINABLE + FUSED if not name.startswith("bert4rec")]
)
def test_training_positions_do_not_see_their_future(name: str, store: SequenceStore) -> None:
    """Targets behind a changed item stay where they were, to the last bit of their loss."""
    ranker = small_ranker(name, store, **_without_randomness(name))
    torch.manual_seed(0)
    early = SequenceStore.from_lists([[3, 5, 7, 9, 11, 13], [3, 5, 7, 9, 2, 8]])
    losses = []
    for row in range(2):
        batch = collate(early, np.array([row]), 5, with_targets=True)
        assert batch.targets_BL is not None
        batch.targets_BL[:, 3:] = 0  # judge the positions before the change alone
        losses.append(sum(term.item() for term in ranker.losses(batch).values()))
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


@pytest.mark.parametrize(("name", "stage", "settings"), _stages())
def test_gradients_are_finite_with_rows_of_padding(
    name: str, stage: str, settings: dict[str, Any], store: SequenceStore
) -> None:
    ranker = small_ranker(name, store, upto=stage, **settings).train()
    ranker.start_epoch(100)
    batch = collate(store, np.arange(6), LENGTH, with_targets=True)
    assert batch.targets_BL is not None
    for values in (batch.item_ids_BL, batch.valid_BL, batch.targets_BL):
        values[2:4] = 0
    terms = ranker.losses(batch)
    total = torch.stack(list(terms.values())).sum()
    total.backward()
    assert torch.isfinite(total)
    for parameter in ranker.parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None
            assert torch.isfinite(parameter.grad).all()


@pytest.mark.parametrize(("name", "stage", "settings"), _stages())
def test_a_batch_without_targets_has_loss_zero(
    name: str, stage: str, settings: dict[str, Any], store: SequenceStore
) -> None:
    ranker = small_ranker(name, store, upto=stage, **settings).train()
    ranker.start_epoch(100)
    batch = collate(store, np.arange(4), LENGTH, with_targets=True)
    assert batch.targets_BL is not None
    batch.targets_BL.zero_()
    total = torch.stack(list(ranker.losses(batch).values())).sum()
    total.backward()
    assert total.item() == 0.0


@pytest.mark.parametrize("name", TRAINABLE + FUSED)
def test_the_batched_loss_is_the_mean_over_rows(name: str, store: SequenceStore) -> None:
    ranker = small_ranker(name, store, **_without_randomness(name))
    batch = collate(store, np.arange(7), LENGTH, with_targets=True)
    together = {key: value.item() for key, value in ranker.losses(batch).items()}
    sums = dict.fromkeys(together, 0.0)
    for row in range(7):
        one = collate(store, np.array([row]), LENGTH, with_targets=True)
        for key, value in ranker.losses(one).items():
            sums[key] += value.item() * one.num_targets
    for key, value in together.items():
        assert value == pytest.approx(sums[key] / batch.num_targets, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("name", TRAINABLE)
def test_encoding_leaves_each_part_as_it_was(name: str, store: SequenceStore) -> None:
    """A look at the lists in the middle of an epoch must not wake what a stage froze."""
    ranker = small_ranker(name, store).train()
    ranker.start_epoch(0)
    before = {key: part.training for key, part in ranker.named_modules()}
    encode_rows(ranker, store)
    assert {key: part.training for key, part in ranker.named_modules()} == before


@pytest.mark.parametrize("name", TRAINABLE)
def test_learns_a_small_log_by_heart(name: str) -> None:
    """Each of 32 rows walks its own way through the catalogue; all next items can be known."""
    rng = np.random.default_rng(3)
    rows = [[r + 1, *rng.permutation(np.arange(1, 37))[:5].tolist()] for r in range(32)]
    store = SequenceStore.from_lists(rows, actions=[[1, 1, 1, 1, 1, 2]] * 32)
    torch.manual_seed(0)
    ranker = registry.build(
        name, NUM_ITEMS, dim=32, max_length=LENGTH, dropout=0.0, repeats="plain"
    )
    ranker.fit_statistics(store)
    epochs = max(150 // len(ranker.stages), 75)
    recipe = FitConfig(batch_size=32, max_epochs=epochs, lr=5e-3, patience=999)
    Fitter(ranker, store, recipe).fit()
    history = store.drop_last(1)
    last = torch.tensor([row[-1] for row in rows])
    best = ranker.scores(encode_rows(ranker, history), 0, NUM_ITEMS + 1).argmax(dim=1)
    assert (best == last).float().mean() > 0.9


@pytest.mark.parametrize("name", [name for name in NAMES if name not in TRAINABLE])
def test_heuristics_have_no_losses(name: str, store: SequenceStore) -> None:
    ranker = small_ranker(name, store)
    with pytest.raises(ValueError, match="does not learn by gradients"):
        ranker.losses(collate(store, np.arange(2), LENGTH, with_targets=True))


def _without_randomness(name: str) -> dict[str, Any]:
    """Settings that leave no draw in the loss."""
    plain = name.removesuffix(TEXT)
    fields = registry.config_class(plain).model_fields
    settings: dict[str, Any] = {
        "step_share": 1.0,
        "contrast_weight": 0.0,
        "step_contrast_weight": 0.0,
        "policy_weight": 0.0,
        "rebuilt_weight": 0.0,
        "objective": "ce",
        "prefixes_per_row": LENGTH,
        "mask_share": 1.0,
        "last_share": 0.0,
    }
    if plain != name:
        settings["text_vectors"] = {"components": 8, "id_dropout": 0.0}
    if plain == "onepiece":  # several tasks weigh alike, however many targets each has
        settings["reasoning_steps"] = 1
    return {key: value for key, value in settings.items() if key in fields}
