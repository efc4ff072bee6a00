"""A variational autoencoder of CI vectors along a dissociation: the wavefunctions of a whole curve from a few latent numbers.

A reference space of multi-reference theory spans the important part of every wavefunction with a few determinants; the decoder
does the same with a few coordinates. A decoded vector is normalised, and its energy is its Rayleigh quotient with the
Hamiltonian of the geometry, an upper bound of full CI.                         D. P. Kingma, M. Welling, arXiv:1312.6114
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


class VectorAutoencoder(nn.Module):
    """An encoder of CI vectors to the mean and log variance of `latent` numbers, and a decoder to normalised vectors."""

    def __init__(self, determinants: int, latent: int = 2, width: int = 64, seed: int = 0):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.encoder = nn.Sequential(nn.Linear(determinants, width), nn.Tanh(), nn.Linear(width, 2 * latent)).double()
            self.decoder = nn.Sequential(nn.Linear(latent, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(),
                                         nn.Linear(width, determinants)).double()

    def encode(self, vectors: Float[Tensor, "geometry determinant"]) -> tuple[Float[Tensor, "geometry latent"],
                                                                                   Float[Tensor, "geometry latent"]]:
        """(mean, log variance) of the code of each vector."""
        return self.encoder(vectors).chunk(2, -1)

    def decode(self, z: Float[Tensor, "geometry latent"]) -> Float[Tensor, "geometry determinant"]:
        """The normalised vector of each code."""
        return nn.functional.normalize(self.decoder(z), dim=-1)

    def forward(self, vectors: Float[Tensor, "geometry determinant"]) -> Float[Tensor, "geometry determinant"]:
        """The vectors decoded from the means of their codes."""
        return self.decode(self.encode(vectors)[0])


def continuous(vectors: Float[Tensor, "geometry determinant"]) -> Float[Tensor, "geometry determinant"]:
    """Vectors along a path, their signs chosen so that neighbours overlap positively."""
    path = [vectors[0]]
    for v in vectors[1:]:
        path.append(v if float(v @ path[-1]) >= 0 else -v)
    return torch.stack(path)


def overlaps(a: Float[Tensor, "geometry determinant"], b: Float[Tensor, "geometry determinant"]) -> Float[Tensor, "geometry"]:
    """|<a|b>| of normalised vectors."""
    return (a * b).sum(-1).abs()


@dataclass(frozen=True)
class AutoencoderTraining:
    """How an autoencoder is trained."""

    steps: int = 3000           # of Adam, each with all vectors
    rate: float = 3e-3          # learning rate of the first step; it falls to 0 as a cosine
    divergence: float = 1e-6    # weight of the divergence of the codes from a standard normal distribution
    seed: int = 0               # of the noise on the codes


def fit_autoencoder(model: VectorAutoencoder, vectors: Float[Tensor, "geometry determinant"],
                    training: AutoencoderTraining = AutoencoderTraining(),
                    report: Callable[[int, float], None] = lambda done, loss: None) -> float:
    """Train the model in place and return the mean overlap of the vectors with what it makes of them.

    The loss is 1 - <v|decoded>^2 at a code drawn from its distribution, plus `divergence` times KL(code | standard normal).
    """
    generator = torch.Generator().manual_seed(training.seed)
    optimiser = torch.optim.Adam(model.parameters(), lr=training.rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, training.steps)
    for k in range(training.steps):
        mean, log = model.encode(vectors)
        noise = torch.randn(mean.shape, generator=generator, dtype=mean.dtype)
        decoded = model.decode(mean + (0.5 * log).exp() * noise)
        kl = 0.5 * (mean.square() + log.exp() - 1 - log).sum(-1)
        loss = (1 - (decoded * vectors).sum(-1).square() + training.divergence * kl).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        report(k + 1, float(loss.detach()))
    with torch.no_grad():
        return float(overlaps(model(vectors), vectors).mean())


def heaviest(vectors: Float[Tensor, "geometry determinant"], size: int) -> Int[Tensor, "size"]:
    """The indices of the determinants whose weight, averaged over the geometries, is largest: a reference space."""
    return vectors.square().mean(0).topk(size).indices
