"""Two-centre repulsion, attraction and resonance: symmetry, limits and derivatives."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.atom_records import atoms, local, pair_integrals
from support.rotations import directions, distribution_rotation, orbital_rotation, random_rotation

from nddo_ml.common.struct import tensor_map
from nddo_ml.integrals.frame import axes
from nddo_ml.integrals.one_centre import one_centre
from nddo_ml.integrals.repulsion import repulsion
from nddo_ml.methods import method
from nddo_ml.orbitals import packed_pairs

S, X, Y, Z = range(4)
EXAMPLES = {(1, 1): (1, 1), (4, 1): (8, 1), (4, 4): (8, 6), (9, 1): (17, 1), (9, 4): (26, 7), (9, 9): (17, 26),
            (9, 9, "metals"): (26, 22), (4, 4, "packed"): (6, 1), (9, 4, "helium"): (17, 2), (4, 4, "helium"): (6, 2)}


def pair(name, shells, z_i, z_j, vectors, separate_core=None):
    """PairIntegrals of atoms z_i at the origin and z_j at each of the vectors (angstrom)."""
    x = torch.as_tensor(vectors, dtype=torch.float64).reshape(-1, 3)
    (A_i, E_i), (A_j, E_j) = atoms(name, [z_i] * len(x)), atoms(name, [z_j] * len(x))
    return pair_integrals(method(name), shells, x, (A_i, A_j), (E_i, E_j), separate_core)


def table(n):
    return packed_pairs(n)[2]


# --- symmetry

@pytest.mark.parametrize("name", ["PM6", "PM7"])
@pytest.mark.parametrize("example", EXAMPLES, ids=str)
def test_rotation_and_reflection(example, name):
    """w(QR) = T w T^t and the same for all other blocks, also for axes along and 1e-9 off z."""
    shells, (z_i, z_j) = example[:2], EXAMPLES[example]
    x = 2.3 * directions()
    here = pair(name, shells, z_i, z_j, x)
    for Q in (random_rotation(1), -random_rotation(2), np.diag([1.0, 1, -1]), np.diag([-1.0, 1, -1])):
        there = pair(name, shells, z_i, z_j, x @ torch.from_numpy(Q).T)
        T_i, T_j = (torch.from_numpy(distribution_rotation(Q, n)) for n in shells)
        O_i, O_j = (torch.from_numpy(orbital_rotation(Q, n)) for n in shells)
        assert (there.w - T_i @ here.w @ T_j.T).abs().max() < 1e-11
        assert (there.attraction_i - here.attraction_i @ T_i.T).abs().max() < 1e-11
        assert (there.attraction_j - here.attraction_j @ T_j.T).abs().max() < 1e-11
        assert (there.resonance - O_i @ here.resonance @ O_j.T).abs().max() < 1e-11
        assert (there.gamma - here.gamma).abs().max() < 1e-12


@pytest.mark.parametrize("name", ["PM6", "PM7"])
@pytest.mark.parametrize(("shells", "numbers"), [((4, 4), (8, 6)), ((9, 9), (17, 26)), ((9, 9), (26, 22)), ((1, 1), (1, 1))])
def test_exchange_of_the_atoms(shells, numbers, name):
    """H_AB(R) = H_BA(-R)^t."""
    x = 2.1 * directions()
    forward, backward = pair(name, shells, *numbers, x, True), pair(name, shells, *numbers[::-1], -x, True)
    assert (forward.w - backward.w.transpose(1, 2)).abs().max() < 1e-11
    assert (forward.resonance - backward.resonance.transpose(1, 2)).abs().max() < 1e-11
    assert (forward.attraction_i - backward.attraction_j).abs().max() < 1e-11
    assert (forward.attraction_j - backward.attraction_i).abs().max() < 1e-11
    assert (forward.gamma - backward.gamma).abs().max() < 1e-12


@pytest.mark.parametrize("name", ["PM6", "PM7"])
@pytest.mark.parametrize(("large", "small", "numbers"), [
    ((4, 4), (4, 1), (6, 1)), ((4, 4), (1, 1), (1, 1)), ((9, 4), (9, 1), (17, 1)), ((9, 4), (9, 1), (26, 1))])
def test_packed_evaluation_agrees_with_the_own_class(large, small, numbers, name):
    """Hydrogen treated as an sp atom: the same s entries, zero resonance of its p functions."""
    x = 1.9 * directions()
    packed_, own = pair(name, large, *numbers, x), pair(name, small, *numbers, x)
    m_i, m_j = own.w.shape[1:]
    n_i, n_j = small
    assert (packed_.w[:, :m_i, :m_j] - own.w).abs().max() < 1e-12
    assert (packed_.resonance[:, :n_i, :n_j] - own.resonance).abs().max() < 1e-12
    assert (packed_.attraction_i[:, :m_i] - own.attraction_i).abs().max() < 1e-12
    assert (packed_.attraction_j[:, :m_j] - own.attraction_j).abs().max() < 1e-12
    assert not packed_.resonance[:, n_i:].any() and not packed_.resonance[:, :, n_j:].any()
    assert all(t.isfinite().all() for t in vars(packed_).values())


@pytest.mark.parametrize("name", ["PM6", "PM7"])
@pytest.mark.parametrize(("shells", "numbers"), [
    ((4, 4), (8, 6)), ((4, 1), (8, 1)), ((1, 1), (1, 1)), ((9, 1), (17, 1)), ((9, 4), (17, 6)), ((9, 9), (17, 16))])
def test_cores_with_integrals_of_their_own_agree_with_s_distributions(shells, numbers, name):
    """For rho_core = rho0 the core attraction is -Z (ij|ss), and gamma is (ss|ss)."""
    x = 2.2 * directions()
    short, full = pair(name, shells, *numbers, x, False), pair(name, shells, *numbers, x, True)
    for key in ("w", "resonance", "attraction_i", "attraction_j", "gamma"):
        assert (getattr(short, key) - getattr(full, key)).abs().max() < 1e-11


def test_orbital_free_cores_only_attract():
    m = method("AM1")
    sparkle = next(z for z in m.species if z > 118)
    integrals = pair("AM1", (4, 0), 8, sparkle, 2.0 * directions())
    pairs = len(directions())
    assert integrals.w.shape == (pairs, 10, 0) and integrals.attraction_j.shape == (pairs, 0)
    assert integrals.resonance.shape == (0, 4, 0) and len(integrals.near) == 0
    A_i, A_j = atoms("AM1", [8])[0], atoms("AM1", [sparkle])[0]
    R = 2.0 / m.constants.bohr
    gamma = m.constants.hartree / math.sqrt(R * R + float(A_i.rho0 + A_j.rho_core)**2)
    charge = float(atoms("AM1", [sparkle])[1].core)
    assert (integrals.attraction_i[:, 0] + charge * gamma).abs().max() < 1e-12
    assert integrals.gamma.isfinite().all()
    empty = pair("AM1", (0, 0), sparkle, sparkle, 2.0 * directions())
    assert empty.w.shape == (pairs, 0, 0) and empty.gamma.isfinite().all()


def test_helium():
    """s-only towards d functions; its p functions feel no other core."""
    x = 2.0 * directions()
    with_d = pair("PM6", (9, 4), 17, 2, x)
    assert not with_d.w[:, 10:, 1:].any() and with_d.w[:, :10, 1:].any() and with_d.w[:, 10:, 0].any()
    assert not with_d.attraction_j[:, 1:].any()
    with_sp = pair("PM6", (4, 4), 6, 2, x)
    assert with_sp.w[:, 1:, 1:].any() and not with_sp.attraction_j[:, 1:].any() and with_sp.attraction_i[:, 1:].any()


# --- PM7

@pytest.mark.parametrize(("shells", "numbers"), [
    ((4, 4), (8, 6)), ((9, 1), (17, 1)), ((9, 4), (17, 6)), ((9, 9), (17, 16)), ((9, 9), (26, 26))])
def test_pm7_is_a_bare_charge_beyond_7_angstrom(shells, numbers):
    x = 7.3 * directions()
    integrals = pair("PM7", shells, *numbers, x, True)
    limit = method("PM7").constants.coulomb / 7.3
    unit = [torch.from_numpy(np.equal(*packed_pairs(n)[:2]).astype(float)) for n in shells]
    E = [atoms("PM7", [z])[1] for z in numbers]
    assert (integrals.w - limit * unit[0][:, None] * unit[1]).abs().max() < 1e-12
    assert (integrals.attraction_i + float(E[1].core) * limit * unit[0]).abs().max() < 1e-12
    assert (integrals.gamma - limit).abs().max() < 1e-12


def test_pm7_joins_smoothly():
    """Value and slope are continuous at 7 angstrom."""
    r = torch.tensor([7 - 1e-6, 7 + 1e-6], dtype=torch.float64, requires_grad=True)
    integrals = pair_at("PM7", (4, 4), 8, 6, r)
    slopes = torch.stack([torch.autograd.grad(integrals.w[:, a, a].sum(), r, retain_graph=True)[0] for a in range(10)])
    assert (integrals.w[0] - integrals.w[1]).abs().max() < 1e-5 and (slopes[:, 0] - slopes[:, 1]).abs().max() < 1e-5


def pair_at(name, shells, z_i, z_j, r):
    """PairIntegrals along a fixed direction at the distances r (angstrom)."""
    (A_i, E_i), (A_j, E_j) = atoms(name, [z_i] * len(r)), atoms(name, [z_j] * len(r))
    return pair_integrals(method(name), shells, r[:, None] * directions()[:1], (A_i, A_j), (E_i, E_j), True)


def test_pm7_equalises_averages_of_metals():
    """Fe with Fe, Cl, N, H: the means of (ii|kk) over d and over p shells equal (ss|ss); those of main-group d atoms do not."""
    x = 2.4 * directions()
    shell = {0: [0], 1: [1, 2, 3], 2: [4, 5, 6, 7, 8]}

    def mean(w, n_i, n_j, a, b):
        i, j = ([table(n)[o, o] for o in shell[l]] for n, l in ((n_i, a), (n_j, b)))
        return w[:, i][:, :, j].mean((1, 2))

    cases = {((9, 9), 26, 26): ([(2, 0), (2, 1), (2, 2), (1, 2), (0, 2)], [(1, 1), (0, 1), (1, 0)]),
             ((9, 9), 26, 17): ([(2, 0), (2, 1)], [(2, 2), (1, 2), (0, 2), (1, 1)]),
             ((9, 4), 26, 7): ([(2, 0), (2, 1)], [(1, 1), (1, 0)]), ((9, 1), 26, 1): ([(2, 0)], [(1, 0)]),
             ((9, 9), 17, 17): ([], [(2, 0), (2, 2)]), ((9, 4), 17, 7): ([], [(2, 0), (2, 1)])}
    for (shells, z_i, z_j), (equal, different) in cases.items():
        integrals = pair("PM7", shells, z_i, z_j, x)
        for a, b in equal:
            assert (mean(integrals.w, *shells, a, b) - integrals.w[:, 0, 0]).abs().max() < 1e-12
        for a, b in different:
            assert (mean(integrals.w, *shells, a, b) - integrals.w[:, 0, 0]).abs().min() > 1e-4
        core = integrals.attraction_i[:, [table(9)[o, o] for o in shell[2]]].mean(1) - integrals.attraction_i[:, 0]
        assert (core.abs().max() < 1e-11) == (z_i == 26)
        p = integrals.attraction_i[:, [table(9)[o, o] for o in shell[1]]].mean(1) - integrals.attraction_i[:, 0]
        assert (p.abs().max() < 1e-11) == (z_i == 26 and shells[1] >= 4)


# --- limits

@pytest.mark.parametrize("name", ["AM1", "PM6"])
@pytest.mark.parametrize(("shells", "numbers"), [((1, 1), (1, 1)), ((4, 4), (8, 6)), ((9, 9), (17, 17))])
def test_repulsion_at_long_range(shells, numbers, name):
    """L2: R^2 (R (ss|ss)/EV - 1) -> -(rho_A + rho_B)^2/2.

    L3: every diagonal density has monopole 1, (ss|s o) ~ D1/R^2, (s o|s o) ~ D1 D1'/R^3.
    """
    if name == "AM1" and shells[0] == 9:
        pytest.skip("no d functions in AM1")
    m = method(name)
    r = torch.tensor([20.0, 40.0, 80.0], dtype=torch.float64)
    R = r / m.constants.bohr
    z = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    integrals = pair(name, shells, *numbers, r[:, None] * z, False)
    A_i, A_j = (atoms(name, [n])[0] for n in numbers)
    EV = m.constants.hartree
    rho = float(A_i.rho0 + A_j.rho0)
    deviation = R**2 * (R * integrals.w[:, 0, 0] / EV - 1)
    assert (deviation / (-rho**2 / 2) - 1).abs().max() < 1e-2
    a, b, _ = packed_pairs(shells[0])
    diagonal = torch.from_numpy(a == b)
    assert (R[:, None] * integrals.w[:, diagonal, 0] / EV - 1).abs().max() < 5e-2
    rest = (R[:, None] * integrals.w[:, diagonal, 0] / EV - 1).abs()
    assert (rest[2] < rest[0] / 12).all()       # 1/R^2
    if shells[0] > 1:
        so = table(4)[Z, S]
        allowed = 3e-2 * (20 / r)**2 / 4     # the next term of the series is 1/R^2 smaller
        assert ((R**2 * integrals.w[:, so, 0] / EV / float(A_i.D1) - 1).abs() < allowed).all()
        assert ((R**2 * integrals.w[:, 0, so] / EV / -float(A_j.D1) - 1).abs() < allowed).all()
        dipoles = R**3 * integrals.w[:, so, so] / EV / float(A_i.D1 * A_j.D1)
        assert ((dipoles / -2 - 1).abs() < 4 * allowed).all()      # parallel dipoles in line attract: -2 D D'/R^3
        off = (R**2)[:, None] * integrals.w[:, ~diagonal, 0] / EV
        assert (off.abs() < 3).all()


@pytest.mark.parametrize("z", [1, 6, 8, 9])
def test_united_atom_limit(z):
    """L8: at R -> 0 the integrals of two equal atoms are the one-centre ones that define rho0, rho1, rho2; S -> 1."""
    n = 1 if z == 1 else 4
    m = method("AM1")
    A, E = atoms("AM1", [z])
    R = torch.tensor([1e-7], dtype=torch.float64)
    u = directions()[:1]
    w = repulsion((n, n), R, axes(u, (n, n)), A, A, m.constants.hartree)[0]
    g = one_centre(A, n)[0]
    assert abs(w[0, 0] - g[0, 0]) < 1e-6
    if n == 4:
        sp, xy = table(4)[X, S], table(4)[X, Y]
        assert abs(w[sp, sp] - g[sp, sp]) < 1e-6
        floor = max(0.1, float(A.g_pp - A.g_p2) / 2)
        # the square quadrupole defines rho2; in a fixed frame that is (po|po)
        assert abs(local(4, 4, R, A, A, m.constants.hartree).view(10, 10)[6, 6] - floor) < 1e-6
        assert abs(w[xy, xy]) < 5 * floor
    integrals = pair_integrals(m, (n, n), R * m.constants.bohr * u, (A, A), (E, E), False)
    beta = torch.stack([A.beta_s, *[A.beta_p] * 3], 1)[0, :n]
    assert (integrals.resonance[0] - torch.diag(beta)).abs().max() < 1e-4


def test_pairs_beyond_reach_have_no_resonance():
    x = torch.tensor([[14.0, 0, 0], [0, 3.0, 0], [0, 0, 15.1], [0, 0, -2.0]], dtype=torch.float64)
    integrals = pair("PM6", (9, 9), 26, 26, x)
    assert integrals.near.tolist() == [0, 1, 3] and integrals.resonance.shape == (3, 9, 9)
    assert (integrals.resonance[2] - pair("PM6", (9, 9), 26, 26, x[3:]).resonance[0]).abs().max() < 1e-12
    assert pair("PM6", (9, 9), 26, 26, 16.0 * directions()).resonance.shape == (0, 9, 9)


# --- derivatives

@pytest.mark.parametrize("name", ["PM6", "PM7"])
@pytest.mark.parametrize("example", EXAMPLES, ids=str)
def test_derivatives_by_position(example, name):
    """First and second derivatives through R and u, in general position and along both z half axes."""
    shells, (z_i, z_j) = example[:2], EXAMPLES[example]
    m = method(name)
    (A_i, E_i), (A_j, E_j) = atoms(name, [z_i] * 3), atoms(name, [z_j] * 3)
    g = torch.Generator().manual_seed(0)

    def f(x):
        t = pair_integrals(m, shells, x, (A_i, A_j), (E_i, E_j), True)
        values = (t.w, t.resonance, t.attraction_i, t.attraction_j, t.gamma)
        g.manual_seed(1)
        return torch.stack([(v * torch.randn(v.shape, dtype=v.dtype, generator=g)).sum() for v in values])

    x = torch.tensor([[0.0, 0.0, 1.7], [0.0, 0.0, -2.1], [0.9, -1.1, 0.7]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(f, x)
    assert torch.autograd.gradgradcheck(f, x)


@pytest.mark.parametrize(("shells", "numbers"), [((4, 4), (8, 6)), ((4, 1), (8, 1)), ((9, 4), (17, 6)), ((9, 9), (17, 26))])
def test_derivatives_by_parameters(shells, numbers):
    """Every exponent, separation, additive term and beta: gradcheck and gradgradcheck of all blocks together."""
    m = method("PM6")
    (A_i, E_i), (A_j, E_j) = (atoms("PM6", [z]) for z in numbers)
    names = [k for k in vars(A_i) if k.startswith(("zeta", "beta", "D", "Q", "rho"))]
    x = torch.tensor([[0.9, -1.1, 0.7]], dtype=torch.float64)
    g = torch.Generator()

    def f(p_i, p_j):
        A, B = (replace(a, **dict(zip(names, p.unbind(1), strict=True))) for a, p in ((A_i, p_i), (A_j, p_j)))
        t = pair_integrals(m, shells, x, (A, B), (E_i, E_j), True)
        g.manual_seed(1)
        values = (t.w, t.resonance, t.attraction_i, t.attraction_j, t.gamma)
        return torch.stack([(v * torch.randn(v.shape, dtype=v.dtype, generator=g)).sum() for v in values])

    p = [torch.stack([getattr(a, k) for k in names], 1) for a in (A_i, A_j)]
    p = [torch.where(t == 0, 0.8, t).requires_grad_() for t in p]      # what an atom does not have must not matter
    assert torch.autograd.gradcheck(f, p)
    assert torch.autograd.gradgradcheck(f, p)


def test_derivatives_of_hydrogen_treated_as_an_sp_atom_are_finite():
    """The empty p shell (zeta_p = 0, D1 = Q = 0) gives no NaN to second order, by positions and by all parameters."""
    m = method("AM1")
    (A_i, E_i), (A_j, E_j) = atoms("AM1", [6, 1]), atoms("AM1", [1, 1])
    leaves = []

    def leaf(t):
        leaves.append(t.clone().requires_grad_())
        return leaves[-1]

    A_i, A_j = tensor_map(leaf, A_i), tensor_map(leaf, A_j)
    x = torch.tensor([[0.0, 0.0, 1.1], [0.5, 0.6, -0.9]], dtype=torch.float64, requires_grad=True)
    t = pair_integrals(m, (4, 4), x, (A_i, A_j), (E_i, E_j), True)
    value = sum((v * v).sum() for v in (t.w, t.resonance, t.attraction_i, t.attraction_j, t.gamma))
    first = torch.autograd.grad(value, [x, *leaves], create_graph=True, allow_unused=True)
    first = [g for g in first if g is not None]
    second = torch.autograd.grad(sum((g * g).sum() for g in first), [x, *leaves], allow_unused=True)
    assert all(g.isfinite().all() for g in (*first, *second) if g is not None)
