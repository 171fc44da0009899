"""Codebooks by residual k-means and by RQ-VAE."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from models.codebooks import Method, code_vectors, fit_codebooks
from models.rq_vae import RqVaeConfig, fit_rq_vae

METHODS: tuple[Method, ...] = ("kmeans", "rqvae")


def nested(groups: int = 4, each: int = 3, copies: int = 10) -> tuple[Tensor, Tensor]:
    """Unit vectors in groups of groups, and the number of each one's group."""
    generator = torch.Generator().manual_seed(3)
    coarse = torch.randn(groups, 1, 1, 16, generator=generator)
    fine = 0.4 * torch.randn(groups, each, 1, 16, generator=generator)
    noise = 0.01 * torch.randn(groups, each, copies, 16, generator=generator)
    points = functional.normalize((coarse + fine + noise).reshape(-1, 16), dim=1)
    return points, torch.arange(groups).repeat_interleave(each * copies)


@pytest.mark.parametrize("method", METHODS)
def test_the_first_code_is_the_coarse_one(method: Method) -> None:
    points, groups = nested()
    arrays = fit_codebooks(points, method, 2, 4, epochs=60)
    coded = code_vectors(points, arrays)
    assert coded.codes_XG.shape == (120, 2)
    table = torch.zeros(4, 4)
    table.index_put_((coded.codes_XG[:, 0], groups), torch.ones(120), accumulate=True)
    pure = float(table.amax(dim=1).sum() / 120)
    assert pure == 1 if method == "kmeans" else pure > 0.7
    assert coded.error < (0.2 if method == "kmeans" else 0.5)


@pytest.mark.parametrize("method", METHODS)
def test_codes_do_not_depend_on_the_neighbours(method: Method) -> None:
    points, _ = nested()
    arrays = fit_codebooks(points, method, 3, 8, epochs=5)
    together = code_vectors(points, arrays).codes_XG
    alone = torch.cat([code_vectors(point[None], arrays).codes_XG for point in points])
    assert torch.equal(alone, together)
    assert code_vectors(points[:0], arrays).codes_XG.shape == (0, 3)


@pytest.mark.parametrize("method", METHODS)
def test_fitting_again_gives_the_same_arrays(method: Method) -> None:
    points, _ = nested()
    first, second = (fit_codebooks(points, method, 2, 4, epochs=5) for _ in range(2))
    assert set(first) == set(second)
    assert all((first[name] == second[name]).all() for name in first)
    other = fit_codebooks(points, method, 2, 4, seed=1, epochs=5)
    assert any((first[name] != other[name]).any() for name in first)


@pytest.mark.parametrize("method", METHODS)
def test_more_values_than_vectors(method: Method) -> None:
    points, _ = nested()
    coded = code_vectors(points[:5], fit_codebooks(points[:5], method, 2, 64, epochs=3))
    assert len({tuple(row) for row in coded.codes_XG.tolist()}) == 5


def test_training_brings_the_rebuilt_vectors_nearer() -> None:
    points, _ = nested()
    few, many = (
        code_vectors(points, fit_codebooks(points, "rqvae", 2, 4, epochs=n)).error for n in (2, 80)
    )
    assert many < 0.5 * few


def test_values_that_nothing_falls_to_are_moved() -> None:
    points, _ = nested()
    model = fit_rq_vae(points, RqVaeConfig(levels=1, codes=6, epochs=1))
    with torch.no_grad():
        model.books_GKD[0, 3:] = 100.0
    assert model.revive(points) == 3
    codes, _, _ = model.quantise(model.encode(points))
    assert len(codes.unique()) == 6
    assert model.revive(points) == 0


def test_gradients_reach_the_encoder() -> None:
    points, _ = nested()
    noted: list[int] = []
    model = fit_rq_vae(points, RqVaeConfig(levels=2, codes=4, epochs=3), noted.append)
    assert noted == [1, 2, 3]
    model.zero_grad()
    model.loss(points).backward()
    for name, weight in model.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.abs().sum() > 0, name


def test_no_vectors() -> None:
    with pytest.raises(ValueError, match="0"):
        fit_codebooks(torch.zeros(0, 4), "rqvae", 2, 4)
