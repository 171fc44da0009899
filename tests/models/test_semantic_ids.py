"""Codes of items: their order, their collisions and what they can say of an item."""

import pytest
import torch
from torch import Tensor

from models.semantic_ids import (
    SemanticIds,
    code_diagnostics,
    parallel_ids,
    residual_ids,
    spread_collisions,
)


def item_table(count: int = 300, dim: int = 16, seed: int = 0) -> tuple[Tensor, Tensor]:
    vectors = torch.randn(count + 1, dim, generator=torch.Generator().manual_seed(seed))
    known = torch.ones(count + 1, dtype=torch.bool)
    known[[0, 5, count]] = False
    return vectors, known


def naive_collision_rate(ids: SemanticIds) -> float:
    tuples = [tuple(row) for row in ids.codes_N1G[ids.known_N1].tolist()]
    return sum(tuples.count(one) > 1 for one in tuples) / len(tuples)


def test_each_level_codes_what_the_levels_before_left_over() -> None:
    vectors, known = item_table()
    ids = residual_ids(vectors, known, levels=3, codes=8, distinct=False)
    left = vectors[known]
    gaps = [float(left.square().sum())]
    for level, book in enumerate(ids.codebooks):
        codes = ids.codes_N1G[known, level]
        assert torch.equal(torch.cdist(left.double(), book.double()).argmin(dim=1), codes)
        left = left - book[codes]
        gaps.append(float(left.square().sum()))
    assert gaps == sorted(gaps, reverse=True)
    assert (ids.codes_N1G[~known] == 0).all()


def test_collisions_are_measured_and_spread() -> None:
    vectors, known = item_table()
    tied = residual_ids(vectors, known, levels=3, codes=12, distinct=False)
    apart = residual_ids(vectors, known, levels=3, codes=12)
    assert tied.collision_rate == pytest.approx(naive_collision_rate(tied))
    assert tied.collision_rate > 0.1
    assert apart.collision_rate == 0.0
    # Only last codes moved, and of each group of twins one item kept its own.
    assert torch.equal(tied.codes_N1G[:, :2], apart.codes_N1G[:, :2])
    kept = {tuple(row) for row in apart.codes_N1G[known].tolist()}
    assert {tuple(row) for row in tied.codes_N1G[known].tolist()} <= kept


def test_movers_take_the_nearest_free_code() -> None:
    centres = torch.tensor([[0.0], [10.0], [4.0]])
    points = torch.tensor([[1.0], [0.5], [2.5]])
    codes = torch.tensor([[0, 0], [0, 0], [0, 2]])
    # The second item is nearest to centre 0; the first would go to 2, which is taken, so to 1.
    assert spread_collisions(codes, points, centres).tolist() == [[0, 1], [0, 0], [0, 2]]


def test_more_twins_than_codes_stay_tied_and_are_reported() -> None:
    vectors = torch.ones(11, 4)
    known = torch.ones(11, dtype=torch.bool)
    known[0] = False
    ids = residual_ids(vectors, known, levels=2, codes=3)
    assert len({tuple(row) for row in ids.codes_N1G[1:].tolist()}) == 3
    assert ids.collision_rate == pytest.approx(naive_collision_rate(ids))
    assert ids.collision_rate > 0.5


def test_diagnostics_count_collisions_and_the_values_in_use() -> None:
    codes = torch.tensor([[0, 1], [2, 1], [0, 2], [0, 1]])
    found = code_diagnostics(codes, 4)
    assert found == {"collision_rate": 0.5, "codebook_use_1": 0.5, "codebook_use_2": 0.5}
    assert code_diagnostics(codes[:0], 4)["collision_rate"] == 0.0


def test_parallel_codes_are_views_of_their_own() -> None:
    vectors, known = item_table()
    ids = parallel_ids(vectors, known, books=4, codes=8)
    assert ids.codes_N1G.shape == (301, 4)
    assert ids.collision_rate == 0.0
    use = code_diagnostics(ids.codes_N1G[known], 8)
    assert min(use[f"codebook_use_{book}"] for book in (1, 2, 3, 4)) > 0.8
    for book in range(4):
        codes = ids.codes_N1G[known, book]
        for value in codes.unique():
            expected = vectors[known][codes == value].mean(dim=0)
            torch.testing.assert_close(ids.codebooks[book][value], expected)
        for other in range(book):
            assert not torch.equal(codes, ids.codes_N1G[known, other])


@pytest.mark.parametrize("make", [residual_ids, parallel_ids])
def test_codes_do_not_depend_on_what_was_drawn_before(make: object) -> None:
    assert callable(make)
    vectors, known = item_table()
    torch.manual_seed(1)
    one = make(vectors, known, 3, 16)
    torch.manual_seed(2)
    two = make(vectors, known, 3, 16)
    assert torch.equal(one.codes_N1G, two.codes_N1G)
    for a, b in zip(one.codebooks, two.codebooks, strict=True):
        assert torch.equal(a, b)
