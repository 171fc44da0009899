"""LARES: a core of layers refines the states of all positions again and again.

Shape legend: B rows, L positions, Q places, D width, T real targets, S recurrences taken, R
judged places, V rollouts.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from models.batch import SequenceBatch
from models.encoders.base import BasePass
from models.layers.attention import BlockSettings
from models.layers.recurrent import Adapter, RecurrentCore
from models.losses import Bonus, in_batch_contrast
from models.places import draw_places, same_target_pairs
from models.policy import group_advantages
from models.registry import register
from models.sequential import SequentialConfig, SequentialRanker

REWARDED_ITEMS = 10


class LARESConfig(SequentialConfig):
    """Settings of LARES.

    Attributes:
        reasoning_steps: Recurrences at scoring, and the mean that training draws their number
            around; 0 is the backbone, bit for bit.
        reasoning_form: "published": the last state scores. "gated": it is added to the encoder's
            state through a gate that starts at zero (the default), so that training starts from the
            backbone.
        core_layers: Layers of the core, shared by all recurrences.
        adapter: How the encoder's states enter each recurrence, see `RecurrentCore`.
        start_scale: Standard deviation of the state that training starts from, cut at three of
            them; scoring starts from zero.
        kept_recurrences: Last recurrences whose activations training keeps; the others are computed
            again in the backward pass, which bounds memory at any depth.
        contrast_weight: Weight of the contrast that draws together states with the same target.
        step_contrast_weight: Weight of the contrast between the last state and an earlier one.
        contrast_temperature: Divides the cosines of both contrasts.
        step_share: Share of the targets, drawn afresh for each batch, that the contrasts take.
        rollouts: Draws of depth and start per history in a second stage, which follows rewards
            relative to those of the same history; 0 leaves that stage out.
        reward: What a rollout earns by its last state's list of ten.
        reference_weight: Weight of the divergence from the weights that the second stage began
            with.
        farthest_rank: Histories whose target no rollout ranks this high teach nothing there.
    """

    reasoning_steps: int = Field(default=3, ge=0)
    reasoning_form: Literal["published", "gated"] = "gated"
    core_layers: int = Field(default=2, ge=1)
    adapter: Adapter = "average"
    start_scale: float = Field(default=3.0, ge=0)
    kept_recurrences: int = Field(default=2, ge=0)
    contrast_weight: float = Field(default=0.2, ge=0)
    step_contrast_weight: float = Field(default=0.1, ge=0)
    contrast_temperature: float = Field(default=1.0, gt=0)
    step_share: float = Field(default=0.25, gt=0, le=1)
    rollouts: int = Field(default=0, ge=0)
    reward: Literal["recall", "ndcg"] = "ndcg"
    reference_weight: float = Field(default=1.0, ge=0)
    farthest_rank: int = Field(default=100, ge=1)


@register
class LARES(SequentialRanker):
    """An encoder, then a recurrent core over all positions whose depth training varies.

    Source: LARES, 2025 (arXiv 2505.16865), and its authors' defaults. Training draws one depth per
    batch, Poisson around a log-normal rate, plus one, at most three times the mean. Scoring takes
    the mean depth from a zero state, so that a list does not depend on a draw. The core has no
    positions or times of its own: they are in the encoder's states, of which each recurrence is
    reminded.

    Inferences: the contrasts compare by cosine, since nothing bounds the norm of a state. States
    with the same target are paired inside the batch, across rows, which gives both the same depth
    at no second pass; others with that target are no negatives of theirs. In the second stage one
    place per history is judged, dropout is off, so that rollouts differ by depth and start alone,
    and the reference starts from the rollout's own start.
    """

    name = "lares"
    method = "a recurrent core refines all positions, its depth varied in training (LARES)"
    source = "LARES 2025 (arXiv 2505.16865)"
    config_type = LARESConfig
    config: LARESConfig
    refining = ("rl",)

    def __init__(self, config: LARESConfig, num_items: int) -> None:
        super().__init__(config, num_items)
        self.core: RecurrentCore | None = None
        self.gate_D: nn.Parameter | None = None
        if config.reasoning_steps:
            inner = config.inner or 4 * config.dim
            settings = BlockSettings(
                config.dim, config.num_heads, inner, config.dropout, config.norm, config.activation
            )
            self.core = RecurrentCore(settings, config.core_layers, config.adapter)
        if config.reasoning_steps and config.reasoning_form == "gated":
            self.gate_D = nn.Parameter(torch.zeros(config.dim))
        self.reference: LARES | None = None
        if "rl" in self.stages:
            self.reference = LARES(config.model_copy(update={"rollouts": 0}), num_items)
            self.reference.requires_grad_(False)
        self._in_rl = False

    @property
    def stages(self) -> tuple[str, ...]:
        """Supervised training, and rewards where rollouts are asked for."""
        return ("fit", "rl") if self.config.rollouts and self.config.reasoning_steps else ("fit",)

    def start_stage(self, stage: str) -> None:
        """Freeze a copy of the supervised weights before rewards move them."""
        self._in_rl = stage == "rl"
        if self._in_rl:
            assert self.reference is not None
            own = {k: v for k, v in self.state_dict().items() if not k.startswith("reference.")}
            self.reference.load_state_dict(own)

    def start_epoch(self, epoch: int) -> None:
        """Keep dropout off while rewards are followed."""
        if self._in_rl:
            for part in (self.items, self.encoder, self.core, self.reference):
                assert part is not None
                part.eval()

    def num_learnt(self, batch: SequenceBatch) -> int:
        """Count the targets of a batch that `losses` learns from: one per row under rewards."""
        if not self._in_rl:
            return super().num_learnt(batch)
        assert batch.targets_BL is not None
        return int(((batch.targets_BL > 0) & batch.valid_BL).any(dim=1).sum())

    def draw_depth(self) -> int:
        """Draw the number of recurrences of a training batch; the mean outside training."""
        mean = self.config.reasoning_steps
        if not self.training:
            return mean
        rate = torch.empty(()).log_normal_(torch.tensor(float(mean)).log().item() - 0.125, 0.5)
        return min(int(torch.poisson(rate)) + 1, 3 * mean)

    def draw_start(self, like_BLD: Tensor) -> Tensor:
        """Draw the state that training starts from; zero outside training."""
        start_BLD = torch.zeros_like(like_BLD)
        if self.training and self.config.start_scale > 0:
            nn.init.trunc_normal_(start_BLD, a=-3.0, b=3.0).mul_(self.config.start_scale)
        return start_BLD

    def refine(self, base: BasePass, depth: int, start_BLD: Tensor) -> list[Tensor]:
        """Run the core over all positions; returns the state of each recurrence, [B, L, D]."""
        assert self.core is not None
        plain = self.training and not self.encoder.reads_ahead and bool(base.batch.valid_BL.all())
        states = self.core.unroll(start_BLD, base, depth, self.config.kept_recurrences, plain)
        if self.gate_D is None:
            return states
        return [base.hidden_BQD + self.gate_D * state_BLD for state_BLD in states]

    def losses(self, batch: SequenceBatch) -> dict[str, Tensor]:
        """Cross-entropy of the last recurrence, alignment of equal targets and of the steps."""
        if self.core is None:
            return super().losses(batch)
        if self._in_rl:
            return self.policy_losses(batch)
        config = self.config
        whole = self.whole_pass(batch)
        states = self.refine(whole, self.draw_depth(), self.draw_start(whole.hidden_BQD))
        seen = self.learning_places(whole)
        chosen_BQ, targets_T = self.targets_of(seen)
        last_TD = _at(states[-1], seen, chosen_BQ)
        bonus = self.repeat_bonus(seen, chosen_BQ)
        terms = {"ce": self.cross_entropy(last_TD, targets_T, bonus)}
        kept_BQ, labels_T = self.targets_of(seen, config.step_share)
        last_TD = _at(states[-1], seen, kept_BQ)
        if config.contrast_weight > 0:
            left, right = same_target_pairs(labels_T, kept_BQ.nonzero()[:, 0])
            pairs = (last_TD[left], last_TD[right], labels_T[left])
            terms["targets"] = config.contrast_weight * self.align(*pairs)
        if config.step_contrast_weight > 0:
            drawn = int(torch.randint(len(states), ()))
            pairs = (last_TD, _at(states[drawn], seen, kept_BQ), labels_T)
            terms["steps"] = config.step_contrast_weight * self.align(*pairs)
        return terms

    def align(self, left_TD: Tensor, right_TD: Tensor, targets_T: Tensor) -> Tensor:
        """InfoNCE of cosines in both directions."""
        left, right = (functional.normalize(side, dim=-1) for side in (left_TD, right_TD))
        scale = self.config.contrast_temperature
        there = in_batch_contrast(left / scale, right, targets_T)
        return (there + in_batch_contrast(right / scale, left, targets_T)) / 2

    def policy_losses(self, batch: SequenceBatch) -> dict[str, Tensor]:
        """Rewards relative to the rollouts of the same history, and the way from the reference.

        Every recurrence of a rollout shares its advantage. Rollouts are used once, so that a step's
        ratio of new to old probability is one and has the gradient of the log probability.
        """
        assert self.reference is not None
        whole = self.whole_pass(batch)
        seen = self.learning_places(whole)
        with torch.no_grad():
            frozen = self.reference.encoder(
                whole.batch, self.reference.items(whole.batch.item_ids_BL)
            )
        judged = self.judge_one_place(seen)
        rewards, gains, gaps, ranks = [], [], [], []
        for _ in range(self.config.rollouts):
            depth, start_BLD = self.draw_depth(), self.draw_start(whole.hidden_BQD)
            logs_SR, ranks_R = self.step_log_probs(judged, self.refine(whole, depth, start_BLD))
            with torch.no_grad():
                states = self.reference.refine(frozen, depth, start_BLD)
                theirs_SR, _ = self.reference.step_log_probs(judged, states)
            gap_SR = theirs_SR - logs_SR
            gaps.append((gap_SR.exp() - gap_SR - 1).mean(dim=0))
            gains.append((logs_SR - logs_SR.detach()).exp().mean(dim=0))
            rewards.append(list_reward(ranks_R, self.config.reward))
            ranks.append(ranks_R)
        within_R = torch.stack(ranks).amin(dim=0) <= self.config.farthest_rank
        count = within_R.sum().clamp(min=1)
        advantages_RV = group_advantages(torch.stack(rewards, dim=1))
        reward = (torch.stack(gains, dim=1) * advantages_RV).mean(dim=1)[within_R].sum() / count
        apart = torch.stack(gaps, dim=1).mean(dim=1)[within_R].sum() / count
        return {"reward": -reward, "reference": self.config.reference_weight * apart}

    def judge_one_place(self, seen: BasePass) -> "_Judged":
        """Draw the place of each row that rewards look at."""
        chosen_BQ, _ = self.targets_of(seen)
        rows_R, at_R = draw_places(chosen_BQ)
        drawn_BQ = torch.zeros_like(chosen_BQ).index_put((rows_R, at_R), chosen_BQ.new_ones(()))
        places_R = seen.places_BQ[rows_R, at_R]
        assert seen.batch.targets_BL is not None
        targets_R = seen.batch.targets_BL[rows_R, places_R]
        return _Judged(rows_R, places_R, targets_R, self.repeat_bonus(seen, drawn_BQ))

    def step_log_probs(self, judged: "_Judged", states: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Log probability of each target after each recurrence, and its rank after the last.

        Returns:
            [S, R], and int64 [R]; ties count against the target.
        """

        def score(state_RD: Tensor) -> tuple[Tensor, Tensor]:
            logits_RN = (self.scale_queries(state_RD) @ self.training_vectors().T).float()
            if judged.bonus is not None and self.repeat_bias is not None:
                at = (judged.bonus.rows_E, judged.bonus.columns_E)
                values_E = self.repeat_bias.expand(len(at[0]))
                logits_RN = logits_RN.index_put(at, values_E, accumulate=True)
            own_R1 = logits_RN.gather(1, judged.targets_R[:, None] - 1)
            ranks_R = (logits_RN >= own_R1).sum(dim=1)
            return own_R1[:, 0] - logits_RN.logsumexp(dim=1), ranks_R

        found = [
            checkpoint(score, state[judged.rows_R, judged.places_R], use_reentrant=False)
            for state in states
        ]
        return torch.stack([logs_R for logs_R, _ in found]), found[-1][1]

    def run_encoder(
        self, batch: SequenceBatch, items_BLD: Tensor, last_only: bool = False
    ) -> BasePass:
        """Run the encoder; the core goes on from every position, the last one or not."""
        return super().run_encoder(batch, items_BLD, last_only and self.core is None)

    def final_states(self, base: BasePass) -> Tensor:
        """Score the last position after the mean number of recurrences from zero: [B, D]."""
        return self._chain(base)[-1][:, -1]

    def _step_vectors(self, batch: SequenceBatch, items_BLD: Tensor) -> Tensor:
        chain = self._chain(self.run_encoder(batch, items_BLD))
        return torch.stack([state_BLD[:, -1] for state_BLD in chain])

    def _chain(self, base: BasePass) -> list[Tensor]:
        """States of the encoder and of each recurrence from zero, [B, L, D] each."""
        if self.core is None:
            return [base.hidden_BQD]
        start_BLD = torch.zeros_like(base.hidden_BQD)
        refined = self.refine(base, self.config.reasoning_steps, start_BLD)
        return [base.hidden_BQD, *refined]


@dataclass(frozen=True, eq=False)
class _Judged:
    """One place per row with its target."""

    rows_R: Tensor
    places_R: Tensor
    targets_R: Tensor
    bonus: Bonus | None


def list_reward(ranks_R: Tensor, reward: Literal["recall", "ndcg"]) -> Tensor:
    """Recall or NDCG of a list of ten that holds the target at its rank: float32 [R]."""
    inside_R = (ranks_R <= REWARDED_ITEMS).float()
    return inside_R if reward == "recall" else inside_R / torch.log2(ranks_R + 1.0)


def _at(state_BLD: Tensor, seen: BasePass, chosen_BQ: Tensor) -> Tensor:
    """Pick the states of the chosen places out of those of all positions: [T, D]."""
    rows_T, at_T = chosen_BQ.nonzero(as_tuple=True)
    return state_BLD[rows_T, seen.places_BQ[rows_T, at_T]]
