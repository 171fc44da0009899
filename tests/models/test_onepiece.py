"""OnePiece's tasks, anchors, blocks and losses against loops that say what they are."""

from collections import Counter

import numpy as np
import pytest
import torch

from models import registry
from models.batch import SequenceBatch, collate
from models.encoders.base import BasePass
from models.feedback import level_of, level_table, levels_by_rarity, next_of_level
from models.layers.situation import find_anchors
from models.prefixes import prefixes_at
from models.rankers.onepiece import OnePiece
from models.sequences import SequenceStore
from tests.models.conftest import random_store, small_ranker


def situated(ranker: OnePiece, batch: SequenceBatch) -> BasePass:
    return ranker._situated_pass(batch, ranker.items(batch.item_ids_BL))


def onepiece(store: SequenceStore, **settings: object) -> OnePiece:
    ranker = small_ranker("onepiece", store, **settings)
    assert isinstance(ranker, OnePiece)
    return ranker


def training(store: SequenceStore) -> SequenceBatch:
    return collate(store, np.arange(len(store)), 12, with_targets=True)


def test_rarer_actions_are_stronger() -> None:
    actions = [[3] * 6 + [1] * 4 + [2] * 2 + [0] * 9]
    store = SequenceStore.from_lists([[1] * 21], actions=actions)
    assert levels_by_rarity(store) == [3, 1, 2]
    table = level_table([3, 1, 2], levels=2)
    assert level_of(torch.tensor([0, 1, 2, 3, 99]), table).tolist() == [1, 2, 2, 1, 1]


def test_levels_name_actions_of_the_log() -> None:
    store = SequenceStore.from_lists([[1, 2, 3]], actions=[[4, 4, 1]])
    with pytest.raises(ValueError, match=r"names the action codes \[7\].*the log has \[1, 4\]"):
        small_ranker("onepiece", store, action_levels=(4, 7))


def test_one_kind_of_action_cannot_teach_two_thoughts() -> None:
    store = SequenceStore.from_lists([[1, 2, 3]], actions=[[4, 4, 4]])
    with pytest.raises(ValueError, match="reasoning_steps = 2 needs as many actions, and this log"):
        registry.build("onepiece", 5).fit_statistics(store)
    registry.build("onepiece", 5, reasoning_steps=1).fit_statistics(store)


def test_each_task_asks_for_the_next_item_of_its_level() -> None:
    store = random_store(rows=30)
    table = level_table([1, 2, 3], levels=3)
    batch = training(store)
    found = next_of_level(batch, table, 3)
    for row in range(30):
        items = store.row(row)[-13:].tolist()
        actions = store.actions[store.starts[row] : store.stops[row]][-13:].tolist()
        events = list(zip(items, actions, strict=True))
        for place in range(len(items) - 1):
            for level in (1, 2, 3):
                later = [item for item, action in events[place + 1 :] if max(action, 1) >= level]
                column = batch.length - (len(items) - 1) + place
                assert int(found[row, column, level - 1]) == (later or [0])[0]


def test_anchors_are_the_frequent_and_the_strongly_wanted() -> None:
    items = [[3, 5, 3, 7, 5, 3, 9]]
    actions = [[1, 2, 1, 1, 1, 1, 1]]
    batch = collate(SequenceStore.from_lists(items, actions=actions), np.array([0]), 10)
    anchors = find_anchors(batch, batch.actions_BL, per_group=5)
    ids = batch.item_ids_BL[0][anchors.places_BGG[0]]
    assert anchors.valid_BGG.tolist() == [[[True] * 4 + [False]] * 2]
    counts = Counter(items[0])
    assert ids[0, :4].tolist() == [3, 5, 9, 7]
    assert [counts[int(item)] for item in ids[0, :4]] == [3, 2, 1, 1]
    assert ids[1, :4].tolist() == [5, 9, 3, 7]


def test_anchors_come_from_the_prefix_alone() -> None:
    rows = SequenceStore.from_lists([[3, 5, 7, 9, 9], [3, 5, 7, 2, 2]])
    batch = collate(rows, np.arange(2), 5)
    prefixes = prefixes_at(batch, torch.arange(2), torch.tensor([2, 2]))
    ranker = onepiece(random_store())
    with torch.no_grad():
        states = situated(ranker, prefixes).hidden_BQD
    assert torch.equal(states[0], states[1])


