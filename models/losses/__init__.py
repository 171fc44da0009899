"""Training losses: over the whole catalogue, over sampled negatives, between states."""

from models.losses.catalogue import full_cross_entropy
from models.losses.chunked import CHUNK_TARGETS, Bonus
from models.losses.contrast import in_batch_contrast
from models.losses.divergence import pairwise_kl
from models.losses.sampled import (
    Negatives,
    draw_negatives,
    generalised_binary_cross_entropy,
    sampled_cross_entropy,
)
from models.losses.sharded import sharded_cross_entropy

__all__ = [
    "CHUNK_TARGETS",
    "Bonus",
    "Negatives",
    "draw_negatives",
    "full_cross_entropy",
    "generalised_binary_cross_entropy",
    "in_batch_contrast",
    "pairwise_kl",
    "sampled_cross_entropy",
    "sharded_cross_entropy",
]
