"""The error of MOPAC's truncated overlap series, evaluated in numpy and apart from the package's own overlaps.

MOPAC expands the auxiliary integrals B_l(b) of Slater overlaps in short power series whose order changes at |b| = 0.5, 1, 2, 3.
To first order in the error of S its energy differs from the exact one by sum P_ij (beta_i + beta_j) dS_ij over the orbitals i
of one atom and j of another. `energy_error` says how much of a deviation this explains; `nearest_branch` whether two atoms lie
so close to a change of order that MOPAC differentiates across the step.
"""

from functools import cache
from math import factorial

import numpy as np

BRANCHES = (0.5, 1.0, 2.0, 3.0)
SHELLS = (("s", 0, slice(0, 1)), ("p", 1, slice(1, 4)), ("d", 2, slice(4, 9)))
COEFFICIENTS = {(0, 0): {0: 1.0}, (1, 0): {0: 1.0}, (1, 1): {0: 0.5**0.5}, (2, 0): {0: 1.5, 2: -0.5}, (2, 1): {0: 1.5**0.5},
                (2, 2): {0: 0.375**0.5}}
KMAX = {(1, 1): 2, (1, 2): 3, (1, 3): 4, (2, 2): 4, (2, 3): 5, (3, 3): 6}


def energy_error(method, rows, positions, P):
    """E(MOPAC's series) - E(exact overlaps), eV, of a molecule with total density P; rows: of its atoms in the table."""
    atoms = _atoms(method)
    size = [int(atoms["n_ao"][k]) for k in rows]
    start = np.concatenate([[0], np.cumsum(size)])
    error = 0.0
    for a in range(len(rows)):
        for b in range(a):
            A, B = {n: v[rows[a]] for n, v in atoms.items()}, {n: v[rows[b]] for n, v in atoms.items()}
            d = positions[b] - positions[a]
            r = np.linalg.norm(d)
            if r < 10.0 and size[a] and size[b]:
                dS = _difference(A, B, r / method.constants.bohr, d / r)
                beta = np.add.outer(_per_orbital(A, "beta"), _per_orbital(B, "beta"))
                block = P[start[a]:start[a + 1], start[b]:start[b + 1]]
                error += (block * beta * dS).sum()
    return float(error)


def nearest_branch(method, row_a, row_b, r):
    """Angstrom by which r misses the nearest distance at which the series of some pair of orbitals changes its order."""
    atoms = _atoms(method)
    A, B = {n: v[row_a] for n, v in atoms.items()}, {n: v[row_b] for n, v in atoms.items()}
    gaps = [abs(za - zb) for za in _exponents(A) for zb in _exponents(B) if abs(za - zb) > 1e-6]
    return min((abs(r - method.constants.bohr * 2 * branch / gap) for gap in gaps for branch in BRANCHES), default=np.inf)


@cache
def _atoms(method):
    """Orbital exponents (floored), beta, quantum numbers and atomic numbers per row of the method's table."""
    from nddo_ml.integrals.multipole import atom_integrals
    integrals = atom_integrals(method.parameters, method.elements, method.constants)
    found = {n: getattr(integrals, n).numpy() for n in ("zeta_s", "zeta_p", "zeta_d", "beta_s", "beta_p", "beta_d")}
    found |= {n: np.asarray(getattr(method.elements, n)) for n in ("n_s", "n_p", "n_d", "n_ao", "number")}
    return found


def _exponents(atom):
    return [atom[f"zeta_{name}"] for name, _, where in SHELLS if where.start < atom["n_ao"]]


def _per_orbital(atom, quantity):
    return np.concatenate([[atom[f"{quantity}_{name}"]] * (where.stop - where.start) for name, _, where in SHELLS
                           if where.start < atom["n_ao"]])


def _difference(A, B, R, u):
    """Series less exact overlap of two atoms, lab frame (orbitals of A, orbitals of B)."""
    found = np.zeros((A["n_ao"], B["n_ao"]))
    limit = _limit(A, B)
    for name_a, la, where_a in SHELLS:
        for name_b, lb, where_b in SHELLS:
            if where_a.start < A["n_ao"] and where_b.start < B["n_ao"]:
                za, zb = A[f"zeta_{name_a}"], B[f"zeta_{name_b}"]
                na, nb = int(A[f"n_{name_a}"]), int(B[f"n_{name_b}"])
                local = np.zeros((2 * la + 1, 2 * lb + 1))
                for m in range(min(la, lb) + 1):
                    value = _local(na, la, za, nb, lb, zb, m, R, limit)
                    for i, j in _components(la, lb, m):
                        local[i, j] = value
                found[where_a, where_b] = _rotation(la, u) @ local @ _rotation(lb, u).T
    return found


def _components(la, lb, m):
    """Places of the functions with |m| in the local shells of both atoms: s; x y z; x2-y2 xz z2 yz xy."""
    place = {0: {0: [0]}, 1: {0: [2], 1: [0, 1]}, 2: {0: [2], 1: [1, 3], 2: [0, 4]}}
    return list(zip(place[la][m], place[lb][m], strict=True))


