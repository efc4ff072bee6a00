"""Attraction of the electrons of one atom by the core of another.

The core is a charge with its own additive term: V_ij = -Z (ij|core). Where that term is rho0 this is -Z times the integral with
the partner's ss distribution, so nothing new has to be computed. There is no penetration term; the rest is in U.

Dewar, Thiel, JACS 99, 4899 (1977); PM7: Stewart, J. Mol. Model. 19, 1 (2013).
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from nddo_ml.integrals.configurations import CORE, charge_kernel
from nddo_ml.integrals.frame import packed
from nddo_ml.integrals.multipole import AtomIntegrals
from nddo_ml.integrals.pair_species import HELIUM
from nddo_ml.integrals.parameters import Elements
from nddo_ml.integrals.repulsion import diagonal, features, local_integrals, shell_traces


def attraction(
    n: int, R: Float[Tensor, "pair"], along: Float[Tensor, "pair component"] | None, atoms: AtomIntegrals,
    rho_core: Float[Tensor, "pair"], hartree: float,
) -> Float[Tensor, "pair m"]:
    """(ij|core) over the packed distributions of `atoms` with n orbitals, for a unit charge as the core, eV.

    R and rho_core, the additive term of the core, in bohr; along: `harmonics` of the atoms for the unit vectors to the cores
    (None: s functions only).
    """
    if n == 0:
        return R.new_zeros(len(R), 0)
    kernel = charge_kernel(n, CORE, hartree, R.device)
    V = local_integrals(kernel, R, features(atoms, kernel.features_i), [rho_core])
    return V if along is None else packed(V * along, n)


def helium_p_functions(V: Float[Tensor, "pair m"], n: int, elements: Elements) -> Float[Tensor, "pair m"]:
    """V over distributions of atoms with n orbitals, without those of the p functions of helium: they feel no other core."""
    if n != 4:
        return V
    ss = torch.arange(V.shape[1], device=V.device) == 0
    return torch.where(ss | (elements.number != HELIUM)[:, None], V, 0.0)


def joined_attraction(
    V: Float[Tensor, "pair m"], n: int, weight: Float[Tensor, "pair"], limit: Float[Tensor, "pair"]
) -> Float[Tensor, "pair m"]:
    """PM7: weight V + limit delta_ij, eV, for a unit charge; weight and limit from `repulsion.point_charge`."""
    return V * weight[:, None] + limit[:, None] * diagonal(n, V.device)


def equalised_attraction(
    V: Float[Tensor, "pair m"], n: int, elements: Elements, partner_has_p: Bool[Tensor, "pair"]
) -> Float[Tensor, "pair m"]:
    """PM7: in atoms with d electrons the mean of V_ii over d, and over p if the core has p functions, becomes V_ss."""
    if n == 0:
        return V
    unit, mean = shell_traces(n, V.device)
    d = elements.occ_d > 0
    where = torch.stack((torch.zeros_like(d), d & partner_has_p, d)[:len(unit)], 1)
    return V + torch.where(where, V[:, :1] - V @ mean.T, 0.0) @ unit
