"""Base of the rankers that encode a history position by position and learn from every next item.

Shape legend: B rows, L positions, Q places, D width, T real targets, E entries, N catalogue size.
"""

from typing import Literal, cast

import torch
from pydantic import Field
from torch import Tensor

from models.auxiliary.base import Auxiliary
from models.auxiliary.settings import AuxiliaryChoices, build_auxiliaries
from models.batch import SequenceBatch
from models.encoders.base import BasePass, Encoder
from models.encoders.bidirectional import BidirectionalEncoder
from models.encoders.hstu import HSTUEncoder
from models.encoders.transformer import Placing, TransformerEncoder
from models.layers.attention import BlockSettings
from models.losses import (
    Bonus,
    Negatives,
    draw_negatives,
    full_cross_entropy,
    generalised_binary_cross_entropy,
    sampled_cross_entropy,
    sharded_cross_entropy,
)
from models.neural import NeuralConfig, NeuralRanker
from models.places import first_places
from models.prefixes import draw_prefixes, num_prefixes
from models.sequences import SequenceStore

ENCODERS = {"sasrec": TransformerEncoder, "hstu": HSTUEncoder, "bert4rec": BidirectionalEncoder}


class SequentialConfig(NeuralConfig):
    """Settings of a ranker on a sequence encoder.

    Attributes:
        backbone: The encoder: causal self-attention, gated attention with a relative bias, or
            self-attention in both directions.
        inner: Width of the feed-forward layers; 0 means 4 x dim. "hstu" has none.
        norm: Where LayerNorm stands in a block; "hstu" always normalises before.
        activation: Non-linearity of the feed-forward layers.
        position_encoding: "learned" adds a vector per position, "rotary" turns queries and keys.
        time_bias: Add a learned number per bucket of elapsed time to attention scores (see
            `models.layers.relative`); "hstu" always does.
        embedding_norm: LayerNorm on the sum of item and position vectors.
        prefixes_per_row: Prefixes that a training row is cut to, drawn afresh for each batch, where
            the encoder reads ahead; any other learns from every position.
        auxiliary: Objectives to learn by beside the ranker's own: "icsrec", "sra-cl", or their
            settings, such as {"name": "icsrec", "fine_weight": 0.2}.
    """

    backbone: Literal["sasrec", "hstu", "bert4rec"] = "sasrec"
    inner: int = Field(default=0, ge=0)
    norm: Literal["pre", "post"] = "pre"
    activation: Literal["gelu", "relu"] = "gelu"
    position_encoding: Literal["learned", "rotary"] = "learned"
    time_bias: bool = False
    embedding_norm: bool = True
    prefixes_per_row: int = Field(default=2, ge=1)
    auxiliary: AuxiliaryChoices = ()


def encoder_parts(
    config: SequentialConfig, extra_tokens: int = 0
) -> tuple[BlockSettings, int, Placing, bool]:
    """Sort the settings into what an encoder is built from; extra tokens stand beside a history."""
    gated = config.backbone == "hstu"
    settings = BlockSettings(
        dim=config.dim,
        num_heads=config.num_heads,
        inner=config.inner or 4 * config.dim,
        dropout=config.dropout,
        norm="pre" if gated else config.norm,
        activation=config.activation,
    )
    placing = Placing(
        max_length=config.max_length + extra_tokens,
        encoding=config.position_encoding,
        event_bias=gated,
        time_bias=gated or config.time_bias,
    )
    return settings, config.num_layers, placing, config.embedding_norm


