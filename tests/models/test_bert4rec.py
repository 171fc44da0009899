"""Cloze training sees what it should, and scoring asks as training did."""

import numpy as np
import pytest
import torch

from models.batch import SequenceBatch, collate
from models.rankers.bert4rec import BERT4Rec
from models.sequences import SequenceStore
from tests.models.conftest import small_ranker


def bert4rec(store: SequenceStore, **settings: object) -> BERT4Rec:
    ranker = small_ranker("bert4rec", store, **settings)
    assert isinstance(ranker, BERT4Rec)
    return ranker


def training(store: SequenceStore) -> SequenceBatch:
    return collate(store, np.arange(len(store)), 12, with_targets=True)


def test_masks_hide_items_and_ask_for_them(store: SequenceStore) -> None:
    ranker = bert4rec(store, mask_share=0.3)
    cloze = ranker.mask_events(training(store))
    assert cloze.targets_BL is not None
    masked = cloze.targets_BL > 0
    assert (cloze.item_ids_BL[masked] == 0).all()
    assert (cloze.actions_BL[masked] == 0).all()
    assert cloze.valid_BL[masked].all()
    for row, (ids, targets, valid) in enumerate(
        zip(cloze.item_ids_BL, cloze.targets_BL, cloze.valid_BL, strict=True)
    ):
        assert (ids + targets)[valid].tolist() == store.row(row)[-13:].tolist()
        assert ids[valid][0] > 0
        assert (targets > 0).any()


def test_about_the_share_of_events_is_masked(store: SequenceStore) -> None:
    many = store.take(np.resize(np.arange(len(store)), 2000))
    cloze = bert4rec(store, mask_share=0.6, last_share=0.0).mask_events(training(many))
    share = cloze.num_targets / training(many).num_targets
    assert share == pytest.approx(0.6, abs=0.05)
    alone = bert4rec(store, mask_share=0.6, last_share=1.0).mask_events(training(many))
    assert alone.targets_BL is not None
    assert (alone.targets_BL[:, -1] > 0).all()
    assert alone.num_targets == len(many)


@pytest.mark.parametrize("time_bias", [False, True])
def test_a_masked_event_leaves_no_trace(time_bias: bool) -> None:
    """Neither its item nor its time nor its action may reach any state."""
    one = SequenceStore.from_lists([[3, 5, 7, 9]], [[0, 10, 20, 30]], [[1, 1, 1, 1]])
    other = SequenceStore.from_lists([[3, 5, 7, 8]], [[0, 10, 20, 9000]], [[1, 1, 1, 2]])
    ranker = bert4rec(one, last_share=1.0, time_bias=time_bias)
    with torch.no_grad():
        states = [ranker.base_pass(training(log)).hidden_BQD for log in (one, other)]
    assert torch.equal(states[0], states[1])


def test_scoring_asks_as_masking_the_last_event_does(store: SequenceStore) -> None:
    ranker = bert4rec(store, last_share=1.0, repeats="plain", time_bias=True)
    with torch.no_grad():
        trained = ranker.base_pass(training(store)).hidden_BQD[:, -1]
        scored = ranker.encode(collate(store.drop_last(1), np.arange(len(store)), 12))
    torch.testing.assert_close(scored, trained, rtol=1e-4, atol=1e-5)


def test_masked_events_look_both_ways() -> None:
    ranker = bert4rec(SequenceStore.from_lists([[3, 5, 7, 9, 2]]))
    states = []
    for last in (9, 2):
        row = SequenceStore.from_lists([[3, 5, 7, last]])
        cloze = ranker.mask_events(training(row))
        ids = torch.tensor([[3, 0, 7, last]])
        cloze = SequenceBatch(ids, ids >= 0, cloze.times_BL[:, -4:], ids * 0)
        with torch.no_grad():
            states.append(ranker._fill_in(cloze, ranker.items(ids)).hidden_BQD[0, 1])
    assert not torch.allclose(states[0], states[1], atol=1e-4)


def test_neighbouring_masks_keep_each_other_s_time() -> None:
    times = [10, 20, 30, 40, 50]
    ranker = bert4rec(SequenceStore.from_lists([[3, 5, 7, 9, 2]]), mask_share=1.0, last_share=0.0)
    row = SequenceStore.from_lists([[3, 5, 7, 9, 2]], [times])
    cloze = ranker.mask_events(training(row))
    assert (cloze.item_ids_BL[0, -4:] == 0).all()
    assert cloze.times_BL[0, -5:].tolist() == [10] * 5
