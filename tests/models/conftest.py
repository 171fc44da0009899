"""Small logs and untrained rankers that the model tests share."""

import numpy as np
import pytest
import torch

from models import registry
from models.base import Ranker
from models.batch import SequenceBatch
from models.fused_items import FusedItems
from models.neural import NeuralRanker
from models.sequences import SequenceStore
from models.text_vectors import TextVectors

NUM_ITEMS = 40
# Behind a ranker's name: with text vectors.
TEXT = "+text"
NEWER = NUM_ITEMS + 5


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def random_store(
    rows: int = 64, num_items: int = NUM_ITEMS, seed: int = 0, shortest: int = 2, longest: int = 14
) -> SequenceStore:
    """Random rows in which item ids above `num_items` - 3 never occur."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(shortest, longest + 1, size=rows)
    items = [rng.integers(1, num_items - 2, size=n).tolist() for n in lengths]
    times = [np.sort(rng.integers(0, 1000, size=n)).tolist() for n in lengths]
    actions = [rng.integers(0, 4, size=n).tolist() for n in lengths]
    return SequenceStore.from_lists(items, times, actions, [f"u{i}" for i in range(rows)])


def random_text(
    ids: list[int] | None = None, seed: int = 0, encoder: str = "test", size: int = 2 * NUM_ITEMS
) -> TextVectors:
    """Vectors of these items; of all that `random_store` holds where None."""
    rng = np.random.default_rng(seed)
    everything = rng.normal(size=(size, 24)).astype(np.float32)
    chosen = np.array(range(1, NUM_ITEMS - 2) if ids is None else ids, np.int64)
    return TextVectors(encoder, chosen, everything[chosen])


def fused(ranker: object) -> FusedItems:
    assert isinstance(ranker, NeuralRanker)
    assert isinstance(ranker.items, FusedItems)
    return ranker.items


def newcomers() -> TextVectors:
    """Of an item in the index that training never saw, and of one beyond the index."""
    return random_text([NUM_ITEMS - 1, NEWER])


def small_ranker(
    name: str,
    store: SequenceStore,
    seed: int = 0,
    upto: str | None = None,
    **overrides: object,
) -> Ranker:
    """Build a ranker small enough for tests, statistics fitted, weights moved off their start.

    It stands in its last training stage, or in stage `upto`. A name that ends in `TEXT` gets text
    vectors of the store's items.
    """
    plain = name.removesuffix(TEXT)
    fields = registry.config_class(plain).model_fields
    small: dict[str, object] = {"dim": 16, "max_length": 12, "num_heads": 2, "dropout": 0.2}
    if plain != name:
        small["text_vectors"] = {"components": 8, "hidden": 8}
    settings = {key: value for key, value in small.items() if key in fields} | overrides
    torch.manual_seed(seed)
    ranker = registry.build(plain, NUM_ITEMS, **settings)
    ranker.fit_statistics(store)
    if ranker.takes_text:
        ranker.learn_text(random_text())
    for stage in ranker.stages:
        ranker.start_stage(stage)
        _move(ranker)
        if upto == stage:
            break
    return ranker.eval()


@torch.no_grad()
def _move(ranker: Ranker) -> None:
    for parameter in ranker.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))


def one_more(batch: SequenceBatch) -> SequenceBatch:
    """Append a place that takes the last event's time."""
    parts = (batch.item_ids_BL, batch.valid_BL, batch.times_BL, batch.actions_BL)
    return SequenceBatch(*(torch.cat([part, part[:, -1:]], dim=1) for part in parts))


def assert_learns_alike(ranker: Ranker, backbone: Ranker, batch: SequenceBatch) -> None:
    """Hold losses and gradients of two rankers equal, bit for bit."""
    losses = []
    for model in (backbone.train(), ranker.train()):
        torch.manual_seed(1)
        terms = model.losses(batch)
        sum(terms.values()).backward()
        losses.append(sum(terms.values()))
    assert torch.equal(losses[0], losses[1])
    for mine, theirs in zip(ranker.parameters(), backbone.parameters(), strict=True):
        assert mine.grad is not None
        assert torch.equal(mine.grad, theirs.grad)


@pytest.fixture
def store() -> SequenceStore:
    return random_store()
