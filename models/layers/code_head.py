"""Item probabilities as products over the codes of an item, exact over the whole catalogue.

Shape legend: B rows, T targets, C items of one chunk, G codes of an item, K values of a code,
D width, U prefixes.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.semantic_ids import SemanticIds

# Sums of products of exponentials below this may have lost terms to underflow; they are rare and
# taken again in the logarithmic domain.
SMALLEST_SUM = 1e-30
CHUNK_TERMS = 2**22


def log_normaliser(left_BK: Tensor, right_CK: Tensor) -> Tensor:
    """Sum exp(left[b, k] + right[c, k]) over k and take the log, for all pairs at once: [B, C].

    One matrix product of exponentials does it. A pair whose largest terms meet each other's
    smallest would underflow in the product; such pairs are summed again term by term, so the result
    is exact to float32 for any logits.
    """
    top_B1, top_C1 = left_BK.amax(dim=1, keepdim=True), right_CK.amax(dim=1, keepdim=True)
    sums_BC = (left_BK - top_B1).exp() @ (right_CK - top_C1).exp().T
    logs_BC = sums_BC.clamp(min=SMALLEST_SUM).log() + top_B1 + top_C1.T
    rows, columns = (sums_BC < SMALLEST_SUM).nonzero(as_tuple=True)
    if len(rows) == 0:
        return logs_BC
    step = max(1, CHUNK_TERMS // left_BK.shape[1])
    exact = [
        (left_BK[b] + right_CK[c]).logsumexp(dim=1)
        for b, c in zip(torch.split(rows, step), torch.split(columns, step), strict=True)
    ]
    return logs_BC.index_put((rows, columns), torch.cat(exact))


class CodeHead(nn.Module):
    """p(item | state) = product over levels of p(code | state, codes before).

    The logit of value c at level g is <W_g state, c> + <prefix, c> + bias: what the state says and
    what the codes before say are added, so that the normalisers of all (state, prefix) pairs are
    one product of exponentials and an item's score needs its codes alone. No beam is searched.
    W_g starts as the identity and the prefix at zero: with codebooks from residual k-means the
    first score is that of the item vector that the codes rebuild, but for its normalisers.
    Values that no item has behind the same codes are left out of every sum, so that probabilities
    are spent on items alone.

    Args:
        num_items: Catalogue size N.
        levels: Codes G per item.
        codes: Values K per code at most.
        dim: Width D.

    Raises:
        ValueError: If tuples of codes cannot be numbered in 62 bits.
    """

    codes_N1G: Tensor
    coded_N1: Tensor
    prefixes_U: Tensor
    open_UK: Tensor

    def __init__(self, num_items: int, levels: int, codes: int, dim: int) -> None:
        super().__init__()
        if codes**levels * (levels + 1) >= 2**62:
            raise ValueError(f"{levels} codes of {codes} values are too many to be numbered")
        self.levels, self.codes = levels, codes
        self.register_buffer("codes_N1G", torch.zeros(num_items + 1, levels, dtype=torch.int64))
        self.register_buffer("coded_N1", torch.zeros(num_items + 1, dtype=torch.bool))
        # Prefixes of any length that some item has, by number, and the values behind each: they
        # follow from the codes and are made again wherever those are loaded.
        self.register_buffer("prefixes_U", torch.zeros(0, dtype=torch.int64), persistent=False)
        self.register_buffer("open_UK", torch.zeros(0, codes, dtype=torch.bool), persistent=False)
        self.values_GKD = nn.Parameter(torch.zeros(levels, codes, dim))
        self.turns_GDD = nn.Parameter(torch.eye(dim).repeat(levels, 1, 1))
        self.bias_GK = nn.Parameter(torch.zeros(levels, codes))
        self.before_GKD = nn.Parameter(torch.zeros(max(levels - 1, 1), codes, dim))
        self.enter = nn.Linear(dim, dim)
        self.leave = nn.Linear(dim, dim, bias=False)

    @torch.no_grad()
    def start(self, ids: SemanticIds) -> None:
        """Take over codes and codebooks, and start everything else as said above."""
        self.codes_N1G.copy_(ids.codes_N1G)
        self.coded_N1.copy_(ids.known_N1)
        self._index()
        self.values_GKD.zero_()
        for level, book_KD in enumerate(ids.codebooks):
            self.values_GKD[level, : len(book_KD)] = book_KD
        self.turns_GDD.copy_(torch.eye(self.turns_GDD.shape[1]).expand_as(self.turns_GDD))
        self.bias_GK.zero_()
        self.before_GKD.copy_(self.values_GKD[: len(self.before_GKD)])
        # The last layer alone at zero: the ones before it still get gradients after one step.
        nn.init.zeros_(self.leave.weight)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *rest)
        self._index()

    def _index(self) -> None:
        """Number the prefixes that items have, and mark the values behind each."""
        codes_XG = self.codes_N1G[self.coded_N1]
        numbers = [self._numbers(codes_XG, level) for level in range(self.levels)]
        self.prefixes_U, of_X = torch.unique(torch.cat(numbers), return_inverse=True)
        self.open_UK = self.open_UK.new_zeros(len(self.prefixes_U), self.codes)
        self.open_UK[of_X, codes_XG.T.flatten()] = True

    def _numbers(self, codes_XG: Tensor, level: int) -> Tensor:
        """Number the first `level` codes, unlike any prefix of another length: int64 [X]."""
        number_X = torch.zeros(len(codes_XG), dtype=torch.int64, device=codes_XG.device)
        for g in range(level):
            number_X = number_X * self.codes + codes_XG[:, g]
        beyond: int = self.codes**self.levels
        return number_X + level * beyond

    def open_values(self, codes_XG: Tensor, level: int) -> Tensor:
        """Mark the values that some item has behind codes; all where no item has these: [X, K]."""
        numbers_X = self._numbers(codes_XG, level)
        if len(self.prefixes_U) == 0:
            return self.open_UK.new_ones(len(numbers_X), self.codes)
        at_X = torch.searchsorted(self.prefixes_U, numbers_X).clamp(max=len(self.prefixes_U) - 1)
        is_new_X = self.prefixes_U[at_X] != numbers_X
        return torch.logical_or(self.open_UK[at_X], is_new_X[:, None])

    def rebuilt(self, codes_XG: Tensor) -> Tensor:
        """Sum the vectors of codes: [X, D]."""
        levels = range(self.levels)
        return torch.stack([self.values_GKD[g, codes_XG[:, g]] for g in levels]).sum(dim=0)

    def state_logits(self, states_TD: Tensor, level: int) -> Tensor:
        """What states say of the values of a level: [T, K]."""
        logits_TK = states_TD @ self.turns_GDD[level] @ self.values_GKD[level].T
        return (logits_TK + self.bias_GK[level]).float()

    def prefix_logits(self, codes_XG: Tensor, level: int) -> Tensor:
        """What the codes before a level say of its values, -inf for those not open: [X, K]."""
        logits_XK = torch.zeros(len(codes_XG), self.codes, device=codes_XG.device)
        if level:
            before = [self.before_GKD[g, codes_XG[:, g]] for g in range(level)]
            said_XD = self.leave(functional.gelu(self.enter(torch.stack(before).sum(dim=0))))
            logits_XK = (said_XD @ self.values_GKD[level].T).float()
        return logits_XK.masked_fill(~self.open_values(codes_XG, level), -torch.inf)

    def level_logits(self, states_TD: Tensor, codes_TG: Tensor, level: int) -> Tensor:
        """Logits of a level given the codes before it: [T, K]."""
        return self.state_logits(states_TD, level) + self.prefix_logits(codes_TG, level)

    def log_probabilities(self, states_TD: Tensor, codes_TG: Tensor) -> Tensor:
        """Log probability of each code given those before it: [T, G]."""
        return torch.stack(
            [
                -functional.cross_entropy(
                    self.level_logits(states_TD, codes_TG, level),
                    codes_TG[:, level],
                    reduction="none",
                )
                for level in range(self.levels)
            ],
            dim=1,
        )

    def loss(self, states_TD: Tensor, items_T: Tensor) -> Tensor:
        """Mean negative log probability of items; zero, with zero gradients, without targets."""
        logs_TG = self.log_probabilities(states_TD, self.codes_N1G[items_T])
        return -logs_TG.sum() / max(len(items_T), 1)

    def scores(self, states_BD: Tensor, start: int, stop: int) -> Tensor:
        """Log probability of the items start..stop-1: float32 [B, C]."""
        codes_CG = self.codes_N1G[start:stop]
        total_BC = states_BD.new_zeros(len(states_BD), len(codes_CG), dtype=torch.float32)
        for level in range(self.levels):
            left_BK = self.state_logits(states_BD, level)
            # Nothing stands before the first code: one row stands for all items.
            rows = codes_CG if level else codes_CG[:1]
            right_XK = self.prefix_logits(rows, level)
            own_C = codes_CG[:, level]
            own_right_C = right_XK.expand(len(own_C), -1).gather(1, own_C[:, None])[:, 0]
            total_BC += left_BK[:, own_C] + own_right_C - log_normaliser(left_BK, right_XK)
        return total_BC

    def pair_scores(self, states_BD: Tensor, items_BC: Tensor) -> Tensor:
        """Log probability of each row's own items: [B, C]."""
        rows, columns = items_BC.shape
        states = states_BD[:, None].expand(-1, columns, -1).flatten(0, 1)
        logs_XG = self.log_probabilities(states, self.codes_N1G[items_BC.flatten()])
        return logs_XG.sum(dim=1).view(rows, columns)

    def sample(self, states_TD: Tensor) -> Tensor:
        """Draw the codes of one item per state, level by level: int64 [T, G]."""
        drawn_TG = torch.zeros(len(states_TD), 0, dtype=torch.int64, device=states_TD.device)
        for level in range(self.levels):
            shares_TK = self.level_logits(states_TD, drawn_TG, level).softmax(dim=1)
            drawn_TG = torch.cat([drawn_TG, torch.multinomial(shares_TK, 1)], dim=1)
        return drawn_TG
