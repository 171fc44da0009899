"""The all-position form of reasoning against the prefix-by-prefix loop that it replaces."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from models.batch import SequenceBatch, collate
from models.encoders.transformer import TransformerEncoder
from models.latent_reasoning import LatentReasoner
from models.layers.transformer import causal_mask
from models.losses import in_batch_contrast, pairwise_kl
from models.prefixes import prefixes_at
from models.sequences import SequenceStore
from tests.models.conftest import one_more, random_store, small_ranker

NAMES = ["rearec-erl", "rearec-prl", "dtrec"]


def naive_chain(ranker: LatentReasoner, batch: SequenceBatch, row: int, upto: int) -> Tensor:
    """Encode one prefix with its thoughts appended as tokens, afresh for every thought: [S, D]."""
    one = SequenceBatch(
        *(
            values[row : row + 1, : upto + 1]
            for values in (batch.item_ids_BL, batch.valid_BL, batch.times_BL, batch.actions_BL)
        )
    )
    encoder, reasoning = ranker.encoder, ranker.reasoning
    assert isinstance(encoder, TransformerEncoder)
    assert reasoning is not None
    tokens = encoder.embed(one, ranker.items(one.item_ids_BL))

    def last_state() -> Tensor:
        mask = causal_mask(one.valid_BL)
        mask[:, :, : upto + 1, : upto + 1] |= encoder.mask(one)[:, :, : upto + 1, : upto + 1]
        return encoder.run(one, tokens, mask).hidden_BQD[:, -1:]

    states = [last_state()]
    for step in range(reasoning.steps):
        thought = encoder.embedding_norm(states[-1] + reasoning.positions_KD[step])
        tokens = torch.cat([tokens, thought], dim=1)
        one = one_more(one)
        new = last_state()
        if reasoning.gates_KD is not None:
            new = states[-1] + reasoning.gates_KD[step] * new
        states.append(new)
    return torch.cat(states)[:, 0]


ENCODINGS: list[dict[str, Any]] = [
    {"norm": "pre"},
    {"norm": "post"},
    {"position_encoding": "rotary"},
    {"time_bias": True},
    {"backbone": "hstu"},
    {"backbone": "hstu", "position_encoding": "rotary"},
]


@pytest.mark.parametrize("encoding", ENCODINGS, ids=str)
@pytest.mark.parametrize("form", ["published", "gated"])
@pytest.mark.parametrize("name", NAMES)
def test_all_positions_equal_the_prefix_loop(
    name: str, form: str, encoding: dict[str, Any], store: SequenceStore
) -> None:
    ranker = small_ranker(name, store, reasoning_steps=3, reasoning_form=form, **encoding)
    assert isinstance(ranker, LatentReasoner)
    batch = collate(store, np.arange(6), 12)
    with torch.no_grad():
        base = ranker.base_pass(batch)
        states = ranker.reason(base)
        for row, position in batch.valid_BL.nonzero().tolist():
            expected = naive_chain(ranker, batch, row, position)
            torch.testing.assert_close(states[:, row, position], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("encoding", [{}, {"time_bias": True}], ids=str)
def test_every_prefix_equals_the_loop_on_an_encoder_that_reads_ahead(
    encoding: dict[str, Any], store: SequenceStore
) -> None:
    ranker = small_ranker("rearec-prl", store, backbone="bert4rec", reasoning_steps=3, **encoding)
    assert isinstance(ranker, LatentReasoner)
    batch = collate(store, np.arange(6), 12)
    rows, places = batch.valid_BL.nonzero(as_tuple=True)
    with torch.no_grad():
        prefixes = prefixes_at(batch, rows, places)
        base = ranker.encoder(prefixes, ranker.items(prefixes.item_ids_BL)).at_last()
        states = ranker.reason(base)[:, :, 0]
        for prefix, (row, place) in enumerate(zip(rows.tolist(), places.tolist(), strict=True)):
            expected = naive_chain(ranker, batch, row, place)
            torch.testing.assert_close(states[:, prefix], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_losses_on_an_encoder_that_reads_ahead_speak_of_prefix_ends(
    name: str, store: SequenceStore
) -> None:
    ranker = small_ranker(name, store, backbone="bert4rec", prefixes_per_row=12, repeats="plain")
    assert isinstance(ranker, LatentReasoner)
    batch = collate(store, np.arange(6), 12, with_targets=True)
    assert batch.targets_BL is not None
    rows, places = (batch.targets_BL > 0).nonzero(as_tuple=True)
    with torch.no_grad():
        queries = ranker.encode(prefixes_at(batch, rows, places))
        logits = queries @ ranker.items.weight[1:].T
        expected = torch.nn.functional.cross_entropy(logits, batch.targets_BL[rows, places] - 1)
        torch.testing.assert_close(ranker.losses(batch)["ce"], expected)
    assert ranker.num_learnt(batch) == len(rows)
    assert small_ranker(name, store, backbone="bert4rec").num_learnt(batch) < len(rows)


@pytest.mark.parametrize("name", NAMES)
def test_the_last_position_alone_equals_all_positions(name: str, store: SequenceStore) -> None:
    ranker = small_ranker(name, store)
    assert isinstance(ranker, LatentReasoner)
    batch = collate(store, np.arange(20), 12)
    with torch.no_grad():
        base = ranker.base_pass(batch)
        everywhere = ranker.reason(base)[:, :, -1]
        alone = ranker.reason(base.at_last())[:, :, 0]
        torch.testing.assert_close(alone, everywhere, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_gated_reasoning_starts_as_the_backbone(name: str, store: SequenceStore) -> None:
    ranker = small_ranker(name, store, reasoning_form="gated")
    assert isinstance(ranker, LatentReasoner)
    assert ranker.reasoning is not None
    assert ranker.reasoning.gates_KD is not None
    batch = collate(store, np.arange(8), 12)
    with torch.no_grad():
        ranker.reasoning.gates_KD.zero_()
        base = ranker.base_pass(batch)
        for state in ranker.reason(base):
            assert torch.equal(state, base.hidden_BQD)


def test_more_thoughts_leave_earlier_ones_alone(store: SequenceStore) -> None:
    short = small_ranker("rearec-prl", store, reasoning_steps=1, reasoning_form="published")
    long = small_ranker("rearec-prl", store, reasoning_steps=3, reasoning_form="published")
    assert isinstance(short, LatentReasoner)
    assert isinstance(long, LatentReasoner)
    weights = short.state_dict()
    name = "reasoning.positions_KD"
    weights[name] = torch.cat([weights[name], long.state_dict()[name][1:]])
    long.load_state_dict(weights)
    batch = collate(store, np.arange(8), 12)
    with torch.no_grad():
        few = short.reason(short.base_pass(batch).at_last())
        many = long.reason(long.base_pass(batch).at_last())
    assert torch.equal(few, many[:2])
    assert not torch.allclose(many[1], many[3])


@pytest.mark.parametrize("detach_logs", [True, False])
@pytest.mark.parametrize("states", [2, 4])
def test_pairwise_kl_equals_the_loop_over_pairs(states: int, detach_logs: bool) -> None:
    torch.manual_seed(0)
    # More targets than one chunk holds, and not a multiple of it.
    vectors = torch.randn(states, 601, 8, requires_grad=True)
    items = torch.randn(30, 8, requires_grad=True)
    logs = (vectors @ items.T / 0.7).log_softmax(-1)
    pairs = []
    for i in range(states):
        for j in range(states):
            if i != j:
                gap = logs[i] - logs[j]
                gap = gap.detach() if detach_logs else gap
                pairs.append((logs[i].exp() * gap).sum(-1).mean())
    expected = torch.stack(pairs).mean()
    wanted = torch.autograd.grad(expected, [vectors, items])
    found = pairwise_kl(vectors, items, 0.7, detach_logs)
    torch.testing.assert_close(found, expected)
    for mine, theirs in zip(torch.autograd.grad(found, [vectors, items]), wanted, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)


def test_prl_temperatures_sharpen_towards_the_last_step(store: SequenceStore) -> None:
    ranker = small_ranker(
        "rearec-prl",
        store,
        reasoning_steps=2,
        annealing=3.0,
        step_weight=0.5,
        temperature=0.5,
        repeats="plain",
        step_share=1.0,
    )
    assert isinstance(ranker, LatentReasoner)
    batch = collate(store, np.arange(10), 12, with_targets=True)
    terms = ranker.losses(batch)
    base = ranker.base_pass(batch)
    chosen, targets = ranker.targets_of(base)
    states = ranker.reason(base)[:, chosen]
    weight = ranker.items.weight[1:]

    def loss_at(state: int, temperature: float) -> Tensor:
        return torch.nn.functional.cross_entropy(
            states[state] @ weight.T / temperature, targets - 1
        )

    torch.testing.assert_close(terms["ce"], loss_at(2, 0.5))
    early = (loss_at(0, 0.5 * 9.0) + loss_at(1, 0.5 * 3.0)) / 2
    torch.testing.assert_close(terms["steps"], 0.5 * early)


def test_erl_scores_the_mean_of_all_states(store: SequenceStore) -> None:
    ranker = small_ranker("rearec-erl", store, reasoning_steps=2, repeats="plain")
    assert isinstance(ranker, LatentReasoner)
    batch = collate(store, np.arange(10), 12)
    with torch.no_grad():
        states = ranker.reason(ranker.base_pass(batch).at_last())[:, :, 0]
        torch.testing.assert_close(ranker.encode(batch), (states[0] + states[1] + states[2]) / 3)


def test_noise_contrast_starts_after_its_warm_up(store: SequenceStore) -> None:
    ranker = small_ranker("rearec-prl", store, noise_warmup_epochs=2).train()
    batch = collate(store, np.arange(10), 12, with_targets=True)
    seen = []
    for epoch in range(4):
        ranker.start_epoch(epoch)
        seen.append("contrast" in ranker.losses(batch))
    assert seen == [False, False, True, True]


def test_contrast_is_the_cross_entropy_of_finding_oneself() -> None:
    torch.manual_seed(0)
    left, right = torch.randn(7, 4), torch.randn(7, 4)
    expected = -(left @ right.T).log_softmax(dim=1).diagonal().mean()
    torch.testing.assert_close(in_batch_contrast(left, right), expected)


def test_rows_without_targets_do_not_break_the_contrast() -> None:
    store = random_store(rows=12)
    ranker = small_ranker("rearec-prl", store, noise_warmup_epochs=0).train()
    batch = collate(store, np.arange(12), 12, with_targets=True)
    assert batch.targets_BL is not None
    batch.targets_BL[:5] = 0
    terms = ranker.losses(batch)
    assert all(torch.isfinite(term) for term in terms.values())


@pytest.mark.parametrize("name", NAMES)
def test_the_steps_hold_what_scores(name: str, store: SequenceStore) -> None:
    """The mean of all states of ERL, the last one elsewhere; a backbone has one, its own."""
    ranker = small_ranker(name, store, reasoning_steps=2, repeats="plain")
    batch = collate(store, np.arange(10), 12)
    with torch.no_grad():
        steps = ranker.encode_steps(batch)
        query = ranker.encode(batch)
    assert steps.shape == (10, 3, 16)
    scoring = steps.mean(dim=1) if name == "rearec-erl" else steps[:, -1]
    torch.testing.assert_close(scoring, query)
    backbone = small_ranker("sasrec", store)
    torch.testing.assert_close(backbone.encode_steps(batch)[:, 0], backbone.encode(batch))


def test_a_dropout_ensemble_of_one_is_its_backbone(store: SequenceStore) -> None:
    backbone = small_ranker("sasrec", store, seed=5)
    one = small_ranker("sasrec-dropout", store, seed=5, samples=1)
    many = small_ranker("sasrec-dropout", store, seed=5, samples=3)
    batch = collate(store, np.arange(10), 12)
    assert torch.equal(one.encode(batch), backbone.encode(batch))
    assert not torch.allclose(many.encode(batch), backbone.encode(batch))
    assert torch.equal(many.encode(batch), many.encode(batch))
