"""One plain sentence per recommendation, from the history items that carried its score.

Shape legend: K list length, L history positions.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pipelines.shared_traits import plain

NAMED = 2
TITLE_LENGTH = 80
# A second item is named only where it carried at least this share of what the first did.
WORTH_NAMING = 0.5
VERBS = {
    "purchase": "bought {}",
    "buy": "bought {}",
    "order": "bought {}",
    "cart": "put {} in your cart",
    "addtocart": "put {} in your cart",
    "favourite": "saved {}",
    "favorite": "saved {}",
    "fav": "saved {}",
    "view": "looked at {}",
    "pv": "looked at {}",
    "click": "looked at {}",
    "rating": "rated {}",
    "rate": "rated {}",
    "review": "reviewed {}",
}
FALLBACK = "Popular with other customers in the last {days} days."


def sentence(history: Sequence[tuple[str, str]], shared: str | None = None) -> str:
    """Name up to two (title, action) pairs, the one that carried most first.

    Args:
        history: what carried the score.
        shared: what the first has in common with the listed item, in a few words.
    """
    named: dict[str, list[str]] = {}
    for title, action in history:
        shown = f"'{plain(title, TITLE_LENGTH)}'"
        if shared is not None and not named:
            shown += f" ({shared})"
        named.setdefault(VERBS.get(action.lower(), "chose {}"), []).append(shown)
    parts = [verb.format(" and ".join(titles)) for verb, titles in named.items()]
    return f"Because you {' and '.join(parts)}."


def fallback_sentence(days: int) -> str:
    """Say that an item is on the list because others like it."""
    return FALLBACK.format(days=days)


def carriers(
    contributions_KL: npt.NDArray[np.float32],
    history: npt.NDArray[Any],
    listed: npt.NDArray[Any],
) -> list[list[int]]:
    """Pick the history positions that each listed item is explained by.

    Args:
        contributions_KL: how much each position carried each item's score; padding is 0.
        history: int [L] item per position, 0 at padding.
        listed: int [K] recommended items; an item does not explain itself.

    Returns:
        For each item up to two positions, distinct items, the strongest first. The latest event
        stands in where no position pushed the score up.
    """
    found = []
    real = np.flatnonzero(history > 0)
    for weights, item in zip(contributions_KL, listed, strict=True):
        chosen: list[int] = []
        # Stable from the newest on: of equal weights the later event is named.
        for place in real[::-1][np.argsort(-weights[real[::-1]], kind="stable")]:
            small = chosen and weights[place] < WORTH_NAMING * weights[chosen[0]]
            if len(chosen) == NAMED or weights[place] <= 0 or small:
                break
            if history[place] != item and history[place] not in history[chosen]:
                chosen.append(int(place))
        found.append(chosen or [int(real[-1])])
    return found
