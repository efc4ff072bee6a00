"""Atom-centred symmetry functions: fixed descriptors, the baseline to message passing.

Radial: sum over the neighbours of one element of Gaussians of the distance. Angular: sums over pairs of neighbours, of two
elements, of (cos theta)^l times a radial function of each; since cos theta = u.u', they are products of moments sum g(R) u...u,
and cost no loop over triples. `whiten` replaces them by their principal components of unit variance over a set of atoms.
J. Behler, M. Parrinello, Phys. Rev. Lett. 98, 146401 (2007); J. Behler, J. Chem. Phys. 134, 074106 (2011)
"""

from collections.abc import Sequence
from itertools import combinations_with_replacement

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from nddo_ml.errors import UnknownOption
from nddo_ml.networks.environment import Environment, check_sizes, switch
from nddo_ml.networks.message_passing import Features

FIRST = 0.7                 # angstrom: the innermost radial function
ANGULAR = (1.0, 2.2)        # angstrom: widths of the radial functions of the angular ones
HIGHEST = 3                 # power of cos theta
SMALLEST = 1e-6             # relative variance of a principal component that is kept


class SymmetryFunctions(nn.Module):
    """Features of atoms from symmetry functions through two layers: `channels` scalars, no vectors.

    cutoff is in angstrom; `radial` Gaussians of the distance are summed for each element.

    Raises:
        UnknownOption: a size is out of its range.
    """

    centres: Float[Tensor, "radial"]        # of the Gaussians, angstrom
    exponent: Float[Tensor, ""]             # of the Gaussians, 1/angstrom^2
    first: Int[Tensor, "elements"]          # the two elements of each pair of them
    second: Int[Tensor, "elements"]
    mean: Float[Tensor, "function"]         # subtracted from the symmetry functions
    whitening: Float[Tensor, "function function"]       # then applied to them

    def __init__(self, species: Sequence[int], channels: int = 32, cutoff: float = 5.0, radial: int = 8):
        super().__init__()
        check_sizes(cutoff, 1.5, channels=channels, radial=radial)       # the Gaussians lie from 0.7 to cutoff - 0.5
        self.config = dict(channels=channels, cutoff=cutoff, radial=radial)
        self.channels, self.vectors, self.cutoff, self.kinds = channels, 0, cutoff, len(species)
        centres = torch.linspace(FIRST, cutoff - 0.5, radial, dtype=torch.float64)
        self.register_buffer("centres", centres, persistent=False)
        self.register_buffer("exponent", 0.5 / (centres[1] - centres[0]).square() if radial > 1 else centres.new_tensor(1.0),
                             persistent=False)
        first, second = zip(*combinations_with_replacement(range(self.kinds), 2), strict=True)
        self.register_buffer("first", torch.tensor(first), persistent=False)
        self.register_buffer("second", torch.tensor(second), persistent=False)
        size = self.kinds * radial + len(first) * HIGHEST * len(ANGULAR)
        self.register_buffer("mean", torch.zeros(size, dtype=torch.float64))
        self.register_buffer("whitening", torch.eye(size, dtype=torch.float64))
        self.element = nn.Embedding(self.kinds, channels)
        self.layers = nn.Sequential(nn.Linear(size, 2 * channels), nn.SiLU(), nn.Linear(2 * channels, channels), nn.SiLU())

    def forward(self, env: Environment) -> Features:
        values = (self.descriptors(env) - self.mean) @ self.whitening
        e = self.element(env.kind)
        s = self.layers(values.to(e.dtype)) + e
        return Features(s, s.new_zeros(len(s), 3, 0))

    def descriptors(self, env: Environment) -> Float[Tensor, "atom function"]:
        """The symmetry functions themselves: radial by element, then angular by pair of elements."""
        atoms, f = len(env.kind), switch(env.R, self.cutoff) * env.open
        here = env.centre * self.kinds + env.kind.index_select(0, env.neighbour)

        def moments(values: Float[Tensor, "edge moment"]) -> Float[Tensor, "atom element moment"]:
            return values.new_zeros(atoms * self.kinds, values.shape[1]).index_add(0, here, values).view(atoms, self.kinds, -1)

        gaussians = torch.exp(-self.exponent * (env.R[:, None] - self.centres).square()) * f[:, None]
        functions = [moments(gaussians).flatten(1)]
        power = torch.ones_like(env.u[:, :1])
        for _ in range(HIGHEST):
            power = (power[:, :, None] * env.u[:, None, :]).flatten(1)
            for width in ANGULAR:
                g = f * torch.exp(-(env.R / width).square() / 2)
                M = moments(power * g[:, None])
                functions.append((M.index_select(1, self.first) * M.index_select(1, self.second)).sum(-1))
        return torch.cat(functions, 1)

    @torch.no_grad()
    def whiten(self, descriptors: Float[Tensor, "atom function"]) -> None:
        """Use the principal components of these descriptors, of unit variance, from now on.

        Directions in which nothing varies are left out.

        Raises:
            UnknownOption: there are fewer than two atoms.
        """
        if len(descriptors) < 2:
            raise UnknownOption("Whitening needs the descriptors of two atoms or more.")
        centred = descriptors - descriptors.mean(0)
        variance, axes = torch.linalg.eigh(centred.T @ centred / len(centred))
        kept = variance > SMALLEST * variance[-1]
        scale = torch.where(kept, torch.where(kept, variance, 1.0).rsqrt(), 0.0)
        self.mean.copy_(descriptors.mean(0))
        self.whitening.copy_(axes * scale)
