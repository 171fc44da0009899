"""Item graph: which item follows which, and which items the same people choose.

Swing similarity as ManCAR gives it (arXiv 2602.20093, from Yang et al., arXiv 2010.05525): two
users who share an item say more about it the less else they share.

    sim(i, j) = 1 / sqrt(|U_j|)
              * sum over user pairs (u, v) in U_i and U_j of w_u * w_v / (|I_u & I_v| + alpha2)
    w_u = 1 / (|I_u| + alpha1) ** beta

I_u is the user's latest `max_items_per_user` distinct items and U_i the users whose I_u holds i.
Of U_i at most `max_users_per_item` users are paired, and of an item pair at most `max_user_pairs`
user pairs count. Both samples take users in the order of a hash of (item_id, user_id): the result
depends on neither the run, nor the layout of files, nor the order in which items were indexed.

Shape legend: E entries (user, item), N users of one item, M items of those users, P user pairs.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

TRANSITION, SWING = "transition", "swing"
PAIR_SUMS = "neighbour_idx int, item_idx int, pair_sum double"


@dataclass(frozen=True)
class SwingRules:
    """Swing's coefficients and the bounds that keep it linear in the number of items."""

    alpha1: float
    alpha2: float
    beta: float
    min_common_users: int
    max_user_pairs: int
    max_users_per_item: int
    max_items_per_user: int


def transitions(sequences: DataFrame) -> DataFrame:
    """Count how often an item directly follows another; an item after itself is left out.

    Args:
        sequences: item_idx (list, oldest first).

    Returns:
        item_idx, neighbour_idx, weight (double).
    """
    num_steps = F.size("item_idx") - 1
    steps = F.arrays_zip(
        F.slice("item_idx", F.lit(1), num_steps).alias("item_idx"),
        F.slice("item_idx", F.lit(2), num_steps).alias("neighbour_idx"),
    )
    pairs = sequences.where(num_steps > 0).select(F.inline(steps))
    counted = pairs.where(F.col("item_idx") != F.col("neighbour_idx"))
    counted = counted.groupBy("item_idx", "neighbour_idx").count()
    return counted.select(
        "item_idx", "neighbour_idx", F.col("count").cast("double").alias("weight")
    )


def swing(sequences: DataFrame, index: DataFrame, rules: SwingRules) -> DataFrame:
    """Work out swing similarity between items that enough users have in common.

    Args:
        sequences: user_id, item_idx (list, oldest first).
        index: item_id, item_idx.
        rules: coefficients and bounds.

    Returns:
        item_idx, neighbour_idx, weight (double).
    """
    latest = F.array_distinct(F.reverse("item_idx"))
    users = sequences.select(
        "user_id", F.slice(latest, F.lit(1), F.lit(rules.max_items_per_user)).alias("items")
    )
    entries = users.select("user_id", F.explode("items").alias("item_idx"))
    popularity = entries.groupBy(F.col("item_idx").alias("neighbour_idx")).agg(
        F.count(F.lit(1)).alias("num_users")
    )
    paired = _paired_users(entries, index, rules).join(users, "user_id")
    sums = paired.groupBy("item_idx").applyInArrow(_pair_summer(rules), PAIR_SUMS)
    similar = sums.join(popularity, "neighbour_idx")
    weight = F.col("pair_sum") / F.sqrt(F.col("num_users").cast("double"))
    return similar.select("item_idx", "neighbour_idx", weight.alias("weight"))


def top_neighbours(edges: DataFrame, index: DataFrame, kind: str, neighbours: int) -> DataFrame:
    """Rank each item's heaviest edges; equal weights follow the neighbour's item_id.

    Args:
        edges: item_idx, neighbour_idx, weight.
        index: item_id, item_idx.
        kind: written into every row.
        neighbours: edges kept per item.

    Returns:
        item_idx, neighbour_idx, kind, weight, rank (dense from 1).
    """
    names = index.select(F.col("item_idx").alias("neighbour_idx"), "item_id")
    heaviest = Window.partitionBy("item_idx").orderBy(F.col("weight").desc(), "item_id")
    ranked = edges.join(names, "neighbour_idx").withColumn("rank", F.row_number().over(heaviest))
    ranked = ranked.where(F.col("rank") <= neighbours)
    return ranked.select("item_idx", "neighbour_idx", F.lit(kind).alias("kind"), "weight", "rank")


