"""REG4Rec: parallel codes of an item, predicted in the order of certainty.

Shape legend: B rows, L positions, Q places, D width, T real targets, G codebooks, K values of a
codebook, P paths, R rows that roll out, V rollouts, C items of one chunk.
"""

import torch
from pydantic import Field
from torch import Tensor

from models.batch import SequenceBatch
from models.coded_items import CodedConfig, CodedRanker
from models.encoders.base import BasePass
from models.layers.code_paths import CodePaths, Walk
from models.places import draw_places
from models.policy import group_advantages
from models.registry import register
from models.semantic_ids import code_diagnostics, parallel_ids


class REG4RecConfig(CodedConfig):
    """Settings of REG4Rec.

    Attributes:
        books: Codebooks, and codes of an item.
        codes_per_book: Values of a codebook.
        paths: Paths that score; path p starts with the p-th most certain codebook.
        consistency_power: How strongly codes that contradict earlier ones are held down; 0 prunes
            nothing.
        random_order_share: Share of the places that walk in a random order in training, so that
            every order is learnt.
        sharpness: Scale of the certainties in the softmax that orders are drawn from.
        policy_weight: Weight of the policy gradient over orders; 0 leaves its stage out.
        reward_steps: Next items whose codes are rewarded.
        reward_decay: Reward of each further item over that of the one before.
    """

    books: int = Field(default=4, ge=2)
    codes_per_book: int = Field(default=64, ge=2)
    paths: int = Field(default=2, ge=1)
    consistency_power: float = Field(default=0.5, ge=0)
    random_order_share: float = Field(default=0.5, ge=0, le=1)
    sharpness: float = Field(default=10.0, gt=0)
    policy_weight: float = Field(default=0.0, ge=0)
    reward_steps: int = Field(default=3, ge=1)
    reward_decay: float = Field(default=0.5, gt=0, le=1)


