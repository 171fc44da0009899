"""PLR: isolated streams, their gate, their diversity and the two scoring paths."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from models.batch import SequenceBatch, collate
from models.encoders.transformer import TransformerEncoder
from models.layers.transformer import causal_mask
from models.losses import in_batch_contrast, pairwise_kl
from models.places import draw_places
from models.rankers.plr import PLR
from models.sequences import SequenceStore
from models.sequential import SequentialRanker
from tests.models.conftest import assert_learns_alike, one_more, small_ranker


def plr(store: SequenceStore, seed: int = 0, **settings: object) -> PLR:
    ranker = small_ranker("plr", store, seed, **settings)
    assert isinstance(ranker, PLR)
    return ranker


def naive_stream(ranker: PLR, one: SequenceBatch, stream: int) -> Tensor:
    """Append one stream's thoughts to a history as tokens, afresh for every thought: [K, D]."""
    encoder, reasoning = ranker.encoder, ranker.reasoning
    assert isinstance(encoder, TransformerEncoder)
    assert reasoning is not None
    tokens = encoder.embed(one, ranker.items(one.item_ids_BL))

    def last_state() -> Tensor:
        return encoder.run(one, tokens, causal_mask(one.valid_BL)).hidden_BQD[:, -1:]

    trigger = ranker.triggers_MD[stream]
    gated = reasoning.gates_KD is not None
    state = last_state() if gated else last_state() + trigger
    states = []
    for step in range(reasoning.steps):
        cue = reasoning.positions_KD[step] + (trigger if gated else 0.0)
        tokens = torch.cat([tokens, encoder.embedding_norm(state + cue)], dim=1)
        one = one_more(one)
        gate = 1.0 if reasoning.gates_KD is None else reasoning.gates_KD[step]
        state = state + gate * last_state()
        states.append(state[0, 0])
    return torch.stack(states)


@pytest.mark.parametrize("form", ["published", "gated"])
def test_all_streams_and_places_equal_their_own_loop(form: str, store: SequenceStore) -> None:
    ranker = plr(store, reasoning_form=form, num_streams=3)
    batch = collate(store, np.arange(3), 12)
    with torch.no_grad():
        base = ranker.base_pass(batch)
        states = ranker.think(base)
        merged = ranker.merge(base.hidden_BQD, states)
        for row, place in batch.valid_BL.nonzero().tolist():
            values = (batch.item_ids_BL, batch.valid_BL, batch.times_BL, batch.actions_BL)
            one = SequenceBatch(*(value[row : row + 1, : place + 1] for value in values))
            streams = torch.stack([naive_stream(ranker, one, stream) for stream in range(3)])
            found = states[:, row, :, place].transpose(0, 1)
            torch.testing.assert_close(found, streams, rtol=1e-4, atol=1e-5)
            shares = (ranker.stream_gate.weight @ base.hidden_BQD[row, place]).softmax(0)
            expected = sum(shares[m] * streams[m].mean(dim=0) for m in range(3))
            torch.testing.assert_close(merged[row, place], expected, rtol=1e-4, atol=1e-5)


def test_streams_do_not_see_one_another(store: SequenceStore) -> None:
    ranker = plr(store)
    batch = collate(store, np.arange(8), 12)
    with torch.no_grad():
        before = ranker.think(ranker.base_pass(batch))
        ranker.triggers_MD[1] += torch.randn(16)
        after = ranker.think(ranker.base_pass(batch))
    assert torch.equal(before[:, :, 0], after[:, :, 0])
    assert not torch.allclose(before[:, :, 1], after[:, :, 1])


def test_without_streams_it_is_the_backbone(store: SequenceStore) -> None:
    backbone, ranker = small_ranker("sasrec", store, seed=5), plr(store, num_streams=0)
    assert isinstance(backbone, SequentialRanker)
    ranker.load_state_dict(backbone.state_dict())
    batch = collate(store, np.arange(30), 12, with_targets=True)
    assert torch.equal(ranker.encode(batch), backbone.encode(batch))
    assert_learns_alike(ranker, backbone, batch)


def test_gated_streams_start_as_the_backbone(store: SequenceStore) -> None:
    ranker = plr(store)
    assert ranker.reasoning is not None
    assert ranker.reasoning.gates_KD is not None
    with torch.no_grad():
        ranker.reasoning.gates_KD.zero_()
        base = ranker.base_pass(collate(store, np.arange(8), 12))
        states = ranker.think(base)
    for state in states.transpose(1, 2).flatten(0, 1):
        assert torch.equal(state, base.hidden_BQD)


