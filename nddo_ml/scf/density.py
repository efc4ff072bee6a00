"""From a Fock matrix to a density: the other half of the fixed point D = density(fock(D)).

Levels are filled in order of energy (aufbau). Occupations per spin channel are fixed in advance (1, or a fraction in the open
shell of a half-electron state), or smeared by Fermi's function while a difficult case is being annealed. Padded orbitals lie
above every real level and are never occupied.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nddo_ml.common.struct import record

Matrices = Float[Tensor, "molecule spin orbital orbital"]

PADDING = 1.0e3   # eV above zero: the levels of padded orbitals during diagonalisation


@record
class Orbitals:
    """Orbitals of a batch."""

    C: Float[Tensor, "molecule spin orbital level"]     # coefficients; columns are orbitals
    eps: Float[Tensor, "molecule spin level"]           # energies, eV
    f: Float[Tensor, "molecule spin level"]             # occupations, 0 to 1


# Orbitals of Fock matrices F (molecule, spin, orbital, orbital) from (F, real, occupations), see `diagonalise`
DensityBuilder = Callable[[Tensor, Tensor, Tensor], Orbitals]


def aufbau(alpha: Int[Tensor, "molecule"], beta: Int[Tensor, "molecule"], spins: int, size: int
           ) -> Float[Tensor, "molecule spin level"]:
    """Occupations of `size` levels in ascending order by alpha and beta electrons.

    One spin channel: the closed shells hold 1 and the alpha - beta open orbitals hold 1/2 each (half-electron). Two: 1 up to
    each count.
    """
    level = torch.arange(size, device=alpha.device)
    up, down = ((level[None] < n[:, None]).to(torch.float64) for n in (alpha, beta))
    return ((up + down) / 2)[:, None] if spins == 1 else torch.stack([up, down], 1)


def fermi(eps: Float[Tensor, "molecule spin level"], electrons: Float[Tensor, "molecule spin"], temperature: float,
          real: Float[Tensor, "molecule level"]) -> Float[Tensor, "molecule spin level"]:
    """Fermi occupations at `temperature` (eV) of levels eps (eV) that add up to `electrons` in each channel; bisection for the
    chemical potential. real: 0 for padding."""
    highest = torch.where(real[:, None] > 0, eps, eps.amin(-1, keepdim=True))
    low, high = eps.amin(-1) - 50 * temperature - 1, highest.amax(-1) + 50 * temperature + 1
    for _ in range(60):
        middle = (low + high) / 2
        many = (torch.sigmoid((middle[..., None] - eps) / temperature) * real[:, None]).sum(-1) > electrons
        low, high = torch.where(many, low, middle), torch.where(many, middle, high)
    return torch.sigmoid(((low + high) / 2)[..., None] / temperature - eps / temperature) * real[:, None]


def diagonalise(F: Float[Tensor, "molecule spin orbital orbital"], real: Float[Tensor, "molecule orbital"],
                occupations: Float[Tensor, "molecule spin orbital"]) -> Orbitals:
    """Canonical orbitals of F; padded ones (`real` 0) come last."""
    if F.shape[0] > 1:
        F = F + torch.diag_embed((1 - real) * PADDING)[:, None].to(F.dtype)
    eps, C = torch.linalg.eigh(F)
    return Orbitals(C, eps, occupations.to(F.dtype))


def density(orbitals: Orbitals, occupied: int | None = None) -> Float[Tensor, "molecule spin orbital orbital"]:
    """D = C f C^T; only the first `occupied` levels are read where that many can be occupied."""
    C, f = orbitals.C[..., :occupied], orbitals.f[..., :occupied]
    return (C * f[..., None, :]) @ C.mT
