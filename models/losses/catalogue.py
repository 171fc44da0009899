"""Cross-entropy over the full catalogue.

Shape legend: T targets, D width, N items.
"""

from torch import Tensor
from torch.nn import functional

from models.losses.chunked import Bonus, Candidates, chunked_sum, equal_shares, target_scores


def full_cross_entropy(
    hidden_TD: Tensor,
    weight_ND: Tensor,
    targets_T: Tensor,
    bonus: Bonus | None = None,
    shares_T: Tensor | None = None,
) -> Tensor:
    """Cross-entropy of softmax(hidden @ weight.T) over all items, averaged over the targets.

    Args:
        hidden_TD: One query per target.
        weight_ND: One vector per item.
        targets_T: int64 row numbers in weight_ND.
        bonus: Added to some scores.
        shares_T: Weight of each target, summing to 1; None for the plain mean.

    Returns:
        A scalar; zero, with zero gradients, where there is no target.
    """
    shares_T = equal_shares(hidden_TD) if shares_T is None else shares_T
    wanted_T = target_scores(
        hidden_TD, functional.embedding(targets_T, weight_ND), targets_T, bonus
    )
    total = chunked_sum(hidden_TD, Candidates(weight_ND, bonus=bonus), shares_T, "logsumexp")
    return total - (wanted_T * shares_T).sum()
