"""Overlaps of Slater functions against high-precision arithmetic and against plain numerical integration."""

import math
from dataclasses import replace

import mpmath
import numpy as np
import pytest
import torch
from support.atom_records import made_up
from support.rotations import directions

from nddo_ml.integrals.frame import axes
from nddo_ml.integrals.multipole import AtomIntegrals
from nddo_ml.integrals.overlap import ANGULAR, REACH, overlap_constants, reach, resonance
from nddo_ml.integrals.pair_species import SlaterClasses, pair_species
from nddo_ml.integrals.parameters import Elements
from nddo_ml.units import CODATA_2018

BOHR = CODATA_2018.bohr
ORBITALS = {0: 1, 1: 4, 2: 9}


def atoms(n, zeta, numbers):
    """AtomIntegrals and Elements, as far as overlaps read them, of one atom: beta = 1, so that the resonance is the overlap."""
    def t(x):
        return torch.tensor([x], dtype=torch.float64)

    def i(x):
        return torch.tensor([x])

    z = list(zeta) + [0.0] * (3 - len(zeta))
    A = made_up(AtomIntegrals, **{f"zeta_{k}": t(v) for k, v in zip("spd", z, strict=True)},
                **{f"beta_{k}": t(1.0) for k in "spd"})
    q = list(numbers) + [0] * (3 - len(numbers))
    return A, made_up(Elements, n_s=i(q[0]), n_p=i(q[1]), n_d=i(q[2]), n_ao=i(n), number=i(n))


def species(shells, E_i, E_j):
    return pair_species(shells, E_i, E_j, False)


def overlap(n_i, n_j, zeta_i, zeta_j, numbers_i, numbers_j, R, u=(0.0, 0.0, 1.0)):
    """S (n_i, n_j) of atom i at the origin and j at R u (bohr)."""
    (A_i, E_i), (A_j, E_j) = atoms(n_i, zeta_i, numbers_i), atoms(n_j, zeta_j, numbers_j)
    u = torch.tensor([u], dtype=torch.float64)
    R = torch.tensor([R], dtype=torch.float64)
    shells = (n_i, n_j)
    near, H = resonance(species(shells, E_i, E_j), R, axes(u, shells), (A_i, A_j), BOHR)
    return H[0].numpy() if len(near) else np.zeros((n_i, n_j))


def exact(n_a, l_a, z_a, n_b, l_b, z_b, m, R):
    """The local overlap from auxiliary integrals A_k(p) and B_l(b) in 120 digits."""
    mpmath.mp.dps = 120
    R, z_a, z_b = mpmath.mpf(R), mpmath.mpf(z_a), mpmath.mpf(z_b)
    p, b = R * (z_a + z_b) / 2, R * (z_a - z_b) / 2
    A, B = [mpmath.exp(-p) / p], []
    for k in range(1, n_a + n_b + 1):
        A.append((k * A[-1] + mpmath.exp(-p)) / p)
    for l in range(n_a + n_b + 1):
        if abs(b) < 1e-3:
            B.append(mpmath.quad(lambda x, l=l: x**l * mpmath.exp(-b * x), [-1, 0, 1]))
        else:
            B.append(((l * B[-1] if l else 0) + (-1)**l * mpmath.exp(b) - mpmath.exp(-b)) / b)

    def power(polynomial, exponent):
        result = {(0, 0): 1}
        for _ in range(exponent):
            result = multiply(result, polynomial)
        return result

    def multiply(f, g):
        result = {}
        for (a, c), x in f.items():
            for (d, e), y in g.items():
                result[a + d, c + e] = result.get((a + d, c + e), 0) + x * y
        return result

    total = mpmath.mpf(0)
    for i, c_i in ANGULAR[l_a, m].items():
        for j, c_j in ANGULAR[l_b, m].items():
            f = power({(1, 0): 1, (0, 1): 1}, n_a - l_a + i)
            f = multiply(f, power({(1, 0): 1, (0, 1): -1}, n_b - l_b + j))
            f = multiply(f, power({(0, 0): 1, (1, 1): 1}, l_a - m - i))
            f = multiply(f, power({(0, 0): 1, (1, 1): -1}, l_b - m - j))
            f = multiply(f, power({(2, 0): 1, (0, 0): -1, (2, 2): -1, (0, 2): 1}, m))
            total += mpmath.mpf(c_i) * mpmath.mpf(c_j) * sum(x * A[a] * B[c] for (a, c), x in f.items())
    norm = (2 * z_a)**(n_a + mpmath.mpf(1) / 2) / mpmath.sqrt(mpmath.factorial(2 * n_a))
    norm *= (2 * z_b)**(n_b + mpmath.mpf(1) / 2) / mpmath.sqrt(mpmath.factorial(2 * n_b))
    return float((-1)**(l_b - m) * norm * (R / 2)**(n_a + n_b + 1) * mpmath.sqrt((2 * l_a + 1) * (2 * l_b + 1)) / 2 * total)


