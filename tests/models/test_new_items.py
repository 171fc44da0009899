"""Items newer than the weights, ranked by their text."""

from typing import Any

import numpy as np
import pytest
import torch

from models import registry
from models.batch import collate
from models.encoding import encode_rows
from models.fitting import FitConfig, Fitter
from models.kin import find_kin
from models.neural import NeuralRanker
from models.sequences import SequenceStore
from models.text_vectors import TextVectors
from models.top_k import top_k
from tests.models.conftest import (
    NEWER,
    NUM_ITEMS,
    TEXT,
    fused,
    newcomers,
    random_store,
    random_text,
    small_ranker,
)

VECTOR_RANKERS = [
    name
    for name in registry.names()
    if issubclass(kind := registry.ranker_class(name), NeuralRanker) and kind.scores_by_vector
]
CODE_RANKERS = ["reg4rec", "stream-rec"]


def clusters(seed: int = 0) -> tuple[SequenceStore, TextVectors]:
    """Users who stay with one of four kinds of item, and texts that tell the kind.

    Items 1 to 36 are in training; 37 to 40 are newer, one of each kind.
    """
    rng = np.random.default_rng(seed)
    rows = [
        (4 * rng.integers(0, 9, size=8) + kind + 1).tolist() for kind in range(4) for _ in "x" * 60
    ]
    ids = np.arange(1, 41)
    kinds = np.eye(4)[(ids - 1) % 4]
    vectors = np.concatenate([kinds, 0.1 * rng.normal(size=(40, 8))], axis=1)
    return SequenceStore.from_lists(rows), TextVectors("kinds", ids, vectors.astype(np.float32))


