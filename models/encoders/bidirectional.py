"""BERT4Rec's encoder: every event sees every other one of its history."""

from torch import Tensor

from models.batch import SequenceBatch
from models.encoders.transformer import TransformerEncoder
from models.layers.transformer import open_mask


class BidirectionalEncoder(TransformerEncoder):
    """Self-attention in both directions; a new token sees all that its place saw.

    Source: Sun et al., BERT4Rec, 2019 (arXiv 1904.06690). Under latent reasoning the history stays
    open in both directions and thoughts are causal, as in ReaRec (arXiv 2503.22675).
    """

    reads_ahead = True

    def mask(self, batch: SequenceBatch) -> Tensor:
        """Say where each position may look: bool [B, 1, L, L]."""
        return open_mask(batch.valid_BL)