def _local(na, la, za, nb, lb, zb, m, R, limit):
    """Series less exact local overlap in the common frame."""
    polynomial = _polynomial(na, la, nb, lb, m)
    p, b = R * (za + zb) / 2, R * (za - zb) / 2
    order_mu, order_nu = polynomial.shape
    A, dB = _auxiliary_a(p, order_mu), _series(b, order_nu, limit) - _exact(b, order_nu)
    norm = np.prod([(2 * z) ** (n + 0.5) / factorial(2 * n) ** 0.5 for n, z in ((na, za), (nb, zb))])
    scale = norm * (R / 2) ** (na + nb + 1) * ((2 * la + 1) * (2 * lb + 1)) ** 0.5 / 2
    return (-1) ** (lb - m) * scale * (A @ polynomial @ dB)


@cache
def _polynomial(na, la, nb, lb, m):
    """Coefficients (mu, nu) of the integrand without its exponential."""
    total = np.zeros((1, 1))
    for i, ci in COEFFICIENTS[la, m].items():
        for j, cj in COEFFICIENTS[lb, m].items():
            term = np.array([[ci * cj]])
            for factor, power in ((_plus(0, 1), na - la + i), (_plus(0, -1), nb - lb + j), (_plus(1, 1), la - m - i),
                                  (_plus(1, -1), lb - m - j), (_pi(), m)):
                for _ in range(power):
                    term = _product(term, factor)
            total = _sum(total, term)
    return total


def _plus(kind, sign):
    """mu + sign nu (kind 0) or 1 + sign mu nu (kind 1) as coefficients."""
    return np.array([[0.0, sign], [1.0, 0.0]]) if kind == 0 else np.array([[1.0, 0.0], [0.0, sign]])


def _pi():
    """(mu^2 - 1)(1 - nu^2)"""
    return np.outer([-1.0, 0.0, 1.0], [1.0, 0.0, -1.0])


def _product(a, b):
    out = np.zeros((a.shape[0] + b.shape[0] - 1, a.shape[1] + b.shape[1] - 1))
    for (i, j), value in np.ndenumerate(b):
        out[i:i + a.shape[0], j:j + a.shape[1]] += value * a
    return out


def _sum(a, b):
    out = np.zeros(np.maximum(a.shape, b.shape))
    out[:a.shape[0], :a.shape[1]] += a
    out[:b.shape[0], :b.shape[1]] += b
    return out


def _auxiliary_a(p, count):
    """A_k = int_1^inf mu^k exp(-p mu) dmu."""
    values = [np.exp(-p) / p]
    for k in range(1, count):
        values.append((k * values[-1] + np.exp(-p)) / p)
    return np.array(values)


def _exact(b, count):
    """B_l = int_-1^1 nu^l exp(-b nu) dnu by Gauss-Legendre quadrature."""
    nu, weight = np.polynomial.legendre.leggauss(40)
    return (weight * np.exp(-b * nu)) @ nu[:, None] ** np.arange(count)


def _series(b, count, limit):
    """B_l as MOPAC evaluates them: truncated power series of the order `limit` gives, else exact."""
    order = limit(abs(b))
    if order is None:
        return _exact(b, count)
    return np.array([sum(2 * (-b) ** k / (factorial(k) * (k + l + 1)) for k in range(order + 1) if (k + l) % 2 == 0)
                     for l in range(count)])


def _limit(A, B):
    """The rule for the order of the series of two atoms: a function of |b|; None is the closed form."""
    light = all(z["number"] <= 17 and z["n_ao"] < 9 and z["number"] not in (2, 10) for z in (A, B))
    row = sorted(1 if z["number"] < 3 else 2 if z["number"] < 11 else 3 for z in (A, B))
    short = light and KMAX[tuple(row)] <= 5

    def order(b):
        if b <= 1e-6:
            return None
        if b <= 0.5:
            return 6
        if b <= 1.0:
            return None if short else 7
        if light or b > 3.0:
            return None
        return 12 if b <= 2.0 else 15
    return order


def _rotation(l, u):
    """Matrix of a shell's lab functions (rows) by local ones (columns), local z along u."""
    if l == 0:
        return np.ones((1, 1))
    x = np.cross(u, np.eye(3)[np.argmin(np.abs(u))])
    x /= np.linalg.norm(x)
    M = np.stack([x, np.cross(u, x), u], 1)
    if l == 1:
        return M
    r3 = 3**0.5 / 2
    T = np.zeros((5, 3, 3))
    T[0] = np.diag([r3, -r3, 0])
    T[2] = np.diag([-0.5, -0.5, 1])
    for k, (i, j) in ((1, (0, 2)), (3, (1, 2)), (4, (0, 1))):
        T[k, i, j] = T[k, j, i] = r3
    return 2 / 3 * np.einsum("aij,ik,bkl,jl->ab", T, M, T, M)
