"""STREAM-Rec: slow thoughts over semantic ids, scored exactly over the whole catalogue.

Shape legend: B rows, L positions, Q places, D width, T real targets, G codes of an item, N
catalogue size, R rows that roll out, V rollouts.
"""

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from models.batch import SequenceBatch
from models.coded_items import CodedConfig, CodedRanker
from models.encoders.base import INIT_STD, BasePass
from models.layers.code_head import CodeHead
from models.layers.slow_thoughts import SlowThoughts, ThoughtChain
from models.places import draw_places
from models.policy import group_advantages
from models.registry import register
from models.semantic_ids import code_diagnostics, residual_ids
from models.similar_items import nearest_items

THINKING = ("thoughts", "rl")


class StreamRecConfig(CodedConfig):
    """Settings of STREAM-Rec.

    Attributes:
        reasoning_steps: Thoughts K.
        code_levels: Codes of an item.
        codes_per_level: Values of a code, and of a thought.
        hint_weight: Weight of the pretraining on a similar item's codes.
        hint_share: Share of the targets, drawn afresh for each batch, that pretrain with a hint.
        label_weight: Weight of predicting the thoughts' labels.
        quantisation_weight: Weight of the distance between residuals and codebook vectors.
        rebuilt_weight: Weight of the contrast between rebuilt states and targets.
        commitment: Share of that distance that moves the residuals.
        contrast_temperature: Divides the contrast's cosines.
        exact_reward, prefix_reward, similarity_reward: Rewards of the target's very codes, of the
            share of leading codes in common, and of the cosine of the rebuilt vectors.
    """

    reasoning_steps: int = Field(default=2, ge=0)
    code_levels: int = Field(default=3, ge=2)
    codes_per_level: int = Field(default=64, ge=2)
    hint_weight: float = Field(default=0.2, ge=0)
    hint_share: float = Field(default=0.25, gt=0, le=1)
    label_weight: float = Field(default=0.2, ge=0)
    quantisation_weight: float = Field(default=0.1, ge=0)
    rebuilt_weight: float = Field(default=0.1, ge=0)
    commitment: float = Field(default=0.25, ge=0)
    contrast_temperature: float = Field(default=0.1, gt=0)
    exact_reward: float = Field(default=1.0, ge=0)
    prefix_reward: float = Field(default=1.0, ge=0)
    similarity_reward: float = Field(default=1.0, ge=0)


