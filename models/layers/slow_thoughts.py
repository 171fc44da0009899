"""Thoughts drawn from a codebook, and the residual labels that they learn from.

Shape legend: B rows, Q places, T targets, D width, K thoughts, M values of a thought.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.clustering import nearest
from models.encoders.base import INIT_STD, BasePass, Encoder
from models.losses import in_batch_contrast


@dataclass(frozen=True, eq=False)
class ThoughtChain:
    """A chain of thoughts from every place.

    Attributes:
        states: K + 1 times [B, Q, D]; state k has k thoughts behind it, the last one scores.
        logits: K times [B, Q, M], what each state made of its next thought.
        chosen: K times int64 [B, Q], the thought that was taken.
    """

    states: list[Tensor]
    logits: list[Tensor]
    chosen: list[Tensor]


class SlowThoughts(nn.Module):
    """Each thought is a value of a codebook, put through the encoder as one more token.

    Its output is added to the state through a gate that starts at zero.

    Args:
        dim: Width D.
        steps: Thoughts K.
        values: Values M of the codebook.
        commitment: Weight of the pull of residuals towards their codebook vector.
        temperature: Divides the cosines of the contrast between rebuilt states and targets.
    """

    def __init__(
        self, dim: int, steps: int, values: int, commitment: float, temperature: float
    ) -> None:
        super().__init__()
        self.steps, self.commitment, self.temperature = steps, commitment, temperature
        self.values_MD = nn.Parameter(torch.zeros(values, dim))
        self.ask = nn.Linear(dim, dim, bias=False)
        self.positions_KD = nn.Parameter(torch.empty(steps, dim))
        self.gates_KD = nn.Parameter(torch.zeros(steps, dim))
        self.residual = _two_layers(dim)
        self.rebuild = _two_layers(dim)
        nn.init.normal_(self.positions_KD, std=INIT_STD)
        nn.init.eye_(self.ask.weight)

    @torch.no_grad()
    def start(self, values_MD: Tensor) -> None:
        """Start from the values of a codebook, with gates closed."""
        self.values_MD.copy_(values_MD)
        self.gates_KD.zero_()

    def forward(self, encoder: Encoder, base: BasePass, sampled: bool = False) -> ThoughtChain:
        """Think from the places of a base pass: each thought the likeliest, or drawn."""
        state = base.hidden_BQD
        chain = ThoughtChain([state], [], [])
        tokens = encoder.start_chain()
        for step in range(self.steps):
            logits_BQM = (self.ask(state) @ self.values_MD.T).float()
            if sampled:
                drawn = torch.multinomial(logits_BQM.detach().softmax(dim=2).flatten(0, 1), 1)
                chosen_BQ = drawn.view(logits_BQM.shape[:2])
            else:
                chosen_BQ = logits_BQM.argmax(dim=2)
            x_BQD = encoder.enter(self.values_MD[chosen_BQ] + self.positions_KD[step])
            state = state + self.gates_KD[step] * encoder.step(x_BQD, base, tokens)
            chain.states.append(state)
            chain.logits.append(logits_BQM)
            chain.chosen.append(chosen_BQ)
        return chain

    def label_losses(
        self, chain: ThoughtChain, chosen_BQ: Tensor, targets_TD: Tensor, targets_T: Tensor
    ) -> dict[str, Tensor]:
        """Learn the labels of a chain and to predict them.

        Label k is the codebook vector nearest to r_k = MLP(t - s_{k-1}), with s_0 the state before
        any thought and s_k = MLP(sum of the vectors of the thoughts up to k).

        Args:
            chain: The chain that was thought.
            chosen_BQ: bool, the places with a target.
            targets_TD: Vector of each target, held still.
            targets_T: Item of each target: equal ones are no negatives of each other.

        Returns:
            "labels": mean cross-entropy of the labels; "quantisation": squared distances between
            residuals and their vectors; "rebuilt": contrast between s_k and the target.
        """
        count = max(len(targets_T), 1)
        behind_TD = chain.states[0][chosen_BQ].detach()
        sum_TD = torch.zeros_like(targets_TD)
        goal_TD = functional.normalize(targets_TD, dim=1)
        terms: dict[str, list[Tensor]] = {"labels": [], "quantisation": [], "rebuilt": []}
        for step in range(self.steps):
            residual_TD = self.residual(targets_TD - behind_TD)
            labels_T, _ = nearest(residual_TD.detach().float(), self.values_MD.detach())
            logits_TM = chain.logits[step][chosen_BQ]
            terms["labels"].append(
                functional.cross_entropy(logits_TM, labels_T, reduction="sum") / count
            )
            vector_TD = self.values_MD[labels_T]
            pulled = (residual_TD.detach() - vector_TD).square().sum(dim=1)
            pulling = (residual_TD - vector_TD.detach()).square().sum(dim=1)
            terms["quantisation"].append((pulled + self.commitment * pulling).sum() / count)
            # Forward the codebook vector, backward as if it were the residual.
            passed_TD = residual_TD + (vector_TD - residual_TD).detach()
            rebuilt_TD = functional.normalize(self.rebuild(sum_TD + passed_TD), dim=1)
            terms["rebuilt"].append(
                in_batch_contrast(rebuilt_TD / self.temperature, goal_TD, targets_T)
            )
            taken_T = chain.chosen[step][chosen_BQ]
            sum_TD = sum_TD + self.values_MD[taken_T].detach()
            behind_TD = self.rebuild(sum_TD).detach()
        return {name: torch.stack(values).mean() for name, values in terms.items()}

    def log_probability(self, chain: ThoughtChain) -> Tensor:
        """Log probability of the thoughts that were taken: [B, Q]."""
        logs = [
            logits.log_softmax(dim=2).gather(2, chosen[:, :, None])[:, :, 0]
            for logits, chosen in zip(chain.logits, chain.chosen, strict=True)
        ]
        return torch.stack(logs).sum(dim=0)


def _two_layers(dim: int) -> nn.Module:
    return nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, dim))
