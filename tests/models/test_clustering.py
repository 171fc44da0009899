"""Deterministic k-means against brute force, and its edge cases."""

import pytest
import torch

from models import clustering
from models.clustering import k_means, nearest


def blobs(count: int = 5, each: int = 30, dim: int = 6, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    centres = 20 * torch.randn(count, dim, generator=generator)
    points = centres.repeat_interleave(each, dim=0)
    return points + torch.randn(points.shape, generator=generator)


def test_finds_well_parted_groups() -> None:
    clusters = k_means(blobs(), 5)
    groups = clusters.assigned_X.view(5, 30)
    assert (groups == groups[:, :1]).all()
    assert sorted(groups[:, 0].tolist()) == [0, 1, 2, 3, 4]
    assert clusters.sizes_K.tolist() == [30] * 5


def test_ends_where_neither_step_changes_anything() -> None:
    points = torch.randn(200, 4, generator=torch.Generator().manual_seed(1))
    clusters = k_means(points, 12, iterations=200)
    distances = torch.cdist(points.double(), clusters.centres_KD.double())
    assert torch.equal(distances.argmin(dim=1), clusters.assigned_X)
    for number, centre in enumerate(clusters.centres_KD):
        torch.testing.assert_close(centre, points[clusters.assigned_X == number].mean(dim=0))


def test_chunks_do_not_change_a_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    points = blobs()
    whole = k_means(points, 7)
    monkeypatch.setattr(clustering, "CHUNK_DISTANCES", 7 * 10)
    parts = k_means(points, 7)
    assert torch.equal(whole.assigned_X, parts.assigned_X)
    torch.testing.assert_close(whole.centres_KD, parts.centres_KD)


def test_never_holds_more_distances_than_a_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clustering, "CHUNK_DISTANCES", 64)
    chunks = list(clustering.squared_distances(torch.randn(50, 3), torch.randn(8, 3)))
    assert max(chunk.numel() for chunk in chunks) <= 64
    assert sum(len(chunk) for chunk in chunks) == 50


def test_same_seed_same_clusters_and_another_seed_others() -> None:
    points = torch.randn(300, 5, generator=torch.Generator().manual_seed(2))
    torch.manual_seed(1)
    one = k_means(points, 20, seed=3)
    torch.manual_seed(2)
    two = k_means(points, 20, seed=3)
    assert torch.equal(one.centres_KD, two.centres_KD)
    assert not torch.equal(one.centres_KD, k_means(points, 20, seed=4).centres_KD)


def test_empty_clusters_are_repaired() -> None:
    points = blobs(count=4)
    far_off = points[:1].repeat(4, 1) + torch.tensor([[0.0], [1e4], [2e4], [3e4]])
    clusters = k_means(points, 4, start_KD=far_off)
    assert (clusters.sizes_K > 0).all()


def test_fewer_distinct_points_than_clusters() -> None:
    points = torch.tensor([[0.0, 1.0], [5.0, 5.0]]).repeat(6, 1)
    clusters = k_means(points, 4)
    assert torch.isfinite(clusters.centres_KD).all()
    torch.testing.assert_close(clusters.centres_KD[clusters.assigned_X], points)
    assert len(k_means(points[:2], 9).centres_KD) == 2


def test_a_start_is_gone_on_from() -> None:
    points = blobs()
    first = k_means(points, 5)
    again = k_means(points, 5, start_KD=first.centres_KD, iterations=1)
    assert torch.equal(first.assigned_X, again.assigned_X)


def test_ties_go_to_the_lower_number() -> None:
    points = torch.tensor([[0.0], [2.0]])
    numbers, gaps = nearest(points, torch.tensor([[1.0], [-1.0], [3.0]]))
    assert numbers.tolist() == [0, 0]
    assert gaps.tolist() == [1.0, 1.0]


def test_nothing_to_cluster_is_an_error() -> None:
    with pytest.raises(ValueError, match="3 clusters of 0 points"):
        k_means(torch.empty(0, 4), 3)


def test_reduced_precision_around_it_changes_no_centre() -> None:
    generator = torch.Generator().manual_seed(0)
    points, centres = (torch.randn(n, 64, generator=generator) for n in (500, 256))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = nearest(points, centres)
    for one, other in zip(inside, nearest(points, centres), strict=True):
        assert torch.equal(one, other)
