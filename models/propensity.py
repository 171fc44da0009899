"""Weights against popularity: what is shown more is recorded more.

Shape legend: N items.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def inverse_propensities(counts: NDArray[Any], power: float, clip: float) -> NDArray[np.float64]:
    """Weigh items by the inverse of how likely an event on them is recorded: float64 [N].

    The propensity of an item is (its count / the largest count) ** power, and its weight at most
    `clip`. Weights are to be normalised by their own sum over whatever is averaged. Source: Yang et
    al., Unbiased Offline Recommender Evaluation for Missing-Not-At-Random Implicit Feedback, RecSys
    2018 (the power law); Swaminathan and Joachims, 2015 (self-normalisation). That an item without
    an event counts as one event is an inference.

    Args:
        counts: Events per item in the training rows.
        power: 0 weighs everything alike.
        clip: Largest weight; the most frequent item has 1.
    """
    seen = np.maximum(counts.astype(np.float64), 1.0)
    weights: NDArray[np.float64] = np.minimum((seen.max(initial=1.0) / seen) ** power, clip)
    return weights
