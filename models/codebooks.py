"""Codebooks that are fitted once and code any vector later: residual k-means and RQ-VAE.

Both are a plain set of arrays, so that they can be kept in a table. Coding runs in float64: a
vector's codes must not depend on the vectors beside it, and float32 products round by shape.

Shape legend: X vectors, V width, D width of what is quantised, G codes, K values of a codebook.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from models.clustering import k_means
from models.rq_vae import RqVae, RqVaeConfig, fit_rq_vae

Method = Literal["kmeans", "rqvae"]
Arrays = Mapping[str, npt.NDArray[np.float32]]
CHUNK = 4096


@dataclass(frozen=True, eq=False)
class Coded:
    """Codes of some vectors.

    Attributes:
        codes_XG: int64, coarse first.
        error: Squared distance between the vectors and what their codes stand for, as a share of
            the vectors' variance: 0 is exact, 1 is no better than one code for all.
    """

    codes_XG: Tensor
    error: float


def fit_codebooks(
    vectors_XV: Tensor,
    method: Method,
    levels: int,
    codes: int,
    *,
    seed: int = 0,
    epochs: int = 300,
    note: Callable[[int], None] = lambda _: None,
) -> Arrays:
    """Fit codebooks of a method; equal vectors and settings give equal arrays on one machine.

    Args:
        vectors_XV: Finite vectors.
        method: "kmeans" cuts the vectors themselves, "rqvae" what an encoder makes of them.
        levels: Codes G of a vector.
        codes: Values K of each; no more than there are vectors.
        seed: Seed of all that is drawn.
        epochs: Of RQ-VAE.
        note: Told how many of them are done.

    Raises:
        ValueError: If there is no vector.
    """
    if method == "rqvae":
        count = max(2, min(codes, len(vectors_XV)))
        config = RqVaeConfig(levels=levels, codes=count, seed=seed, epochs=epochs)
        model = fit_rq_vae(vectors_XV, config, note)
        return {name: values.detach().numpy() for name, values in model.state_dict().items()}
    left_XV = vectors_XV.float()
    books = []
    for level in range(levels):
        found = k_means(left_XV, codes, seed=seed + level)
        books.append(found.centres_KD)
        left_XV = left_XV - found.centres_KD[found.assigned_X]
    return {"books_GKD": torch.stack(books).numpy()}


@torch.no_grad()
def code_vectors(vectors_XV: Tensor, arrays: Arrays) -> Coded:
    """Code vectors by fitted codebooks.

    Args:
        vectors_XV: Finite vectors.
        arrays: What `fit_codebooks` returned.
    """
    weights = {name: torch.from_numpy(values).double() for name, values in arrays.items()}
    books_GKD = weights["books_GKD"]
    points_XV = vectors_XV.double()
    if set(weights) == {"books_GKD"}:
        codes_XG = _residual_codes(points_XV, books_GKD)
        rebuilt_XV = _sum_of(codes_XG, books_GKD)
    else:
        model = _rq_vae(weights)
        codes_XG = _residual_codes(model.encode(points_XV), books_GKD)
        rebuilt_XV = model.decode(_sum_of(codes_XG, books_GKD))
    variance = float((points_XV - points_XV.mean(dim=0)).square().sum())
    lost = float((points_XV - rebuilt_XV).square().sum())
    return Coded(codes_XG, lost / variance if variance > 0 else 0.0)


def _residual_codes(points_XD: Tensor, books_GKD: Tensor) -> Tensor:
    pieces = []
    for left_CD in torch.split(points_XD, CHUNK):
        columns = []
        for book_KD in books_GKD:
            # Of equal distances the lowest number, whatever argmin's own taste.
            distances_CK = torch.cdist(
                left_CD, book_KD, compute_mode="donot_use_mm_for_euclid_dist"
            )
            is_least_CK = distances_CK == distances_CK.amin(dim=1, keepdim=True)
            codes_C = is_least_CK.to(torch.int8).argmax(dim=1)
            columns.append(codes_C)
            left_CD = left_CD - book_KD[codes_C]
        pieces.append(torch.stack(columns, dim=1))
    if not pieces:
        return torch.zeros((0, len(books_GKD)), dtype=torch.int64)
    return torch.cat(pieces)


def _sum_of(codes_XG: Tensor, books_GKD: Tensor) -> Tensor:
    summed_XD = books_GKD[0][codes_XG[:, 0]]
    for book_KD, codes_X in zip(books_GKD[1:], codes_XG.T[1:], strict=True):
        summed_XD = summed_XD + book_KD[codes_X]
    return summed_XD


def _rq_vae(weights: Mapping[str, Tensor]) -> RqVae:
    """Build the model that the arrays were taken from."""
    linear = [name for name in weights if name.startswith("encoder.") and name.endswith("weight")]
    linear.sort(key=lambda name: int(name.split(".")[1]))
    widths = [weights[linear[0]].shape[1], *(len(weights[name]) for name in linear)]
    levels, codes, latent = weights["books_GKD"].shape
    config = RqVaeConfig(levels=levels, codes=codes, hidden=tuple(widths[1:-1]), latent=latent)
    model: nn.Module = RqVae(widths[0], config).double()
    model.load_state_dict(dict(weights))
    assert isinstance(model, RqVae)
    return model.eval()