@register
class REG4Rec(CodedRanker):
    """An item's score is the sum of its codes' log probabilities over the paths kept, scaled.

    Stages: "vectors" trains the backbone as it is, and k-means over several views of its item
    vectors, or of the items' text vectors, gives unordered codes. "codes" learns to walk all
    codebooks, see `CodePaths`. "rl" (off by default) draws orders and rewards those that get the
    next items' codes right.

    Source: REG4Rec, 2025 (arXiv 2508.15308), of which the abstract alone was found. Inferences:
    k-means over overlapping rotated views stands in for the mixture-of-experts codebooks; the next
    step is conditioned by the expected vector of the codebook just met, not by a drawn code, so
    inference is exact and needs no beam; contradicting codes are held down by the measure in
    `CodePaths.consistency` rather than cut; scores come down by `CodePaths.overcount`; the policy
    chooses orders alone, and going on with the supervised loss holds it where a reference model
    would. The learned repeat number is that of the first stage.
    """

    name = "reg4rec"
    method = "parallel unordered codes, the most certain first, inconsistent ones held down"
    source = "REG4Rec 2025 (arXiv 2508.15308)"
    course = ("vectors", "codes", "rl")
    refining = ("rl",)
    config_type = REG4RecConfig
    config: REG4RecConfig

    def __init__(self, config: REG4RecConfig, num_items: int) -> None:
        super().__init__(config, num_items)
        self.walker = CodePaths(
            num_items, config.books, config.codes_per_book, config.dim, config.sharpness
        )
        self._train_parts("vectors")

    def start_stage(self, stage: str) -> None:
        """Cut codes before they are first learnt; freeze what a stage does not use."""
        super().start_stage(stage)
        if stage == "codes":
            books, codes = self.config.books, self.config.codes_per_book
            with torch.no_grad():
                self.walker.start(self.cut_codes(parallel_ids, books, codes, residual=False))
        self._train_parts(stage)

    def _train_parts(self, stage: str) -> None:
        self.walker.requires_grad_(stage != "vectors")
        self.walker.prefer.requires_grad_(stage == "rl")

    def diagnostics(self) -> dict[str, float]:
        """Collision rate and codebook use, once there are codes."""
        if self.stage == "vectors":
            return {}
        codes_XG = self.walker.codes_N1G[self.known_N1]
        return code_diagnostics(codes_XG, self.config.codes_per_book)

    def losses(self, batch: SequenceBatch) -> dict[str, Tensor]:
        """The terms of the current stage."""
        if self.stage == "vectors":
            return super().losses(batch)
        base = self.base_pass(batch)
        chosen_BQ, targets_T = self.targets_of(base)
        walk = self.walk(base, noise_BQG=self._random_orders(base) if self.training else None)
        terms = {"codes": self.code_loss(walk.logs_BQGK[chosen_BQ], targets_T)}
        if self.stage == "rl":
            terms["policy"] = self.config.policy_weight * self.policy_loss(base)
        return terms

    def walk(
        self, base: BasePass, first_BQ: Tensor | None = None, noise_BQG: Tensor | None = None
    ) -> Walk:
        """Walk the codebooks from the places of a base pass."""
        walk: Walk = self.walker(self.encoder, base, self.scale_queries, first_BQ, noise_BQG)
        return walk

    def _random_orders(self, base: BasePass) -> Tensor:
        """Noise that outweighs every certainty at a share of the places."""
        shape = (*base.places_BQ.shape, self.config.books)
        drawn_BQ1 = torch.rand((*shape[:2], 1), device=self.device) < self.config.random_order_share
        return torch.rand(shape, device=self.device) * drawn_BQ1 * 1e3 * self.config.sharpness

    def code_loss(self, logs_TGK: Tensor, targets_T: Tensor) -> Tensor:
        """Mean over targets of the negative log probability summed over their codes."""
        codes_TG = self.walker.codes_N1G[targets_T]
        return -logs_TGK.gather(2, codes_TG[:, :, None]).sum() / max(len(targets_T), 1)

    def policy_loss(self, base: BasePass) -> Tensor:
        """REINFORCE on drawn orders, by rewards relative to those of their place."""
        chosen_BQ, _ = self.targets_of(base)
        rows_R, at_R = draw_places(chosen_BQ, self.config.rollout_share)
        places_BV = at_R.new_zeros(len(chosen_BQ), self.config.rollouts)
        places_BV[rows_R] = at_R[:, None].expand(-1, self.config.rollouts)
        uniform = torch.rand((*places_BV.shape, self.config.books), device=self.device)
        gumbel_BVG = -(-uniform.clamp(1e-9, 1 - 1e-7).log()).log()
        walk = self.walk(base.at(places_BV), noise_BQG=gumbel_BVG)
        rewards_RV = self.rewards(walk.logs_BQGK[rows_R], self.next_items(base, rows_R, at_R))
        advantages_RV = group_advantages(rewards_RV)
        return -(advantages_RV * walk.choice_logs_BQ[rows_R]).sum() / max(rewards_RV.numel(), 1)

    def next_items(self, base: BasePass, rows_R: Tensor, at_R: Tensor) -> Tensor:
        """Look up the next `reward_steps` items behind places, 0 where none is: int64 [R, M]."""
        targets_BL = base.batch.targets_BL
        assert targets_BL is not None
        ahead_M = torch.arange(self.config.reward_steps, device=self.device)
        at_RM = base.places_BQ[rows_R, at_R][:, None] + ahead_M
        inside_RM = at_RM < base.batch.length
        return targets_BL[rows_R[:, None], at_RM.clamp(max=base.batch.length - 1)] * inside_RM

    @torch.no_grad()
    def rewards(self, logs_RVGK: Tensor, items_RM: Tensor) -> Tensor:
        """Share of the codes that a path finds likeliest, of each next item: [R, V]."""
        likeliest_RVG = logs_RVGK.argmax(dim=3)
        codes_RMG = self.walker.codes_N1G[items_RM]
        hits_RVM = (likeliest_RVG[:, :, None] == codes_RMG[:, None]).float().mean(dim=3)
        decay_M = self.config.reward_decay ** torch.arange(items_RM.shape[1], device=self.device)
        return (hits_RVM * (decay_M * (items_RM > 0))[:, None]).sum(dim=2)

    def final_states(self, base: BasePass) -> Tensor:
        """Walk the paths from the last position and merge their tables: [B, G x K]."""
        if self.stage == "vectors":
            return super().final_states(base)
        last = base.at_last()
        rank_P = torch.arange(min(self.config.paths, self.config.books), device=self.device)
        rank_BP = rank_P.expand(len(last.places_BQ), -1)
        walk = self.walk(last.at(torch.zeros_like(rank_BP)), first_BQ=rank_BP)
        table_BGK = self.walker.merge(walk, self.config.consistency_power)
        return (table_BGK / self.walker.overcount(self.known_N1.sum())).flatten(1)

    @property
    def query_width(self) -> int:
        """Width of a state in the first stage, afterwards the entries of a table of codes."""
        if self.stage == "vectors":
            return super().query_width
        return self.config.books * self.config.codes_per_book

    def as_query(self, state_BD: Tensor) -> Tensor:
        """Take a table as it is."""
        return super().as_query(state_BD) if self.stage == "vectors" else state_BD

    def chunk_scores(self, query_BD: Tensor, start: int, stop: int) -> Tensor:
        """Sum the tables' entries of each item's codes."""
        if self.stage == "vectors":
            return super().chunk_scores(query_BD, start, stop)
        return self.walker.scores(query_BD.view(len(query_BD), self.config.books, -1), start, stop)

    def pair_scores(self, query_BD: Tensor, items_BK: Tensor) -> Tensor:
        """Sum the tables' entries of each row's own items."""
        if self.stage == "vectors":
            return super().pair_scores(query_BD, items_BK)
        width = self.config.codes_per_book
        offsets_G = width * torch.arange(self.config.books, device=self.device)
        entries_BKG = self.walker.codes_N1G[items_BK] + offsets_G
        return query_BD.gather(1, entries_BKG.flatten(1)).view_as(entries_BKG).sum(dim=2)
