"""Deterministic k-means in bounded memory.

Shape legend: X points, D width, K clusters, C points of one chunk.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from models.row_sums import sum_rows

# Distances held at once: 16 MiB of float32, however many points and clusters there are.
CHUNK_DISTANCES = 2**22
# Seeding passes over its points once per cluster, so it draws from a fixed sample of many points.
SEED_POINTS = 2**16


@dataclass(frozen=True, eq=False)
class Clusters:
    """Clusters of points.

    Attributes:
        centres_KD: float32 mean of each cluster; a cluster that nothing fell to keeps its centre.
        assigned_X: int64 cluster of each point, the nearest centre; ties go to the lower number.
    """

    centres_KD: Tensor
    assigned_X: Tensor

    @property
    def sizes_K(self) -> Tensor:
        """Points per cluster, int64 [K]."""
        return torch.bincount(self.assigned_X, minlength=len(self.centres_KD))


@torch.no_grad()
def k_means(
    points_XD: Tensor,
    count: int,
    *,
    seed: int = 0,
    iterations: int = 20,
    start_KD: Tensor | None = None,
) -> Clusters:
    """Cluster points by Lloyd's iterations; equal points, seed and start give equal clusters.

    Seeds are drawn as k-means++ does. Clusters that nothing fell to are moved to the points
    farthest from their centres: once no point moves, a cluster is empty only where there are fewer
    distinct points than clusters. No more than `CHUNK_DISTANCES` distances are held at once.

    Source: Arthur and Vassilvitskii, k-means++: the advantages of careful seeding, SODA 2007.

    Args:
        points_XD: Finite vectors.
        count: Clusters wanted; no more are made than there are points.
        seed: Seed of the first centres.
        iterations: Iterations at most; they stop once no point moves.
        start_KD: Centres to start from instead of drawn ones.

    Raises:
        ValueError: If there is no point, or `count` is below 1.
    """
    if len(points_XD) == 0 or count < 1:
        raise ValueError(f"cannot make {count} clusters of {len(points_XD)} points")
    points_XD = points_XD.detach().float()
    count = min(count, len(points_XD))
    centres_KD = _seeds(points_XD, count, seed) if start_KD is None else start_KD.float().clone()
    assigned_X, gaps_X = nearest(points_XD, centres_KD)
    for _ in range(iterations):
        assigned_X = _repair(points_XD, centres_KD, assigned_X, gaps_X)
        centres_KD = cluster_means(points_XD, assigned_X, centres_KD)
        before_X = assigned_X
        assigned_X, gaps_X = nearest(points_XD, centres_KD)
        if torch.equal(before_X, assigned_X):
            break
    return Clusters(centres_KD, assigned_X)


@torch.no_grad()
def nearest(points_XD: Tensor, centres_KD: Tensor) -> tuple[Tensor, Tensor]:
    """Find each point's nearest centre: int64 [X], and the squared distance to it, float32 [X]."""
    found = []
    for distances_CK in squared_distances(points_XD, centres_KD):
        smallest_C = distances_CK.amin(dim=1)
        # Of equal distances the first: min's own index is any of them.
        is_least_CK = (distances_CK == smallest_C[:, None]).to(torch.int8)
        found.append((is_least_CK.argmax(dim=1), smallest_C))
    if not found:
        empty_X = points_XD.new_zeros(0)
        return empty_X.long(), empty_X
    numbers, gaps = zip(*found, strict=True)
    return torch.cat(numbers), torch.cat(gaps)


def squared_distances(points_XD: Tensor, centres_KD: Tensor) -> Iterator[Tensor]:
    """Yield the squared distances of chunk after chunk of points to all centres: [C, K]."""
    rows = max(1, CHUNK_DISTANCES // max(len(centres_KD), 1))
    norms_K = centres_KD.square().sum(dim=1)
    for chunk_CD in torch.split(points_XD, rows):
        if len(chunk_CD):
            # Points near two centres are told apart by what bf16 does not hold.
            with torch.autocast(points_XD.device.type, enabled=False):
                distances_CK = torch.addmm(norms_K, chunk_CD, centres_KD.T, alpha=-2)
            yield (distances_CK + chunk_CD.square().sum(dim=1, keepdim=True)).clamp_(min=0)


def _seeds(points_XD: Tensor, count: int, seed: int) -> Tensor:
    """Draw first centres, each with a chance that grows with the distance to those before."""
    # Drawn on the CPU: one seed must mean the same centres on any device.
    generator = torch.Generator().manual_seed(seed)
    limit = max(SEED_POINTS, 4 * count)
    if len(points_XD) > limit:
        order = torch.randperm(len(points_XD), generator=generator)[:limit]
        points_XD = points_XD[order.sort().values.to(points_XD.device)]
    chosen = [int(torch.randint(len(points_XD), (1,), generator=generator))]
    gaps_X = torch.full((len(points_XD),), torch.inf, device=points_XD.device)
    for draw in torch.rand(count - 1, generator=generator, dtype=torch.float64).tolist():
        newest_D = points_XD[chosen[-1]]
        gaps_X = torch.minimum(gaps_X, (points_XD - newest_D).square().sum(dim=1))
        sums_X = gaps_X.double().cumsum(dim=0)
        at = int(torch.searchsorted(sums_X, draw * sums_X[-1], right=True))
        chosen.append(min(at, len(points_XD) - 1))
    return points_XD[torch.tensor(chosen, device=points_XD.device)]


def _repair(points_XD: Tensor, centres_KD: Tensor, assigned_X: Tensor, gaps_X: Tensor) -> Tensor:
    """Give each empty cluster the point farthest from its own centre, one point each."""
    empty = (torch.bincount(assigned_X, minlength=len(centres_KD)) == 0).nonzero()[:, 0]
    if len(empty) == 0:
        return assigned_X
    order_X = torch.argsort(gaps_X, descending=True, stable=True)
    farthest = order_X[gaps_X[order_X] > 0]
    # Equal points would fall together again: one of each will do.
    _, first = torch.unique(points_XD[farthest], dim=0, return_inverse=True)
    place = torch.full((len(farthest),), len(farthest), device=first.device)
    place.scatter_reduce_(0, first, torch.arange(len(first), device=first.device), "amin")
    distinct = farthest[place[place < len(farthest)].sort().values][: len(empty)]
    assigned_X = assigned_X.clone()
    assigned_X[distinct] = empty[: len(distinct)]
    return assigned_X


def cluster_means(points_XD: Tensor, assigned_X: Tensor, centres_KD: Tensor) -> Tensor:
    """Average the points of each cluster, [K, D]; an empty one keeps its row of `centres_KD`."""
    sizes_K = torch.bincount(assigned_X, minlength=len(centres_KD))
    sums_KD = sum_rows(points_XD, assigned_X, len(centres_KD))
    means_KD = sums_KD / sizes_K.clamp(min=1)[:, None]
    return torch.where(sizes_K[:, None] > 0, means_KD, centres_KD)
