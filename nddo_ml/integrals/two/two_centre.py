"""All integrals of a class of pairs: repulsion, resonance, attraction by the other core, and the charge-charge interaction of the cores."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nddo_ml.integrals.two.configurations import terms
from nddo_ml.integrals.two.frame import distribution_rotation, frames, orbital_rotation
from nddo_ml.integrals.nuclear import gamma as core_interaction
from nddo_ml.integrals.two.overlap import CUTOFF, NEGLIGIBLE, local_block, overlaps
from nddo_ml.integrals.two.repulsion import interactions, local_repulsion, parameters
from nddo_ml.orbitals import packed_pairs
from nddo_ml.struct import record, tensor_map

JOIN, WIDTH = 7.0, 0.22   # angstrom, 1/angstrom^2: PM7's joining function
HELIUM = 2
ANGULAR = {1: 0, 4: 1, 9: 2}


@record
class PairIntegrals:
    """Integrals of a class of pairs, eV, laboratory frame: repulsion w over packed products, resonance blocks of the pairs `near` (indices), attraction of
    the products of i by the core of j and the reverse, interaction gamma of unit cores.
    """

    w: Float[Tensor, "pair m_i m_j"]
    near: Int[Tensor, "near"]
    resonance: Float[Tensor, "near n_i n_j"]
    attraction_i: Float[Tensor, "pair m_i"]
    attraction_j: Float[Tensor, "pair m_j"]
    gamma: Float[Tensor, "pair"]


def two_centre(shells, R, u, A_i, A_j, E_i, E_j, constants, join: bool, separate_core: bool) -> PairIntegrals:
    """Integrals of pairs with n_i >= n_j orbitals (`shells`); R in angstrom, u unit vectors from i to j, A the AtomIntegrals and E the Elements of
    each pair's atoms. join: PM7's joining to point charges; separate_core: some core has additive terms of its own.
    """
    n_i, n_j = shells
    bohr = R / constants.bohr
    gamma = core_interaction(bohr, A_i.rho_core, A_j.rho_core, constants)
    m_i, m_j = (n * (n + 1) // 2 for n in shells)
    w, v_i, v_j = R.new_zeros(len(R), m_i, m_j), R.new_zeros(len(R), m_i), R.new_zeros(len(R), m_j)
    near, resonance = torch.arange(0, device=R.device), R.new_zeros(0, n_i, n_j)
    if n_i:
        frame = frames(u)
        O_i = orbital_rotation(frame, n_i)
        T_i = distribution_rotation(O_i)
        if n_j:
            O_j = O_i if n_i == n_j else orbital_rotation(frame, n_j)
            T_j = T_i if n_i == n_j else distribution_rotation(O_j)
            helium = E_j.number == HELIUM if n_i == 9 and n_j == 4 else None
            w = local_repulsion(shells, bohr, A_i, A_j, constants.hartree, helium)
            near, resonance = _resonance(shells, R, bohr, A_i, A_j, E_i, E_j, O_i, O_j)
        if separate_core or not n_j:
            v_i = local_attraction(n_i, bohr, A_i, A_j, E_i, constants.hartree)
            v_j = local_attraction(n_j, bohr, A_j, A_i, E_j, constants.hartree, reverse=True) if n_j else v_j
        else:
            v_i, v_j = w[:, :, 0], w[:, 0]
        if join:
            w, v_i, v_j, gamma = _joined(shells, R, w, v_i, v_j, gamma, E_i, E_j, constants)
        w = T_i @ w @ T_j.mT if n_j else w
        v_i = (T_i @ (-E_j.core[:, None] * v_i)[..., None])[..., 0]
        v_j = (T_j @ (-E_i.core[:, None] * v_j)[..., None])[..., 0] if n_j else v_j
    elif join:
        gamma = _joining(R) * gamma + _point_charge(R, constants)
    return PairIntegrals(w, near, resonance, v_i, v_j, gamma)


def local_attraction(orbitals, R, A, A_core, E, hartree, reverse=False) -> Float[Tensor, "pair m"]:
    """Interaction of the products of an atom with a unit charge at the other, local frame, eV; helium feels it in its s function only.

    reverse: the atom is j, so its z axis points away from the charge.
    """
    t = terms(orbitals, 1, core=True)
    d, rho = parameters(A, A_core)
    # sp products take rho1c and rho2c here, as the integrals with d functions do
    v = interactions(t, R, d, rho, hartree).index_select(1, t.place.to(R.device))
    if reverse:
        v = v * _parity(orbitals).to(v.device)
    first = torch.arange(v.shape[1], device=v.device) == 0
    return torch.where((E.number == HELIUM)[:, None] & ~first, torch.zeros_like(v), v)


def _parity(orbitals):
    """-1 for products that change sign with the z axis, and vanish by symmetry unless they contain it once."""
    a, b, _ = packed_pairs(orbitals)
    odd = torch.tensor([l in (3, 5, 7) for l in range(9)])
    return torch.where(odd[a] != odd[b], -1.0, 1.0).to(torch.float64)


def _resonance(shells, R, bohr, A_i, A_j, E_i, E_j, O_i, O_j):
    """Pairs close enough for an overlap, and 1/2 (beta_i + beta_j) S_ij for them."""
    l_i, l_j = ANGULAR[shells[0]], ANGULAR[shells[1]]
    slowest = torch.minimum(_least(A_i, l_i), _least(A_j, l_j)).detach()
    keep = (R.detach() < CUTOFF) & (bohr.detach() * slowest < NEGLIGIBLE)
    if not bool(keep.all()):
        near = keep.nonzero()[:, 0]
        select = (lambda t: t.index_select(0, near))
        bohr, O_i, O_j = select(bohr), select(O_i), select(O_j)
        A_i, A_j, E_i, E_j = (tensor_map(select, x) for x in (A_i, A_j, E_i, E_j))
    else:
        near = torch.arange(len(R), device=R.device)
    n_i, n_j = (torch.stack([E.n_s, E.n_p, E.n_d], 1) for E in (E_i, E_j))
    z_i, z_j = (torch.stack([A.zeta_s, A.zeta_p, A.zeta_d], 1) for A in (A_i, A_j))
    S = local_block(l_i, l_j, overlaps(l_i, l_j, bohr, n_i[:, :l_i + 1], n_j[:, :l_j + 1], z_i[:, :l_i + 1], z_j[:, :l_j + 1]))
    S = O_i @ S @ O_j.mT
    return near, 0.5 * (_beta(A_i, l_i)[:, :, None] + _beta(A_j, l_j)[:, None, :]) * S


def _least(A, l):
    zeta = torch.stack([A.zeta_s, A.zeta_p, A.zeta_d][:l + 1], 1)
    return torch.where(zeta > 0, zeta, torch.inf).amin(1)


def _beta(A, l):
    return torch.cat([x[:, None].expand(-1, 2 * k + 1) for k, x in enumerate((A.beta_s, A.beta_p, A.beta_d)[:l + 1])], 1)


def _joining(R):
    """PM7's weight of the multipole integrals: 1 - exp[-0.22 (r - 7)^2] below 7 angstrom, 0 beyond."""
    return torch.where(R < JOIN, -torch.expm1(-WIDTH * (R - JOIN).square()), 0.0)


