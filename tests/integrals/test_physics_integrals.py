"""The physics of the integrals themselves, atom by atom and pair by pair, for every model: the part of test_physics.py that
needs no self-consistent field. Symmetry of two-centre blocks (S), limits of distance (L), positivity of the parameters (Q).
"""

import pytest
import torch
from ase.data import covalent_radii
from support.atom_records import core_interaction, pair_integrals
from support.physics_models import ELECTRONIC, holds, model, rotation
from support.rotations import distribution_rotation, orbital_rotation

from nddo_ml.integrals.nuclear import core_parameters, pair_values
from nddo_ml.integrals.one_centre import one_centre
from nddo_ml.integrals.pair_species import has_own_core
from nddo_ml.integrals.parameters import gather
from nddo_ml.orbitals import packed_pairs

electronic = pytest.mark.parametrize("name", ELECTRONIC)
ORGANIC = (1, 6, 7, 8, 9, 15, 16, 17, 35, 53)
PAIRS = ((1, 1), (6, 1), (8, 6), (17, 16), (53, 35))
METALS = {"PM6": ((26, 28), (26, 8)), "PM7": ((26, 28), (26, 8)), "MNDO/d": ((30, 13), (17, 12))}
Z_AXIS = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)


def data(name, numbers):
    """AtomIntegrals, AtomParameters and Elements of atoms."""
    m = model(name)
    rows = m.method.rows(torch.as_tensor(numbers))
    known = m.rows()
    return gather(known.atoms, rows), gather(known.fitted, rows), gather(m.method.elements, rows)


def integrals(name, pair, vectors):
    """PairIntegrals, AtomIntegrals, Elements of a pair at each of the vectors (angstrom), the larger shell first."""
    A, P, E = data(name, pair)
    x = torch.as_tensor(vectors, dtype=torch.float64).reshape(-1, 3)
    sides = [torch.full((len(x),), k) for k in (0, 1)]
    shells, atoms, elements = (tuple(E.n_ao.tolist()), *(tuple(gather(record, k) for k in sides) for record in (A, E)))
    return pair_integrals(model(name).method, shells, x, atoms, elements, bool(has_own_core(P.rho_core, E).any())), A, E


def ordered(name, pair):
    """The pair with the larger shell first."""
    n = data(name, pair)[2].n_ao
    return pair if int(n[0]) >= int(n[1]) else pair[::-1]


def pairs(name):
    """Pairs of elements to test a model on."""
    return [ordered(name, p) for p in PAIRS + METALS.get(name, ())]


def along(*distances):
    return [[0.0, 0.0, d] for d in distances]


# --- symmetry

@electronic
def test_S3_covariance(name):
    """H(QR) = D(Q) H D(Q)^T, w(QR) = T(Q) w T(Q)^T, for rotations and reflections."""
    for pair in pairs(name):
        x = torch.tensor([0.9, -0.7, 1.3], dtype=torch.float64)
        for seed, sign in ((1, 1.0), (2, -1.0)):
            Q = rotation(seed) * sign
            two, _, E = integrals(name, pair, torch.stack([x, Q @ x]))
            D_i, D_j = (torch.as_tensor(orbital_rotation(Q, int(n))) for n in E.n_ao)
            holds("S3 resonance", name, (D_i @ two.resonance[0] @ D_j.T - two.resonance[1]).abs().max(), 1e-11, str(pair))
            T_i, T_j = (torch.as_tensor(distribution_rotation(Q, int(n))) for n in E.n_ao)
            holds("S3 repulsion", name, (T_i @ two.w[0] @ T_j.T - two.w[1]).abs().max(), 1e-11, str(pair))
            holds("S3 attraction", name, (T_i @ two.attraction_i[0] - two.attraction_i[1]).abs().max(), 2e-11, str(pair))


@electronic
def test_S3_S5_exchange_of_the_atoms(name):
    """H_AB(R) = H_BA(-R)^T and (ij|kl) = (kl|ij), seen from either atom; also for two different elements of one class."""
    for pair in [(8, 6), (17, 16), (53, 35), *METALS.get(name, ())]:
        if len(set(data(name, pair)[2].n_ao.tolist())) > 1:
            continue
        x = torch.tensor([0.8, 0.9, -1.2], dtype=torch.float64)
        there, back = integrals(name, pair, x)[0], integrals(name, pair[::-1], -x)[0]
        holds("S3 exchange", name, (there.resonance - back.resonance.mT).abs().max(), 1e-11, str(pair))
        holds("S5 exchange", name, (there.w - back.w.mT).abs().max(), 1e-12, str(pair))
        holds("S5 exchange", name, (there.attraction_i - back.attraction_j).abs().max(), 1e-11, str(pair))


