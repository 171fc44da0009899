"""Items as short tuples of codes, cut from any matrix of item vectors.

Shape legend: N catalogue size, X known items, D width, W coordinates of a view, G codes of an item,
K values of a codebook, C items of a chunk.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from models.clustering import cluster_means, k_means, nearest, squared_distances


@dataclass(frozen=True, eq=False)
class SemanticIds:
    """Codes of every item.

    Attributes:
        codes_N1G: int64; rows of padding and of unknown items are zeros.
        codebooks: Per code, the vectors [K, D] that stand for its values.
        known_N1: bool, the items that have codes.
    """

    codes_N1G: Tensor
    codebooks: tuple[Tensor, ...]
    known_N1: Tensor

    @property
    def collision_rate(self) -> float:
        """Share of known items that have all their codes in common with another."""
        return collision_rate(self.codes_N1G[self.known_N1])

    def standing_for(self, vectors_N1D: Tensor, *, residual: bool) -> "SemanticIds":
        """Keep the codes and let other vectors stand for their values.

        Args:
            vectors_N1D: One vector per item; a value gets the mean of the items that have it.
            residual: Take from each item what its values so far stand for before the next code.
        """
        left_XD = vectors_N1D[self.known_N1].float()
        books = []
        for assigned_X, book in zip(
            self.codes_N1G[self.known_N1].unbind(dim=1), self.codebooks, strict=True
        ):
            nowhere_KD = left_XD.new_zeros(len(book), left_XD.shape[1])
            means_KD = cluster_means(left_XD, assigned_X, nowhere_KD)
            books.append(means_KD)
            if residual:
                left_XD = left_XD - means_KD[assigned_X]
        return SemanticIds(self.codes_N1G, tuple(books), self.known_N1)


def collision_rate(codes_XG: Tensor) -> float:
    """Share of items that have all their codes in common with another; 0 without items."""
    if len(codes_XG) == 0:
        return 0.0
    _, of_X, sizes = torch.unique(codes_XG, dim=0, return_inverse=True, return_counts=True)
    return float((sizes[of_X] > 1).float().mean())


def code_diagnostics(codes_XG: Tensor, values: int) -> dict[str, float]:
    """Collision rate, and the share of `values` values of each code in use."""
    used = {
        f"codebook_use_{number}": len(set(column.tolist())) / values
        for number, column in enumerate(codes_XG.unbind(dim=1), start=1)
    }
    return {"collision_rate": collision_rate(codes_XG)} | used


@torch.no_grad()
def residual_ids(
    vectors_N1D: Tensor,
    known_N1: Tensor,
    levels: int,
    codes: int,
    *,
    distinct: bool = True,
    seed: int = 0,
    iterations: int = 20,
) -> SemanticIds:
    """Code items coarse to fine: each level clusters what the levels before left over.

    Residual k-means stands in for the RQ-VAE of the literature (an inference): it has no training
    to tune, and collision rate and codebook use can be read off at once.

    Args:
        vectors_N1D: One vector per item.
        known_N1: Items to code.
        levels: Codes G per item.
        codes: Values K per level at most; fewer where there are fewer known items.
        distinct: Move items of equal codes apart, see `spread_collisions`.
        seed: Seed of the first centres.
        iterations: Iterations of k-means per level.

    Raises:
        ValueError: If no item is known.
    """
    left_XD = vectors_N1D[known_N1].float()
    books, columns = [], []
    for level in range(levels):
        clusters = k_means(left_XD, codes, seed=seed + level, iterations=iterations)
        books.append(clusters.centres_KD)
        columns.append(clusters.assigned_X)
        if level + 1 < levels:
            left_XD = left_XD - clusters.centres_KD[clusters.assigned_X]
    codes_XG = torch.stack(columns, dim=1)
    if distinct:
        codes_XG = spread_collisions(codes_XG, left_XD, books[-1])
    return _of_catalogue(codes_XG, tuple(books), known_N1)


@torch.no_grad()
def parallel_ids(
    vectors_N1D: Tensor,
    known_N1: Tensor,
    books: int,
    codes: int,
    *,
    distinct: bool = True,
    seed: int = 0,
    iterations: int = 20,
) -> SemanticIds:
    """Code items by several views at once: no code comes before another.

    View g is the vectors in a random rotation, reduced to its own share of ceil(2 D / G)
    coordinates, so that views overlap, each sees a part, and together they see all.

    Args:
        vectors_N1D: One vector per item.
        known_N1: Items to code.
        books: Codes G per item.
        codes: Values K per codebook at most; fewer where there are fewer known items.
        distinct: Move items of equal codes apart by their last code, see `spread_collisions`.
        seed: Seed of the rotation and the first centres.
        iterations: Iterations of k-means per codebook.

    Returns:
        Ids whose codebooks hold the mean item vector of each value, [K, D].

    Raises:
        ValueError: If no item is known.
    """
    points_XD = vectors_N1D[known_N1].float()
    dim = points_XD.shape[1]
    drawn_DD = torch.randn(dim, dim, generator=torch.Generator().manual_seed(seed))
    turned_XD = points_XD @ torch.linalg.qr(drawn_DD).Q.to(points_XD)
    width = min(dim, -(-2 * dim // books))
    means: list[Tensor] = []
    columns: list[Tensor] = []
    for book in range(books):
        seen = (book * dim // books + torch.arange(width, device=points_XD.device)) % dim
        view_XW = turned_XD[:, seen]
        clusters = k_means(view_XW, codes, seed=seed + book, iterations=iterations)
        assigned_X = clusters.assigned_X
        if distinct and book + 1 == books:
            codes_XG = torch.stack([*columns, assigned_X], dim=1)
            assigned_X = spread_collisions(codes_XG, view_XW, clusters.centres_KD)[:, -1]
        columns.append(assigned_X)
        nowhere_KD = points_XD.new_zeros(len(clusters.centres_KD), dim)
        means.append(cluster_means(points_XD, assigned_X, nowhere_KD))
    return _of_catalogue(torch.stack(columns, dim=1), tuple(means), known_N1)


def spread_collisions(codes_XG: Tensor, points_XD: Tensor, centres_KD: Tensor) -> Tensor:
    """Give items that share all codes other last codes, where their other codes leave room.

    Items go by the distance to the centre they have, nearest first, and each takes the nearest
    last code that nobody with its other codes has yet. Items beyond the K-th of the same other
    codes keep what they have: they stay tied, and `collision_rate` says so.

    Args:
        codes_XG: int64 codes.
        points_XD: What the last code was assigned by.
        centres_KD: Centres of the last codebook.
    """
    _, group_X = torch.unique(codes_XG[:, :-1], dim=0, return_inverse=True)
    last_X = codes_XG[:, -1].clone()
    size = len(centres_KD)
    _, cell_X, held = torch.unique(group_X * size + last_X, return_inverse=True, return_counts=True)
    taken = set((group_X * size + last_X).tolist())
    clashing = (held[cell_X] > 1).nonzero()[:, 0]
    _, gaps_X = nearest(points_XD[clashing], centres_KD)
    # By cell and then by distance: the first of a cell keeps it.
    order = torch.argsort(gaps_X, stable=True)
    order = order[torch.argsort(cell_X[clashing][order], stable=True)]
    clashing = clashing[order]
    cells = cell_X[clashing]
    repeated = torch.zeros(len(cells), dtype=torch.bool, device=cells.device)
    repeated[1:] = cells[1:] == cells[:-1]
    movers = clashing[repeated]
    groups = group_X[movers].tolist()
    moves = iter(zip(movers.tolist(), groups, strict=True))
    for distances_CK in squared_distances(points_XD[movers], centres_KD):
        for nearest_first_K in torch.argsort(distances_CK, dim=1, stable=True):
            item, group = next(moves)
            free = next(
                (k for k in nearest_first_K.tolist() if group * size + k not in taken), None
            )
            if free is not None:
                taken.add(group * size + free)
                last_X[item] = free
    return torch.cat([codes_XG[:, :-1], last_X[:, None]], dim=1)


def _of_catalogue(codes_XG: Tensor, codebooks: tuple[Tensor, ...], known_N1: Tensor) -> SemanticIds:
    codes_N1G = codes_XG.new_zeros(len(known_N1), codes_XG.shape[1])
    codes_N1G[known_N1] = codes_XG
    return SemanticIds(codes_N1G, codebooks, known_N1)
