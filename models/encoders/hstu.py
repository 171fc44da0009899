"""HSTU's encoder: gated pointwise attention that knows how long ago each event was."""

from models.encoders.transformer import TransformerEncoder
from models.layers.attention import AttentionLayer
from models.layers.gated import GatedBlock


class HSTUEncoder(TransformerEncoder):
    """Layers of gated attention; biases by distance and elapsed time come with the placing.

    Source: Zhai et al., Actions Speak Louder than Words, 2024 (arXiv 2402.17152). A thought takes
    the next position and the time of the last event.
    """

    def build_layer(self) -> AttentionLayer:
        """Build one layer, untrained."""
        return GatedBlock(self.settings, self.placing.max_length)