@electronic
def test_S5_local_frame(name):
    """Along z only the 22 unique integrals of two sp atoms are there, and (xy|xy) = 1/2 [(xx|xx) - (xx|yy)]."""
    two, _, _ = integrals(name, (7, 6), along(1.3))
    w, t = two.w[0], packed_pairs(4)[2]
    S, X, Y, Z = range(4)
    xy = w[t[X, Y], t[X, Y]]
    holds("S5 xy", name, xy - (w[t[X, X], t[X, X]] - w[t[X, X], t[Y, Y]]) / 2, 1e-12)
    kinds = {(S, S): 0, (Z, S): 0, (Z, Z): 0, (X, X): 0, (Y, Y): 0, (X, S): 1, (Z, X): 1, (Y, S): 2, (Z, Y): 2, (Y, X): 3}
    symmetry = {t[a, b]: m for (a, b), m in kinds.items()}
    zero = [w[p, q].abs() for p in range(10) for q in range(10) if symmetry[p] != symmetry[q]]
    holds("S5 zero", name, max(zero), 1e-12)
    equal = [w[t[X, S], q1] - w[t[Y, S], q2] for q1, q2 in ((t[X, S], t[Y, S]), (t[Z, X], t[Z, Y]))]
    equal += [w[t[Z, X], q1] - w[t[Z, Y], q2] for q1, q2 in ((t[X, S], t[Y, S]), (t[Z, X], t[Z, Y]))]
    equal += [w[p, t[X, X]] - w[p, t[Y, Y]] for p in (t[S, S], t[Z, S], t[Z, Z])]
    holds("S5 equal", name, max(e.abs() for e in equal), 1e-12)


# --- limits

@electronic
def test_L1_resonance_decays(name):
    for pair in pairs(name):
        two, _, _ = integrals(name, pair, along(12.0))
        value = two.resonance.abs().max() if len(two.near) else 0.0
        holds("L1", name, value, 1e-8, str(pair))


@electronic
def test_L2_monopoles(name):
    """R^2 ((ss|ss) R/EV - 1) = -(rho_A + rho_B)^2/2 at 20 and 50 angstrom; for H-H in AM1 -2.237 and -2.242 bohr^2."""
    c = model(name).method.constants
    for pair in pairs(name):
        R = torch.tensor([20.0, 50.0], dtype=torch.float64) / c.bohr
        two, A, _ = integrals(name, pair, along(20.0, 50.0))
        deviation = two.w[:, 0, 0] * R / c.hartree - 1
        expected = -A.rho0.sum().square() / 2
        holds("L2 leading", name, (deviation * R * R / expected - 1).abs().max(), 0.01, str(pair))
        if pair == (1, 1):
            holds("L2 at 50 A", name, deviation[1], 2.6e-4)
        if pair == (1, 1) and name == "AM1":
            assert torch.allclose(deviation * R * R, torch.tensor([-2.237, -2.242], dtype=torch.float64), atol=1e-3)


@electronic
def test_L3_multipoles(name):
    """(sz|ss) R^2 -> D1, (sz|sz) R^3 -> -2 D1 D1' (one common axis), (ss|pp) R -> 1, constant over 20, 40, 80 angstrom."""
    c = model(name).method.constants
    two, A, _ = integrals(name, (8, 6), along(20.0, 40.0, 80.0))
    R, t = torch.tensor([20.0, 40.0, 80.0], dtype=torch.float64) / c.bohr, packed_pairs(4)[2]
    w, sz = two.w / c.hartree, t[3, 0]
    holds("L3 dipole", name, (w[:, sz, 0] * R**2 / A.D1[0] - 1).abs().max(), 0.005)
    holds("L3 dipoles", name, (w[:, sz, sz] * R**3 / (-2 * A.D1[0] * A.D1[1]) - 1).abs().max(), 0.005)
    for z in range(4):
        monopole = w[:, t[z, z], 0] * R
        extrapolated = (4 * monopole[2] - monopole[1]) / 3
        holds("L3 monopole", name, extrapolated - 1, 1e-6)
    quadrupole = ((w[:, t[3, 3], 0] - w[:, t[1, 1], 0]) * R**3)
    holds("L3 quadrupole", name, (quadrupole / (3 * A.Q[0]**2) - 1).abs().max(), 0.005)