def _point_charge(R, constants):
    """What joining adds to a unit charge-charge integral."""
    return (1 - _joining(R)) * constants.coulomb / R


def _joined(shells, R, w, v_i, v_j, gamma, E_i, E_j, constants):
    """PM7: integrals joined to those of point charges, then Coulomb integrals of transition metals levelled to (ss|ss). Stewart 2013."""
    weight, point = _joining(R), _point_charge(R, constants)
    same_i, same_j = _shell(shells[0], None, R), _shell(shells[1], None, R)
    w = weight[:, None, None] * w + point[:, None, None] * same_i[:, None] * same_j
    v_i = weight[:, None] * v_i + point[:, None] * same_i
    v_j = weight[:, None] * v_j + point[:, None] * same_j
    gamma = weight * gamma + point
    metal_i, metal_j = (E_i.occ_d > 0) & (shells[0] == 9), (E_j.occ_d > 0) & (shells[1] == 9)
    if bool(metal_i.any()) or bool(metal_j.any()):
        for l_i, l_j, which in ((2, 1, metal_i), (2, 0, metal_i), (2, 2, metal_i & metal_j), (1, 2, metal_j), (0, 2, metal_j)):
            if shells[0] >= (l_i + 1) ** 2 and shells[1] >= (l_j + 1) ** 2:
                a, b = _shell(shells[0], l_i, R), _shell(shells[1], l_j, R)
                block = a[:, None] * b
                mean = (w * block).sum((1, 2)) / block.sum()
                w = w + (which * (w[:, 0, 0] - mean))[:, None, None] * block
        v_i = _levelled(shells[0], v_i, metal_i, E_j.n_ao >= 4, R)
        v_j = _levelled(shells[1], v_j, metal_j, E_i.n_ao >= 4, R)
    return w, v_i, v_j, gamma


def _levelled(orbitals, v, metal, partner_has_p, like):
    """Core attraction of the p and d shells of a transition metal levelled to that of its s shell."""
    for l in (1, 2):
        if orbitals >= (l + 1) ** 2:
            shell = _shell(orbitals, l, like)
            mean = (v * shell).sum(1) / shell.sum()
            where = metal if l == 2 else metal & partner_has_p
            v = v + (where * (v[:, 0] - mean))[:, None] * shell
    return v


def _shell(orbitals, l, like):
    """1 for the packed products i i of shell l (of all shells if None), else 0."""
    a, b, _ = packed_pairs(orbitals)
    of = torch.tensor([0, 1, 1, 1, 2, 2, 2, 2, 2])[a]
    return (torch.from_numpy(a == b) & ((of == l) if l is not None else torch.ones_like(of, dtype=torch.bool))).to(like)