CASES = [  # zeta of s, p, d on i and on j; quantum numbers; R in angstrom
    ((1.3, 1.3, 1.3), (1.3, 1.3, 1.3), (2, 2, 3), (2, 2, 3), 1.5),              # b = 0
    ((1.3, 1.3, 1.3), (1.3 + 1e-9, 1.3 - 1e-7, 1.3), (2, 2, 3), (2, 2, 3), 1.5),  # b tiny
    ((3.8, 2.1, 1.1), (1.19, 1.7, 2.5), (2, 2, 3), (1, 2, 3), 0.05),
    ((3.8, 2.1, 1.1), (1.19, 1.7, 2.5), (2, 2, 3), (1, 2, 3), 1.1),
    ((3.8, 2.1, 1.1), (1.19, 1.7, 2.5), (2, 2, 3), (3, 3, 3), 5.0),
    ((6.0, 6.0, 6.0), (0.6, 0.6, 0.6), (2, 2, 3), (2, 2, 3), 3.0),              # b = 15
    ((6.0, 5.0, 4.0), (0.6, 0.7, 0.8), (7, 7, 6), (6, 6, 5), 3.0),
    ((6.0, 5.0, 4.0), (0.6, 0.7, 0.8), (7, 7, 6), (6, 6, 5), 14.9),             # b = 76
    ((0.3, 0.3, 0.3), (9.0, 9.0, 9.0), (5, 5, 4), (7, 7, 6), 14.9),             # b = -123
    ((0.6, 1.4, 3.9), (2.1, 0.9, 0.3), (6, 6, 5), (4, 5, 4), 2.2),
    ((0.6, 1.4, 3.9), (2.1, 0.9, 0.3), (6, 6, 5), (4, 5, 4), 9.0),
    ((2.5, 2.6, 2.7), (1.2, 0.8, 0.5), (7, 7, 6), (7, 7, 6), 0.05),
    ((2.5, 2.6, 2.7), (1.2, 0.8, 0.5), (7, 7, 6), (7, 7, 6), 14.99),
]


@pytest.mark.parametrize("case", CASES)
def test_local_overlaps_are_exact(case):
    """To 1e-12 for every l and m up to d, quantum numbers up to 7, b from 0 to 123."""
    zeta_i, zeta_j, numbers_i, numbers_j, r = case
    S = overlap(9, 9, zeta_i, zeta_j, numbers_i, numbers_j, r / BOHR)
    place = {(0, 0): [0], (1, 0): [3], (1, 1): [1, 2], (2, 0): [6], (2, 1): [5, 7], (2, 2): [4, 8]}   # rows of (l, m)
    expected = np.zeros((9, 9))
    for a in range(3):
        for b in range(3):
            for m in range(min(a, b) + 1):
                value = exact(numbers_i[a], a, zeta_i[a], numbers_j[b], b, zeta_j[b], m, r / BOHR)
                for x, y in zip(place[a, m], place[b, m], strict=True):
                    expected[x, y] = value
    assert np.abs(S - expected).max() < 1e-12
    assert np.allclose(overlap(9, 4, zeta_i, zeta_j, numbers_i, numbers_j, r / BOHR), expected[:, :4], atol=1e-12, rtol=0)
    assert np.allclose(overlap(9, 1, zeta_i, zeta_j, numbers_i, numbers_j, r / BOHR), expected[:, :1], atol=1e-12, rtol=0)
    assert np.allclose(overlap(4, 4, zeta_i, zeta_j, numbers_i, numbers_j, r / BOHR), expected[:4, :4], atol=1e-12, rtol=0)
    assert np.allclose(overlap(4, 1, zeta_i, zeta_j, numbers_i, numbers_j, r / BOHR), expected[:4, :1], atol=1e-12, rtol=0)
    assert np.allclose(overlap(1, 1, zeta_i, zeta_j, numbers_i, numbers_j, r / BOHR), expected[:1, :1], atol=1e-12, rtol=0)


@pytest.mark.parametrize("seed", range(4))
def test_quadrature_has_enough_points(seed):
    """Random exponents, quantum numbers and distances up to 15 angstrom: the points chosen against 160."""
    g = np.random.default_rng(seed)
    for _ in range(40):
        numbers = [int(x) for x in np.repeat(g.integers(1, 8, 2), 3)]
        numbers = [max(n, l + 1) for n, l in zip(numbers, (0, 1, 2) * 2, strict=True)]
        zeta = torch.from_numpy(np.repeat(np.exp(g.uniform(np.log(0.3), np.log(10), 2)), 3)).expand(30, 6)
        R = torch.from_numpy(g.uniform(0.1, REACH / BOHR, 30))
        classes = SlaterClasses((tuple(numbers),), None, torch.arange(30))
        _, points = reach(R, zeta, classes, REACH / BOHR)
        local = []
        for q in (points, 160):
            c = overlap_constants(9, 9, classes.numbers, q, torch.device("cpu"))
            y = torch.log(torch.cat((zeta @ c.sums, R[:, None]), 1)) @ c.powers
            local.append(((torch.exp((zeta @ c.exponents) * R[:, None]) @ c.quadrature) * torch.exp(y)) @ c.orbitals)
        assert (local[0] - local[1]).abs().max() < 1e-12, (numbers, zeta[0], points)


