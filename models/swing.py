"""Items that the same people choose: swing similarity over training rows.

Two users who share an item say more about it the less else they share. As the nightly item graph
has it, after ManCAR (arXiv 2602.20093) and Yang et al. (arXiv 2010.05525):

    sim(i, j) = 1 / sqrt(|U_j|)
              * sum over user pairs (u, v) in U_i and U_j of w_u * w_v / (|I_u & I_v| + alpha2)
    w_u = 1 / (|I_u| + alpha1) ** beta

I_u is the user's latest `max_items_per_user` distinct items and U_i the users whose I_u holds i. Of
U_i at most `max_users_per_item` users are paired, and of an item pair at most `max_user_pairs` user
pairs count; both samples take users in the order of a hash of item and row.

Shape legend: N catalogue size, M neighbours kept, E entries (row, item), R rows of one item, F
items that those rows hold.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.sequences import Ints, SequenceStore

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class SwingRules:
    """Swing's coefficients, and the bounds that keep it linear in the number of items."""

    alpha1: float = 5.0
    alpha2: float = 1.0
    beta: float = 0.3
    min_common_users: int = 2
    max_user_pairs: int = 10
    max_users_per_item: int = 200
    max_items_per_user: int = 100


DEFAULT_RULES = SwingRules()


def swing_neighbours(
    store: SequenceStore, num_items: int, count: int, rules: SwingRules = DEFAULT_RULES
) -> tuple[Ints, Floats]:
    """Find each item's heaviest neighbours; equal weights go to the lower id.

    Returns:
        int64 [N + 1, M] ids, 0 where an item has too few, and float64 [N + 1, M] weights.
    """
    rows_E, items_E = latest_items(store, num_items, rules.max_items_per_user)
    sizes = np.bincount(rows_E, minlength=len(store))
    starts = np.cumsum(sizes) - sizes
    users = np.bincount(items_E, minlength=num_items + 1)
    order = np.lexsort((hashed(items_E, rows_E), items_E))
    by_item = np.split(rows_E[order], np.cumsum(users)[:-1])
    ids = np.zeros((num_items + 1, count), dtype=np.int64)
    weights = np.zeros((num_items + 1, count))
    for item in np.flatnonzero(users >= 2):
        rows = by_item[item][: rules.max_users_per_item]
        lengths = sizes[rows]
        first = np.cumsum(lengths) - lengths
        at = np.repeat(starts[rows] - first, lengths) + np.arange(lengths.sum())
        found, sums = _pair_sums(items_E[at], lengths, rules)
        similar = sums / np.sqrt(users[found])
        best = np.lexsort((found, -similar))
        best = best[(found[best] != item) & (similar[best] > 0)][:count]
        ids[item, : len(best)] = found[best]
        weights[item, : len(best)] = similar[best]
    return ids, weights


def latest_items(store: SequenceStore, num_items: int, limit: int) -> tuple[Ints, Ints]:
    """List each row's latest distinct items, newest first: int64 [E] rows and items."""
    rows, places = store.flat_events()
    rows, items = rows[::-1], store.items[places][::-1].astype(np.int64)
    _, newest = np.unique(rows * (num_items + 1) + items, return_index=True)
    newest = np.sort(newest)
    rows, items = rows[newest], items[newest]
    # Rows fall, each with its newest item first: a stable sort turns the rows alone round.
    order = np.argsort(rows, kind="stable")
    rows, items = rows[order], items[order]
    sizes = np.bincount(rows, minlength=len(store))
    kept = np.arange(len(rows)) - (np.cumsum(sizes) - sizes)[rows] < limit
    return rows[kept], items[kept]


def hashed(items_E: Ints, rows_E: Ints) -> NDArray[np.uint64]:
    """Mix item and row into an order that favours nobody (the finaliser of splitmix64)."""
    mixed = (items_E.astype(np.uint64) << np.uint64(32)) ^ rows_E.astype(np.uint64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return mixed ^ (mixed >> np.uint64(31))


def _pair_sums(items_E: Ints, lengths_R: Ints, rules: SwingRules) -> tuple[Ints, Floats]:
    """Sum over the user pairs of each item that the rows of one item hold.

    Args:
        items_E: The rows' items, row after row in the order of the sample.
        lengths_R: Items per row.
        rules: Coefficients and bounds.

    Returns:
        int64 [F] the items, the one itself among them, and their sums; 0 below the least number of
        common users.
    """
    found_F, column_E = np.unique(items_E, return_inverse=True)
    row_E = np.repeat(np.arange(len(lengths_R)), lengths_R)
    has_RF = np.zeros((len(lengths_R), len(found_F)), dtype=np.float32)
    has_RF[row_E, column_E] = 1.0
    shared_RR = (has_RF @ has_RF.T).astype(np.float64)  # small whole numbers: exact
    weight_R = (lengths_R + rules.alpha1) ** -rules.beta
    pair_RR = np.outer(weight_R, weight_R) / (shared_RR + rules.alpha2)
    order = np.argsort(column_E, kind="stable")
    holders_E = row_E[order]
    common_F = np.bincount(column_E)
    start_F = np.cumsum(common_F) - common_F
    sums_F = np.zeros(len(found_F))
    left, later = rules.max_user_pairs, 1
    while left > 0 and (common_F > later).any():
        many = common_F > later
        last = holders_E[start_F[many] + later]
        for earlier in range(min(later, left)):
            sums_F[many] += pair_RR[holders_E[start_F[many] + earlier], last]
        left, later = left - later, later + 1
    sums_F[common_F < max(rules.min_common_users, 2)] = 0.0
    return found_F, sums_F
