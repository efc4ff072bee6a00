"""A variational autoencoder over CI vectors along a dissociation: the wavefunctions of a whole curve from a few latent numbers.

The analogue of a reference space in multi-reference theory: as that space spans the important part of every wavefunction with
a few determinants, the decoder spans it with a few coordinates. A decoded vector is normalised and its energy is the Rayleigh
quotient with the Hamiltonian of the geometry, an upper bound of the full CI.   D. P. Kingma, M. Welling, arXiv:1312.6114
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn


class VectorAutoencoder(nn.Module):
    """Encoder to the mean and log variance of `latent` numbers, decoder to a normalised vector."""

    def __init__(self, determinants: int, latent: int = 2, width: int = 64, seed: int = 0):
        super().__init__()
        kept = torch.random.get_rng_state()
        torch.manual_seed(seed)
        self.encoder = nn.Sequential(nn.Linear(determinants, width), nn.Tanh(), nn.Linear(width, 2 * latent)).double()
        self.decoder = nn.Sequential(nn.Linear(latent, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(),
                                     nn.Linear(width, determinants)).double()
        torch.random.set_rng_state(kept)

    def encode(self, vectors: Float[Tensor, "geometry determinant"]) -> tuple[Tensor, Tensor]:
        """(mean, log variance) `geometry latent`."""
        return self.encoder(vectors).chunk(2, -1)

    def decode(self, z: Float[Tensor, "geometry latent"]) -> Float[Tensor, "geometry determinant"]:
        """Normalised vectors."""
        return nn.functional.normalize(self.decoder(z), dim=-1)

    def forward(self, vectors: Float[Tensor, "geometry determinant"]) -> Float[Tensor, "geometry determinant"]:
        """The vectors decoded from the means of their codes."""
        return self.decode(self.encode(vectors)[0])


def continuous(vectors: Float[Tensor, "geometry determinant"]) -> Float[Tensor, "geometry determinant"]:
    """Vectors along a path with signs chosen so that neighbours overlap positively."""
    made = [vectors[0]]
    for v in vectors[1:]:
        made.append(v if float(v @ made[-1]) >= 0 else -v)
    return torch.stack(made)


def overlaps(a: Float[Tensor, "geometry determinant"], b: Float[Tensor, "geometry determinant"]) -> Float[Tensor, "geometry"]:
    """|<a|b>| of normalised vectors."""
    return (a * b).sum(-1).abs()


def fit(model: VectorAutoencoder, vectors: Float[Tensor, "geometry determinant"], steps: int = 3000, rate: float = 3e-3,
        divergence: float = 1e-6, seed: int = 0, report: Callable[[int, float], None] = lambda done, loss: None) -> float:
    """Mean overlap after training: loss 1 - <v|decoded>^2 at a sampled code + divergence * KL(code | standard normal)."""
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam(model.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for k in range(steps):
        mean, log = model.encode(vectors)
        noise = torch.randn(mean.shape, generator=generator, dtype=mean.dtype)
        found = model.decode(mean + (0.5 * log).exp() * noise)
        kl = 0.5 * (mean.square() + log.exp() - 1 - log).sum(-1)
        loss = (1 - (found * vectors).sum(-1).square() + divergence * kl).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        report(k + 1, float(loss.detach()))
    with torch.no_grad():
        return float(overlaps(model(vectors), vectors).mean())


def heaviest(vectors: Float[Tensor, "geometry determinant"], size: int) -> Float[Tensor, "size"]:
    """The determinants with the largest weight averaged over the geometries: a reference space selected by weight."""
    return vectors.square().mean(0).topk(size).indices
