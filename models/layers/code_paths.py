"""Walks over an item's unordered codes, the most certain first.

Shape legend: B rows, Q places, D width, G codebooks, K values of a codebook, C items of one chunk,
P paths.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.encoders.base import INIT_STD, BasePass, Encoder
from models.semantic_ids import SemanticIds

# Stands for minus infinity where a query must stay finite: e^-1e4 is 0 in any precision.
NEVER = -1e4


@dataclass(frozen=True, eq=False)
class Walk:
    """A path through all codebooks from every place.

    Attributes:
        logs_BQGK: Log probabilities of each codebook's values as the path met it.
        order_BQG: int64, the codebook taken at each step.
        choice_logs_BQ: Log probability of the order under the choice's softmax.
    """

    logs_BQGK: Tensor
    order_BQG: Tensor
    choice_logs_BQ: Tensor


class CodePaths(nn.Module):
    """Predicts the codes of an item in an order that each place chooses for itself.

    A step predicts every codebook that is left, takes the one it is most certain of, and feeds the
    expected vector of that codebook's values back as one more token, whose output is added to the
    state through a gate that starts at zero. Certainty is 1 - entropy / log(values in use), plus a
    learned preference that starts at zero.

    Args:
        num_items: Catalogue size N.
        books: Codebooks G.
        codes: Values K per codebook at most.
        dim: Width D.
        sharpness: Scale of the certainties in the softmax that orders are drawn from.
    """

    codes_N1G: Tensor
    used_GK: Tensor
    together_GGKK: Tensor

    def __init__(self, num_items: int, books: int, codes: int, dim: int, sharpness: float) -> None:
        super().__init__()
        self.books, self.sharpness = books, sharpness
        self.register_buffer("codes_N1G", torch.zeros(num_items + 1, books, dtype=torch.int64))
        self.register_buffer("used_GK", torch.ones(books, codes, dtype=torch.bool))
        pairs = (books, books, codes, codes)
        self.register_buffer("together_GGKK", torch.ones(pairs, dtype=torch.bool))
        self.values_GKD = nn.Parameter(torch.zeros(books, codes, dim))
        self.turns_GDD = nn.Parameter(torch.eye(dim).repeat(books, 1, 1))
        self.bias_GK = nn.Parameter(torch.zeros(books, codes))
        self.places_GD = nn.Parameter(INIT_STD * torch.randn(books, dim))
        self.gates_GD = nn.Parameter(torch.zeros(books - 1, dim))
        self.prefer = nn.Linear(dim, books)

    @torch.no_grad()
    def start(self, ids: SemanticIds) -> None:
        """Take over codes and codebooks, with gates closed and no preference."""
        self.codes_N1G.copy_(ids.codes_N1G)
        codes_XG = ids.codes_N1G[ids.known_N1]
        self.used_GK.fill_(False)
        self.together_GGKK.fill_(False)
        self.values_GKD.zero_()
        for book, values_KD in enumerate(ids.codebooks):
            self.values_GKD[book, : len(values_KD)] = values_KD
            self.used_GK[book, codes_XG[:, book]] = True
            for other in range(self.books):
                self.together_GGKK[book, other, codes_XG[:, book], codes_XG[:, other]] = True
        self.turns_GDD.copy_(torch.eye(self.turns_GDD.shape[1]).expand_as(self.turns_GDD))
        for zero in (self.bias_GK, self.gates_GD, self.prefer.weight, self.prefer.bias):
            zero.zero_()

    def table(self, states_BQD: Tensor) -> Tensor:
        """Log probabilities of all values of all codebooks: [B, Q, G, K]."""
        turned_BQGD = torch.einsum("bqd,gde->bqge", states_BQD, self.turns_GDD)
        logits = torch.einsum("bqge,gke->bqgk", turned_BQGD, self.values_GKD) + self.bias_GK
        return logits.float().masked_fill(~self.used_GK, NEVER).log_softmax(dim=3)

    def certainty(self, logs_BQGK: Tensor) -> Tensor:
        """1 - entropy / log(values in use) of each codebook: [B, Q, G], in 0..1."""
        entropy_BQG = -(logs_BQGK.exp() * logs_BQGK).sum(dim=3)
        return 1 - entropy_BQG / self.used_GK.sum(dim=1).clamp(min=2).log()

    def forward(
        self,
        encoder: Encoder,
        base: BasePass,
        as_query: Callable[[Tensor], Tensor],
        first_BQ: Tensor | None = None,
        noise_BQG: Tensor | None = None,
    ) -> Walk:
        """Walk from the places of a base pass.

        Args:
            encoder: What made the base pass and takes the tokens.
            base: What the base pass left, seen from the places to walk from.
            as_query: Scales states before they are compared with values.
            first_BQ: int64, start with the codebook of this rank in certainty; default the best.
            noise_BQG: Added to the scaled certainties: with Gumbel noise the order is a draw from
                their softmax, without replacement.
        """
        state = base.hidden_BQD
        tokens = encoder.start_chain()
        shape = (*state.shape[:2], self.books)
        left_BQG = torch.ones(shape, dtype=torch.bool, device=state.device)
        met_BQGK = state.new_zeros(*shape, self.bias_GK.shape[1], dtype=torch.float32)
        choice_logs_BQ = state.new_zeros(shape[:2], dtype=torch.float32)
        order: list[Tensor] = []
        for step in range(self.books):
            logs_BQGK = self.table(as_query(state))
            wish_BQG = self.sharpness * self.certainty(logs_BQGK).detach() + self.prefer(state)
            wish_BQG = wish_BQG.float().masked_fill(~left_BQG, NEVER)
            noisy_BQG = wish_BQG if noise_BQG is None else wish_BQG + noise_BQG
            book_BQ1 = noisy_BQG.masked_fill(~left_BQG, 2 * NEVER).argmax(dim=2, keepdim=True)
            if step == 0 and first_BQ is not None:
                ranked_BQG = torch.argsort(noisy_BQG, dim=2, descending=True, stable=True)
                book_BQ1 = ranked_BQG.gather(2, first_BQ[:, :, None])
            choice_logs_BQ = (
                choice_logs_BQ + wish_BQG.log_softmax(dim=2).gather(2, book_BQ1)[..., 0]
            )
            taken_BQG = torch.zeros_like(left_BQG).scatter(2, book_BQ1, True)
            met_BQGK = torch.where(taken_BQG[..., None], logs_BQGK, met_BQGK)
            left_BQG = left_BQG & ~taken_BQG
            order.append(book_BQ1)
            if step + 1 < self.books:
                shares_BQGK = (logs_BQGK.exp() * taken_BQG[..., None]).to(state.dtype)
                token_BQD = torch.einsum("bqgk,gkd->bqd", shares_BQGK, self.values_GKD)
                x_BQD = encoder.enter(token_BQD + self.places_GD[book_BQ1[:, :, 0]])
                state = state + self.gates_GD[step] * encoder.step(x_BQD, base, tokens)
        return Walk(met_BQGK, torch.cat(order, dim=2), choice_logs_BQ)

    def consistency(self, walk: Walk) -> Tensor:
        """Say how far each codebook's prediction agrees with those met before it: [B, Q, G].

        With b the likeliest value of an earlier codebook, the agreement is the probability of those
        values that some item has together with b; the least agreement counts, and the first
        codebook of a path has 1.
        """
        shares_BQGK = walk.logs_BQGK.exp()
        likeliest_BQG = walk.logs_BQGK.argmax(dim=3)
        step_BQG = torch.argsort(walk.order_BQG, dim=2)
        agreed: list[Tensor] = []
        for book in range(self.books):
            least_BQ = torch.ones_like(shares_BQGK[:, :, 0, 0])
            for before in range(self.books):
                if before == book:
                    continue
                goes_BQK = self.together_GGKK[before, book][likeliest_BQG[:, :, before]]
                mass_BQ = (shares_BQGK[:, :, book] * goes_BQK).sum(dim=2).clamp(max=1.0)
                is_later_BQ = step_BQG[:, :, book] > step_BQG[:, :, before]
                least_BQ = torch.minimum(least_BQ, torch.where(is_later_BQ, mass_BQ, 1.0))
            agreed.append(least_BQ)
        return torch.stack(agreed, dim=2)

    def merge(self, walk: Walk, power: float) -> Tensor:
        """Merge each row's paths into one table: [B, G, K].

        Log probabilities of a codebook are multiplied by its consistency to the power `power`, and
        a path counts in proportion to the product of these.
        """
        # A root has no finite gradient at 0.
        weights_BPG = self.consistency(walk).clamp(min=1e-6).pow(power)
        shares_BP = weights_BPG.prod(dim=2).clamp(min=1e-6)
        shares_BP = shares_BP / shares_BP.sum(dim=1, keepdim=True)
        return torch.einsum("bp,bpg,bpgk->bgk", shares_BP, weights_BPG, walk.logs_BQGK)

    def overcount(self, num_items: Tensor) -> Tensor:
        """How many times over the codebooks tell one of so many items from the others, 1 at least.

        That is the sum of log(values in use) over log(items). A codebook's probabilities follow
        from what the others expect, not from what they turn out to be: their logs add the same
        evidence up again and again, where what stands beside them, such as the number for repeats,
        counts in units of one choice among the items.
        """
        said = self.used_GK.sum(dim=1).log().sum()
        return (said / num_items.clamp(min=2).log()).clamp(min=1.0)

    def scores(self, tables_BGK: Tensor, start: int, stop: int) -> Tensor:
        """Sum the tables' entries of the codes of the items start..stop-1: [B, C]."""
        codes_CG = self.codes_N1G[start:stop]
        total_BC = tables_BGK.new_zeros(len(tables_BGK), len(codes_CG))
        for book in range(self.books):
            total_BC += tables_BGK[:, book, codes_CG[:, book]]
        return total_BC