def test_new_items_borrow_from_their_kin(store: SequenceStore) -> None:
    """The id parts of the known items whose texts are nearest, the nearer the more."""
    ranker = small_ranker("sasrec" + TEXT, store, text_vectors={"components": 8, "kin": 3})
    ranker.welcome(newcomers(), NEWER)
    items = fused(ranker)
    known = [int(i) for i in (items.trained_N1 & items.has_text_N1).nonzero()[:, 0]]
    with torch.no_grad():
        text = items.adaptor(items.text_N1C.float())
        gate = torch.sigmoid(items.gate_D + items.gate_by_frequency_D * items.frequency_N1[:, None])
        vectors = items(torch.arange(NEWER + 1))
    for new in (NUM_ITEMS - 1, NEWER):
        cosine = {i: float(items.text_N1C[i].float() @ items.text_N1C[new].float()) for i in known}
        kin = sorted(known, key=lambda i: -cosine[i])[:3]
        shares = np.exp([10 * cosine[i] for i in kin])
        borrowed = sum(
            float(share) * gate[i] * items.weight[i]
            for i, share in zip(kin, shares / shares.sum(), strict=True)
        )
        torch.testing.assert_close(vectors[new], text[new] + borrowed, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(vectors[7], text[7] + gate[7] * items.weight[7])


def test_a_text_that_points_nowhere_borrows_nothing() -> None:
    directions = torch.eye(5)
    directions[4] = 0.0
    known, new = torch.tensor([0, 1, 1, 0, 0]).bool(), torch.tensor([0, 0, 0, 1, 1]).bool()
    kin = find_kin(directions, known, new, 2)
    assert kin.new_W.tolist() == [3, 4]
    assert kin.weights_WM.tolist() == [[0.5, 0.5], [0.0, 0.0]]
    nobody = torch.zeros(5, dtype=torch.bool)
    assert find_kin(directions, nobody, new, 2).blend(directions).abs().sum() == 0


def test_new_items_are_boosted_and_no_others(store: SequenceStore) -> None:
    rankers = [
        small_ranker(
            "sasrec" + TEXT, store, text_vectors={"components": 8, "new_item_boost": boost}
        )
        for boost in (0.0, 2.5)
    ]
    scores = []
    for ranker in rankers:
        ranker.welcome(newcomers(), NEWER)
        scores.append(ranker.scores(encode_rows(ranker, store), 1, NEWER + 1))
    seen = torch.isfinite(scores[0])
    more = torch.where(seen, scores[1] - scores[0], 0.0)
    assert (seen == torch.isfinite(scores[1])).all()
    expected = torch.zeros_like(more)
    expected[:, [NUM_ITEMS - 2, NEWER - 1]] = 2.5
    torch.testing.assert_close(more, expected)


@pytest.mark.parametrize("name", VECTOR_RANKERS)
def test_a_new_item_is_listed_by_its_text_and_read_in_histories(name: str) -> None:
    store = random_store()
    ranker = small_ranker(name + TEXT, store)
    history = SequenceStore.from_lists([[3, 5], [3, 5, NEWER]])
    before = encode_rows(ranker, history)
    assert torch.equal(before[0], before[1]), "an item without a text is skipped"
    old = ranker.scores(before, 1, NUM_ITEMS + 1)
    ranker.welcome(newcomers(), NEWER)
    queries = encode_rows(ranker, history)
    assert torch.equal(queries[0], before[0]), "known items stand where they stood"
    assert not torch.equal(queries[0], queries[1])
    scores = ranker.scores(queries, 1, NEWER + 1)
    known = ranker.known_N1[1 : NUM_ITEMS + 1]
    torch.testing.assert_close(scores[:1, :NUM_ITEMS][:, known], old[:1][:, known])
    new = [NUM_ITEMS - 1, NEWER]
    assert torch.isfinite(scores[:, [item - 1 for item in new]]).all()
    assert (scores[:, NUM_ITEMS - 1] == -torch.inf).all()
    assert not ranker.known_N1[new].any()
    only = torch.zeros(NEWER + 1, dtype=torch.bool)
    only[new] = True
    _, listed = top_k(ranker, queries, 3, allowed_N1=only)
    assert {int(item) for item in listed[0]} == {0, *new}
    carried = ranker.contributions(collate(history, np.array([1]), 4), torch.tensor([[NEWER]]))
    assert carried[0, 0, -1] != 0


@pytest.mark.parametrize("name", CODE_RANKERS)
def test_rankers_of_codes_learn_from_text_but_leave_new_items_out(name: str) -> None:
    store = random_store()
    ranker = small_ranker(name + TEXT, store)
    queries = encode_rows(ranker, store)
    before = ranker.scores(queries, 1, NUM_ITEMS + 1)
    ranker.welcome(newcomers(), NEWER)
    assert torch.equal(ranker.scores(queries, 1, NUM_ITEMS + 1), before)
    assert (before[:, NUM_ITEMS - 2] == -torch.inf).all()


def test_new_items_do_not_depend_on_what_came_with_them(store: SequenceStore) -> None:
    """One night's newcomers alone, or among those of a week."""
    first, second = (small_ranker("sasrec" + TEXT, store) for _ in range(2))
    first.welcome(random_text([NEWER]), NEWER)
    second.welcome(random_text([NUM_ITEMS + 1, NEWER, 2 * NUM_ITEMS - 1]), 2 * NUM_ITEMS - 1)
    lists = [first.item_vectors(NEWER, NEWER + 1), second.item_vectors(NEWER, NEWER + 1)]
    torch.testing.assert_close(*lists, rtol=0, atol=1e-7)


def test_items_that_training_never_saw_take_no_part_in_it(store: SequenceStore) -> None:
    """Their texts, known before training or not, change no loss and no gradient."""
    gradients = []
    for ids in (None, [*range(1, NUM_ITEMS - 2), NUM_ITEMS - 1]):
        torch.manual_seed(0)
        ranker = registry.build("sasrec", NUM_ITEMS, dim=16, text_vectors={"components": 8})
        ranker.fit_statistics(store)
        ranker.learn_text(random_text(ids))
        torch.manual_seed(1)
        batch = collate(store, np.arange(9), 12, with_targets=True)
        sum(ranker.train().losses(batch).values()).backward()
        gradients.append([p.grad for p in ranker.parameters()])
    for mine, theirs in zip(*gradients, strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize(
    ("settings", "recipe"),
    [
        ({"loss": "ce"}, {}),
        ({"loss": "sampled", "negatives": 20}, {"table_optimiser": "rows"}),
        ({"loss": "gbce", "negatives": 20}, {"max_epochs": 40}),
        ({"loss": "ce", "scoring": "cosine", "temperature": 0.1}, {}),
    ],
)
def test_a_new_item_finds_its_kind(settings: dict[str, object], recipe: dict[str, Any]) -> None:
    """The text part learns to stand alone: of four new items everybody gets their own kind's."""
    store, vectors = clusters()
    torch.manual_seed(0)
    common = {"dim": 16, "max_length": 8, "dropout": 0.1}
    ranker = registry.build(
        "sasrec", 40, **common, **settings, text_vectors={"components": 4, "id_dropout": 0.5}
    )
    ranker.fit_statistics(store)
    ranker.learn_text(vectors)
    fit = {"batch_size": 32, "max_epochs": 15, "lr": 5e-3} | recipe
    Fitter(ranker, store, FitConfig(**fit)).fit()
    scores = ranker.eval().scores(encode_rows(ranker, store), 37, 41)
    own = torch.from_numpy((store.items[store.starts] - 1) % 4)
    assert (scores.argmax(dim=1) == own).float().mean() > 0.95


@pytest.mark.parametrize("name", VECTOR_RANKERS)
def test_all_that_counts_items_grows_with_the_catalogue(name: str, store: SequenceStore) -> None:
    ranker = small_ranker(name + TEXT, store)
    ranker.welcome(newcomers(), NEWER)
    again = registry.from_spec(registry.to_spec(ranker)).eval()
    again.load_state_dict(ranker.state_dict())
    batch = collate(store, np.arange(9), 12)
    with torch.no_grad():
        scores = [one.scores(one.encode(batch), 1, NEWER + 1) for one in (ranker, again)]
    assert torch.equal(scores[0], scores[1])
