"""Parallel latent reasoning: several isolated streams of thought, merged by a gate.

Shape legend: B rows, Q places, D width, K thoughts per stream, M streams, T real targets, S states
of all streams (K x M), R rows of the contrast.
"""

from dataclasses import replace
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from models.batch import SequenceBatch
from models.encoders.base import INIT_STD, BasePass
from models.latent_reasoning import LatentReasoner, ReasoningConfig
from models.losses import in_batch_contrast, pairwise_kl
from models.places import draw_places
from models.prefixes import prefixes_at
from models.registry import register


class PLRConfig(ReasoningConfig):
    """Settings of PLR.

    Attributes:
        num_streams: Streams M that think side by side; 0 is the backbone, bit for bit.
        diversity_weight: Weight of the divergence between the item distributions of all states,
            which the loss rewards.
        diversity_limit: Mean divergence, in nats, beyond which nothing more is rewarded.
        step_share: Share of the targets, drawn afresh for each batch, that the divergence is taken
            over (published: all); the mean is the same in expectation. Where the loss samples,
            distributions are over as many drawn items.
        contrast_weight: Weight of the contrast between two passes with dropout of their own.
        contrast_temperature: Divides the contrast's cosines.
        contrast_share: Share of the rows that are encoded a second time for the contrast, each up
            to one place drawn from it.
        scoring_path: "fast+slow" adds the backbone's state to the merged streams when it scores;
            "slow" scores with the merged streams alone, as training does.
    """

    num_streams: int = Field(default=2, ge=0)
    diversity_weight: float = Field(default=0.1, ge=0)
    diversity_limit: float = Field(default=1.0, gt=0)
    step_share: float = Field(default=0.05, gt=0, le=1)
    contrast_weight: float = Field(default=0.1, ge=0)
    contrast_temperature: float = Field(default=0.1, gt=0)
    contrast_share: float = Field(default=0.25, gt=0, le=1)
    scoring_path: Literal["fast+slow", "slow"] = "fast+slow"


