"""Text beside id vectors: who stands on what, and what is learnt."""

import numpy as np
import pytest
import torch

from models import registry
from models.batch import collate
from models.evaluation import leave_one_out_split
from models.fitting import FitConfig, Fitter
from models.fused_items import FusedItems
from models.item_table import tables_over
from models.neural import NeuralRanker
from models.sequences import SequenceStore
from models.text_vectors import TextSettings, TextVectors
from models.workers import Workers
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


def test_without_text_vectors_nothing_has_changed(store: SequenceStore) -> None:
    ranker = registry.build("sasrec", NUM_ITEMS)
    assert not ranker.takes_text
    assert not any("text" in name for name in ranker.state_dict())
    for act in (ranker.learn_text, ranker.require_encoder):
        with pytest.raises(ValueError, match="set text_vectors=on"):
            act(random_text())
    with pytest.raises(ValueError, match="takes no text vectors"):
        registry.build("popularity", NUM_ITEMS).learn_text(random_text())


def test_an_item_is_its_gated_id_and_its_text(store: SequenceStore) -> None:
    """Known items have both, items without a text their id alone."""
    ranker = small_ranker("sasrec" + TEXT, store, text_vectors={"components": 8, "kin": 0})
    ranker.welcome(newcomers(), NEWER)
    items = fused(ranker)
    with torch.no_grad():
        text = items.adaptor(items.text_N1C.float())
        gate = torch.sigmoid(items.gate_D + items.gate_by_frequency_D * items.frequency_N1[:, None])
        vectors = items(torch.arange(NEWER + 1))
    torch.testing.assert_close(vectors[7], text[7] + gate[7] * items.weight[7])
    torch.testing.assert_close(vectors[NEWER], text[NEWER])
    torch.testing.assert_close(vectors[NUM_ITEMS - 1], text[NUM_ITEMS - 1])
    assert torch.equal(vectors[NUM_ITEMS], items.weight[NUM_ITEMS])
    assert torch.equal(vectors[0], items.weight[0])


def test_scores_rise_with_the_likeness_of_texts(store: SequenceStore) -> None:
    """By the cosine of an item's text and the mean of the history's, each item counted once."""
    with_it, without = (
        small_ranker("sasrec" + TEXT, store, text_vectors={"components": 8, "likeness": number})
        for number in (3.0, 0.0)
    )
    history = SequenceStore.from_lists([[3, 5, 3], [7]])
    batch = collate(history, np.arange(2), 4)
    scores = [one.scores(one.encode(batch), 1, 30) for one in (with_it, without)]
    text = fused(with_it).text_N1C.float()
    mean = torch.stack([text[3] + text[5], text[7]])
    cosine = torch.nn.functional.normalize(mean, dim=1) @ text[1:30].T
    torch.testing.assert_close(scores[0], scores[1] + 3.0 * cosine)
    items = torch.tensor([[9, 12], [9, 12]])
    carried = [one.contributions(batch, items) for one in (with_it, without)]
    more = (carried[0] - carried[1]).sum(dim=2)
    torch.testing.assert_close(more, 3.0 * cosine[:, [8, 11]])


def test_training_scores_as_serving_does(store: SequenceStore) -> None:
    """The loss of a place is that of the scores that its history would get."""
    for name in ("sasrec", "hstu"):
        ranker = small_ranker(name + TEXT, store)
        assert isinstance(ranker, NeuralRanker)
        assert ranker.likeness > 0
        rows = SequenceStore.from_lists([[3, 5, 3, 9], [7, 11]])
        loss = sum(ranker.losses(collate(rows, np.arange(2), 4, with_targets=True)).values())
        histories = SequenceStore.from_lists([[3], [3, 5], [3, 5, 3], [7]])
        queries = ranker.encode(collate(histories, np.arange(4), 4))
        scores = ranker._scores(queries, 1, NUM_ITEMS + 1)
        targets = torch.tensor([5, 3, 9, 11]) - 1
        torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(scores, targets))


def test_rare_items_lean_on_their_text(store: SequenceStore) -> None:
    rows = [[1, 2]] * 30 + [[3, 2]]
    settings = TextSettings(components=4)
    items = FusedItems(5, 8, settings)
    counts = np.bincount(np.array(rows).ravel(), minlength=6)
    items.count(counts)
    gate = torch.sigmoid(items.gate_D + items.gate_by_frequency_D * items.frequency_N1[:, None])
    assert (gate[3] < gate[1]).all()