def functions(r, zeta, numbers):
    """The nine orbitals at points r (point, 3) relative to the atom."""
    x, y, z = r.T
    d = np.linalg.norm(r, axis=1)
    radial = [(2 * k)**(n + 0.5) / math.sqrt(math.factorial(2 * n)) * d**(n - 1) * np.exp(-k * d)
              for k, n in zip(zeta, numbers, strict=True)]
    s3 = math.sqrt(3)
    angular = np.stack([s3 / 2 * (x * x - y * y), s3 * x * z, z * z - (x * x + y * y) / 2, s3 * y * z, s3 * x * y]) / d**2
    s = radial[0] / math.sqrt(4 * math.pi)
    p = radial[1] * math.sqrt(3 / (4 * math.pi)) * r.T / d
    return np.concatenate([s[None], p, radial[2] * math.sqrt(5 / (4 * math.pi)) * angular])


@pytest.mark.parametrize("u", directions()[[0, 1, 14, 15, 16, 18, 19]].tolist())
def test_laboratory_overlaps_by_integration_in_space(u):
    """Elliptic grid about the two nuclei, orbitals taken from their definitions: signs, order and rotation of all functions."""
    zeta_i, zeta_j, numbers_i, numbers_j, R = (1.9, 1.5, 1.2), (1.3, 1.6, 0.9), (3, 3, 3), (4, 4, 3), 3.1
    nu, w_nu = np.polynomial.legendre.leggauss(40)
    t, w_t = np.polynomial.laguerre.laggauss(40)
    phi = np.arange(12) * 2 * np.pi / 12
    mu, w_mu = 1 + t / 3, w_t * np.exp(t) / 3
    mu, nu, phi = (x.ravel() for x in np.meshgrid(mu, nu, phi, indexing="ij"))
    weight = (w_mu[:, None, None] * w_nu[None, :, None] * np.full(12, 2 * np.pi / 12)).ravel() * (R / 2)**3 * (mu**2 - nu**2)
    rho = R / 2 * np.sqrt((mu**2 - 1) * (1 - nu**2))
    local = np.stack([rho * np.cos(phi), rho * np.sin(phi), R / 2 * (1 + mu * nu)], 1)
    axis = np.array(u)
    other = np.cross(axis, np.eye(3)[np.argmin(np.abs(axis))])
    other /= np.linalg.norm(other)
    points = local @ np.stack([other, np.cross(axis, other), axis])
    f_i, f_j = functions(points, zeta_i, numbers_i), functions(points - R * axis, zeta_j, numbers_j)
    S = overlap(9, 9, zeta_i, zeta_j, numbers_i, numbers_j, R, u)
    assert np.abs(S - (f_i * weight) @ f_j.T).max() < 1e-9      # of the grid
    assert np.abs(overlap(9, 1, zeta_i, zeta_j, numbers_i, numbers_j, R, u) - S[:, :1]).max() < 1e-14


def test_same_atom_gives_the_unit_matrix():
    S = overlap(9, 9, (1.9, 1.5, 1.2), (1.9, 1.5, 1.2), (3, 3, 3), (3, 3, 3), 1e-6)
    assert np.abs(S - np.eye(9)).max() < 1e-6


def test_exchange_of_the_atoms():
    u = directions()[0]
    a, b = ((1.9, 1.5, 1.2), (3, 3, 3)), ((1.3, 1.6, 0.9), (4, 4, 3))
    forward = overlap(9, 9, a[0], b[0], a[1], b[1], 3.0, u.tolist())
    backward = overlap(9, 9, b[0], a[0], b[1], a[1], 3.0, (-u).tolist())
    assert np.abs(forward - backward.T).max() < 1e-14


