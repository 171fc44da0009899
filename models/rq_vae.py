"""RQ-VAE: an autoencoder whose middle is a sum of codebook vectors, one per level.

Shape legend: X vectors, V width, D latent width, G levels, K values of a codebook.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional

from models.clustering import k_means, nearest

REVIVE_EVERY_EPOCHS = 10


class RqVaeConfig(BaseModel):
    """Settings of an RQ-VAE.

    Attributes:
        levels: Codes G of a vector.
        codes: Values K of a code.
        hidden: Widths between V and D.
        latent: Width D that is quantised.
        commitment: Weight of the latents' way to their codebook vectors.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    levels: int = Field(default=3, ge=1)
    codes: int = Field(default=256, ge=2)
    hidden: tuple[int, ...] = (256, 128, 64)
    latent: int = Field(default=32, ge=1)
    commitment: float = Field(default=0.25, ge=0)
    epochs: int = Field(default=300, ge=1)
    batch_size: int = Field(default=1024, ge=1)
    lr: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=1e-4, ge=0)
    seed: int = 0


class RqVae(nn.Module):
    """Encoder, codebooks and decoder.

    Source: Zeghidour et al., SoundStream (arXiv 2107.03312); for items Rajput et al., TIGER
    (arXiv 2305.05065). Widths, commitment and optimiser follow LC-Rec (arXiv 2311.09049). Codebooks
    start from k-means of the first latents, as TIGER's do. Inference: values that nothing falls to
    are moved to the latents farthest from theirs, every `REVIVE_EVERY_EPOCHS` epochs; vectors are
    centred and scaled first, since those of unit length have tiny coordinates.
    """

    mean_V: Tensor
    scale: Tensor

    def __init__(self, width: int, config: RqVaeConfig) -> None:
        super().__init__()
        widths = (width, *config.hidden, config.latent)
        self.encoder = _layers(widths)
        self.decoder = _layers(widths[::-1])
        self.books_GKD = nn.Parameter(torch.zeros(config.levels, config.codes, config.latent))
        self.register_buffer("mean_V", torch.zeros(width))
        self.register_buffer("scale", torch.ones(1))
        self.config = config

    def encode(self, vectors_XV: Tensor) -> Tensor:
        """Turn vectors into latents [X, D]."""
        latents_XD: Tensor = self.encoder((vectors_XV - self.mean_V) / self.scale)
        return latents_XD

    def decode(self, latents_XD: Tensor) -> Tensor:
        """Turn latents, or what is left of them, into vectors [X, V]."""
        rebuilt_XV: Tensor = self.decoder(latents_XD) * self.scale + self.mean_V
        return rebuilt_XV

    def quantise(self, latents_XD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Code latents level by level.

        Returns:
            Codes int64 [X, G]; the sum of their codebook vectors [X, D], by which gradients pass to
            the latents unchanged; and the quantisation loss.
        """
        left_XD = latents_XD
        summed_XD = torch.zeros_like(latents_XD)
        loss = latents_XD.new_zeros(())
        columns = []
        for book_KD in self.books_GKD:
            codes_X, _ = nearest(left_XD.detach(), book_KD.detach())
            chosen_XD = book_KD[codes_X]
            loss = loss + functional.mse_loss(chosen_XD, left_XD.detach())
            held = functional.mse_loss(left_XD, chosen_XD.detach())
            loss = loss + self.config.commitment * held
            left_XD = left_XD - chosen_XD.detach()
            summed_XD = summed_XD + chosen_XD
            columns.append(codes_X)
        passed_XD = latents_XD + (summed_XD - latents_XD).detach()
        return torch.stack(columns, dim=1), passed_XD, loss

    def loss(self, vectors_XV: Tensor) -> Tensor:
        """Mean squared error of what is rebuilt, as a share of variance, plus quantisation's."""
        _, quantised_XD, loss = self.quantise(self.encode(vectors_XV))
        missed_XV = (self.decode(quantised_XD) - vectors_XV) / self.scale
        return missed_XV.square().mean() + loss

    @torch.no_grad()
    def start(self, vectors_XV: Tensor) -> None:
        """Set the scale, and each codebook by k-means of what the levels before leave over."""
        self.mean_V.copy_(vectors_XV.mean(dim=0))
        spread = (vectors_XV - self.mean_V).square().mean().sqrt()
        self.scale.fill_(float(spread) or 1.0)
        left_XD = self.encode(vectors_XV)
        for level, book_KD in enumerate(self.books_GKD):
            found = k_means(left_XD, len(book_KD), seed=self.config.seed + level)
            # Fewer vectors than values: the rest lies where nothing is nearest to it.
            book_KD.fill_(2 * float(left_XD.abs().max()) + 1)
            book_KD[: len(found.centres_KD)] = found.centres_KD
            left_XD = left_XD - found.centres_KD[found.assigned_X]

    @torch.no_grad()
    def revive(self, vectors_XV: Tensor) -> int:
        """Move values that nothing falls to; returns how many."""
        left_XD = self.encode(vectors_XV)
        moved = 0
        for book_KD in self.books_GKD:
            codes_X, gaps_X = nearest(left_XD, book_KD)
            unused = (torch.bincount(codes_X, minlength=len(book_KD)) == 0).nonzero()[:, 0]
            farthest = torch.argsort(gaps_X, descending=True, stable=True)[: len(unused)]
            farthest = farthest[gaps_X[farthest] > 0]
            book_KD[unused[: len(farthest)]] = left_XD[farthest]
            moved += len(farthest)
            codes_X, _ = nearest(left_XD, book_KD)
            left_XD = left_XD - book_KD[codes_X]
        return moved


def fit_rq_vae(
    vectors_XV: Tensor, config: RqVaeConfig, note: Callable[[int], None] = lambda _: None
) -> RqVae:
    """Train an RQ-VAE; equal vectors and config give equal weights on one machine.

    Args:
        vectors_XV: Finite vectors.
        config: Its settings.
        note: Told how many epochs are done, after each.

    Raises:
        ValueError: If there is no vector.
    """
    if len(vectors_XV) == 0:
        raise ValueError("an RQ-VAE needs at least one vector, got 0")
    vectors_XV = vectors_XV.float()
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        model = RqVae(vectors_XV.shape[1], config)
    model.start(vectors_XV)
    generator = torch.Generator().manual_seed(config.seed)
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=config.lr, weight_decay=config.weight_decay
    )
    for epoch in range(config.epochs):
        # The last epochs leave the codebooks to settle.
        if epoch and epoch % REVIVE_EVERY_EPOCHS == 0 and epoch < 0.9 * config.epochs:
            model.revive(vectors_XV)
        order_X = torch.randperm(len(vectors_XV), generator=generator)
        for rows in torch.split(order_X, config.batch_size):
            optimiser.zero_grad()
            loss = model.loss(vectors_XV[rows])
            loss.backward()
            optimiser.step()
        note(epoch + 1)
    return model.eval()


def _layers(widths: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])