class SequentialRanker(NeuralRanker):
    """An item table, an encoder over it, and losses at every position with a next item."""

    config_type = SequentialConfig
    config: SequentialConfig

    def __init__(self, config: SequentialConfig, num_items: int) -> None:
        super().__init__(config, num_items)
        self.encoder = self.build_encoder()
        self.auxiliary = build_auxiliaries(
            config.auxiliary, config.max_length, config.dim, num_items
        )
        self._latest_pass: BasePass | None = None

    def build_encoder(self) -> Encoder:
        """Build the encoder that the settings name, untrained."""
        parts = encoder_parts(self.config, self.extra_tokens(self.config))
        return ENCODERS[self.config.backbone](*parts)

    @property
    def auxiliaries(self) -> list[Auxiliary]:
        """The objectives beside the ranker's own."""
        return [cast(Auxiliary, one) for one in self.auxiliary]

    @classmethod
    def extra_tokens(cls, config: SequentialConfig) -> int:
        """Count the tokens of its own that the ranker gives the encoder beside a history."""
        return 0

    def fit_statistics(self, store: SequenceStore) -> None:
        """Mark the known items; let auxiliary objectives keep their sample of the rows."""
        super().fit_statistics(store)
        for one in self.auxiliaries:
            one.fit_statistics(store)

    def refresh(self) -> None:
        """Let auxiliary objectives derive what the coming epoch learns by."""
        for one in self.auxiliaries:
            one.refresh(self)

    def forward(self, batch: SequenceBatch) -> dict[str, Tensor]:
        """Return `losses` and the terms of the auxiliary objectives."""
        terms = self.losses(batch)
        if self.auxiliaries:
            base = self._latest_pass or self.base_pass(batch)
            self._latest_pass = None
            for one in self.auxiliaries:
                terms |= one.losses(self, base)
        return terms

    def losses(self, batch: SequenceBatch) -> dict[str, Tensor]:
        """Cross-entropy of the next item at every place that has one."""
        base = self.base_pass(batch)
        chosen_BQ, targets_T = self.targets_of(base)
        states_TD = base.hidden_BQD[chosen_BQ]
        return {"ce": self.cross_entropy(states_TD, targets_T, self.repeat_bonus(base, chosen_BQ))}

    def num_learnt(self, batch: SequenceBatch) -> int:
        """Count the targets of a batch that `losses` learns from."""
        if self.encoder.reads_ahead:
            return num_prefixes(batch, self.config.prefixes_per_row)
        return super().num_learnt(batch)

    def base_pass(self, batch: SequenceBatch) -> BasePass:
        """Encode a training batch, seen from the places that learn.

        These are all positions, or the ends of drawn prefixes where the encoder reads ahead: losses
        speak of the pass and its own batch, not of the batch that came in.
        """
        return self.learning_places(self.whole_pass(batch))

    def whole_pass(self, batch: SequenceBatch) -> BasePass:
        """Encode a training batch, or prefixes of it where the encoder reads ahead."""
        if self.encoder.reads_ahead:
            batch = draw_prefixes(batch, self.config.prefixes_per_row)
        items_BLD = self.items(batch.item_ids_BL)
        return self.run_encoder(batch, items_BLD, last_only=self.encoder.reads_ahead)

    def run_encoder(
        self, batch: SequenceBatch, items_BLD: Tensor, last_only: bool = False
    ) -> BasePass:
        """Run the encoder over a batch whose item vectors are given.

        With `last_only` the last position alone will be looked from.
        """
        base: BasePass = self.encoder(batch, items_BLD, last_only)
        return base

    def history_states(self, batch: SequenceBatch) -> Tensor:
        """Encode histories as scoring does, before any thought: [B, D]."""
        return self.prefix_states(batch)

    def prefix_states(self, batch: SequenceBatch) -> Tensor:
        """Encode prefixes cut from what `base_pass` encoded, seen from their last place: [B, D]."""
        items_BLD = self.items(batch.item_ids_BL)
        return self.run_encoder(batch, items_BLD, last_only=True).hidden_BQD[:, -1]

    def learning_places(self, whole: BasePass) -> BasePass:
        """See a pass from the places that learn."""
        return self.noted(whole.at_last() if self.encoder.reads_ahead else whole)

    def noted(self, base: BasePass) -> BasePass:
        """Keep a pass for the auxiliary objectives, which look at the same one."""
        self._latest_pass = base if self.auxiliaries and self.training else None
        return base

    def targets_of(self, base: BasePass, share: float = 1.0) -> tuple[Tensor, Tensor]:
        """Mark the places with a target, bool [B, Q], and list their targets, int64 [T].

        Args:
            base: The pass that is learnt from.
            share: Mark about this share of them, drawn afresh: a mean over them is the same in
                expectation at a fraction of the cost.
        """
        assert base.batch.targets_BL is not None, "training batches carry targets"
        targets_BQ = base.batch.targets_BL.gather(1, base.places_BQ)
        chosen_BQ = (targets_BQ > 0) & base.batch.valid_BL.gather(1, base.places_BQ)
        if share < 1:
            chosen_BQ &= torch.rand(chosen_BQ.shape, device=chosen_BQ.device) < share
        return chosen_BQ, targets_BQ[chosen_BQ]

    def repeat_bonus(self, base: BasePass, chosen_BQ: Tensor) -> Bonus | None:
        """Point the learned repeat number at what each target's place has behind it."""
        bias = self.repeat_bias
        if bias is None:
            return None
        ids_BL = base.batch.item_ids_BL
        square = (base.batch.length, base.batch.length)
        past_LL = torch.ones(square, dtype=torch.bool, device=self.device).tril()
        first_BL = first_places(ids_BL)
        of_row, at = chosen_BQ.nonzero(as_tuple=True)
        past_TL = past_LL[base.places_BQ[of_row, at]]
        rows_E, places_E = (first_BL[of_row] & past_TL).nonzero(as_tuple=True)
        return Bonus(rows_E, ids_BL[of_row[rows_E], places_E] - 1, bias)

    def cross_entropy(
        self,
        states_TD: Tensor,
        targets_T: Tensor,
        bonus: Bonus | None,
        temperature: float = 1.0,
        weighed: bool = True,
        loss: str | None = None,
    ) -> Tensor:
        """Judge states against their targets by the settings' loss, at an extra temperature.

        Targets are `weighed` by their propensities where the settings ask for it; `loss` is one of
        the settings' choices that judges instead.
        """
        config, rows_T, loss = self.config, targets_T - 1, loss or self.loss
        queries_TD = self.scale_queries(states_TD) / temperature
        bonus = bonus if bonus is None or temperature == 1.0 else bonus.over(temperature)
        if self.likeness > 0 and bonus is not None:
            # As one more part of queries and of item vectors, no loss has to know of it.
            profile = self.texts.profiles(bonus.rows_E, bonus.columns_E + 1, len(rows_T))
            profile = profile * (self.likeness / temperature)
            queries_TD = torch.cat([queries_TD, profile.to(queries_TD.dtype)], dim=1)
        weights_T = torch.ones(len(rows_T), device=self.device)
        if weighed and config.propensity_power > 0:
            weights_T = self.weights_N[rows_T]
        shares_T = self.items.shares(weights_T)
        if loss == "ce":
            return self._full_cross_entropy(queries_TD, targets_T, bonus, shares_T)
        by_count = config.negative_sampling == "popularity"
        drawn = self._negatives(self.counts_N if by_count else self.num_items)
        # One look-up: each would cost the table a gradient of its own.
        wanted = torch.cat([targets_T, drawn.ids_M + 1])
        vectors = self.vectors_of(wanted)
        if queries_TD.shape[1] > vectors.shape[1]:
            vectors = torch.cat([vectors, self.texts.directions_of(wanted)], dim=1)
        wanted_TD, vectors_MD = torch.split(vectors, [len(rows_T), len(drawn.ids_M)])
        judged = (queries_TD, wanted_TD, vectors_MD, rows_T, drawn)
        if loss == "sampled":
            return sampled_cross_entropy(*judged, bonus, shares_T)
        return generalised_binary_cross_entropy(*judged, config.gbce_t, bonus, shares_T)

    def _full_cross_entropy(
        self, queries_TD: Tensor, targets_T: Tensor, bonus: Bonus | None, shares_T: Tensor
    ) -> Tensor:
        if self.items.workers.world == 1:
            vectors = self.training_vectors()
            if queries_TD.shape[1] > vectors.shape[1]:
                texts = self.texts.directions(1, self.num_items + 1)
                vectors = torch.cat([vectors, texts], dim=1)
            return full_cross_entropy(queries_TD, vectors, targets_T - 1, bonus, shares_T)
        first, last = self.items.span
        first = max(first, 1)
        return sharded_cross_entropy(
            queries_TD,
            self.vectors_of(targets_T),
            self.item_vectors(first, last),
            first - 1,
            targets_T - 1,
            self.items.workers,
            shares_T,
            bonus,
        )

    def _negatives(self, weights_N: Tensor | int) -> Negatives:
        """Draw items, the same ones on every worker, from a seed that moves on."""
        generator = torch.Generator(self.device).manual_seed(int(self.next_draw))
        self.next_draw += 1
        return draw_negatives(self.config.negatives, weights_N, generator)

    def compared_vectors(self) -> Tensor:
        """Item vectors that predictions of one target are compared over: [N, D], or [M, D].

        All items where the loss ranks all, which a table in parts refuses; where the loss samples,
        as many items, drawn alike. The distributions are then those among the drawn.
        """
        if self.loss == "ce":
            return self.training_vectors()
        return self.vectors_of(self._negatives(self.num_items).ids_M + 1)

    def mean_over_targets(self, values_T: Tensor) -> Tensor:
        """Average one number per target; the workers' average is the mean over all their targets.

        0 for no targets.
        """
        return (values_T * self.items.shares(torch.ones_like(values_T))).sum()

    def training_vectors(self) -> Tensor:
        """Item vectors that the loss ranks, [N, D]: row i is item i + 1."""
        return self.item_vectors(1, self.num_items + 1)

    def _encode_vectors(self, batch: SequenceBatch, items_BLD: Tensor) -> Tensor:
        """Score with what `final_states` makes of the encoder's pass; nothing for empty rows."""
        state_BD = self.final_states(self.run_encoder(batch, items_BLD, last_only=True))
        return state_BD * batch.valid_BL[:, -1:]

    def final_states(self, base: BasePass) -> Tensor:
        """Turn a base pass into each row's scoring state: [B, D]."""
        return base.hidden_BQD[:, -1]
