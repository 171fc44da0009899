"""LARES: the recurrence, its adapters and depths, the two alignments, and the stage of rewards."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from models.batch import collate
from models.fitting import FitConfig, Fitter
from models.places import same_target_pairs
from models.policy import group_advantages
from models.rankers.lares import LARES, list_reward
from models.sequences import SequenceStore
from tests.models.conftest import random_store, small_ranker


def lares(store: SequenceStore, **settings: Any) -> LARES:
    ranker = small_ranker("lares", store, **settings)
    assert isinstance(ranker, LARES)
    return ranker


def block(ranker: LARES, number: int, x: Tensor, valid: Tensor) -> Tensor:
    """One pre-norm layer written out, head by head."""
    assert ranker.core is not None
    layer = ranker.core.blocks[number]
    length, heads = x.shape[1], ranker.config.num_heads
    q, k, v = layer.project_in(layer.attention_norm(x)).chunk(3, dim=-1)
    allowed = valid[:, None, :] & torch.ones(length, length).tril().bool()
    allowed |= torch.eye(length).bool()
    mixed = []
    for qh, kh, vh in zip(q.chunk(heads, -1), k.chunk(heads, -1), v.chunk(heads, -1), strict=True):
        scores = (qh @ kh.transpose(1, 2)) / qh.shape[-1] ** 0.5
        mixed.append(scores.masked_fill(~allowed, -torch.inf).softmax(-1) @ vh)
    x = x + layer.project_out(torch.cat(mixed, -1))
    return x + layer.narrow(layer.activate(layer.widen(layer.inner_norm(x))))


@pytest.mark.parametrize("form", ["published", "gated"])
@pytest.mark.parametrize("adapter", ["average", "linear", "gate"])
def test_refinement_equals_the_written_out_recurrence(
    adapter: str, form: str, store: SequenceStore
) -> None:
    ranker = lares(store, adapter=adapter, reasoning_form=form, reasoning_steps=3)
    batch = collate(store, np.arange(80) % 64, 12)
    with torch.no_grad():
        base = ranker.base_pass(batch)
        hidden = base.hidden_BQD
        states = ranker.refine(base, 3, torch.zeros_like(hidden))
        core, state = ranker.core, torch.zeros_like(hidden)
        assert core is not None
        for found in states:
            if adapter == "average":
                state = (state + hidden) / 2
            elif adapter == "linear":
                assert core.join is not None
                weight = core.join.weight
                state = state @ weight[:, :16].T + hidden @ weight[:, 16:].T + core.join.bias
            else:
                assert core.mix is not None
                share = 1 / (1 + (-core.mix).exp())
                state = share * state + (1 - share) * hidden
            state = block(
                ranker, 1, block(ranker, 0, core.norm(state), batch.valid_BL), batch.valid_BL
            )
            expected = state if ranker.gate_D is None else hidden + ranker.gate_D * state
            real = batch.valid_BL
            torch.testing.assert_close(found[real], expected[real], rtol=1e-4, atol=1e-5)
        steps = ranker.encode_steps(batch)
        assert steps.shape[:2] == (80, 4)
        torch.testing.assert_close(steps[:, -1], ranker.encode(batch))
        torch.testing.assert_close(steps[:, 2, :16], states[1][:, -1])


def test_kept_recurrences_change_memory_alone(store: SequenceStore) -> None:
    batch = collate(store, np.arange(30), 12, with_targets=True)
    grads = []
    for kept in (0, 99):
        ranker = lares(store, reasoning_steps=4, kept_recurrences=kept).train()
        torch.manual_seed(3)
        sum(ranker.losses(batch).values()).backward()
        grads.append([p.grad for p in ranker.parameters()])
    for mine, theirs in zip(*grads, strict=True):
        assert mine is not None
        torch.testing.assert_close(mine, theirs)


def test_depth_is_drawn_in_training_and_fixed_when_scoring(store: SequenceStore) -> None:
    ranker = lares(store, reasoning_steps=4).train()
    torch.manual_seed(0)
    depths = torch.tensor([ranker.draw_depth() for _ in range(4000)])
    assert depths.min() == 1
    assert depths.max() == 12
    # One more than a Poisson whose rate has the mean; the cap takes a little off.
    assert depths.float().mean() == pytest.approx(5.0, abs=0.15)
    start = ranker.draw_start(torch.zeros(40, 10, 16))
    assert start.abs().max() <= 9.0
    assert start.std() == pytest.approx(3.0 * 0.9866, rel=0.03)
    ranker.eval()
    assert ranker.draw_depth() == 4
    assert ranker.draw_start(torch.zeros(4, 3, 16)).abs().max() == 0


def test_pairs_share_a_target_across_rows() -> None:
    torch.manual_seed(0)
    targets = torch.tensor([5, 7, 5, 9, 7, 5, 7, 3, 3])
    rows = torch.tensor([0, 0, 1, 1, 2, 2, 3, 4, 4])
    left, right = same_target_pairs(targets, rows)
    assert torch.equal(targets[left], targets[right])
    assert (rows[left] != rows[right]).all()
    assert sorted(left.tolist()) == [0, 1, 2, 4, 5, 6]
    assert sorted(right.tolist()) == [0, 1, 2, 4, 5, 6]
    assert len(same_target_pairs(targets[:0], rows[:0])[0]) == 0


def test_alignment_compares_by_cosine_both_ways(store: SequenceStore) -> None:
    ranker = lares(store, contrast_temperature=0.5)
    torch.manual_seed(0)
    left, right = torch.randn(6, 16), torch.randn(6, 16)
    targets = torch.tensor([1, 2, 3, 1, 4, 5])
    cosines = functional.cosine_similarity(left[:, None], right[None], dim=-1) / 0.5
    losses = []
    for row in range(6):
        rivals = [at for at in range(6) if at == row or targets[at] != targets[row]]
        for seen in (cosines[row, rivals], cosines[rivals, row]):
            losses.append(seen.logsumexp(0) - cosines[row, row])
    torch.testing.assert_close(ranker.align(left, right, targets), torch.stack(losses).mean())
    terms = ranker.train().losses(collate(store, np.arange(40), 12, with_targets=True))
    assert terms.keys() == {"ce", "targets", "steps"}
    assert terms["targets"] > 0


def test_rewards_are_those_of_a_list_of_ten() -> None:
    ranks = torch.tensor([1, 3, 10, 11])
    assert list_reward(ranks, "recall").tolist() == [1, 1, 1, 0]
    expected = [1 / np.log2(rank + 1) if rank <= 10 else 0 for rank in ranks.tolist()]
    assert list_reward(ranks, "ndcg").tolist() == pytest.approx(expected)


def rl(store: SequenceStore, **settings: Any) -> LARES:
    ranker = lares(store, upto="fit", rollouts=4, **settings)
    ranker.start_stage("rl")
    ranker.train().start_epoch(0)
    return ranker


@pytest.mark.parametrize("farthest", [100, 3])
def test_the_policy_gradient_is_that_of_the_advantages(farthest: int, store: SequenceStore) -> None:
    ranker = rl(store, farthest_rank=farthest)
    batch = collate(store, np.arange(20), 12, with_targets=True)
    torch.manual_seed(4)
    terms = ranker.losses(batch)
    # Rollouts are used once: all ratios are one, and advantages of a history sum to zero.
    assert terms["reward"].item() == pytest.approx(0.0, abs=1e-5)
    assert terms["reference"].item() == pytest.approx(0.0, abs=1e-6)
    found = torch.autograd.grad(terms["reward"], ranker.items.weight)[0]
    torch.manual_seed(4)
    whole = ranker.whole_pass(batch)
    judged = ranker.judge_one_place(whole)
    logs, rewards, best = [], [], torch.full((20,), 1000)
    for _ in range(4):
        depth, start = ranker.draw_depth(), ranker.draw_start(whole.hidden_BQD)
        steps, ranks = ranker.step_log_probs(judged, ranker.refine(whole, depth, start))
        assert len(steps) == depth
        logs.append(steps.mean(dim=0))
        rewards.append(list_reward(ranks, "ndcg"))
        best = torch.minimum(best, ranks)
    within = best <= farthest
    assert 0 < within.sum() <= 20
    assert within.all() == (farthest == 100)
    advantages = group_advantages(torch.stack(rewards, dim=1))
    assert advantages.abs().max() > 0
    loss = -(torch.stack(logs, dim=1) * advantages)[within].mean()
    torch.testing.assert_close(found, torch.autograd.grad(loss, ranker.items.weight)[0])


def test_log_probabilities_and_ranks_are_those_of_scoring(store: SequenceStore) -> None:
    ranker = lares(store)
    batch = collate(store, np.arange(12), 12, with_targets=True)
    assert batch.targets_BL is not None
    batch.targets_BL[:, :-1] = 0
    with torch.no_grad():
        whole = ranker.whole_pass(batch)
        judged = ranker.judge_one_place(whole)
        states = ranker.refine(whole, 3, torch.zeros_like(whole.hidden_BQD))
        logs, ranks = ranker.step_log_probs(judged, states)
        scores = ranker._scores(ranker.encode(batch), 1, 41)
        own = scores.gather(1, judged.targets_R[:, None] - 1)
        torch.testing.assert_close(logs[-1], (own - scores.logsumexp(1, keepdim=True))[:, 0])
        assert torch.equal(ranks, (scores >= own).sum(dim=1))


def test_the_reference_is_the_frozen_start_and_travels_with_the_weights() -> None:
    store = random_store(rows=40)
    ranker = lares(store, upto="fit", rollouts=2)
    recipe = FitConfig(batch_size=20, max_epochs=2, lr=1e-2)
    fitter = Fitter(ranker, store, recipe)
    fitter.run_epoch()
    fitter.run_epoch()
    start = ranker.items.weight.detach().clone()
    fitter.run_epoch()
    assert ranker.reference is not None
    assert torch.equal(ranker.reference.items.weight, start)
    assert not torch.equal(ranker.items.weight, start)
    assert not any(p.requires_grad for p in ranker.reference.parameters())
    saved = fitter.state_dict()
    fitter.run_epoch()
    again = Fitter(lares(store, upto="fit", rollouts=2, seed=9), store, recipe)
    again.load_state_dict(saved)
    again.run_epoch()
    for name, value in fitter.ranker.state_dict().items():
        assert torch.equal(value, again.ranker.state_dict()[name]), name
