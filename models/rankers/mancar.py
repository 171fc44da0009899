"""ManCAR: thoughts that keep to the neighbourhood which the item graph allows.

Shape legend: B rows, L positions, P context tokens, D width, T real targets, M neighbours kept per
item, C items of a teacher's list, K thoughts, N catalogue size.
"""

from functools import partial
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from models.batch import SequenceBatch
from models.encoders.base import BasePass, Encoder
from models.encoders.prompted import PromptedEncoder
from models.item_table import state_of
from models.latent_reasoning import LatentReasoner, ReasoningConfig
from models.layers.halting import HaltingRule
from models.registry import register
from models.sequences import SequenceStore
from models.sequential import encoder_parts
from models.swing import swing_neighbours


class ManCARConfig(ReasoningConfig):
    """Settings of ManCAR; each part can be switched off by itself.

    Attributes:
        backbone: "bert4rec" opens the history in both directions, as published; "sasrec" keeps it
            causal. "hstu" cannot take context.
        context_triggers: Last items whose neighbours are read before the history; 0 reads none.
        context_neighbours: Neighbours of each.
        norm_control: Rescale every thought to the mean norm of the item vectors, times a learned
            number per coordinate.
        teacher_weight: Weight of the divergence from a teacher over the target and neighbours of
            the last item; 0 leaves it out.
        teach_base: Whether the teacher also judges the prediction before the first thought, with
            the spread of the last one. Without thoughts it is the control for what thinking adds.
        teacher_neighbours: Neighbours in the teacher's list.
        teacher_spread: The teacher's probabilities fall by e over this many ranks at the last
            thought, over twice as many at the one before, and so on.
        schedule: Temperature of the k-th thought's cross-entropy: "rising" k ** exponent, "falling"
            the same numbers backwards, "flat" 1.
        schedule_exponent: See `schedule`.
        step_weight: Weight of the mean cross-entropy of the thoughts before the last (published:
            of their sum, the same for two thoughts).
        halt_divergence: Halt a row once a thought's prediction diverges from the one before by at
            most this, in nats; None thinks to the end. Distributions are over all items that
            a list can hold, without
            the learned number for repeats; the value is a choice.
    """

    backbone: Literal["sasrec", "hstu", "bert4rec"] = "bert4rec"
    context_triggers: int = Field(default=4, ge=0)
    context_neighbours: int = Field(default=7, ge=1)
    norm_control: bool = True
    teacher_weight: float = Field(default=1.0, ge=0)
    teach_base: bool = False
    teacher_neighbours: int = Field(default=10, ge=0)
    teacher_spread: float = Field(default=1.0, gt=0)
    schedule: Literal["rising", "falling", "flat"] = "rising"
    schedule_exponent: float = Field(default=2.0, ge=0)
    step_weight: float = Field(default=0.5, ge=0)
    halt_divergence: float | None = Field(default=1e-3, gt=0)

    def temperature_of(self, thought: int) -> float:
        """Temperature that thought 1..K learns at; 1 for the prediction before them."""
        if self.schedule == "flat" or thought == 0:
            return 1.0
        place = thought if self.schedule == "rising" else self.reasoning_steps - thought + 1
        return float(place**self.schedule_exponent)


