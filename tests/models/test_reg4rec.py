"""REG4Rec: its walk, its pruning, its scores and its policy against loops."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from models.batch import SequenceBatch, collate
from models.layers.code_paths import Walk
from models.rankers.reg4rec import REG4Rec
from models.sequences import SequenceStore
from tests.models.conftest import NUM_ITEMS, small_ranker

BOOKS, CODES = 3, 5


def reg4rec(store: SequenceStore, upto: str = "codes", **settings: object) -> REG4Rec:
    shape = {"books": BOOKS, "codes_per_book": CODES, "policy_weight": 0.1}
    ranker = small_ranker("reg4rec", store, upto=upto, **(shape | settings))
    assert isinstance(ranker, REG4Rec)
    return ranker


def training_batch(store: SequenceStore, rows: int = 8) -> SequenceBatch:
    return collate(store, np.arange(rows), 12, with_targets=True)


def naive_walk(ranker: REG4Rec, batch: SequenceBatch, rank: int) -> list[tuple[int, list[float]]]:
    """Walk from the last position of a one-row batch: (codebook, its log probabilities)."""
    walker, base = ranker.walker, ranker.base_pass(batch).at_last()
    state, tokens = base.hidden_BQD, ranker.encoder.start_chain()
    left, steps = list(range(BOOKS)), []
    for step in range(BOOKS):
        logs, wishes = {}, {}
        for book in left:
            turned = state[0, 0] @ walker.turns_GDD[book]
            logits = walker.values_GKD[book] @ turned + walker.bias_GK[book]
            used = walker.used_GK[book]
            logs[book] = logits.masked_fill(~used, -1e4).log_softmax(0).tolist()
            entropy = -sum(math.exp(x) * x for x in logs[book])
            certainty = 1 - entropy / math.log(int(used.sum()))
            wishes[book] = 10.0 * certainty + float(walker.prefer(state)[0, 0, book])
        ordered = sorted(left, key=lambda b: -wishes[b])
        book = ordered[rank if step == 0 else 0]
        steps.append((book, logs[book]))
        left.remove(book)
        if left:
            shares = torch.tensor(logs[book]).exp()
            token = shares @ walker.values_GKD[book] + walker.places_GD[book]
            after = ranker.encoder.step(ranker.encoder.enter(token[None, None]), base, tokens)
            state = state + walker.gates_GD[step] * after
    return steps


def goes_together(ranker: REG4Rec, book: int, code: int, other: int, value: int) -> bool:
    codes = ranker.walker.codes_N1G[ranker.known_N1].tolist()
    return any(row[book] == code and row[other] == value for row in codes)


@torch.no_grad()
@pytest.mark.parametrize("paths", [1, 2])
def test_scores_equal_the_loop_over_paths_and_codes(paths: int, store: SequenceStore) -> None:
    ranker = reg4rec(store, paths=paths, consistency_power=0.7, repeats="plain")
    known = int(ranker.known_N1.sum())
    values = [len(set(codes)) for codes in ranker.walker.codes_N1G[ranker.known_N1].T.tolist()]
    overcount = sum(math.log(count) for count in values) / math.log(known)
    assert overcount > 1.2
    for row in range(4):
        batch = collate(store, np.array([row]), 12)
        weights, sums = [], []
        for rank in range(paths):
            weight, table = 1.0, {}
            steps = naive_walk(ranker, batch, rank)
            for step, (book, logs) in enumerate(steps):
                agreed = [1.0]
                for before, before_logs in steps[:step]:
                    likeliest = before_logs.index(max(before_logs))
                    agreed.append(
                        sum(
                            math.exp(logs[value])
                            for value in range(CODES)
                            if goes_together(ranker, before, likeliest, book, value)
                        )
                    )
                held = min(agreed) ** 0.7
                weight *= held
                table[book] = [held * x for x in logs]
            weights.append(weight)
            sums.append(table)
        scores = ranker.scores(ranker.encode(batch), 1, NUM_ITEMS + 1)[0]
        for item in ranker.known_N1.nonzero()[:, 0].tolist():
            codes = ranker.walker.codes_N1G[item].tolist()
            expected = sum(
                w / sum(weights) * sum(table[b][codes[b]] for b in range(BOOKS))
                for w, table in zip(weights, sums, strict=True)
            )
            expected /= overcount
            assert float(scores[item - 1]) == pytest.approx(expected, rel=1e-3, abs=1e-4)


@torch.no_grad()
def test_codes_that_say_nothing_leave_each_item_its_share(store: SequenceStore) -> None:
    ranker = reg4rec(store, consistency_power=0.0, repeats="plain")
    ranker.walker.values_GKD.zero_()
    ranker.walker.bias_GK.zero_()
    scores = ranker.scores(ranker.encode(collate(store, np.arange(3), 12)), 1, NUM_ITEMS + 1)
    known = ranker.known_N1[1:]
    share = -math.log(int(known.sum()))
    torch.testing.assert_close(scores[:, known], torch.full_like(scores[:, known], share))


def test_the_first_stage_is_the_backbone_bit_for_bit(store: SequenceStore) -> None:
    ranker = reg4rec(store, upto="vectors")
    plain = small_ranker("sasrec", store)
    plain.load_state_dict({key: ranker.state_dict()[key] for key in plain.state_dict()})
    batch = training_batch(store)
    queries = ranker.encode(batch)
    assert torch.equal(queries, plain.encode(batch))
    assert torch.equal(ranker.scores(queries, 1, 20), plain.scores(queries, 1, 20))
    assert torch.equal(ranker.losses(batch)["ce"], plain.losses(batch)["ce"])


def test_codes_start_as_independent_predictions_of_one_state(store: SequenceStore) -> None:
    ranker = reg4rec(store, upto="vectors")
    ranker.start_stage("codes")
    batch = training_batch(store)
    base = ranker.base_pass(batch)
    walk = ranker.walk(base)
    torch.testing.assert_close(walk.logs_BQGK, ranker.walker.table(base.hidden_BQD))
    certain = ranker.walker.certainty(walk.logs_BQGK)
    assert torch.equal(walk.order_BQG, certain.argsort(dim=2, descending=True, stable=True))
    assert ((certain >= -1e-6) & (certain <= 1 + 1e-6)).all()


def test_every_codebook_is_met_once(store: SequenceStore) -> None:
    ranker = reg4rec(store).train()
    base = ranker.base_pass(training_batch(store))
    for noise in (None, ranker._random_orders(base)):
        order = ranker.walk(base, noise_BQG=noise).order_BQG
        assert (order.sort(dim=2).values == torch.arange(BOOKS)).all()


def test_a_share_of_the_places_walks_in_random_order(store: SequenceStore) -> None:
    ranker = reg4rec(store, random_order_share=1.0).train()
    base = ranker.base_pass(training_batch(store, rows=64))
    order = ranker.walk(base, noise_BQG=ranker._random_orders(base)).order_BQG
    shares = torch.bincount(order[:, :, 0].flatten(), minlength=BOOKS) / order[:, :, 0].numel()
    assert (shares > 0.25).all()
    none = reg4rec(store, random_order_share=0.0).train()
    assert (none._random_orders(base) == 0).all()


def test_contradictions_are_held_down(store: SequenceStore) -> None:
    ranker = reg4rec(store)
    together = ranker.walker.together_GGKK
    together.fill_(True)
    together[0, 1, 2] = False
    together[0, 1, 2, 3] = True
    logs = torch.full((1, 1, BOOKS, CODES), math.log(1e-9))
    logs[0, 0, 0, 2] = logs[0, 0, 2, 0] = 0.0
    logs[0, 0, 1, 3], logs[0, 0, 1, 4] = math.log(0.25), math.log(0.75)
    walk = Walk(logs, torch.tensor([[[0, 1, 2]]]), torch.zeros(1, 1))
    assert ranker.walker.consistency(walk)[0, 0].tolist() == pytest.approx([1.0, 0.25, 1.0])
    backwards = Walk(logs, torch.tensor([[[2, 1, 0]]]), torch.zeros(1, 1))
    assert ranker.walker.consistency(backwards)[0, 0].tolist() == pytest.approx([1.0, 1.0, 1.0])
    merged = ranker.walker.merge(walk, power=2.0)
    torch.testing.assert_close(merged[0, 1], logs[0, 0, 1] / 16)


def test_a_full_contradiction_has_a_finite_gradient(store: SequenceStore) -> None:
    """Explanations differentiate the lists: a root at 0 must not make them nan."""
    walker = reg4rec(store).walker
    logs = torch.randn(2, 1, BOOKS, CODES, requires_grad=True)
    order = torch.arange(BOOKS).expand(2, 1, BOOKS)
    # No code of one codebook goes with any of another.
    walker.together_GGKK.zero_()
    walk = Walk(logs.log_softmax(dim=3), order, torch.zeros(2, 1))
    walker.merge(walk, power=0.5).sum().backward()
    assert logs.grad is not None
    assert torch.isfinite(logs.grad).all()


def test_rewards_look_at_the_next_items(store: SequenceStore) -> None:
    ranker = reg4rec(store, upto="rl", reward_steps=3, reward_decay=0.5)
    batch = training_batch(store, rows=3)
    assert batch.targets_BL is not None
    base = ranker.base_pass(batch)
    rows, at = torch.tensor([0, 2]), torch.tensor([9, 11])
    items = ranker.next_items(base, rows, at)
    assert items[0].tolist() == batch.targets_BL[0, 9:12].tolist()
    assert items[1].tolist() == [int(batch.targets_BL[2, 11]), 0, 0]
    codes = ranker.walker.codes_N1G
    logs = torch.zeros(2, 1, BOOKS, CODES)
    for book in range(BOOKS):
        logs[0, 0, book, codes[items[0, 1], book]] = 1.0
        logs[1, 0, book, codes[items[1, 0], book]] = 1.0
    hit = [float((codes[items[0, m]] == codes[items[0, 1]]).float().mean()) for m in range(3)]
    found = ranker.rewards(logs, items)
    assert found[:, 0].tolist() == pytest.approx([hit[0] + 0.5 * hit[1] + 0.25 * hit[2], 1.0])


def test_the_policy_finds_the_order_that_is_rewarded(
    store: SequenceStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranker = reg4rec(store, upto="rl", rollouts=16, rollout_share=1.0)
    batch = training_batch(store, rows=32)
    met: list[Tensor] = []
    walk = ranker.walk

    def watch(*args: object, **named: object) -> Walk:
        found = walk(*args, **named)  # type: ignore[arg-type]
        met.append(found.order_BQG)
        return found

    def second_first(logs_RVGK: Tensor, items_RM: Tensor) -> Tensor:
        return (met[-1][:, :, 0] == 1).float()[: len(items_RM)]

    monkeypatch.setattr(ranker, "walk", watch)
    monkeypatch.setattr(ranker, "rewards", second_first)
    optimiser = torch.optim.Adam(ranker.walker.prefer.parameters(), lr=0.05)
    for _ in range(40):
        optimiser.zero_grad()
        ranker.policy_loss(ranker.base_pass(batch)).backward()
        optimiser.step()
    shares = [float((order[:, :, 0] == 1).float().mean()) for order in met]
    assert np.mean(shares[-5:]) > np.mean(shares[:5]) + 0.2


@pytest.mark.parametrize("stage", REG4Rec.course)
def test_each_stage_learns_with_what_it_uses_alone(stage: str, store: SequenceStore) -> None:
    ranker = reg4rec(store, upto=stage).train()
    terms = ranker.losses(training_batch(store))
    torch.stack(list(terms.values())).sum().backward()
    for name, parameter in ranker.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
