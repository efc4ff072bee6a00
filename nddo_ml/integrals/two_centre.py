"""All integrals between two atoms, for a group of pairs of one class at once."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nddo_ml.common.struct import record
from nddo_ml.integrals.attraction import attraction, equalised_attraction, joined_attraction
from nddo_ml.integrals.frame import frame, harmonics, rotations
from nddo_ml.integrals.overlap import SlaterClasses, resonance, slater_classes
from nddo_ml.integrals.repulsion import equalised, helium_without_d, joined, point_charge, repulsion, with_charges
from nddo_ml.units import Constants


@record
class PairIntegrals:
    """Two-centre integrals of a group of pairs (eV, laboratory frame): w (pair, m_i, m_j) the repulsion of packed
    distributions; near, the pairs that overlap, and their resonance (near, n_i, n_j); attraction_i (pair, m_i) of the electrons
    at i by the core of j, attraction_j the reverse; gamma (pair) the interaction of two unit cores.
    """

    w: Float[Tensor, "pair m_i m_j"]
    near: Int[Tensor, "near"]
    resonance: Float[Tensor, "near n_i n_j"]
    attraction_i: Float[Tensor, "pair m_i"]
    attraction_j: Float[Tensor, "pair m_j"]
    gamma: Float[Tensor, "pair"]


def two_centre(shells, R: Float[Tensor, "pair"], u: Float[Tensor, "pair 3"], A_i, A_j, E_i, E_j, constants: Constants,
               join: Callable | None, separate_core: bool, classes: SlaterClasses | None = None, factors=None,
               fade: Callable | None = None) -> PairIntegrals:
    """The integrals of pairs whose atoms are treated with shells = (n_i, n_j) orbitals, n_i >= n_j, each 0, 1, 4 or 9.

    R in angstrom, u from i to j; A, E: AtomIntegrals and Elements of the two atoms of each pair. An atom treated with p
    functions it does not have (zeta_p = beta_p = 0) gets zero resonance there; its other p entries are finite and meaningless.
    join: weight of the multipole integrals against point charges, as repulsion.published_join; fade: factor of the resonance
    integrals, as overlap.fade (None: 1). separate_core: needed if any atom has rho_core != rho0, rho1c != rho1 or
    rho2c != rho2, is helium, or has d electrons (occ_d > 0); otherwise the cores take the integrals of the s distributions.
    classes: slater_classes(shells, E_i, E_j), to be kept for a given set of atoms. factors: see overlap.resonance.
    """
    n_i, n_j = shells
    r, hartree = R / constants.bohr, constants.hartree
    own_core = separate_core or n_j == 0
    T_i = T_j = O_i = O_j = along = None
    if n_j >= 4:
        T_i, O_i = rotations(frame(u), n_i)
        T_j, O_j = (T_i, O_i) if n_j == n_i else (T_i[:, :10, :10], O_i[:, :4, :4])
    if n_i >= 4 and (n_j < 4 or own_core):
        along = harmonics(u, n_i)
    w = repulsion(shells, r, T_i, T_j, along, A_i, A_j, hartree)
    if separate_core and shells == (9, 4):
        w = helium_without_d(w, E_j)
    weight, limit = point_charge(join, R, constants) if join else (None, None)
    if own_core:
        V_i = attraction(n_i, r, along, A_i, A_j, E_i, hartree)
        V_j = attraction(n_j, r, harmonics(-u, n_j) if n_j >= 4 else None, A_j, A_i, E_j, hartree)
        gamma = hartree * torch.rsqrt(r * r + (A_i.rho_core + A_j.rho_core).square())
    if join:
        w = joined(w, shells, weight, limit)
        if own_core:
            V_i, V_j = joined_attraction(V_i, n_i, weight, limit), joined_attraction(V_j, n_j, weight, limit)
            gamma = gamma * weight + limit
    if not own_core:
        V_i, V_j = with_charges(w)
        gamma = V_i[:, 0]
    if join and separate_core and n_i == 9:
        w = equalised(w, shells, E_i, E_j)
        V_i, V_j = equalised_attraction(V_i, n_i, E_i, E_j), equalised_attraction(V_j, n_j, E_j, E_i)
    classes = slater_classes(shells, E_i, E_j) if classes is None else classes
    near, H = resonance(shells, r, O_i, O_j, along, A_i, A_j, classes, constants.bohr, factors)
    if fade is not None:
        H = H * fade(R.index_select(0, near))[:, None, None]
    return PairIntegrals(w, near, H, -A_j.core[:, None] * V_i, -A_i.core[:, None] * V_j, gamma)
