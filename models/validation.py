"""The held-out users that a training run watches, and how its workers judge them."""

from collections.abc import Callable

import torch
from torch import Tensor

from models.base import Ranker
from models.encoding import encode_rows
from models.evaluation import Holdout, target_ranks
from models.metrics import per_user_metrics
from models.recipe import FitConfig
from models.seen import SeenItems
from models.workers import Workers

MONITOR = "ndcg@10"


def users_to_judge(
    holdout: Holdout, config: FitConfig, rank: int, world: int, own_shard: bool, holders: Workers
) -> Holdout:
    """Choose the users that this worker judges: its share, or everybody's.

    Workers that hold parts of the items judge the same users together.

    Args:
        holdout: All users, or this worker's own.
        config: The recipe.
        rank: This worker among `world`.
        world: Workers that train together.
        own_shard: Whether the users are this worker's own.
        holders: Who holds the items.
    """
    if not own_shard:
        holdout = holdout.sample(config.eval_users, config.seed)
        return holdout if holders.world > 1 else holdout.shard(rank, world)
    mine = holdout.sample(-(-config.eval_users // holders.world), config.seed)
    if holders.world == 1:
        return mine
    # Joined, which copies, or the whole shard would travel with them.
    return Holdout.joined(holders.gather_objects(Holdout.joined([mine])))


def validate(
    ranker: Ranker, users: Holdout, seen_items: str, reduce_sum: Callable[[Tensor], Tensor]
) -> float:
    """Mean NDCG@10 over the users of all workers, seen items "allowed" or "excluded"."""
    total = torch.zeros(2, dtype=torch.float64)
    if len(users):
        queries = encode_rows(ranker, users.history)
        seen = SeenItems.from_store(users.history)
        allowed, excluded = target_ranks(ranker, queries, users.targets, seen)
        values = per_user_metrics(allowed if seen_items == "allowed" else excluded)[MONITOR]
        total = torch.tensor([float(values.sum()), float(len(values))], dtype=torch.float64)
    if ranker.workers.world == 1:
        total = reduce_sum(total.to(ranker.device)).cpu()
    return float(total[0] / total[1].clamp(min=1.0))
