"""Attraction of the electrons of one atom by the core of another.

The core is a charge with its own additive term: V_ij = -Z (ij|core). Where that term is rho0 this is -Z times the integral with
the partner's ss distribution, so nothing new has to be computed. There is no penetration term; the rest is in U.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from nddo_ml.integrals.configurations import CORE
from nddo_ml.integrals.frame import packed
from nddo_ml.integrals.repulsion import HELIUM, diagonal, local_integrals, shell_traces


def attraction(n: int, R: Float[Tensor, "pair"], along, A, other, E, hartree: float) -> Float[Tensor, "pair m"]:
    """(ij|core) over the packed distributions of atoms with n orbitals, eV; R in bohr.

    along: harmonics of the unit vector from the electrons to the core; A, E: of the electrons' atom; other: AtomIntegrals of
    the core's. The p functions of helium feel no other core.
    """
    if n == 0:
        return R.new_zeros(len(R), 0)
    V = local_integrals(n, CORE, R, A, other, hartree)
    if n == 1:
        return V
    V = packed(V * along, n)
    if n > 4:
        return V
    ss = torch.arange(V.shape[1], device=V.device) == 0
    return torch.where(ss | (E.number != HELIUM)[:, None], V, 0.0)


def joined_attraction(V: Float[Tensor, "pair m"], n: int, weight: Float[Tensor, "pair"], limit: Float[Tensor, "pair"]):
    """PM7: weight V + limit delta_ij, for a unit charge."""
    return V * weight[:, None] + limit[:, None] * diagonal(n, V.device)


def equalised_attraction(V: Float[Tensor, "pair m"], n: int, E, E_other) -> Float[Tensor, "pair m"]:
    """PM7: in atoms with d electrons the mean of V_ii over d, and over p if the core has p functions, becomes V_ss."""
    if n == 0:
        return V
    unit, mean = shell_traces(n, V.device)
    d = E.occ_d > 0
    where = torch.stack((torch.zeros_like(d), d & (E_other.n_ao >= 4), d)[:len(unit)], 1)
    return V + torch.where(where, V[:, :1] - V @ mean.T, 0.0) @ unit
