"""Losses against negatives that all targets of a batch share.

Shape legend: T targets, D width, N items, M distinct negatives, X collisions.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from models.losses.chunked import Bonus, Candidates, chunked_sum, equal_shares, target_scores


@dataclass(frozen=True, eq=False)
class Negatives:
    """Drawn items, each once.

    Attributes:
        ids_M: int64 row numbers in the item table, rising.
        correction_M: log of how often an item was drawn over how often it was to be expected.
        num_items: Rows N of the item table.
    """

    ids_M: Tensor
    correction_M: Tensor
    num_items: int

    def places(self, ids: Tensor) -> Tensor:
        """Say where each item stands among the negatives: int64, -1 for nowhere."""
        at = torch.searchsorted(self.ids_M, ids).clamp(max=len(self.ids_M) - 1)
        return torch.where(self.ids_M[at] == ids, at, -1)

    def candidates(
        self, vectors_MD: Tensor, targets_T: Tensor, bonus: Bonus | None, corrected: bool
    ) -> Candidates:
        """Judge targets against these vectors, but nobody against the own item."""
        place_T = self.places(targets_T)
        (rows_X,) = (place_T >= 0).nonzero(as_tuple=True)
        return Candidates(
            vectors_MD,
            self.correction_M if corrected else None,
            None if bonus is None else bonus.among(self.places(bonus.columns_E)),
            torch.stack([rows_X, place_T[rows_X]]),
        )


def draw_negatives(
    count: int, weights_N: Tensor | int, generator: torch.Generator | None = None
) -> Negatives:
    """Draw items with replacement, in proportion to their weights.

    Args:
        count: Draws; fewer distinct items come back where some are drawn again.
        weights_N: Weight of each item; or how many items there are, which then weigh alike.
        generator: Where the draws come from, on the weights' device; None for torch's own.
    """
    if isinstance(weights_N, int):
        device = None if generator is None else generator.device
        drawn = torch.randint(weights_N, (count,), generator=generator, device=device)
        ids_M, times_M = torch.unique(drawn, return_counts=True)
        return Negatives(ids_M, (times_M * (weights_N / count)).log().float(), weights_N)
    edges_N = weights_N.double().cumsum(0)
    drawn = edges_N.new_empty(count).uniform_(generator=generator) * edges_N[-1]
    places = torch.searchsorted(edges_N, drawn, right=True).clamp(max=len(weights_N) - 1)
    ids_M, times_M = torch.unique(places, return_counts=True)
    expected_M = weights_N[ids_M].double() * (count / edges_N[-1])
    return Negatives(ids_M, (times_M / expected_M).log().float(), len(weights_N))


def sampled_cross_entropy(
    hidden_TD: Tensor,
    wanted_TD: Tensor,
    vectors_MD: Tensor,
    targets_T: Tensor,
    negatives: Negatives,
    bonus: Bonus | None = None,
    shares_T: Tensor | None = None,
) -> Tensor:
    """Softmax cross-entropy over the target and the shared negatives, with logQ correction.

    The sum over all other items is estimated by importance sampling: a negative drawn n times that
    was to be expected m times counts n / m fold, and one that is the target itself does not count.
    That estimate is unbiased. The target is always there, not drawn, so its own score stays as it
    is. Source: Bengio and Senecal, Adaptive Importance Sampling, 2008; the uncorrected target as in
    Khrylchenko et al., Correcting the LogQ Correction, RecSys 2025.

    Args:
        hidden_TD: One query per target.
        wanted_TD: Vector of each target's item.
        vectors_MD: Vectors of the negatives.
        targets_T: int64 row numbers of the targets in the item table.
        negatives: What was drawn.
        bonus: Added to some scores; its columns are row numbers of the item table.
        shares_T: Weight of each target, summing to 1; None for the plain mean.
    """
    shares_T = equal_shares(hidden_TD) if shares_T is None else shares_T
    wanted_T = target_scores(hidden_TD, wanted_TD, targets_T, bonus)
    candidates = negatives.candidates(vectors_MD, targets_T, bonus, corrected=True)
    total = chunked_sum(hidden_TD, candidates, shares_T, "logsumexp", wanted_T)
    return total - (wanted_T * shares_T).sum()


def generalised_binary_cross_entropy(
    hidden_TD: Tensor,
    wanted_TD: Tensor,
    vectors_MD: Tensor,
    targets_T: Tensor,
    negatives: Negatives,
    calibration: float,
    bonus: Bonus | None = None,
    shares_T: Tensor | None = None,
) -> Tensor:
    """Binary cross-entropy whose positive is raised to a power below 1: gBCE.

    With a share a of the other items drawn, the positive's log sigmoid is weighed by
    a (t (1 - 1/a) + 1/a): t = 0 is plain binary cross-entropy, and t = 1 takes back the
    overconfidence that sampling brings. Source: Petrov and Macdonald, gSASRec, RecSys 2023. There
    each position draws its own negatives; that all targets share them, each distinct one counted
    once, is an inference.

    Args:
        hidden_TD: One query per target.
        wanted_TD: Vector of each target's item.
        vectors_MD: Vectors of the negatives.
        targets_T: int64 row numbers of the targets in the item table.
        negatives: What was drawn.
        calibration: t, from 0 to 1.
        bonus: Added to some scores; its columns are row numbers of the item table.
        shares_T: Weight of each target, summing to 1; None for the plain mean.
    """
    shares_T = equal_shares(hidden_TD) if shares_T is None else shares_T
    wanted_T = target_scores(hidden_TD, wanted_TD, targets_T, bonus)
    drawn = len(negatives.ids_M)
    rate = min(drawn / max(negatives.num_items - 1, 1), 1.0)
    power = rate * (calibration * (1.0 - 1.0 / rate) + 1.0 / rate)
    candidates = negatives.candidates(vectors_MD, targets_T, bonus, corrected=False)
    total = chunked_sum(hidden_TD, candidates, shares_T, "softplus")
    positives = (functional.softplus(-wanted_T) * shares_T).sum()
    return (total + power * positives) / (drawn + 1)