@register
class StreamRec(CodedRanker):
    """Item vectors, then codes with hints, then slow thoughts, then rewards.

    Stages: "vectors" trains the backbone as it is, and residual k-means cuts its item vectors, or
    the items' text vectors, into codes. "pretrain" learns codes level by level; beside it a hint,
    the codes of the item most similar to the target, is predicted and then put before the target's
    codes as one more token. "thoughts" adds a chain of codebook values, see `SlowThoughts`. "rl"
    draws thoughts and items and follows rewards relative to the group of one place.

    Source: STREAM-Rec, 2025 (arXiv 2504.09627), of which reading notes were found. Inferences: a
    decoder-only encoder and an additive head (`CodeHead`) stand in for encoder, decoder and beam
    search; a hint is the sum of its codes' vectors; a chain is thought freely, and the label of a
    step follows from the thoughts before it that were taken, since with thoughts made from the
    target the scoring state would learn from what inference does not have; DPO and the rewards of
    format, of the thoughts' likelihood and of ranks are left out; one policy step per draw needs no
    ratio, and going on with the supervised loss holds the policy where the paper has a reference
    model. The learned repeat number is that of the first stage.
    """

    name = "stream-rec"
    method = "slow thoughts from a codebook, then semantic ids, scored exactly; four stages"
    source = "STREAM-Rec 2025 (arXiv 2504.09627)"
    course = ("vectors", "pretrain", "thoughts", "rl")
    refining = ("thoughts", "rl")
    config_type = StreamRecConfig
    config: StreamRecConfig

    similar_N1: Tensor

    def __init__(self, config: StreamRecConfig, num_items: int) -> None:
        super().__init__(config, num_items)
        self.register_buffer("similar_N1", torch.zeros(num_items + 1, dtype=torch.int64))
        levels, codes = config.code_levels, config.codes_per_level
        self.head = CodeHead(num_items, levels, codes, config.dim)
        self.thoughts = SlowThoughts(
            config.dim,
            config.reasoning_steps,
            codes,
            config.commitment,
            config.contrast_temperature,
        )
        self.hint_place_D = nn.Parameter(torch.randn(config.dim) * INIT_STD)
        self.hint_gate_D = nn.Parameter(torch.zeros(config.dim))
        self._train_parts("vectors")

    def start_stage(self, stage: str) -> None:
        """Cut codes before they are first learnt; freeze what a stage does not use."""
        super().start_stage(stage)
        if stage == "pretrain":
            self._cut_codes()
        if stage == "thoughts":
            self.thoughts.start(self.head.values_GKD[0])
        self._train_parts(stage)

    @torch.no_grad()
    def _cut_codes(self) -> None:
        levels, codes = self.config.code_levels, self.config.codes_per_level
        self.head.start(self.cut_codes(residual_ids, levels, codes, residual=True))
        # Rewards may go on from weights that never learnt to think, where thinking brought nothing.
        self.thoughts.start(self.head.values_GKD[0])
        vectors_N1D = self.item_vectors(0, self.num_items + 1)
        self.similar_N1.copy_(nearest_items(vectors_N1D, self.known_N1, 1)[:, 0])

    def _train_parts(self, stage: str) -> None:
        hinted, thinking = stage == "pretrain", stage in THINKING
        self.head.requires_grad_(stage != "vectors")
        for hint in (self.hint_place_D, self.hint_gate_D):
            hint.requires_grad_(hinted and self.config.hint_weight > 0)
        self.thoughts.requires_grad_(thinking and self.thoughts.steps > 0)
        if stage == "rl":
            # No labels are made: what makes them stays.
            self.thoughts.residual.requires_grad_(False)
            self.thoughts.rebuild.requires_grad_(False)

    def diagnostics(self) -> dict[str, float]:
        """Collision rate and codebook use, once there are codes."""
        if self.stage == "vectors":
            return {}
        codes_XG = self.head.codes_N1G[self.known_N1]
        return code_diagnostics(codes_XG, self.config.codes_per_level)

    def losses(self, batch: SequenceBatch) -> dict[str, Tensor]:
        """The terms of the current stage."""
        if self.stage == "vectors":
            return super().losses(batch)
        base = self.base_pass(batch)
        chosen_BQ, targets_T = self.targets_of(base)
        if self.stage == "pretrain":
            terms = {
                "codes": self.head.loss(self.scale_queries(base.hidden_BQD[chosen_BQ]), targets_T)
            }
            if self.config.hint_weight > 0:
                terms["hint"] = self.config.hint_weight * self.hint_loss(base)
            return terms
        chain: ThoughtChain = self.thoughts(self.encoder, base)
        states_TD = self.scale_queries(chain.states[-1][chosen_BQ])
        terms = {"codes": self.head.loss(states_TD, targets_T)}
        if self.stage == "thoughts" and self.thoughts.steps:
            vectors_TD = self.head.rebuilt(self.head.codes_N1G[targets_T]).detach()
            found = self.thoughts.label_losses(chain, chosen_BQ, vectors_TD, targets_T)
            weights = (
                self.config.label_weight,
                self.config.quantisation_weight,
                self.config.rebuilt_weight,
            )
            terms |= {k: w * term for (k, term), w in zip(found.items(), weights, strict=True)}
        if self.stage == "rl":
            terms["policy"] = self.config.policy_weight * self.policy_loss(base)
        return terms

    def hint_loss(self, base: BasePass) -> Tensor:
        """Codes of the item most similar to the target, then those of the target behind them."""
        drawn_BQ, _ = self.targets_of(base, self.config.hint_share)
        items_BQ = base.batch.targets_BL
        assert items_BQ is not None
        items_BQ = items_BQ.gather(1, base.places_BQ)
        hints_BQ = self.similar_N1[items_BQ]
        state = base.hidden_BQD
        codes_XG = self.head.codes_N1G[hints_BQ.flatten()]
        token = self.head.rebuilt(codes_XG).view_as(state) + self.hint_place_D
        after = self.encoder.step(self.encoder.enter(token), base, self.encoder.start_chain())
        behind = state + self.hint_gate_D * after
        hint = self.head.loss(self.scale_queries(state[drawn_BQ]), hints_BQ[drawn_BQ])
        return hint + self.head.loss(self.scale_queries(behind[drawn_BQ]), items_BQ[drawn_BQ])

    def policy_loss(self, base: BasePass) -> Tensor:
        """REINFORCE on drawn thoughts and items, by rewards relative to those of their place."""
        chosen_BQ, _ = self.targets_of(base)
        rows_R, at_R = draw_places(chosen_BQ, self.config.rollout_share)
        assert base.batch.targets_BL is not None
        targets_R = base.batch.targets_BL[rows_R, base.places_BQ[rows_R, at_R]]
        places_BV = at_R.new_zeros(len(chosen_BQ), self.config.rollouts)
        places_BV[rows_R] = at_R[:, None].expand(-1, self.config.rollouts)
        chain: ThoughtChain = self.thoughts(self.encoder, base.at(places_BV), sampled=True)
        states_XD = self.scale_queries(chain.states[-1][rows_R].flatten(0, 1))
        with torch.no_grad():
            drawn_XG = self.head.sample(states_XD)
        logs_X = self.head.log_probabilities(states_XD, drawn_XG).sum(dim=1)
        logs_RV = logs_X.view(len(rows_R), self.config.rollouts)
        if self.thoughts.steps:
            logs_RV = logs_RV + self.thoughts.log_probability(chain)[rows_R]
        advantages_RV = group_advantages(self.rewards(drawn_XG, targets_R).view_as(logs_RV))
        return -(advantages_RV * logs_RV).sum() / max(logs_RV.numel(), 1)

    @torch.no_grad()
    def rewards(self, drawn_XG: Tensor, targets_R: Tensor) -> Tensor:
        """Reward drawn codes, the same number for each target: [X]."""
        config = self.config
        wanted_RG = self.head.codes_N1G[targets_R]
        wanted_XG = wanted_RG.repeat_interleave(len(drawn_XG) // max(len(targets_R), 1), dim=0)
        leading_XG = (drawn_XG == wanted_XG).to(torch.int64).cumprod(dim=1)
        alike_X = functional.cosine_similarity(
            self.head.rebuilt(drawn_XG), self.head.rebuilt(wanted_XG)
        )
        return (
            config.exact_reward * leading_XG[:, -1]
            + config.prefix_reward * leading_XG.float().mean(dim=1)
            + config.similarity_reward * alike_X
        )

    def final_states(self, base: BasePass) -> Tensor:
        """Think from the last position where the weights have learnt to: [B, D]."""
        if self.stage in THINKING:
            chain: ThoughtChain = self.thoughts(self.encoder, base.at_last())
            return chain.states[-1][:, 0]
        return super().final_states(base)

    def _step_vectors(self, batch: SequenceBatch, items_BLD: Tensor) -> Tensor:
        if self.stage not in THINKING:
            return super()._step_vectors(batch, items_BLD)
        base = self.run_encoder(batch, items_BLD, last_only=True).at_last()
        chain: ThoughtChain = self.thoughts(self.encoder, base)
        return torch.stack(chain.states)[:, :, 0]

    def chunk_scores(self, query_BD: Tensor, start: int, stop: int) -> Tensor:
        """Log probability of items by their codes; the dot product in the first stage."""
        if self.stage == "vectors":
            return super().chunk_scores(query_BD, start, stop)
        return self.head.scores(query_BD, start, stop)

    def pair_scores(self, query_BD: Tensor, items_BK: Tensor) -> Tensor:
        """Score each row's own items by their codes."""
        if self.stage == "vectors":
            return super().pair_scores(query_BD, items_BK)
        return self.head.pair_scores(query_BD, items_BK)
