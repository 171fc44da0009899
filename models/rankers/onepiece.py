"""OnePiece: anchors and the moment around the history, blocks of thoughts, a task per feedback.

Shape legend: B rows, P prefixes, L positions, M tokens of a block, D width, S states (K + 1), K
thoughts and levels of feedback, T real targets, C targets of a chunk.
"""

from typing import Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn
from torch.nn import functional

from models.auxiliary.settings import AuxiliaryChoices
from models.batch import SequenceBatch
from models.encoders.base import BasePass
from models.feedback import level_of, level_table, levels_by_rarity, next_of_level
from models.latent_reasoning import LatentReasoner, ReasoningConfig
from models.layers.situation import SITUATION_TOKENS, Situation
from models.losses import in_batch_contrast
from models.losses.chunked import CHUNK_TARGETS
from models.prefixes import draw_ends, prefixes_at
from models.registry import register
from models.sequences import SequenceStore
from models.sequential import SequentialConfig


class OnePieceConfig(ReasoningConfig):
    """Settings of OnePiece.

    Attributes:
        reasoning_steps: Thoughts K, one per level of feedback; the log must have as many actions.
        anchors: Items of each group of preference anchors.
        action_levels: Action codes, weakest first; empty orders them by how rare they are. An
            action's code is its place among those of the log in alphabetical order, from 1.
        objective: "in_batch" judges each thought as published, whatever `loss` says; "ce" by the
            setting `loss` over the whole catalogue.
        contrast_weight: Weight of the two contrasts of "in_batch".
    """

    backbone: Literal["bert4rec"] = "bert4rec"
    anchors: int = Field(default=5, ge=1)
    action_levels: tuple[int, ...] = ()
    objective: Literal["in_batch", "ce"] = "in_batch"
    contrast_weight: float = Field(default=1.0, ge=0)

    @field_validator("auxiliary")
    @classmethod
    def _has_none(cls, chosen: AuxiliaryChoices) -> AuxiliaryChoices:
        if chosen:
            raise ValueError(
                "onepiece takes no auxiliary objective, since its states are of tokens around a "
                "history; leave auxiliary out"
            )
        return chosen


