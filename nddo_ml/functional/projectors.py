"""Projections of the density matrix onto Gaussians on every atom, and what a part of a functional that reads them must be.

D^A = T^A P T^A' per spin, with T^A the overlaps of the Gaussians on atom A with the orbitals.
DeePKS: Chen, Zhang, Wang & E, J. Chem. Theory Comput. 17, 170 (2021).
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


@dataclass(frozen=True)
class Projectors:
    """The Gaussians on every atom."""

    s: tuple[float, ...] = (0.12, 0.5, 2.0)     # exponents of those of angular momentum 0, bohr^-2
    p: tuple[float, ...] = (0.2, 0.8)           # exponents of those of angular momentum 1, bohr^-2

    @property
    def shells(self) -> list[tuple[int, float]]:
        """(angular momentum, exponent) of each shell, in the order of the projectors."""
        return [(0, x) for x in self.s] + [(1, x) for x in self.p]

    @property
    def count(self) -> int:
        """How many projectors an atom carries."""
        return len(self.s) + 3 * len(self.p)


class NonlocalPart(nn.Module):
    """A part of a functional that sees the density matrix by its projections; forms/projection.Projected is one.

    Whatever runs functionals needs these three things of it, and differentiates `forward` as often as it must.
    """

    projectors: Projectors
    config: dict[str, Any]      # the settings that make it again, as plain values of JSON

    def forward(self, D: Float[Tensor, "spin atom projector projector"], numbers: Int[Tensor, "atom"]) -> Float[Tensor, ""]:
        """The energy, hartree, of the projections of both spins and the atomic numbers."""
        raise NotImplementedError(f"{type(self).__name__} must define forward(D, numbers), its energy.")


def projected(T: Float[Tensor, "atom projector orbital"], P: Float[Tensor, "spin orbital orbital"],
              ) -> Float[Tensor, "spin atom projector projector"]:
    """D = T P T' of every atom and spin, from the overlaps T and the density matrices P."""
    half = torch.einsum("aki,sij->sakj", T, P)
    return torch.einsum("sakj,alj->sakl", half, T)