def test_a_block_is_causal_by_blocks_and_open_inside() -> None:
    """The joined chain equals one pass over all tokens under a mask written out by hand."""
    ranker = onepiece(random_store(), reasoning_steps=2, reasoning_form="published")
    reasoning, encoder = ranker.reasoning, ranker.encoder
    assert reasoning is not None
    batch = collate(SequenceStore.from_lists([[3, 5, 7, 3]]), np.array([0]), 4)
    with torch.no_grad():
        base = situated(ranker, batch)
        states = ranker.reason(base)
        levels = level_of(batch.actions_BL, ranker.levels_A)
        around, vectors = ranker.situation(batch, ranker.items(batch.item_ids_BL), levels)
        tokens = encoder.embed(around, vectors)
        width = tokens.shape[1]
        seen = encoder.mask(around)[0, 0]
        block = base.hidden_BQD
        for step in range(2):
            tokens = torch.cat([tokens, encoder.enter(block + reasoning.positions_KD[step])], dim=1)
            new = torch.zeros(tokens.shape[1], tokens.shape[1], dtype=torch.bool)
            new[: len(seen), : len(seen)] = seen
            new[len(seen) :, :width] = around.valid_BL[0]
            new[len(seen) :, width:] = True
            seen = new
            longer = torch.ones(1, len(seen), dtype=torch.bool)
            plain = SequenceBatch(longer.long(), longer, longer.long() * 0, longer.long())
            block = encoder.run(plain, tokens, seen[None, None]).hidden_BQD[:, -2:]
            torch.testing.assert_close(states[step + 1], block, rtol=1e-4, atol=1e-5)


def test_the_published_loss_is_what_its_formula_says() -> None:
    store = random_store(rows=12)
    ranker = onepiece(store, reasoning_steps=1, prefixes_per_row=12, temperature=0.5)
    batch = training(store)
    assert batch.targets_BL is not None
    rows, places = (batch.targets_BL > 0).nonzero(as_tuple=True)
    prefixes, targets = prefixes_at(batch, rows, places), batch.targets_BL[rows, places]
    with torch.no_grad():
        queries = ranker.encode(prefixes)[:, : ranker.config.dim]
        found = ranker.losses(batch)
    items = ranker.items.weight[targets]
    logits = (queries @ items.T).detach()
    bce, contrast = 0.0, 0.0
    count = len(targets)
    for t in range(count):
        history = set(prefixes.item_ids_BL[t].tolist())
        others = [o for o in range(count) if targets[o] != targets[t]]
        bonus = [ranker.repeat_bias.item() * (int(item) in history) for item in targets]
        signs = torch.tensor([logits[t, o] + bonus[o] for o in range(count)])
        bce -= float(torch.nn.functional.logsigmoid(signs[t]))
        bce -= float(torch.nn.functional.logsigmoid(-signs[others]).mean())
        for view in (logits[t], logits[:, t]):
            contrast += float(torch.logsumexp(view[[t, *others]], dim=0) - view[t])
    assert found["bce"].item() == pytest.approx(bce / count, rel=1e-4)
    assert found["contrast"].item() == pytest.approx(contrast / count, rel=1e-4)


def test_scores_come_from_the_mean_of_the_last_block() -> None:
    ranker = onepiece(random_store(), repeats="plain")
    batch = collate(random_store(), np.arange(8), 12)
    with torch.no_grad():
        block = ranker.reason(situated(ranker, batch))[-1]
        torch.testing.assert_close(ranker.encode(batch), ranker.block_norm(block).mean(dim=1))
        assert torch.equal(ranker.encode_steps(batch)[:, -1], ranker.encode(batch))


def test_feedback_of_the_history_counts(store: SequenceStore) -> None:
    ranker = onepiece(store, repeats="plain")
    looked, took = (
        collate(SequenceStore.from_lists([[3, 5, 7]], actions=[codes]), np.array([0]), 5)
        for codes in ([1, 1, 1], [1, 3, 1])
    )
    levels = [level_of(batch.actions_BL, ranker.levels_A) for batch in (looked, took)]
    assert not torch.equal(*levels)
    with torch.no_grad():
        assert not torch.allclose(ranker.encode(looked), ranker.encode(took), atol=1e-4)
