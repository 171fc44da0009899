"""Cross-entropy over a catalogue whose vectors lie by rows over several workers.

Shape legend: T targets of this worker, A targets of all workers, D width, O items held here, E
bonus entries.
"""

import torch
from torch import Tensor

from models.losses.chunked import Bonus, Candidates, chunked_sum, target_scores
from models.workers import Workers, felt_by_all, gather_states, gather_values


def sharded_cross_entropy(
    hidden_TD: Tensor,
    wanted_TD: Tensor,
    own_OD: Tensor,
    first_row: int,
    targets_T: Tensor,
    workers: Workers,
    shares_T: Tensor,
    bonus: Bonus | None = None,
) -> Tensor:
    """Cross-entropy over all items; each worker scores the targets of all against its own items.

    Collective. Workers exchange their queries once, and for each chunk of targets the largest
    scores and the sums of exponentials, never the scores themselves. Source: vocabulary-parallel
    cross-entropy of Shoeybi et al., Megatron-LM, 2019 (arXiv 1909.08053), where every worker holds
    the same targets; here each brings its own.

    Args:
        hidden_TD: One query per target of this worker.
        wanted_TD: Vector of each target's item.
        own_OD: Vectors of the items held here, at least one.
        first_row: Row number of the first of them among all items.
        targets_T: int64 row numbers of the targets among all items.
        workers: Who holds the rest.
        shares_T: Weight of each target, summing to the number of workers over all of them.
        bonus: Added to some scores; its columns are row numbers among all items.

    Returns:
        This worker's loss. The average over the workers is the cross-entropy, and so it is with
        the gradients, which each worker averages with the others' (those of own_OD are complete).
    """
    wanted_T = target_scores(hidden_TD, wanted_TD, targets_T, bonus)
    shares_A = gather_values(shares_T, workers) / workers.world
    gathered = None if bonus is None else _entries_of(bonus, len(hidden_TD), workers)
    if gathered is not None:
        last_row = first_row + len(own_OD)
        gathered = gathered.within(first_row, last_row)
    candidates = Candidates(own_OD, bonus=gathered, workers=workers)
    hidden_AD = gather_states(hidden_TD, workers)
    total = chunked_sum(hidden_AD, candidates, shares_A, "logsumexp")
    return total - (wanted_T * shares_T).sum()


def _entries_of(bonus: Bonus, count: int, workers: Workers) -> Bonus:
    """Collect the entries of all workers, rows numbered as the gathered targets are."""
    here = torch.tensor([count], dtype=torch.int64, device=bonus.rows_E.device)
    counts_W = gather_values(here, workers)
    first = counts_W[: workers.rank].sum()
    return Bonus(
        gather_values(bonus.rows_E + first, workers),
        gather_values(bonus.columns_E, workers),
        felt_by_all(bonus.value, workers),
    )