@register
class OnePiece(LatentReasoner):
    """Thought k of a block learns the next item of feedback level k or above; the last one scores.

    Source: Dai et al., OnePiece, 2025 (arXiv 2509.18091), its retrieval half. Tokens, the open
    encoder, the block of the situational tokens, the block-causal mask, mean(LN(block)) as state,
    binary cross-entropy with a contrast in both directions per task are the paper's. Inferences:
    anchors are a person's own most frequent items and those of the strongest feedback, in place of
    the most clicked ones of a query; the situation is how much is known of a person, their last
    feedback, and weekday and hour of their newest event; the negatives of the binary loss are the
    other targets of the batch, each side a mean of its own; a query's temperature is that of
    scoring; levels of feedback are ordered by rarity unless told.
    """

    name = "onepiece"
    method = "anchors and situation around the history, block thoughts, a task per feedback level"
    source = "Dai et al. 2025 (arXiv 2509.18091)"
    needs = ("as many actions in the log as reasoning_steps",)
    config_type = OnePieceConfig
    config: OnePieceConfig
    sized_by_data = ("levels_A",)

    levels_A: Tensor

    def __init__(self, config: OnePieceConfig, num_items: int) -> None:
        super().__init__(config, num_items)
        self.situation = Situation(config.dim, config.anchors, self.num_levels)
        self.block_norm = nn.LayerNorm(config.dim)
        self.register_buffer("levels_A", torch.ones(1, dtype=torch.int64))

    @classmethod
    def extra_tokens(cls, config: SequentialConfig) -> int:
        """Count anchors with their edges, and the tokens of the moment."""
        assert isinstance(config, OnePieceConfig)
        return Situation.num_tokens(config.anchors)

    @property
    def num_levels(self) -> int:
        """Levels of feedback that are told apart: one per thought."""
        return max(self.config.reasoning_steps, 1)

    def fit_statistics(self, store: SequenceStore) -> None:
        """Mark the known items; order the log's actions by strength.

        Raises:
            ValueError: If the log has fewer actions than the settings have thoughts, or lacks one
                that the settings name.
        """
        super().fit_statistics(store)
        found = levels_by_rarity(store)
        order = list(self.config.action_levels) or found
        if missing := sorted(set(order) - set(found)):
            raise ValueError(
                f"onepiece: action_levels names the action codes {missing}, which no training "
                f"event has; the log has {sorted(found)}"
            )
        if len(order) < self.num_levels:
            raise ValueError(
                f"onepiece teaches thought k by the k-th level of feedback: reasoning_steps = "
                f"{self.num_levels} needs as many actions, and this log has {len(order)}; ingest "
                f"more actions or set reasoning_steps={len(order)}"
            )
        self.levels_A = level_table(order, self.num_levels).to(self.device)

    def losses(self, batch: SequenceBatch) -> dict[str, Tensor]:
        """Judge every thought by the next item of its level."""
        rows_P, places_P = draw_ends(batch, self.config.prefixes_per_row)
        prefixes = prefixes_at(batch, rows_P, places_P)
        base = self._situated_pass(prefixes, self.items(prefixes.item_ids_BL))
        states_SPD = self.read(self.reason(base))
        judged_KPD = states_SPD[1:] if self.reasoning is not None else states_SPD
        targets_PK = next_of_level(batch, self.levels_A, self.num_levels)[rows_P, places_P]
        tasks = [
            self._judge(state_PD, targets_P, base)
            for state_PD, targets_P in zip(judged_KPD, targets_PK.T, strict=True)
        ]
        return {name: torch.stack([task[name] for task in tasks]).mean() for name in tasks[0]}

    def _situated_pass(self, batch: SequenceBatch, items_BLD: Tensor) -> BasePass:
        """Encode histories with what stands around them, seen from the block's places."""
        levels_BL = level_of(batch.actions_BL, self.levels_A) * batch.valid_BL
        situated, vectors = self.situation(batch, items_BLD, levels_BL)
        base: BasePass = self.encoder(situated, vectors)
        return base.at(base.places_BQ[:, -SITUATION_TOKENS:])

    def reason(self, base: BasePass, noise: float = 0.0) -> Tensor:
        """Think from the places of a base pass as one block: [S, B, M, D]."""
        if self.reasoning is None:
            return base.hidden_BQD[None]
        chain: Tensor = self.reasoning(self.encoder, base, noise=noise, joined=True)
        return chain

    def read(self, blocks_SBMD: Tensor) -> Tensor:
        """Turn blocks into states: the mean of their normalised tokens, [S, B, D]."""
        states: Tensor = self.block_norm(blocks_SBMD).mean(dim=-2)
        return states

    def _step_vectors(self, batch: SequenceBatch, items_BLD: Tensor) -> Tensor:
        return self.read(self.reason(self._situated_pass(batch, items_BLD)))

    def _encode_vectors(self, batch: SequenceBatch, items_BLD: Tensor) -> Tensor:
        return self.aggregate(self._step_vectors(batch, items_BLD)) * batch.valid_BL[:, -1:]

    def _judge(self, states_PD: Tensor, targets_P: Tensor, base: BasePass) -> dict[str, Tensor]:
        """Judge one thought's states against the targets of its level."""
        chosen_P = targets_P > 0
        states_TD, targets_T = states_PD[chosen_P], targets_P[chosen_P]
        if self.config.objective == "ce":
            bonus = self.repeat_bonus(base.at_last(), chosen_P[:, None])
            return {"ce": self.cross_entropy(states_TD, targets_T, bonus)}
        queries_TD = self.scale_queries(states_TD)
        items_TD = self.vectors_of(targets_T)
        seen_TL = base.batch.item_ids_BL[chosen_P]
        terms = {"bce": self._binary_loss(queries_TD, items_TD, targets_T, seen_TL)}
        if self.config.contrast_weight > 0:
            forth = in_batch_contrast(queries_TD, items_TD, targets_T)
            back = in_batch_contrast(items_TD, queries_TD, targets_T)
            terms["contrast"] = self.config.contrast_weight * (forth + back)
        return terms

    def _binary_loss(
        self, queries_TD: Tensor, items_TD: Tensor, targets_T: Tensor, seen_TL: Tensor
    ) -> Tensor:
        """Binary cross-entropy of own targets, and of the other targets of a chunk."""
        total = (queries_TD.sum() + items_TD.sum()) * 0.0
        if self.repeat_bias is not None:
            total = total + self.repeat_bias * 0.0
        chunks = zip(
            *(
                torch.split(part, CHUNK_TARGETS)
                for part in (queries_TD, items_TD, targets_T, seen_TL)
            ),
            strict=True,
        )
        for queries_CD, items_CD, targets_C, seen_CL in chunks:
            logits_CC = queries_CD @ items_CD.T
            if self.repeat_bias is not None:
                again_CC = (seen_CL[:, None, :] == targets_C[None, :, None]).any(dim=2)
                logits_CC = logits_CC + self.repeat_bias * again_CC
            other_CC = targets_C[:, None] != targets_C
            total = total + functional.softplus(-logits_CC.diagonal()).sum()
            against_C = (functional.softplus(logits_CC) * other_CC).sum(dim=1)
            total = total + (against_C / other_CC.sum(dim=1).clamp(min=1)).sum()
        return total / max(len(targets_T), 1)
