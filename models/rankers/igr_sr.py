"""IGR-SR: a frozen backbone reads learned tokens, and a small reasoner decides over intents.

Shape legend: B rows, L positions, Q places, P prefix tokens, M intents, D width, S states (K + 1),
R rows with a target.
"""

from dataclasses import replace

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from models.batch import SequenceBatch
from models.encoders.base import INIT_STD, BasePass
from models.encoders.transformer import TransformerEncoder
from models.latent_reasoning import ReasoningConfig
from models.layers.intents import IntentReasoner
from models.losses import in_batch_contrast
from models.places import draw_places
from models.prefixes import draw_prefixes
from models.registry import register
from models.sequential import SequentialRanker


class IGRSRConfig(ReasoningConfig):
    """Settings of IGR-SR.

    Attributes:
        reasoning_steps: Rounds of deliberation and decision; 0 is the backbone, bit for bit.
        reasoning_form: "published" scores with the decision; "gated" adds what it changed to the
            backbone's state through a gate that starts at zero.
        prefix_tokens: Learned tokens before the history.
        intents: Learned tokens behind it.
        contrast_weight: Weight of the consistency of intents between two views of a history.
        contrast_temperature: Divides the cosines that the consistency compares.
        drop_share: Share of events that each view leaves out.
    """

    prefix_tokens: int = Field(default=2, ge=1)
    intents: int = Field(default=4, ge=1)
    contrast_weight: float = Field(default=0.1, ge=0)
    contrast_temperature: float = Field(default=0.2, gt=0)
    drop_share: float = Field(default=0.2, ge=0, lt=1)


class _Around(nn.Module):
    """All that the second stage learns."""

    def __init__(self, config: IGRSRConfig) -> None:
        super().__init__()
        self.prefix_PD = nn.Parameter(INIT_STD * torch.randn(config.prefix_tokens, config.dim))
        self.intents_MD = nn.Parameter(INIT_STD * torch.randn(config.intents, config.dim))
        self.project = nn.Linear(config.dim, config.dim)
        self.reasoner = IntentReasoner(
            config.dim, config.num_heads, config.reasoning_steps, config.reasoning_dropout
        )
        gated = config.reasoning_form == "gated"
        self.gate_D = nn.Parameter(torch.zeros(config.dim)) if gated else None


