"""STREAM-Rec: what each stage learns, against loops, and what it leaves alone."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from models import registry
from models.batch import SequenceBatch, collate
from models.policy import group_advantages
from models.rankers.stream_rec import StreamRec
from models.sequences import SequenceStore
from tests.models.conftest import NUM_ITEMS, small_ranker


def stream_rec(store: SequenceStore, upto: str, **settings: object) -> StreamRec:
    ranker = small_ranker("stream-rec", store, upto=upto, codes_per_level=7, **settings)
    assert isinstance(ranker, StreamRec)
    return ranker


def training_batch(store: SequenceStore, rows: int = 8) -> SequenceBatch:
    return collate(store, np.arange(rows), 12, with_targets=True)


def test_the_first_stage_is_the_backbone_bit_for_bit(store: SequenceStore) -> None:
    ranker = stream_rec(store, "vectors")
    plain = small_ranker("sasrec", store)
    plain.load_state_dict({key: ranker.state_dict()[key] for key in plain.state_dict()})
    batch = training_batch(store)
    assert torch.equal(ranker.encode(batch), plain.encode(batch))
    queries = ranker.encode(batch)
    assert torch.equal(ranker.scores(queries, 1, 20), plain.scores(queries, 1, 20))
    assert torch.equal(ranker.losses(batch)["ce"], plain.losses(batch)["ce"])


def test_codes_come_from_the_trained_item_vectors(store: SequenceStore) -> None:
    ranker = stream_rec(store, "vectors")
    ranker.start_stage("pretrain")
    head, known = ranker.head, ranker.known_N1
    assert len({tuple(row) for row in head.codes_N1G[known].tolist()}) == int(known.sum())
    first = torch.cdist(ranker.items.weight[known], head.values_GKD[0]).argmin(dim=1)
    assert torch.equal(first, head.codes_N1G[known, 0])
    vectors = functional.normalize(ranker.items.weight.detach(), dim=1)
    for item in known.nonzero()[:, 0].tolist():
        alike = vectors @ vectors[item]
        alike[~known] = alike[item] = -torch.inf
        assert int(ranker.similar_N1[item]) == int(alike.argmax())


def test_thoughts_start_where_pretraining_ended(store: SequenceStore) -> None:
    ranker = stream_rec(store, "pretrain")
    batch = training_batch(store)
    before = ranker.scores(ranker.encode(batch), 1, NUM_ITEMS + 1)
    ranker.start_stage("thoughts")
    assert torch.equal(ranker.scores(ranker.encode(batch), 1, NUM_ITEMS + 1), before)


def test_rewards_may_follow_where_thoughts_brought_nothing(store: SequenceStore) -> None:
    ranker = stream_rec(store, "vectors")
    ranker.start_stage("pretrain")
    best = {key: value.clone() for key, value in ranker.state_dict().items()}
    ranker.start_stage("thoughts")
    # No validation of this stage was better: the best weights are put back, and the next begins.
    ranker.load_state_dict(best)
    ranker.start_stage("rl")
    assert torch.equal(ranker.thoughts.values_MD, ranker.head.values_GKD[0])
    assert bool(ranker.thoughts.values_MD.any())


def test_hints_stand_before_the_target(store: SequenceStore) -> None:
    ranker = stream_rec(store, "pretrain", hint_share=1.0, hint_weight=0.5)
    head, batch = ranker.head, training_batch(store, rows=4)
    terms = ranker.losses(batch)
    base = ranker.base_pass(batch)
    chosen, targets = ranker.targets_of(base)
    rows, places = chosen.nonzero(as_tuple=True)
    total = 0.0
    for row, place, target in zip(rows.tolist(), places.tolist(), targets.tolist(), strict=True):
        hint = int(ranker.similar_N1[target])
        state = base.hidden_BQD[row, place]
        token = sum(head.values_GKD[g, c] for g, c in enumerate(head.codes_N1G[hint].tolist()))
        x = ranker.encoder.enter((token + ranker.hint_place_D).expand(4, 12, -1))
        after = ranker.encoder.step(x, base, ranker.encoder.start_chain())[row, place]
        behind = state + ranker.hint_gate_D * after
        total -= head.pair_scores(state[None], torch.tensor([[hint]])).item()
        total -= head.pair_scores(behind[None], torch.tensor([[target]])).item()
    assert terms["hint"].item() == pytest.approx(0.5 * total / len(targets), rel=1e-4)


def test_labels_equal_the_loop(store: SequenceStore) -> None:
    ranker = stream_rec(store, "thoughts", label_weight=1.0, quantisation_weight=1.0)
    thoughts, batch = ranker.thoughts, training_batch(store, rows=4)
    terms = ranker.losses(batch)
    base = ranker.base_pass(batch)
    chosen, targets = ranker.targets_of(base)
    chain = thoughts(ranker.encoder, base)
    codes = ranker.head.codes_N1G[targets]
    wanted: dict[str, list[Tensor]] = {"labels": [], "quantisation": []}
    for place, goal in enumerate(ranker.head.rebuilt(codes)):
        behind, taken = chain.states[0][chosen][place], torch.zeros(16)
        for step in range(2):
            residual = thoughts.residual(goal - behind)
            gaps = (thoughts.values_MD - residual).square().sum(dim=1)
            label = int(gaps.argmin())
            logs = chain.logits[step][chosen][place].log_softmax(0)
            wanted["labels"].append(-logs[label])
            wanted["quantisation"].append(gaps[label] * 1.25)
            own = int(logs.argmax())
            assert own == int(chain.chosen[step][chosen][place])
            taken = taken + thoughts.values_MD[own]
            behind = thoughts.rebuild(taken)
    for name, values in wanted.items():
        torch.testing.assert_close(terms[name], torch.stack(values).mean(), rtol=1e-4, atol=1e-5)


def test_thoughts_enter_as_the_likeliest_codebook_vectors(store: SequenceStore) -> None:
    ranker = stream_rec(store, "thoughts")
    batch = training_batch(store, rows=5)
    with torch.no_grad():
        base = ranker.base_pass(batch)
        state, tokens = base.hidden_BQD, ranker.encoder.start_chain()
        for step in range(2):
            chosen = (state @ ranker.thoughts.ask.weight.T @ ranker.thoughts.values_MD.T).argmax(2)
            x = ranker.thoughts.values_MD[chosen] + ranker.thoughts.positions_KD[step]
            after = ranker.encoder.step(ranker.encoder.enter(x), base, tokens)
            state = state + ranker.thoughts.gates_KD[step] * after
        torch.testing.assert_close(ranker.encode(batch)[:, :16], state[:, -1])


def test_rewards_and_advantages_equal_the_loop(store: SequenceStore) -> None:
    ranker = stream_rec(
        store, "rl", exact_reward=4.0, prefix_reward=3.0, similarity_reward=0.5, rollouts=2
    )
    codes = ranker.head.codes_N1G
    drawn = torch.stack([codes[3], codes[9], codes[5], codes[5]])
    drawn[1, 0] = codes[3, 0]
    drawn[1, 1] = (codes[3, 1] + 1) % 7
    rewards = ranker.rewards(drawn, torch.tensor([3, 5]))
    rebuilt = ranker.head.rebuilt(drawn)
    alike = functional.cosine_similarity(rebuilt[1], ranker.head.rebuilt(codes[3:4])[0], dim=0)
    expected = torch.tensor([7.5, 1.0 + 0.5 * alike.item(), 7.5, 7.5])
    torch.testing.assert_close(rewards, expected, rtol=1e-4, atol=1e-4)
    advantages = group_advantages(rewards.view(2, 2))
    torch.testing.assert_close(advantages[0], torch.tensor([1.0, -1.0]), rtol=1e-3, atol=1e-3)
    assert advantages[1].abs().max() < 0.05


def test_rewards_grow_under_the_policy_term_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    store = SequenceStore.from_lists([[a, a + 10, a + 20] for a in range(1, 9)])
    torch.manual_seed(0)
    settings = {"dropout": 0.0, "codes_per_level": 5, "rollouts": 16, "rollout_share": 1.0}
    ranker = registry.build("stream-rec", 30, dim=16, max_length=4, **settings)
    assert isinstance(ranker, StreamRec)
    ranker.fit_statistics(store)
    for stage in StreamRec.course:
        ranker.start_stage(stage)
    batch = collate(store, np.arange(8), 2, with_targets=True)
    optimiser = torch.optim.Adam([p for p in ranker.parameters() if p.requires_grad], lr=5e-3)
    earned: list[float] = []
    rewards = ranker.rewards

    def watch(drawn: Tensor, targets: Tensor) -> Tensor:
        found = rewards(drawn, targets)
        earned.append(float(found.mean()))
        return found

    monkeypatch.setattr(ranker, "rewards", watch)
    for _ in range(50):
        optimiser.zero_grad()
        ranker.policy_loss(ranker.base_pass(batch)).backward()
        optimiser.step()
    assert np.mean(earned[-10:]) > np.mean(earned[:10]) + 0.5


@pytest.mark.parametrize("stage", StreamRec.course)
def test_each_stage_learns_with_what_it_uses_alone(stage: str, store: SequenceStore) -> None:
    ranker = stream_rec(store, stage).train()
    terms = ranker.losses(training_batch(store))
    torch.stack(list(terms.values())).sum().backward()
    for name, parameter in ranker.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name


def test_without_steps_thoughts_change_nothing(store: SequenceStore) -> None:
    ranker = stream_rec(store, "pretrain", reasoning_steps=0)
    batch = training_batch(store)
    before = ranker.losses(batch)["codes"], ranker.encode(batch)
    ranker.start_stage("thoughts")
    assert ranker.losses(batch).keys() == {"codes"}
    assert torch.equal(ranker.losses(batch)["codes"], before[0])
    assert torch.equal(ranker.encode(batch), before[1])


@pytest.mark.parametrize(("stage", "states"), [("vectors", 1), ("pretrain", 1), ("thoughts", 3)])
def test_every_state_of_the_chain_can_be_scored(
    stage: str, states: int, store: SequenceStore
) -> None:
    ranker = stream_rec(store, stage)
    batch = collate(store, np.arange(10), 12)
    with torch.no_grad():
        steps = ranker.encode_steps(batch)
        assert steps.shape[1] == states
        torch.testing.assert_close(steps[:, -1], ranker.encode(batch))
