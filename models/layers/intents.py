"""Reasoning over a few intents: they deliberate, and a decision is formed from them.

Shape legend: B rows, Q places, M intents, D width, K rounds, X = B * Q.
"""

import torch
from torch import Tensor, nn


class IntentReasoner(nn.Module):
    """Rounds of two attentions that share their weights over rounds.

    In each round the intents attend to one another and to the decision so far; then the decision
    attends to the intents. Both add what they found to what they had.

    Args:
        dim: Width D.
        num_heads: Attention heads.
        rounds: Rounds K.
        dropout: Share dropped from attention weights.
    """

    def __init__(self, dim: int, num_heads: int, rounds: int, dropout: float) -> None:
        super().__init__()
        self.rounds = rounds
        self.intent_norm = nn.LayerNorm(dim)
        self.decision_norm = nn.LayerNorm(dim)
        self.deliberation = nn.MultiheadAttention(dim, num_heads, dropout, batch_first=True)
        self.decision = nn.MultiheadAttention(dim, num_heads, dropout, batch_first=True)

    def forward(self, intents_BQMD: Tensor, state_BQD: Tensor) -> Tensor:
        """Decide round by round, from the state that the history left: [K, B, Q, D]."""
        intents_XMD, state_X1D = intents_BQMD.flatten(0, 1), state_BQD.flatten(0, 1)[:, None]
        decisions = []
        for _ in range(self.rounds):
            own_XMD = self.intent_norm(intents_XMD)
            all_XWD = torch.cat([own_XMD, self.decision_norm(state_X1D)], dim=1)
            found_XMD, _ = self.deliberation(own_XMD, all_XWD, all_XWD, need_weights=False)
            intents_XMD = intents_XMD + found_XMD
            own_XMD = self.intent_norm(intents_XMD)
            asked_X1D = self.decision_norm(state_X1D)
            found_X1D, _ = self.decision(asked_X1D, own_XMD, own_XMD, need_weights=False)
            state_X1D = state_X1D + found_X1D
            decisions.append(state_X1D.view_as(state_BQD))
        return torch.stack(decisions)
