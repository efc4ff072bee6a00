"""All integrals between two atoms, for a group of pairs of one class at once.

A group is described by three records: what its elements decide (`PairSpecies`), what its atoms bring (`AtomIntegrals` of atoms
i and of atoms j) and what the method prescribes (`Recipe`). The integrals follow from them, R and u.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nddo_ml.common.struct import record
from nddo_ml.integrals.attraction import attraction, equalised_attraction, helium_p_functions, joined_attraction
from nddo_ml.integrals.frame import Axes, axes, harmonics
from nddo_ml.integrals.multipole import AtomIntegrals
from nddo_ml.integrals.overlap import resonance
from nddo_ml.integrals.pair_species import PairSpecies
from nddo_ml.integrals.recipe import Recipe
from nddo_ml.integrals.repulsion import equalised, helium_without_d, joined, point_charge, repulsion, with_charges


@record
class PairIntegrals:
    """Two-centre integrals of a group of pairs, eV, in the laboratory frame."""

    w: Float[Tensor, "pair m_i m_j"]            # repulsion of packed distributions
    near: Int[Tensor, "near"]                   # the pairs whose orbitals overlap
    resonance: Float[Tensor, "near n_i n_j"]    # their resonance integrals
    attraction_i: Float[Tensor, "pair m_i"]     # of the electrons at i by the core of j
    attraction_j: Float[Tensor, "pair m_j"]     # of the electrons at j by the core of i
    gamma: Float[Tensor, "pair"]                # interaction of two unit cores


def two_centre(
    species: PairSpecies, R: Float[Tensor, "pair"], u: Float[Tensor, "pair 3"], atoms: tuple[AtomIntegrals, AtomIntegrals],
    recipe: Recipe, factors: Float[Tensor, "pair orbitals"] | None = None,
) -> PairIntegrals:
    """The integrals of a group of pairs; R in angstrom, u from i to j, `atoms` i and j of each pair.

    An atom treated with p functions it does not have (zeta_p = beta_p = 0) gets zero resonance there; its other p entries are
    finite and meaningless. factors: of the resonance integrals, see `overlap.resonance`.
    """
    (n_i, n_j), (atoms_i, atoms_j), constants = species.shells, atoms, recipe.constants
    r, hartree = R / constants.bohr, constants.hartree
    own_core = species.separate_core or n_j == 0
    turned = axes(u, species.shells, own_core)
    w = repulsion(species.shells, r, turned, atoms_i, atoms_j, hartree)
    if species.separate_core and species.shells == (9, 4):
        w = helium_without_d(w, species.elements_j)
    if own_core:
        V_i, V_j, gamma = _own_cores(species, r, u, turned, atoms, hartree)
        if recipe.join is not None:
            weight, limit = point_charge(recipe.join, R, constants)
            w = joined(w, species.shells, weight, limit)
            V_i, V_j = joined_attraction(V_i, n_i, weight, limit), joined_attraction(V_j, n_j, weight, limit)
            gamma = gamma * weight + limit
    else:
        if recipe.join is not None:
            w = joined(w, species.shells, *point_charge(recipe.join, R, constants))
        V_i, V_j = with_charges(w)
        gamma = V_i[:, 0]
    if recipe.join is not None and species.separate_core and n_i == 9:
        w = equalised(w, species) if n_j else w
        V_i = equalised_attraction(V_i, n_i, species.elements_i, species.elements_j.n_ao >= 4)
        V_j = equalised_attraction(V_j, n_j, species.elements_j, species.elements_i.n_ao >= 4)
    near, H = resonance(species, r, turned, atoms, constants.bohr, factors)
    if recipe.fade is not None:
        H = H * recipe.fade(R.index_select(0, near))[:, None, None]
    return PairIntegrals(w, near, H, -atoms_j.core[:, None] * V_i, -atoms_i.core[:, None] * V_j, gamma)


def _own_cores(
    species: PairSpecies, r: Float[Tensor, "pair"], u: Float[Tensor, "pair 3"], turned: Axes,
    atoms: tuple[AtomIntegrals, AtomIntegrals], hartree: float,
) -> tuple[Float[Tensor, "pair m_i"], Float[Tensor, "pair m_j"], Float[Tensor, "pair"]]:
    """(ij|core) of atom i, (kl|core) of atom j and gamma = (core|core) by the additive terms rho_core, eV; r in bohr.

    gamma = EV / sqrt(r^2 + (rho_core,i + rho_core,j)^2) tends to EV/r.
    """
    (n_i, n_j), (atoms_i, atoms_j) = species.shells, atoms
    along_j = harmonics(-u, n_j) if n_j >= 4 else None
    V_i = helium_p_functions(attraction(n_i, r, turned.along, atoms_i, atoms_j.rho_core, hartree), n_i, species.elements_i)
    V_j = helium_p_functions(attraction(n_j, r, along_j, atoms_j, atoms_i.rho_core, hartree), n_j, species.elements_j)
    return V_i, V_j, hartree * torch.rsqrt(r * r + (atoms_i.rho_core + atoms_j.rho_core).square())