@register
class ManCAR(LatentReasoner):
    """Neighbours as context before the history and as a teacher of every thought.

    Source: ManCAR, 2026 (arXiv 2602.20093). Inferences: a context token stands once and has no
    position; a teacher's list holds the target once, the last item's neighbours follow in their
    order, and lists shorter than asked for are renormalised; the teacher judges predictions without
    the learned number for repeats; norms are measured on the items of the log and held still.
    """

    name = "mancar"
    method = "thoughts under a graph teacher, neighbours as context, halting per row (ManCAR)"
    source = "ManCAR 2026 (arXiv 2602.20093)"
    config_type = ManCARConfig
    config: ManCARConfig

    neighbours_N1M: Tensor

    def __init__(self, config: ManCARConfig, num_items: int) -> None:
        super().__init__(config, num_items)
        context = config.context_neighbours if config.context_triggers else 0
        kept = max(context, config.teacher_neighbours if config.teacher_weight else 0)
        ids = torch.zeros(num_items + 1, kept, dtype=torch.int64)
        self.register_buffer("neighbours_N1M", ids)
        # Taken over all items, for every tile that is scored: kept until a weight changes.
        self._mean_norm: tuple[Any, Tensor] | None = None
        self.scale_D: nn.Parameter | None = None
        if config.norm_control and self.reasoning is not None:
            self.scale_D = nn.Parameter(torch.ones(config.dim))

    def build_encoder(self) -> Encoder:
        """Build an encoder that takes context, where there is any."""
        if not self.config.context_triggers:
            return super().build_encoder()
        causal = self.config.backbone != "bert4rec"
        return PromptedEncoder(*encoder_parts(self.config), causal)

    def fit_statistics(self, store: SequenceStore) -> None:
        """Mark the known items and find their neighbours."""
        super().fit_statistics(store)
        ids, _ = swing_neighbours(store, self.num_items, self.neighbours_N1M.shape[1])
        self.neighbours_N1M.copy_(torch.from_numpy(ids))

    def run_encoder(
        self, batch: SequenceBatch, items_BLD: Tensor, last_only: bool = False
    ) -> BasePass:
        """Encode histories behind the neighbours of their last items."""
        if not isinstance(self.encoder, PromptedEncoder):
            return super().run_encoder(batch, items_BLD, last_only)
        ids_BP = self.context_of(batch)
        tokens_BPD = self.items(ids_BP)
        return self.encoder.prompted(batch, items_BLD, tokens_BPD, ids_BP > 0, last_only)

    def context_of(self, batch: SequenceBatch) -> Tensor:
        """List the neighbours of each row's last items, each once: int64 [B, P], 0 for none."""
        triggers_BX = batch.item_ids_BL[:, -self.config.context_triggers :].flip(1)
        ids_BP = self.neighbours_N1M[triggers_BX, : self.config.context_neighbours].flatten(1)
        earlier_BPP = (ids_BP[:, :, None] == ids_BP[:, None, :]).tril(-1)
        return ids_BP.masked_fill(earlier_BPP.any(dim=2), 0)

    def reason(self, base: BasePass, noise: float = 0.0) -> Tensor:
        """Think from the places of a base pass: [K + 1, B, Q, D]."""
        if self.reasoning is None or self.scale_D is None:
            return super().reason(base, noise)
        shape = partial(rescale, norm=self.mean_norm(), scale_D=self.scale_D)
        chain: Tensor = self.reasoning(self.encoder, base, noise=noise, shape=shape)
        return chain

    @torch.no_grad()
    def mean_norm(self) -> Tensor:
        """Mean norm of the vectors of the log's items, as scoring uses them."""
        workers = self.items.workers
        state = state_of([*self.items.parameters(), *self.items.buffers(), self.known_N1])
        if self._mean_norm is not None and self._mean_norm[0] == state and workers.world == 1:
            return self._mean_norm[1]
        first, last = max(self.items.span[0], 1), self.items.span[1]
        # In float64, so that the mean does not depend on who adds which part.
        norms_N = self.item_vectors(first, last).norm(dim=1).double()
        known_N = self.known_N1[first:last]
        total, count = workers.sum((norms_N * known_N).sum()), workers.sum(known_N.sum())
        self._mean_norm = state, (total / count.clamp(min=1)).float()
        return self._mean_norm[1]

    @property
    def halting_rule(self) -> HaltingRule:
        """The threshold of the settings."""
        return HaltingRule(divergence=self.config.halt_divergence)

    def losses(self, batch: SequenceBatch) -> dict[str, Tensor]:
        """Scheduled cross-entropy of every thought, and its divergence from the teacher."""
        config, steps = self.config, self.config.reasoning_steps
        base = self.base_pass(batch)
        chosen_BQ, targets_T = self.targets_of(base)
        states_STD = self.reason(base)[:, chosen_BQ]
        bonus = self.repeat_bonus(base, chosen_BQ)
        judged = [
            self.cross_entropy(states_STD[n], targets_T, bonus, config.temperature_of(n))
            for n in range(min(1, steps), steps + 1)
            if n == steps or config.step_weight > 0
        ]
        terms = {"ce": judged[-1]}
        if len(judged) > 1:
            terms["steps"] = config.step_weight * torch.stack(judged[:-1]).mean()
        if config.teacher_weight > 0 and (steps or config.teach_base):
            places_BQ = base.batch.item_ids_BL.gather(1, base.places_BQ)
            lists_TC = teacher_lists(
                targets_T,
                self.neighbours_N1M[places_BQ[chosen_BQ], : config.teacher_neighbours],
            )
            spreads = {n: config.teacher_spread * (steps - n + 1) for n in range(1, steps + 1)}
            if config.teach_base:
                spreads[0] = config.teacher_spread
            apart = [self.teach(states_STD[n], lists_TC, at) for n, at in spreads.items()]
            terms["teacher"] = config.teacher_weight * torch.stack(apart).sum()
        return terms

    def teach(self, states_TD: Tensor, lists_TC: Tensor, spread: float) -> Tensor:
        """Mean divergence of the states' predictions from the teacher.

        The teacher's cross-entropy is the target's, plus what the list's other items make of the
        difference: the softmax is taken once, in the loss that never holds it whole, or over drawn
        items where the settings' loss draws.
        """
        shares_TC = teacher_shares(lists_TC, spread)
        queries_TD = self.scale_queries(states_TD)
        scores_TC = torch.einsum("td,tcd->tc", queries_TD, self.vectors_of(lists_TC))
        moved_T = scores_TC[:, 0] - (shares_TC * scores_TC).sum(dim=1)
        certain_T = torch.xlogy(shares_TC, shares_TC).sum(dim=1)
        by = "ce" if self.loss == "ce" else "sampled"
        whole = self.cross_entropy(states_TD, lists_TC[:, 0], None, weighed=False, loss=by)
        return whole + self.mean_over_targets(moved_T + certain_T)


def rescale(thought: Tensor, norm: Tensor, scale_D: Tensor) -> Tensor:
    """Give a thought a norm, then a scale per coordinate."""
    length: Tensor = thought.norm(dim=-1, keepdim=True).clamp(min=1e-6)
    return scale_D * thought * (norm / length)


def teacher_lists(targets_T: Tensor, neighbours_TM: Tensor) -> Tensor:
    """List the target and the neighbours behind it, 0 for none and for the target's own place."""
    others_TM = neighbours_TM.masked_fill(neighbours_TM == targets_T[:, None], 0)
    return torch.cat([targets_T[:, None], others_TM], dim=1)


def teacher_shares(lists_TC: Tensor, spread: float) -> Tensor:
    """Turn lists into probabilities that fall with the rank among what there is: [T, C]."""
    real_TC = lists_TC > 0
    ranks_TC = real_TC.cumsum(dim=1) - 1
    return (-ranks_TC / spread).masked_fill(~real_TC, -torch.inf).softmax(dim=1)