def test_the_text_of_an_item_in_training_stays_what_it_was(store: SequenceStore) -> None:
    ranker = small_ranker("sasrec" + TEXT, store)
    before = ranker.item_vectors(0, NUM_ITEMS + 1).clone()
    ranker.welcome(random_text(seed=9), NUM_ITEMS)
    assert torch.equal(ranker.item_vectors(0, NUM_ITEMS + 1), before)


def test_vectors_of_another_encoder_are_refused(store: SequenceStore) -> None:
    ranker = small_ranker("sasrec" + TEXT, store)
    assert ranker.text_encoder == "test"
    with pytest.raises(ValueError, match=r"of encoder 'test', and these are of 'other'"):
        ranker.welcome(random_text([NEWER], encoder="other"), NEWER)
    wide = TextVectors("test", np.array([NEWER]), np.ones((1, 99), np.float32))
    with pytest.raises(ValueError, match="have 99 numbers, those in training had 24"):
        ranker.require_encoder(wide)
    for wanted, given in (("words", "test-1-24"), ("tes", "test-1-24"), ("test-1-24", "test")):
        picky = registry.build("sasrec", NUM_ITEMS, text_vectors=wanted)
        with pytest.raises(ValueError, match=f"of encoder '{wanted}', and these are of '{given}'"):
            picky.learn_text(random_text(encoder=given))
    other = registry.build("sasrec", NUM_ITEMS, text_vectors="on")
    other.fit_statistics(store)
    with pytest.raises(ValueError, match="none of the items in training has a text vector"):
        other.learn_text(random_text([NUM_ITEMS]))


def test_an_encoder_may_be_named_by_its_leading_part(store: SequenceStore) -> None:
    ranker = registry.build("sasrec", NUM_ITEMS, dim=16, text_vectors="test")
    ranker.fit_statistics(store)
    ranker.learn_text(random_text(encoder="test-1-24"))
    assert ranker.text_encoder == "test-1-24"
    with pytest.raises(
        ValueError, match=r"of encoder 'test-1-24', and these are of 'test-1-24-pca'"
    ):
        ranker.welcome(random_text([NEWER], encoder="test-1-24-pca"), NEWER)


def test_training_goes_on_from_a_checkpoint_bit_for_bit() -> None:
    split = leave_one_out_split(random_store())
    recipe = FitConfig(batch_size=16, max_epochs=2)

    def fitter() -> Fitter:
        torch.manual_seed(0)
        ranker = registry.build("sasrec", NUM_ITEMS, dim=16, text_vectors={"components": 8})
        ranker.fit_statistics(split.train)
        ranker.learn_text(random_text())
        return Fitter(ranker, split.train, recipe, split.validation)

    straight = fitter()
    straight.fit()
    first = fitter()
    first.run_epoch()
    state = first.state_dict()
    second = fitter()
    second.load_state_dict(state)
    second.fit()
    for name, value in straight.ranker.state_dict().items():
        assert torch.equal(value, second.ranker.state_dict()[name]), name


def test_a_table_in_parts_is_refused() -> None:
    workers = Workers()
    workers.world = 2
    with (
        pytest.raises(ValueError, match=r"switch ray\.shard_items or text_vectors off"),
        tables_over(workers),
    ):
        registry.build("sasrec", NUM_ITEMS, text_vectors="on")


@pytest.mark.parametrize(
    ("ids", "vectors", "message"),
    [
        ([1, 2], np.zeros((1, 3)), "2 items have the shape"),
        ([0], np.zeros((1, 3)), "start at 1, found 0"),
        ([4, 4], np.zeros((2, 3)), "an item has two"),
        ([4, 5], np.array([[0.0], [np.nan]]), "item 5 is not finite"),
    ],
)
def test_bad_vectors_are_named(ids: list[int], vectors: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TextVectors("test", np.array(ids), vectors.astype(np.float32))


def test_settings_in_words() -> None:
    def chosen(value: object) -> object:
        return registry.configure("sasrec", text_vectors=value).model_dump()["text_vectors"]

    assert chosen("off") is chosen(None) is chosen(False) is None
    assert chosen("on") == chosen(True) == TextSettings().model_dump()
    assert chosen("minilm") == TextSettings(encoder="minilm").model_dump()
    assert chosen('{"id_dropout": 0.1}') == TextSettings(id_dropout=0.1).model_dump()
    with pytest.raises(ValueError, match="id_dropuot"):
        chosen({"id_dropuot": 0.1})