def test_diversity_is_the_divergence_of_every_pair_of_states(store: SequenceStore) -> None:
    settings = {"step_share": 1.0, "contrast_weight": 0.0, "diversity_weight": 0.3}
    ranker = plr(store, temperature=0.5, diversity_limit=100.0, **settings)
    batch = collate(store, np.arange(10), 12, with_targets=True)
    with torch.no_grad():
        base = ranker.base_pass(batch)
        chosen, _ = ranker.targets_of(base)
        every = ranker.think(base).transpose(1, 2).flatten(0, 1)[:, chosen]
        logs = (every / 0.5 @ ranker.items.weight[1:].T).log_softmax(-1)
        pairs = [
            functional.kl_div(logs[j], logs[i], reduction="none", log_target=True).sum(-1).mean()
            for i in range(4)
            for j in range(4)
            if i != j
        ]
        spread = torch.stack(pairs).mean()
        assert spread > 0
        torch.testing.assert_close(ranker.losses(batch)["diversity"], -0.3 * spread)
        limited = plr(store, temperature=0.5, diversity_limit=float(spread) / 2, **settings)
        torch.testing.assert_close(limited.losses(batch)["diversity"], -0.15 * spread)


def test_diversity_is_taken_among_drawn_items_where_the_loss_samples(store: SequenceStore) -> None:
    settings = {"step_share": 1.0, "contrast_weight": 0.0, "diversity_weight": 0.3}
    ranker = plr(store, loss="sampled", negatives=9, diversity_limit=100.0, **settings)
    batch = collate(store, np.arange(10), 12, with_targets=True)
    # The loss takes the first draw, the divergence the second.
    second = torch.Generator().manual_seed(int(ranker.next_draw) + 1)
    drawn = torch.randint(ranker.num_items, (9,), generator=second).unique() + 1
    with torch.no_grad():
        base = ranker.base_pass(batch)
        chosen, _ = ranker.targets_of(base)
        every = ranker.think(base).transpose(1, 2).flatten(0, 1)[:, chosen]
        spread = pairwise_kl(every, ranker.items.weight[drawn], 1.0)
        assert spread > 0
        torch.testing.assert_close(ranker.losses(batch)["diversity"], -0.3 * spread)


def test_the_fast_path_joins_at_scoring_alone(store: SequenceStore) -> None:
    both, slow = (
        plr(store, scoring_path=path, repeats="plain", contrast_weight=0.0, step_share=1.0)
        for path in ("fast+slow", "slow")
    )
    batch = collate(store, np.arange(10), 12, with_targets=True)
    with torch.no_grad():
        base = both.base_pass(batch).at_last()
        merged = both.merge(base.hidden_BQD, both.think(base))
        torch.testing.assert_close(slow.encode(batch), merged[:, 0])
        torch.testing.assert_close(both.encode(batch), (merged + base.hidden_BQD)[:, 0] / 2)
        assert torch.equal(both.losses(batch)["ce"], slow.losses(batch)["ce"])


def test_the_contrast_pairs_two_passes_with_their_own_dropout(store: SequenceStore) -> None:
    settings = {"contrast_share": 1.0, "contrast_weight": 1.0, "contrast_temperature": 0.5}
    ranker = plr(store, reasoning_form="published", **settings)
    rows = SequenceStore.from_lists([[3, 5], [7, 9], [11, 2], [4, 8], [6, 1]])
    batch = collate(rows, np.arange(5), 1, with_targets=True)
    with torch.no_grad():
        base = ranker.base_pass(batch)
        view = functional.normalize(ranker.merge(base.hidden_BQD, ranker.think(base))[:, 0], dim=-1)
        # Without dropout both passes are the same.
        same = in_batch_contrast(view / 0.5, view)
        torch.testing.assert_close(ranker.losses(batch)["contrast"], same)
        ranker.train()
        assert ranker.losses(batch)["contrast"] > same


def test_members_of_one_group_are_no_negatives() -> None:
    torch.manual_seed(0)
    left, right = torch.randn(5, 4), torch.randn(5, 4)
    groups = torch.tensor([1, 2, 1, 3, 2])
    logits = left @ right.T
    expected = []
    for row in range(5):
        rivals = [at for at in range(5) if at == row or groups[at] != groups[row]]
        expected.append(logits[row, rivals].logsumexp(0) - logits[row, row])
    torch.testing.assert_close(in_batch_contrast(left, right, groups), torch.stack(expected).mean())


def test_drawn_places_are_marked_ones() -> None:
    torch.manual_seed(0)
    chosen = torch.rand(40, 6) < 0.3
    rows, places = draw_places(chosen)
    assert rows.tolist() == chosen.any(dim=1).nonzero()[:, 0].tolist()
    assert chosen[rows, places].all()
    few, _ = draw_places(chosen, 0.25)
    assert len(few) == -(-len(rows) // 4)
    assert torch.equal(few, few.unique())
    assert len(draw_places(torch.zeros(3, 4, dtype=torch.bool))[0]) == 0