@register
class PLR(LatentReasoner):
    """Streams open from the last state by a learned trigger each and never see one another.

    Source: Parallel Latent Reasoning, 2026 (arXiv 2601.03153). No code was found; these are
    inferences. The divergence's gradient flows through both distributions of a pair; rewarded
    without end it drives the states apart while their mean stays, hence `diversity_limit`. The
    contrast compares merged states by cosine, and its second pass encodes the prefix of one drawn
    place per row. In the gated form a trigger joins the inputs of its stream's thoughts, not
    its states, so that training starts from the backbone. The fast and the slow path are averaged
    instead of added: the same order, at the scale that the learned number for repeats belongs to.
    """

    name = "plr"
    method = "parallel streams of latent thoughts, merged by a gate (PLR)"
    source = "Parallel Latent Reasoning, 2026 (arXiv 2601.03153)"
    config_type = PLRConfig
    config: PLRConfig
    published_form = "residual"

    def __init__(self, config: PLRConfig, num_items: int) -> None:
        super().__init__(config, num_items)
        if not config.num_streams:
            self.reasoning = None
        if self.reasoning is None:
            return
        self.triggers_MD = nn.Parameter(torch.empty(config.num_streams, config.dim))
        nn.init.normal_(self.triggers_MD, std=INIT_STD)
        self.stream_gate = nn.Linear(config.dim, config.num_streams, bias=False)
        nn.init.zeros_(self.stream_gate.weight)

    def think(self, base: BasePass) -> Tensor:
        """Think in all streams from the places of a base pass: [K, B, M, Q, D]."""
        assert self.reasoning is not None
        rows, count, _ = base.hidden_BQD.shape
        streams = self.config.num_streams
        every_Q = torch.arange(count, device=self.device)
        folded = base.at(every_Q.repeat(streams).expand(rows, -1))
        triggers_QD = self.triggers_MD.repeat_interleave(count, dim=0)
        if self.config.reasoning_form == "published":
            folded = replace(folded, hidden_BQD=folded.hidden_BQD + triggers_QD)
            chain: Tensor = self.reasoning(self.encoder, folded)
        else:
            chain = self.reasoning(self.encoder, folded, cue_QD=triggers_QD)
        return chain[1:].view(-1, rows, streams, count, self.config.dim)

    def reason(self, base: BasePass, noise: float = 0.0) -> Tensor:
        """The backbone's state and those of every stream, [1 + S, B, Q, D]."""
        assert noise == 0.0, "streams think without noise"
        if self.reasoning is None:
            return super().reason(base)
        every_SBQD = self.think(base).transpose(1, 2).flatten(0, 1)
        return torch.cat([base.hidden_BQD[None], every_SBQD])

    def merge(self, hidden_BQD: Tensor, states_KBMQD: Tensor) -> Tensor:
        """Average each stream and weigh the streams by the gate of the backbone's state."""
        shares_BQM = self.stream_gate(hidden_BQD).softmax(dim=-1)
        return torch.einsum("bqm,bmqd->bqd", shares_BQM, states_KBMQD.mean(dim=0))

    def final_states(self, base: BasePass) -> Tensor:
        """Score the last position with the merged streams, and by default its own state too."""
        last = base.at_last()
        if self.reasoning is None:
            return last.hidden_BQD[:, 0]
        merged_BQD = self.merge(last.hidden_BQD, self.think(last))
        if self.config.scoring_path == "fast+slow":
            merged_BQD = (last.hidden_BQD + merged_BQD) / 2
        return merged_BQD[:, 0]

    def losses(self, batch: SequenceBatch) -> dict[str, Tensor]:
        """Cross-entropy of the merged state, minus the divergence of all states, contrast."""
        if self.reasoning is None:
            return super().losses(batch)
        config = self.config
        base = self.base_pass(batch)
        chosen_BQ, targets_T = self.targets_of(base)
        states = self.think(base)
        merged_BQD = self.merge(base.hidden_BQD, states)
        bonus = self.repeat_bonus(base, chosen_BQ)
        terms = {"ce": self.cross_entropy(merged_BQD[chosen_BQ], targets_T, bonus)}
        if config.diversity_weight > 0 and config.num_streams * config.reasoning_steps > 1:
            kept_BQ, kept_T = self.targets_of(base, config.step_share)
            every_SBQD = states.transpose(1, 2).flatten(0, 1)
            queries_STD = self.scale_queries(every_SBQD[:, kept_BQ])
            spread = pairwise_kl(queries_STD, self.compared_vectors(), 1.0, detach_logs=False)
            spread = spread.clamp(max=config.diversity_limit)
            spread = self.mean_over_targets(spread.expand(len(kept_T)))
            terms["diversity"] = -config.diversity_weight * spread
        if config.contrast_weight > 0 and len(targets_T):
            contrast = self._dropout_contrast(base, merged_BQD, chosen_BQ)
            terms["contrast"] = config.contrast_weight * contrast
        return terms

    def _dropout_contrast(self, base: BasePass, merged_BQD: Tensor, chosen_BQ: Tensor) -> Tensor:
        """InfoNCE between two passes over the history up to one drawn place per row."""
        rows_R, at_R = draw_places(chosen_BQ, self.config.contrast_share)
        prefixes = prefixes_at(base.batch, rows_R, base.places_BQ[rows_R, at_R])
        vectors_RLD = self.items(prefixes.item_ids_BL)
        again = self.run_encoder(prefixes, vectors_RLD, last_only=True).at_last()
        second_RD = self.merge(again.hidden_BQD, self.think(again))[:, 0]
        first_RD = functional.normalize(merged_BQD[rows_R, at_R], dim=-1)
        first_RD = first_RD / self.config.contrast_temperature
        return in_batch_contrast(first_RD, functional.normalize(second_RD, dim=-1))
