"""Exact item probabilities from codes against a loop over levels and values."""

import math

import pytest
import torch

from models.layers import code_head
from models.layers.code_head import CodeHead, log_normaliser
from models.semantic_ids import residual_ids


def head_over(num_items: int = 50, levels: int = 3, codes: int = 6, dim: int = 8) -> CodeHead:
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(num_items + 1, dim, generator=generator)
    known = torch.ones(num_items + 1, dtype=torch.bool)
    known[[0, 7]] = False
    torch.manual_seed(0)
    head = CodeHead(num_items, levels, codes, dim)
    head.start(residual_ids(vectors, known, levels, codes))
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return head


def naive_score(head: CodeHead, state: torch.Tensor, item: int) -> float:
    codes = head.codes_N1G[item].tolist()
    every = head.codes_N1G[head.coded_N1].tolist()
    total = 0.0
    for level, code in enumerate(codes):
        said = torch.zeros_like(state)
        if level:
            before = sum(head.before_GKD[g, codes[g]] for g in range(level))
            said = head.leave(torch.nn.functional.gelu(head.enter(before)))
        logits = [
            float((state @ head.turns_GDD[level] + said) @ value + bias)
            for value, bias in zip(head.values_GKD[level], head.bias_GK[level], strict=True)
        ]
        behind = {other[level] for other in every if other[:level] == codes[:level]}
        total += logits[code] - math.log(sum(math.exp(logits[value]) for value in behind))
    return total


@torch.no_grad()
def test_scores_equal_the_loop_over_levels() -> None:
    head = head_over()
    states = 2 * torch.randn(4, 8, generator=torch.Generator().manual_seed(1))
    scores = head.scores(states, 3, 40)
    known = [item for item in range(3, 40) if item != 7]
    pairs = head.pair_scores(states, torch.tensor(known).expand(4, -1))
    for row in range(4):
        for place, item in enumerate(known):
            expected = naive_score(head, states[row], item)
            assert float(scores[row, item - 3]) == pytest.approx(expected, rel=1e-4)
            assert float(pairs[row, place]) == pytest.approx(expected, rel=1e-4)
    loss = head.loss(states, torch.tensor([3, 9, 9, 20]))
    wanted = [naive_score(head, states[r], i) for r, i in enumerate((3, 9, 9, 20))]
    assert float(loss) == pytest.approx(-sum(wanted) / 4, rel=1e-4)


@torch.no_grad()
def test_probabilities_of_the_catalogue_sum_to_one() -> None:
    head = head_over()
    states = 3 * torch.randn(5, 8, generator=torch.Generator().manual_seed(2))
    known = head.coded_N1[1:]
    assert len(head.codes_N1G[head.coded_N1].unique(dim=0)) == int(known.sum())
    torch.testing.assert_close(head.scores(states, 1, 51)[:, known].exp().sum(1), torch.ones(5))


@torch.no_grad()
def test_what_follows_from_the_codes_is_there_after_loading() -> None:
    head = head_over()
    again = CodeHead(50, 3, 6, 8)
    again.load_state_dict(head.state_dict())
    states = torch.randn(3, 8, generator=torch.Generator().manual_seed(6))
    assert torch.equal(again.scores(states, 1, 51), head.scores(states, 1, 51))


def test_tuples_that_cannot_be_numbered_are_an_error() -> None:
    with pytest.raises(ValueError, match="8 codes of 256 values"):
        CodeHead(10, 8, 256, 4)


@torch.no_grad()
def test_starts_as_the_vectors_that_the_codes_rebuild() -> None:
    vectors = torch.randn(31, 8, generator=torch.Generator().manual_seed(3))
    known = torch.arange(31) > 0
    head = CodeHead(30, 3, 30, 8)
    ids = residual_ids(vectors, known, 3, 30)
    head.start(ids)
    torch.testing.assert_close(head.rebuilt(head.codes_N1G[1:]), vectors[1:], atol=1e-5, rtol=1e-4)
    state = torch.randn(2, 8)
    logits = torch.stack([head.state_logits(state, 0)[:, c] for c in ids.codes_N1G[1:, 0]], dim=1)
    torch.testing.assert_close(logits, state @ vectors[1:].T, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("spread", [1.0, 60.0, 400.0])
def test_normalisers_survive_any_logits(spread: float, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(4)
    left = spread * torch.randn(9, 16, generator=generator)
    right = spread * torch.randn(11, 16, generator=generator)
    left[:, 3] = -torch.inf
    monkeypatch.setattr(code_head, "CHUNK_TERMS", 64)
    expected = (left[:, None].double() + right[None].double()).logsumexp(dim=2)
    found = log_normaliser(left, right)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-4)
    if spread == 400.0:
        gap = (left[:, None] - left.amax(1)[:, None, None] + right - right.amax(1)[:, None]).amax(2)
        assert (gap < -100).any(), "no pair underflows: the case tests nothing"


@torch.no_grad()
def test_samples_follow_the_probabilities() -> None:
    head = head_over(levels=2, codes=3)
    state = torch.randn(1, 8, generator=torch.Generator().manual_seed(5))
    torch.manual_seed(0)
    drawn = head.sample(state.expand(20000, -1))
    tuples, counts = drawn.unique(dim=0, return_counts=True)
    shares = head.log_probabilities(state.expand(len(tuples), -1), tuples).sum(dim=1).exp()
    torch.testing.assert_close(counts / 20000, shares, atol=0.02, rtol=0.0)