def _paired_users(entries: DataFrame, index: DataFrame, rules: SwingRules) -> DataFrame:
    """Keep a fixed sample of each item's users, with their place in its order."""
    keyed = entries.join(index, "item_idx")
    keyed = keyed.select("user_id", "item_idx", F.xxhash64("item_id", "user_id").alias("place"))
    sample = Window.partitionBy("item_idx").orderBy("place", "user_id")
    keyed = keyed.withColumn("taken", F.row_number().over(sample))
    return keyed.where(F.col("taken") <= rules.max_users_per_item).drop("place")


def _pair_summer(rules: SwingRules) -> Callable[[pa.Table], pa.Table]:
    """Make the function that turns one item's users into sums over user pairs."""

    def sum_item(users: pa.Table) -> pa.Table:
        # Executors hand over rows in any order; sums of floats depend on theirs.
        users = users.sort_by("taken")
        item = users["item_idx"][0].as_py()
        lists = users["items"].combine_chunks()
        neighbours, sums = pair_sums(
            item, lists.flatten().to_numpy(), lists.value_lengths().to_numpy(), rules
        )
        own = np.full(len(neighbours), item, dtype=np.int32)
        return pa.table({"neighbour_idx": neighbours, "item_idx": own, "pair_sum": sums})

    return sum_item


def pair_sums(
    item: int,
    items_E: npt.NDArray[np.int32],
    lengths_N: npt.NDArray[np.int32],
    rules: SwingRules,
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float64]]:
    """Sum the contributions of user pairs to each neighbour of one item.

    Args:
        item: the item that all the users have.
        items_E: the users' distinct items, user after user in the order of the sample.
        lengths_N: items per user.
        rules: coefficients and bounds.

    Returns:
        The neighbours and their sums, only those with enough common users.
    """
    num_users = len(lengths_N)
    found_M, column_E = np.unique(items_E, return_inverse=True)
    has_NM = np.zeros((num_users, len(found_M)), dtype=np.float32)
    has_NM[np.repeat(np.arange(num_users), lengths_N), column_E] = 1
    common_M = has_NM.sum(axis=0)
    wanted_M = (common_M >= max(rules.min_common_users, 2)) & (found_M != item)
    shared_NN = (has_NM @ has_NM.T).astype(np.float64)  # small whole numbers: exact
    weight_N = (lengths_N + rules.alpha1) ** -rules.beta
    pair_NN = np.outer(weight_N, weight_N) / (shared_NN + rules.alpha2)
    first_M = has_NM[:, wanted_M]
    pairs_P = _first_pairs(rules.max_user_pairs)
    num_places = 1 + max(later for _, later in pairs_P)
    user_PM = _users_by_place(first_M, num_places)
    sums_M = np.zeros(first_M.shape[1])
    for earlier, later in pairs_P:
        counts_M = common_M[wanted_M] > later
        sums_M += np.where(counts_M, pair_NN[user_PM[earlier], user_PM[later]], 0.0)
    return found_M[wanted_M].astype(np.int32), sums_M


def _first_pairs(num_pairs: int) -> list[tuple[int, int]]:
    """List the pairs of places in an order that needs as few users as possible."""
    pairs: list[tuple[int, int]] = []
    later = 1
    while len(pairs) < num_pairs:
        pairs += [(earlier, later) for earlier in range(later)]
        later += 1
    return pairs[:num_pairs]


def _users_by_place(has_NM: npt.NDArray[np.float32], num_places: int) -> npt.NDArray[np.int64]:
    """Find the row of each column's first, second, ... user; 0 where it has fewer."""
    order_NM = np.cumsum(has_NM, axis=0) * has_NM
    return np.stack([np.argmax(order_NM == place + 1, axis=0) for place in range(num_places)])
