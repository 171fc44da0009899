"""ManCAR: context and mask, norms, teacher, schedule, halting, and each of them switched off."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from models.batch import SequenceBatch, collate
from models.encoders.prompted import PromptedEncoder, prompt_mask
from models.layers.halting import halting_signals
from models.rankers.mancar import ManCAR, rescale, teacher_lists, teacher_shares
from models.sequences import SequenceStore
from models.swing import swing_neighbours
from tests.models.conftest import random_store, small_ranker

OFF: dict[str, Any] = {
    "context_triggers": 0,
    "teacher_weight": 0.0,
    "norm_control": False,
    "schedule": "flat",
    "halt_divergence": None,
}


def mancar(store: SequenceStore, seed: int = 0, **settings: Any) -> ManCAR:
    ranker = small_ranker("mancar", store, seed, **settings)
    assert isinstance(ranker, ManCAR)
    return ranker


def test_context_is_the_neighbours_of_the_last_items_each_once() -> None:
    store = random_store(rows=200)
    ranker = mancar(store, context_triggers=2, context_neighbours=3)
    ids, _ = swing_neighbours(store, 40, 10)
    assert torch.equal(ranker.neighbours_N1M, torch.from_numpy(ids))
    rows = SequenceStore.from_lists([[3, 5, 7, 3, 9], [4], []])
    found = ranker.context_of(collate(rows, np.arange(3), 6))
    assert found.shape == (3, 6)
    expected = [[*ids[9, :3], *ids[3, :3]], ids[4, :3].tolist(), []]
    for context, wanted in zip(found.tolist(), expected, strict=True):
        real = [item for item in context if item]
        assert len(real) == len(set(real))
        assert set(real) == set(wanted) - {0}


@pytest.mark.parametrize("causal", [True, False])
def test_the_mask_says_who_sees_whom(causal: bool) -> None:
    valid = torch.tensor([[1, 0, 1, 0, 1, 1, 1]], dtype=torch.bool)
    mask = prompt_mask(valid, 3, causal)[0, 0]
    for query in range(7):
        for key in range(7):
            both_context, behind = query < 3 and key < 3, key <= query
            sees = bool(valid[0, key]) and (not causal or both_context or behind)
            assert bool(mask[query, key]) == (sees or query == key)


def states_of(ranker: ManCAR, batch: SequenceBatch, context: Tensor) -> Tensor:
    encoder = ranker.encoder
    assert isinstance(encoder, PromptedEncoder)
    vectors = ranker.items(batch.item_ids_BL)
    with torch.no_grad():
        base = encoder.prompted(batch, vectors, ranker.items(context), context > 0)
        return ranker.reason(base)


def test_nothing_looks_ahead_where_the_history_is_causal(store: SequenceStore) -> None:
    """A changed event moves no state before it, of the encoder or of any thought."""
    ranker = mancar(store, backbone="sasrec")
    rows = SequenceStore.from_lists([[3, 5, 7, 9, 11], [3, 5, 7, 20, 11]])
    batch = collate(rows, np.arange(2), 5)
    states = states_of(ranker, batch, torch.tensor([[8, 2, 0]]).expand(2, -1))
    assert torch.equal(states[:, 0, :3], states[:, 1, :3])
    assert not torch.allclose(states[:, 0, 3:], states[:, 1, 3:])
    opened = mancar(store, backbone="bert4rec")
    states = states_of(opened, batch, torch.tensor([[8, 2, 0]]).expand(2, -1))
    assert not torch.allclose(states[:, 0, :3], states[:, 1, :3])


@pytest.mark.parametrize("backbone", ["sasrec", "bert4rec"])
def test_context_is_read_and_its_padding_and_order_are_not(
    backbone: str, store: SequenceStore
) -> None:
    ranker = mancar(store, backbone=backbone)
    batch = collate(SequenceStore.from_lists([[3, 5, 7]]), np.array([0]), 4)
    plain = states_of(ranker, batch, torch.tensor([[8, 2]]))[:, :, 1:]
    for same in ([[2, 8]], [[0, 8, 0, 2]]):
        moved = states_of(ranker, batch, torch.tensor(same))[:, :, 1:]
        torch.testing.assert_close(moved, plain, rtol=1e-4, atol=1e-5)
    other = states_of(ranker, batch, torch.tensor([[8, 6]]))[:, :, 1:]
    assert not torch.allclose(other, plain)


def test_thoughts_equal_tokens_behind_context_and_history(store: SequenceStore) -> None:
    ranker = mancar(store, reasoning_steps=3, backbone="bert4rec")
    encoder, reasoning = ranker.encoder, ranker.reasoning
    assert isinstance(encoder, PromptedEncoder)
    assert reasoning is not None
    assert reasoning.gates_KD is not None
    assert ranker.scale_D is not None
    batch = collate(SequenceStore.from_lists([[3, 5, 7, 2]]), np.array([0]), 4)
    context = torch.tensor([[8, 1, 6]])
    found = states_of(ranker, batch, context)[:, 0, -1]
    norm = ranker.items.weight[ranker.known_N1].norm(dim=1).mean()
    with torch.no_grad():
        tokens = [encoder.enter(ranker.items(context))]
        tokens.append(encoder.embed(batch, ranker.items(batch.item_ids_BL)))
        state = None
        for step in range(4):
            x = torch.cat(tokens, dim=1)
            length = x.shape[1]
            ones = torch.ones(1, length, dtype=torch.bool)
            zeros = torch.zeros(1, length, dtype=torch.int64)
            mask = torch.ones(length, length).tril().bool()
            mask[:7, :7] = True
            whole = SequenceBatch(zeros, ones, zeros, zeros)
            new = encoder.run(whole, x, mask[None, None]).hidden_BQD[0, -1]
            if state is None:
                state = new
            else:
                shaped = ranker.scale_D * new / new.norm() * norm
                state = state + reasoning.gates_KD[step - 1] * shaped
            torch.testing.assert_close(found[step], state, rtol=1e-4, atol=1e-5)
            if step < 3:
                tokens.append(encoder.enter(state + reasoning.positions_KD[step])[None, None])


def test_rescaled_thoughts_have_the_norm_times_their_scale() -> None:
    torch.manual_seed(0)
    thought = torch.randn(5, 8)
    shaped = rescale(thought, torch.tensor(3.0), torch.ones(8))
    torch.testing.assert_close(shaped.norm(dim=-1), torch.full((5,), 3.0))
    torch.testing.assert_close(
        rescale(thought, torch.tensor(3.0), torch.full((8,), 2.0)), 2 * shaped
    )
    assert torch.isfinite(rescale(torch.zeros(1, 8), torch.tensor(3.0), torch.ones(8))).all()


def test_the_norm_of_thoughts_is_that_of_the_items_as_scoring_uses_them() -> None:
    store = random_store()
    text = {"components": 8, "hidden": 8, "id_dropout": 0.9}
    ranker = small_ranker("mancar", store, text_vectors=text)
    assert isinstance(ranker, ManCAR)
    scored = ranker.item_vectors(1, ranker.num_items + 1)[ranker.known_N1[1:]]
    expected = scored.detach().norm(dim=1).mean()
    torch.testing.assert_close(ranker.mean_norm(), expected)
    torch.testing.assert_close(ranker.train().mean_norm(), expected)
    with torch.no_grad():
        ranker.items.weight.mul_(3.0)
    assert float(ranker.mean_norm()) > float(expected)


def test_the_teacher_lists_each_item_once_and_no_padding() -> None:
    lists = teacher_lists(torch.tensor([4, 9]), torch.tensor([[7, 4, 2, 0], [1, 3, 0, 0]]))
    assert lists.tolist() == [[4, 7, 0, 2, 0], [9, 1, 3, 0, 0]]
    shares = teacher_shares(lists, 2.0)
    for row, real in zip(shares, ([0, 1, 3], [0, 1, 2]), strict=True):
        expected = torch.exp(-torch.arange(3.0) / 2.0)
        torch.testing.assert_close(row[real], expected / expected.sum())
        assert row.sum().item() == pytest.approx(1.0)
        assert (row > 0).sum() == 3


def test_losses_are_scheduled_and_taught(store: SequenceStore) -> None:
    ranker = mancar(
        store,
        reasoning_steps=3,
        prefixes_per_row=20,
        temperature=0.7,
        repeats="plain",
        teacher_weight=0.3,
        step_weight=0.5,
        schedule_exponent=2.0,
    )
    batch = collate(store, np.arange(8), 12, with_targets=True)
    with torch.no_grad():
        torch.manual_seed(0)
        terms = ranker.losses(batch)
        torch.manual_seed(0)
        base = ranker.base_pass(batch)
        chosen, targets = ranker.targets_of(base)
        states = ranker.reason(base)[1:, chosen] / 0.7
        logits = states @ ranker.items.weight[1:].T
        steps = [functional.cross_entropy(logits[k] / (k + 1) ** 2, targets - 1) for k in range(3)]
        torch.testing.assert_close(terms["ce"], steps[2])
        torch.testing.assert_close(terms["steps"], 0.5 * (steps[0] + steps[1]) / 2)
        taught = torch.zeros(())
        last = base.batch.item_ids_BL[:, -1]
        for k in range(3):
            logs = logits[k].log_softmax(-1)
            for row, target in enumerate(targets.tolist()):
                others = ranker.neighbours_N1M[last[row], :10].tolist()
                listed = [target, *(j for j in others if j not in (0, target))]
                q = torch.exp(-torch.arange(float(len(listed))) / (3 - k))
                q = q / q.sum()
                taught += (q * (q.log() - logs[row, torch.tensor(listed) - 1])).sum() / len(targets)
        assert len(targets) == batch.num_targets
        torch.testing.assert_close(terms["teacher"], 0.3 * taught)


@pytest.mark.parametrize("loss", ["sampled", "gbce"])
def test_the_teacher_takes_its_softmax_over_drawn_items_where_the_loss_draws(
    loss: str, store: SequenceStore
) -> None:
    batch = collate(store, np.arange(8), 12, with_targets=True)
    taught, weights = [], mancar(store).state_dict()
    # The teacher is the same divergence where the settings weigh targets by their propensities.
    drawn = {"loss": loss, "negatives": 20_000, "propensity_power": 1.0}
    for settings in ({"loss": "ce"}, drawn):
        ranker = mancar(store, **settings)
        ranker.load_state_dict(weights, strict=False)
        torch.manual_seed(0)
        taught.append(ranker.losses(batch)["teacher"])
    torch.testing.assert_close(taught[1], taught[0], rtol=1e-3, atol=0.0)
    assert not torch.equal(taught[1], taught[0])


@pytest.mark.parametrize("steps", [0, 2])
def test_the_prediction_before_any_thought_may_be_taught_too(
    steps: int, store: SequenceStore
) -> None:
    settings: dict[str, Any] = {"reasoning_steps": steps, "repeats": "plain", "teacher_spread": 0.7}
    batch = collate(store, np.arange(8), 12, with_targets=True)
    ranker = mancar(store, teach_base=True, **settings)
    plain = mancar(store, **settings)
    with torch.no_grad():
        torch.manual_seed(0)
        taught = ranker.losses(batch)
        torch.manual_seed(0)
        untaught = plain.losses(batch)
        torch.manual_seed(0)
        base = ranker.base_pass(batch)
        chosen, targets = ranker.targets_of(base)
        logs = (base.hidden_BQD[chosen] @ ranker.items.weight[1:].T).log_softmax(-1)
        expected = torch.zeros(())
        for row, target in enumerate(targets.tolist()):
            others = ranker.neighbours_N1M[base.batch.item_ids_BL[row, -1], :10].tolist()
            listed = [target, *(j for j in others if j not in (0, target))]
            q = torch.exp(-torch.arange(float(len(listed))) / 0.7)
            q = q / q.sum()
            expected += (q * (q.log() - logs[row, torch.tensor(listed) - 1])).sum() / len(targets)
    assert ("teacher" in untaught) == bool(steps)
    torch.testing.assert_close(taught["teacher"] - untaught.get("teacher", 0.0), expected)
    assert torch.equal(taught["ce"], untaught["ce"])


def test_schedules_rise_fall_or_stay() -> None:
    store = random_store(rows=10)
    found = {
        kind: [
            mancar(store, reasoning_steps=3, schedule=kind).config.temperature_of(k)
            for k in (1, 2, 3)
        ]
        for kind in ("rising", "falling", "flat")
    }
    assert found == {"rising": [1, 4, 9], "falling": [9, 4, 1], "flat": [1, 1, 1]}


def test_without_halting_the_last_thought_scores(store: SequenceStore) -> None:
    settings = {"reasoning_steps": 3, "repeats": "plain"}
    batch = collate(store, np.arange(20), 12)
    fixed = mancar(store, halt_divergence=None, **settings)
    with torch.no_grad():
        steps = fixed.encode_steps(batch)
        assert torch.equal(fixed.encode(batch), steps[:, -1])
        rows = steps.transpose(0, 1)
        gaps = halting_signals(rows, rows, fixed.items.weight[fixed.known_N1]).divergence_KB
        limit = float(gaps.median())
        found = mancar(store, halt_divergence=limit, **settings).encode(batch)
        taken = [next((k for k in range(3) if gaps[k, b] <= limit), 2) + 1 for b in range(20)]
        assert len(set(taken)) > 1
        for row, thought in enumerate(taken):
            torch.testing.assert_close(found[row], steps[row, thought])


@pytest.mark.parametrize("part", OFF)
def test_each_part_can_be_switched_off_alone(part: str, store: SequenceStore) -> None:
    """The ablation of the paper: what is off leaves no trace, and the rest still trains."""
    ranker = mancar(store, **{part: OFF[part]}).train()
    assert (ranker.scale_D is None) == (part == "norm_control")
    assert isinstance(ranker.encoder, PromptedEncoder) == (part != "context_triggers")
    assert ranker.halting_rule.is_off == (part == "halt_divergence")
    terms = ranker.losses(collate(store, np.arange(10), 12, with_targets=True))
    assert ("teacher" in terms) == (part != "teacher_weight")
    torch.stack(list(terms.values())).sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in ranker.parameters())


@pytest.mark.parametrize("wrong", [{"backbone": "hstu"}, {"position_encoding": "rotary"}])
def test_context_needs_learned_positions(wrong: dict[str, Any], store: SequenceStore) -> None:
    with pytest.raises(ValueError, match="learned positions"):
        mancar(store, **wrong)
