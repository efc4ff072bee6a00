"""Attraction of the electrons of one atom by the core of another.

The core is a charge with its own additive term: V_ij = -Z (ij|core). Where that term is rho0 this is -Z times the integral with
the partner's ss distribution, so nothing new has to be computed. There is no penetration term; the rest is in U.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from nddo_ml.integrals.configurations import CORE
from nddo_ml.integrals.frame import packed
from nddo_ml.integrals.repulsion import diagonal, local_integrals, shell_traces

HELIUM = 2


def attraction(n: int, R: Float[Tensor, "pair"], along, A, other, hartree: float) -> Float[Tensor, "pair m"]:
    """(ij|core) over the packed distributions of atoms with n orbitals, eV; R in bohr.

    along: harmonics of the unit vector from the electrons to the core; A: AtomIntegrals of the electrons' atom, other: of the core's.
    """
    local = local_integrals(n, CORE, R, A, other, hartree)
    return local if n == 1 else packed(local * along, n)


def joined_attraction(V: Float[Tensor, "pair m"], n: int, weight: Float[Tensor, "pair"], limit: Float[Tensor, "pair"]):
    """PM7: weight V + limit delta_ij, for a unit charge."""
    return V * weight[:, None] + limit[:, None] * diagonal(n, V.device)


def without_helium_p(V: Float[Tensor, "pair m"], E) -> Float[Tensor, "pair m"]:
    """V, where helium keeps only its ss element: its p functions feel no other core."""
    first = torch.arange(V.shape[1], device=V.device) == 0
    return torch.where(first | (E.number != HELIUM)[:, None], V, 0.0)


def equalised_attraction(V: Float[Tensor, "pair m"], n: int, E, E_other) -> Float[Tensor, "pair m"]:
    """PM7: in atoms with d electrons the mean of V_ii over d, and over p if the core has p functions, becomes V_ss."""
    unit, mean = shell_traces(n, V.device)
    d = E.occ_d > 0
    where = torch.stack((torch.zeros_like(d), d & (E_other.n_ao >= 4), d)[:len(unit)], 1)
    return V + torch.where(where, V[:, :1] - V @ mean.T, 0.0) @ unit