@electronic
def test_L4_neutral_atoms_do_not_interact(name):
    """Two neutral spherical atoms of an element at 15 angstrom, kcal/mol: electrons, cores and their attraction cancel.

    Exactly where all charges share one additive term; the traces of the linear quadrupoles of p shells leave R^-7, different
    terms of core, s and d charges -(sum q rho)^2/R^3.
    """
    m = model(name).method
    for z, n in zip(m.elements.number.tolist(), m.elements.n_ao.tolist(), strict=True):
        if n == 0 or z > 83:
            continue
        two, _, E = integrals(name, (z, z), along(15.0))
        q = population(E, n)
        electrons = q @ two.w[0] @ q + two.attraction_i[0] @ q + two.attraction_j[0] @ q
        energy = float(electrons + E.core[0]**2 * two.gamma[0]) * m.constants.kcal_mol
        kind = "H C N O" if z in (1, 6, 7, 8) else "d electrons" if float(E.occ_d[0]) > 0 else "others"
        holds(f"L4 {kind}", name, energy, 1e-6, str(z))


def population(E, n):
    """Electrons of a neutral spherical atom over packed distributions."""
    q = torch.zeros(n * (n + 1) // 2, dtype=torch.float64)
    t = packed_pairs(n)[2]
    occupied = [float(E.occ_s[0])] + [float(E.occ_p[0]) / 3] * 3 + [float(E.occ_d[0]) / 5] * 5
    missing = float(E.core[0]) - sum(occupied[:n])
    occupied[0] += missing
    for k in range(n):
        q[t[k, k]] = occupied[k]
    return q


@electronic
def test_L5_core_short_range_vanishes(name):
    """E_core - Z_A Z_B gamma at 10 angstrom, every pair of organic elements."""
    m = model(name)
    i, j = (torch.tensor(k) for k in zip(*[(a, b) for k, a in enumerate(ORGANIC) for b in ORGANIC[k:]], strict=True))
    R = torch.full((len(i),), 10.0, dtype=torch.float64)
    holds("L5", name, short_range(m, i, j, R)[0].abs().max(), 1e-8)


def short_range(m, i, j, R):
    """Core-core energy without Z_A Z_B gamma, and with it, eV."""
    method, known = m.method, m.rows()
    A, P, pairs, rows = known.atoms, known.fitted, known.pairs, (method.rows(i), method.rows(j))
    rules = method.core_rules(*rows)
    gamma = core_interaction(method, gather(A, rows[0]), gather(A, rows[1]), tuple(gather(method.elements, k) for k in rows), R)
    first, second = (core_parameters(gather(P, k)) for k in rows)
    total = method.core_core.energy(rules, R, gamma, first, second, pair_values(pairs, rules))
    return total - rules.charge * gamma, total


@electronic
def test_L8_united_atom(name):
    """R -> 0: (ss|ss) -> EV/(rho_A + rho_B); two equal atoms -> one-centre g_ss, h_sp, h_pp; overlap -> 1."""
    c = model(name).method.constants
    for z in (1, 6, 8, 9, 17):
        two, A, E = integrals(name, (z, z), along(1e-6))
        w = two.w[0]
        holds("L8 g_ss", name, w[0, 0] - A.g_ss[0], 1e-6, str(z))
        holds("L8 overlap", name, two.resonance[0, 0, 0] - A.beta_s[0], 1e-6, str(z))
        if int(E.n_ao[0]) >= 4:
            t = packed_pairs(int(E.n_ao[0]))[2]
            holds("L8 h_sp", name, w[t[3, 0], t[3, 0]] - A.h_sp[0], 1e-6, str(z))
            h_pp = (A.g_pp[0] - A.g_p2[0]) / 2
            holds("L8 h_pp", name, w[t[3, 1], t[3, 1]] - h_pp.clamp(min=0.1), 1e-6, str(z))
            holds("L8 overlap", name, two.resonance[0, 3, 3] - A.beta_p[0], 1e-6, str(z))
    two, A, _ = integrals(name, (8, 6), along(1e-6))
    holds("L8 hetero", name, two.w[0, 0, 0] - c.hartree / A.rho0.sum(), 1e-6)


@electronic
def test_L9_core_repulsion(name):
    """V_nuc >= 0 and falling from 0.2 angstrom to 0.6 of the sum of covalent radii, all pairs of organic elements."""
    i, j = (torch.tensor(k) for k in zip(*[(a, b) for k, a in enumerate(ORGANIC) for b in ORGANIC[k:]], strict=True))
    radii = torch.from_numpy(covalent_radii)
    for fraction in torch.linspace(0, 1, 9, dtype=torch.float64):
        R = (0.2 + fraction * (0.6 * (radii[i] + radii[j]) - 0.2).clamp(min=0)).requires_grad_()
        V = short_range(model(name), i, j, R)[1]
        slope, = torch.autograd.grad(V.sum(), R)
        bad = ~((V >= 0) & (slope < 0))
        holds("L9 core", name, bad.sum(), 0, str(torch.stack([i, j], 1)[bad].tolist()[:8]))


# --- quality

@electronic
def test_Q1_positivity(name):
    """Exponents, one-centre integrals, additive terms positive; g_pp > g_p2; g_sp >= h_sp; (AA|AA) positive semi-definite."""
    numbers = list(ORGANIC)
    A, _, E = data(name, numbers)
    p = E.n_ao >= 4
    assert bool((A.zeta_s > 0).all()) and bool((A.g_ss > 0).all())
    assert all(bool((getattr(A, k)[p] > 0).all()) for k in ("zeta_p", "g_sp", "g_pp", "h_sp"))
    assert all(bool((getattr(A, f"rho{k}") > 0).all()) for k in ("0", "1", "2", "_core")), "roots of rho are real and positive"
    broken = {f"g_pp > g_p2 {z}": float(d) for z, d in zip(numbers, A.g_pp - A.g_p2, strict=True) if z != 1 and d <= 0}
    broken |= {f"g_sp >= h_sp {z}": float(d) for z, d in zip(numbers, A.g_sp - A.h_sp, strict=True) if z != 1 and d < 0}
    lowest = torch.linalg.eigvalsh(one_centre(A, 4))[:, 0]
    broken |= {f"eigenvalue {z}": float(e) for z, e in zip(numbers, lowest, strict=True) if z != 1 and e < -1e-10}
    listed = POSITIVITY_BREAKS.get(name.removesuffix("-smooth"), {})     # the parameters are the parent's
    rounded = {k: round(v, 3) for k, v in broken.items()}
    assert rounded == listed, f"Q1 {name}: {rounded}"


# published tables, method: {what and element: eV}. g and h of an atom were fitted apart: no charge distribution has them
_C_O_F = {"eigenvalue 6": -0.426, "eigenvalue 8": -0.086, "eigenvalue 9": -1.62}
POSITIVITY_BREAKS: dict[str, dict[str, float]] = {
    "MNDO": _C_O_F | {"eigenvalue 15": -0.754, "eigenvalue 16": -0.618, "eigenvalue 17": -1.057, "eigenvalue 35": -0.933,
                      "eigenvalue 53": -0.969},
    "AM1": _C_O_F | {"eigenvalue 17": -1.057, "eigenvalue 35": -0.933, "eigenvalue 53": -0.969},
    "PM3": {"eigenvalue 9": -5.327, "eigenvalue 35": -8.174, "eigenvalue 53": -9.688},
    "RM1": {"eigenvalue 7": -0.621, "eigenvalue 8": -2.106, "eigenvalue 9": -1.443, "eigenvalue 17": -0.859,
            "eigenvalue 35": -4.863},
    "MNDO/d": _C_O_F,
    "PM6": {"g_pp > g_p2 9": -3.762, "eigenvalue 6": -0.045, "eigenvalue 8": -6.899, "eigenvalue 9": -10.998,
            "eigenvalue 15": -0.138, "eigenvalue 53": -1.819},
    "PM7": {"g_pp > g_p2 9": -3.134, "eigenvalue 6": -1.539, "eigenvalue 8": -5.174, "eigenvalue 9": -8.951,
            "eigenvalue 15": -5.542, "eigenvalue 53": -2.687},
}