@register
class IGRSR(SequentialRanker):
    """Stage "backbone" trains the encoder; stage "intents" freezes it and learns around it.

    Source: IGR-SR, 2025 (arXiv 2512.14034), of which the abstract and second-hand accounts were
    found: prefix tokens, items and intent tokens through a frozen pretrained encoder, projected
    intents, a reasoner of two attentions, and InfoNCE between the intents of two masked views.

    Inferences: the intents of a position go through the encoder as added tokens of that position,
    so that all positions learn at once; learned tokens take no position of their own and leave
    those of the events alone; events are masked by leaving them out, because a frozen encoder
    knows no mask token; an intent's negatives are the same intent of other rows; both attentions
    share their weights over rounds; item vectors are frozen with the encoder.
    """

    name = "igr-sr"
    method = "a frozen backbone, learned intents behind the history, deliberation over them"
    source = "IGR-SR 2025 (arXiv 2512.14034)"
    config_type = IGRSRConfig
    config: IGRSRConfig
    refining = ("intents",)

    reasons: Tensor

    def __init__(self, config: IGRSRConfig, num_items: int) -> None:
        super().__init__(config, num_items)
        # Whether the second stage has begun: scoring must know it from the weights alone.
        self.register_buffer("reasons", torch.zeros((), dtype=torch.bool))
        self.around = _Around(config) if config.reasoning_steps else None

    @property
    def stages(self) -> tuple[str, ...]:
        """The backbone, and the intents where there is any reasoning."""
        return ("backbone", "intents") if self.config.reasoning_steps else ("backbone",)

    def start_stage(self, stage: str) -> None:
        """Let the backbone or what stands around it learn, never both."""
        second = stage == "intents"
        self.reasons.fill_(second)
        for name, parameter in self.named_parameters():
            own = name.startswith("around.")
            parameter.requires_grad_(own == second or name.startswith("auxiliary."))

    def start_epoch(self, epoch: int) -> None:
        """Keep the dropout of all that is frozen off."""
        if self.reasons:
            self.encoder.eval()
            self.items.eval()

    def losses(self, batch: SequenceBatch) -> dict[str, Tensor]:
        """Cross-entropy of the decision, and the consistency of intents between two views."""
        if not self.reasons:
            return super().losses(batch)
        base = self.base_pass(batch)
        chosen_BQ, targets_T = self.targets_of(base)
        states_TD = self.decide(base)[-1, chosen_BQ]
        bonus = self.repeat_bonus(base, chosen_BQ)
        terms = {"ce": self.cross_entropy(states_TD, targets_T, bonus)}
        if self.config.contrast_weight > 0 and len(targets_T):
            terms["consistency"] = self.config.contrast_weight * self.consistency(batch)
        return terms

    def whole_pass(self, batch: SequenceBatch) -> BasePass:
        """Encode a training batch, behind the prefix once the second stage has begun."""
        if not self.reasons:
            return super().whole_pass(batch)
        if self.encoder.reads_ahead:
            batch = draw_prefixes(batch, self.config.prefixes_per_row)
        items_BLD = self.items(batch.item_ids_BL)
        return self._prefixed_pass(batch, items_BLD, last_only=self.encoder.reads_ahead)

    def _prefixed_pass(
        self, batch: SequenceBatch, items_BLD: Tensor, last_only: bool = False
    ) -> BasePass:
        """Encode histories behind the prefix tokens, seen from the places of events."""
        assert self.around is not None
        count = self.config.prefix_tokens
        tokens_PD = self.encoder.enter(self.around.prefix_PD)
        tokens_BPD = tokens_PD.expand(batch.num_rows, -1, -1)
        assert isinstance(self.encoder, TransformerEncoder)
        x = torch.cat([tokens_BPD, self.encoder.embed(batch, items_BLD)], dim=1)
        longer = _behind_prefix(batch, count)
        base = self.encoder.run(longer, x, self.encoder.mask(longer), last_only)
        return base if last_only else base.at(base.places_BQ[:, count:])

    def intents(self, base: BasePass) -> Tensor:
        """Run the intent tokens of each place through the encoder and project: [B, Q, M, D]."""
        assert self.around is not None
        chain = self.encoder.start_chain()
        states = []
        for token_D in self.encoder.enter(self.around.intents_MD):
            states.append(self.encoder.step(token_D.expand_as(base.hidden_BQD), base, chain))
        projected: Tensor = self.around.project(torch.stack(states, dim=2))
        return projected

    def decide(self, base: BasePass) -> Tensor:
        """Reason from the places of a base pass: [S, B, Q, D], the backbone's states first."""
        assert self.around is not None
        hidden_BQD = base.hidden_BQD
        states_KBQD = self.around.reasoner(self.intents(base), hidden_BQD)
        if self.around.gate_D is not None:
            states_KBQD = hidden_BQD + self.around.gate_D * (states_KBQD - hidden_BQD)
        return torch.cat([hidden_BQD[None], states_KBQD])

    def consistency(self, batch: SequenceBatch) -> Tensor:
        """InfoNCE between the intents of two thinned views, at one drawn place per row."""
        assert batch.targets_BL is not None, "training batches carry targets"
        chosen_BL = (batch.targets_BL > 0) & batch.valid_BL
        rows_R, places_R = draw_places(chosen_BL)
        places_R1 = places_R[:, None]
        views = []
        for _ in range(2):
            view = self._thinned(batch, rows_R, places_R1)
            base = self._prefixed_pass(view, self.items(view.item_ids_BL)).at(places_R1)
            views.append(functional.normalize(self.intents(base)[:, 0], dim=-1))
        per_intent = [
            in_batch_contrast(left_RD / self.config.contrast_temperature, right_RD)
            for left_RD, right_RD in zip(*(view.unbind(1) for view in views), strict=True)
        ]
        return torch.stack(per_intent).mean()

    def _thinned(self, batch: SequenceBatch, rows_R: Tensor, places_R1: Tensor) -> SequenceBatch:
        """Leave a share of the events out, those of the places and all behind them excepted."""
        ids_RL = batch.item_ids_BL[rows_R]
        at_L = torch.arange(batch.length, device=ids_RL.device)
        kept_RL = torch.rand(ids_RL.shape, device=ids_RL.device) >= self.config.drop_share
        kept_RL = batch.valid_BL[rows_R] & (kept_RL | (at_L == places_R1)) & (at_L <= places_R1)
        return SequenceBatch(
            ids_RL * kept_RL, kept_RL, batch.times_BL[rows_R], batch.actions_BL[rows_R]
        )

    def _step_vectors(self, batch: SequenceBatch, items_BLD: Tensor) -> Tensor:
        if not self.reasons:
            return super()._step_vectors(batch, items_BLD)
        return self.decide(self._prefixed_pass(batch, items_BLD, last_only=True).at_last())[:, :, 0]

    def _encode_vectors(self, batch: SequenceBatch, items_BLD: Tensor) -> Tensor:
        if not self.reasons:
            return super()._encode_vectors(batch, items_BLD)
        return self._step_vectors(batch, items_BLD)[-1] * batch.valid_BL[:, -1:]


def _behind_prefix(batch: SequenceBatch, count: int) -> SequenceBatch:
    """Put `count` places before a batch; they take the time of the row's first event."""
    first_B1 = batch.valid_BL.int().argmax(dim=1, keepdim=True)
    times_BP = batch.times_BL.gather(1, first_B1).expand(-1, count)

    def padded(values_BL: Tensor) -> Tensor:
        return functional.pad(values_BL, (count, 0))

    return replace(
        batch,
        item_ids_BL=padded(batch.item_ids_BL),
        valid_BL=functional.pad(batch.valid_BL, (count, 0), value=True),
        times_BL=torch.cat([times_BP, batch.times_BL], dim=1),
        actions_BL=padded(batch.actions_BL),
        targets_BL=None if batch.targets_BL is None else padded(batch.targets_BL),
        target_actions_BL=None,
    )