def test_atoms_without_p_functions_have_no_p_overlap():
    """Treated as an sp atom, hydrogen keeps its s column; zeros elsewhere; derivatives to second order are finite."""
    (A_i, E_i), (A_j, E_j) = atoms(4, (2.0, 1.8), (2, 2)), atoms(4, (1.2, 0.0), (1, 0))
    E_j.n_ao[:] = 1
    parameters = [A_i.zeta_s, A_i.zeta_p, A_j.zeta_s, A_j.zeta_p, torch.tensor([2.0], dtype=torch.float64)]
    for p in parameters:
        p.requires_grad_()
    u = directions()[:1]
    _, H = resonance(species((4, 4), E_i, E_j), parameters[-1], axes(u, (4, 4)), (A_i, A_j), BOHR)
    expected = overlap(4, 1, (2.0, 1.8), (1.2,), (2, 2), (1,), 2.0, u[0].tolist())
    assert np.abs(H[0, :, :1].detach().numpy() - expected).max() < 1e-15
    assert not H[0, :, 1:].any()
    first = torch.autograd.grad(H.square().sum(), parameters, create_graph=True)
    second = torch.autograd.grad(sum(g.square().sum() for g in first), parameters)
    assert all(g.isfinite().all() for g in (*first, *second))


def test_classes_do_not_mix():
    """Pairs of different quantum numbers evaluated together and one by one."""
    g = np.random.default_rng(5)
    numbers = [(1, 1), (2, 2), (3, 3), (2, 3), (5, 5)]
    pairs = [(a, b) for a in numbers for b in numbers]
    data = [(g.uniform(0.6, 3, 2), g.uniform(0.6, 3, 2), a, b, g.uniform(1, 9)) for a, b in pairs]
    records = [(atoms(4, za, a), atoms(4, zb, b)) for za, zb, a, b, _ in data]

    def join(items):
        return type(items[0])(**{k: torch.cat([getattr(x, k) for x in items]) for k in vars(items[0])})

    A_i, E_i, A_j, E_j = (join([r[side][part] for r in records]) for side in (0, 1) for part in (0, 1))
    R = torch.tensor([d[-1] for d in data], dtype=torch.float64)
    u = directions()[:1].expand(len(data), 3)
    near, H = resonance(species((4, 4), E_i, E_j), R, axes(u, (4, 4)), (A_i, A_j), BOHR)
    assert near.tolist() == list(range(len(data)))
    for k, (za, zb, a, b, r) in enumerate(data):
        assert np.abs(H[k].numpy() - overlap(4, 4, za, zb, a, b, r, u[0].tolist())).max() < 1e-14


def test_far_pairs_are_left_out_only_where_nothing_is_lost():
    """Beyond 15 angstrom by convention; before, where the overlap of any function pair is below 1e-13."""
    (A_i, E_i), (A_j, E_j) = atoms(4, (1.8, 1.7), (2, 2)), atoms(4, (1.8, 1.7), (2, 2))
    R = torch.linspace(1, 20, 400, dtype=torch.float64) / BOHR
    zeta = torch.stack([A_i.zeta_s, A_i.zeta_p, A_j.zeta_s, A_j.zeta_p], 1).expand(400, 4)
    near, _ = reach(R, zeta, species((4, 4), E_i, E_j).slater, REACH / BOHR)
    last = float(R[near].max())
    assert 11 < last * BOHR < 15
    assert max(abs(exact(2, 1, 1.7, 2, 1, 1.7, m, last)) for m in (0, 1)) < 1e-13
    diffuse = torch.full((400, 4), 0.6, dtype=torch.float64)
    near, _ = reach(R, diffuse, species((4, 4), E_i, E_j).slater, REACH / BOHR)
    assert 14.9 < float(R[near].max()) * BOHR < 15


@pytest.mark.parametrize(("n_i", "n_j"), [(1, 1), (4, 1), (4, 4), (9, 4), (9, 9)])
def test_derivatives_by_distance_direction_exponents_and_beta(n_i, n_j):
    (A_i, E_i), (A_j, E_j) = atoms(n_i, (1.9, 1.5, 1.2), (3, 3, 3)), atoms(n_j, (1.3, 1.6, 0.9), (2, 2, 3))
    kind = species((n_i, n_j), E_i, E_j)

    def f(x, zeta_i, zeta_j, beta):
        A = replace(A_i, zeta_s=zeta_i[:, 0], zeta_p=zeta_i[:, 1], zeta_d=zeta_i[:, 2],
                    beta_s=beta[:, 0], beta_p=beta[:, 1], beta_d=beta[:, 2])
        B = replace(A_j, zeta_s=zeta_j[:, 0], zeta_p=zeta_j[:, 1], zeta_d=zeta_j[:, 2])
        R = x.square().sum(1).sqrt()
        return resonance(kind, R, axes(x / R[:, None], kind.shells), (A, B), BOHR)[1]

    inputs = [torch.tensor([v], dtype=torch.float64, requires_grad=True)
              for v in ((0.0, 0.0, -2.3), (1.9, 1.5, 1.2), (1.3, 1.6, 0.9), (-10.0, -7.0, -3.0))]
    assert torch.autograd.gradcheck(f, inputs)
    assert torch.autograd.gradgradcheck(f, inputs)
