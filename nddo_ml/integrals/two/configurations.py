"""Charge distributions as point charges, and the constant matrices that turn them into integrals.

Every product of two orbitals on an atom is a set of point charges whose coordinates are multiples of the atom's charge separations. They are written
down once, here: `LINEAR` for products of s and p functions among themselves (linear quadrupoles, Dewar & Thiel 1977), `MULTIPOLES` for all integrals in
which a d function takes part (Thiel & Voityuk 1992). For a class of pairs `terms` multiplies them out into

    integrals = M^T EV [(R + d Lz)^2 + (d Lx)^2 + (d Ly)^2 + (rho S)^2]^(-1/2)

with d the separations and rho the additive terms of both atoms; equal terms are merged and those that cancel by symmetry vanish.
"""

from functools import cache
from itertools import product

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from nddo_ml.orbitals import packed_pairs
from nddo_ml.struct import record

SEPARATIONS = ("D1", "Q", "D_pp", "D_sd", "D_pd", "D_dd")
ADDITIVE = ("rho0", "rho1", "rho2", "rho1c", "rho2c", "rho_sd", "rho_pd", "rho_dd", "rho_dd0", "rho_core")
S, X, Y, Z, X2Y2, XZ, Z2, YZ, XY = range(9)
_C1, _C2, _H = 2 / 3**0.5, 1 / 3**0.5, 0.5**0.5


def _along(axis, positions, separation):
    """Charges (q, (x, y, z), separation) on one axis at multiples of a separation."""
    return [(q, tuple(c if a == axis else 0.0 for a in range(3)), separation) for q, c in positions]


def _cross(a, b, separation, size):
    """The four charges of a quadrupole in the plane of axes a and b."""
    found = []
    for s, t in product((1, -1), repeat=2):
        place = [0.0, 0.0, 0.0]
        place[a], place[b] = s * size, t * size
        found.append((0.25 * s * t, tuple(place), separation))
    return found


_CHARGE = [(1.0, (0.0, 0.0, 0.0), "D1")]
_DIPOLE = [(0.5, 1.0), (-0.5, -1.0)]
_QUADRUPOLE = [(0.25, 2.0), (-0.5, 0.0), (0.25, -2.0)]

LINEAR = {(S, S): [(_CHARGE, "rho0")]}   # packed product -> [(charges, additive term)]
for _axis, _p in enumerate((X, Y, Z)):
    LINEAR[_p, S] = [(_along(_axis, _DIPOLE, "D1"), "rho1")]
    LINEAR[_p, _p] = [(_CHARGE, "rho0"), (_along(_axis, _QUADRUPOLE, "Q"), "rho2")]
LINEAR[Z, X], LINEAR[Z, Y] = [(_cross(0, 2, "Q", 1.0), "rho2")], [(_cross(1, 2, "Q", 1.0), "rho2")]


def _multipole(l, m, separation):
    """Charges of M_lm, m >= 0 (M_l-m interacts with its like as M_lm does)."""
    if l == 0:
        return _CHARGE
    if l == 1:
        return _along(2 if m == 0 else 0, _DIPOLE, separation)
    if m == 0:
        return _along(2, [(0.25, 1.0), (0.25, -1.0)], separation) + [c for a in (0, 1) for c in _along(a, [(-0.125, 1.0), (-0.125, -1.0)], separation)]
    if m == 1:
        return _cross(0, 2, separation, _H)
    return _along(0, [(0.25, 1.0), (0.25, -1.0)], separation) + _along(1, [(-0.25, 1.0), (-0.25, -1.0)], separation)


_SP, _PP, _SD, _PD, _DD = ("D1", "rho1c"), ("D_pp", "rho2c"), ("D_sd", "rho_sd"), ("D_pd", "rho_pd"), ("D_dd", "rho_dd")
_Q0, _Q0D = ("D1", "rho0"), ("D1", "rho_dd0")
MULTIPOLES = {   # packed product -> {(l, m, (separation, additive term)): coefficient}
    (S, S): {(0, 0, _Q0): 1},
    (X, S): {(1, 1, _SP): 1}, (Y, S): {(1, -1, _SP): 1}, (Z, S): {(1, 0, _SP): 1},
    (Z, Z): {(0, 0, _Q0): 1, (2, 0, _PP): 4 / 3},
    (X, X): {(0, 0, _Q0): 1, (2, 0, _PP): -2 / 3, (2, 2, _PP): 1}, (Y, Y): {(0, 0, _Q0): 1, (2, 0, _PP): -2 / 3, (2, 2, _PP): -1},
    (Z, X): {(2, 1, _PP): 1}, (Z, Y): {(2, -1, _PP): 1}, (Y, X): {(2, -2, _PP): 1},
    (Z2, S): {(2, 0, _SD): _C1}, (XZ, S): {(2, 1, _SD): 1}, (YZ, S): {(2, -1, _SD): 1}, (X2Y2, S): {(2, 2, _SD): 1}, (XY, S): {(2, -2, _SD): 1},
    (Z2, Z): {(1, 0, _PD): _C1}, (XZ, Z): {(1, 1, _PD): 1}, (YZ, Z): {(1, -1, _PD): 1},
    (Z2, X): {(1, 1, _PD): -_C2}, (XZ, X): {(1, 0, _PD): 1}, (X2Y2, X): {(1, 1, _PD): 1}, (XY, X): {(1, -1, _PD): 1},
    (Z2, Y): {(1, -1, _PD): -_C2}, (YZ, Y): {(1, 0, _PD): 1}, (X2Y2, Y): {(1, -1, _PD): -1}, (XY, Y): {(1, 1, _PD): 1},
    (Z2, Z2): {(0, 0, _Q0D): 1, (2, 0, _DD): 4 / 3}, (Z2, XZ): {(2, 1, _DD): _C2}, (YZ, Z2): {(2, -1, _DD): _C2},
    (Z2, X2Y2): {(2, 2, _DD): -_C1}, (XY, Z2): {(2, -2, _DD): -_C1},
    (XZ, XZ): {(0, 0, _Q0D): 1, (2, 0, _DD): 2 / 3, (2, 2, _DD): 1}, (YZ, XZ): {(2, -2, _DD): 1}, (XZ, X2Y2): {(2, 1, _DD): 1}, (XY, XZ): {(2, -1, _DD): 1},
    (YZ, YZ): {(0, 0, _Q0D): 1, (2, 0, _DD): 2 / 3, (2, 2, _DD): -1}, (YZ, X2Y2): {(2, -1, _DD): -1}, (XY, YZ): {(2, 1, _DD): 1},
    (X2Y2, X2Y2): {(0, 0, _Q0D): 1, (2, 0, _DD): -4 / 3}, (XY, XY): {(0, 0, _Q0D): 1, (2, 0, _DD): -4 / 3},
}
_OF_CORE = {"rho1": "rho1c", "rho2": "rho2c"}   # additive terms of sp products towards a core


@record
class Terms:
    """Constant matrices of a pair class: Lz, Lx, Ly (12, term) acting on the separations of both atoms, S (20, term) on their additive terms, M (term,
    integral) for the distinct integrals and `place` (m_i m_j) that spreads them over the packed local block (the last integral is zero).
    """

    Lz: Float[Tensor, "separation term"]
    Lx: Float[Tensor, "separation term"]
    Ly: Float[Tensor, "separation term"]
    S: Float[Tensor, "additive term"]
    M: Float[Tensor, "term integral"]
    place: Tensor


@cache
def terms(n_i: int, n_j: int, core: bool = False) -> Terms:
    """The matrices of a class of pairs with n_i and n_j orbitals; core: of the distributions of i with the core of j."""
    index, columns = {}, []
    for bra in _products(n_i):
        for ket in [None] if core else _products(n_j):
            columns.append(_collect(bra, ket, index))
    distinct, place = {}, []
    for column in columns:
        key = tuple(sorted((t, round(q, 14)) for t, q in column.items() if abs(q) > 1e-14))
        place.append(distinct.setdefault(key, len(distinct)) if key else -1)
    used = sorted({t for key in distinct for t, _ in key})
    row = {t: k for k, t in enumerate(used)}
    keys = list(index)
    M = np.zeros((len(used), len(distinct) + 1))
    for key, column in distinct.items():
        for t, q in key:
            M[row[t], column] = q
    L = np.zeros((3, 2 * len(SEPARATIONS), len(used)))
    rho = np.zeros((2 * len(ADDITIVE), len(used)))
    for t in used:
        place_key, (rho_i, rho_j) = keys[t]
        for axis, form in enumerate(place_key):
            for symbol, coefficient in form:
                L[axis, symbol, row[t]] += coefficient
        rho[ADDITIVE.index(rho_i), row[t]] += 1
        rho[len(ADDITIVE) + ADDITIVE.index(rho_j), row[t]] += 1
    place = [p if p >= 0 else len(distinct) for p in place]
    return Terms(*[torch.from_numpy(x) for x in (L[2], L[0], L[1], rho, M)], torch.tensor(place))


def _products(orbitals):
    a, b, _ = packed_pairs(orbitals)
    return list(zip(a.tolist(), b.tolist(), strict=True))


def _collect(bra, ket, index):
    """{term: coefficient} of one local integral; ket None: the core of j."""
    has_d = bra[0] > 3 or (ket is not None and ket[0] > 3)
    column = {}
    if ket is None:
        if has_d:
            for (l, m, shape), c in _find(MULTIPOLES, bra).items():
                if m == 0:
                    _add(column, index, _multipole(l, 0, shape[0]), shape[1], _CHARGE, "rho_core", c)
        else:
            for charges, rho in LINEAR.get(bra, []):
                _add(column, index, charges, _OF_CORE.get(rho, rho), _CHARGE, "rho_core", 1.0)
    elif has_d:
        for (l, m, a), c in _find(MULTIPOLES, bra).items():
            for (k, n, b), e in _find(MULTIPOLES, ket).items():
                if m == n:
                    _add(column, index, _multipole(l, abs(m), a[0]), a[1], _multipole(k, abs(m), b[0]), b[1], c * e)
    elif bra == ket == (Y, X):
        x, y = (_along(axis, _QUADRUPOLE, "Q") for axis in (0, 1))
        _add(column, index, x, "rho2", x, "rho2", 0.5)
        _add(column, index, x, "rho2", y, "rho2", -0.5)
    else:
        for p, rho in LINEAR.get(bra, []):
            for q, sigma in LINEAR.get(ket, []):
                _add(column, index, p, rho, q, sigma, 1.0)
    return column


def _find(table, product_):
    a, b = product_
    return table.get((a, b), table.get((b, a), {}))


def _add(column, index, bra, rho_i, ket, rho_j, factor):
    """Add the interactions of two sets of charges to a column."""
    width = len(SEPARATIONS)
    for (p, a, s), (q, b, t) in product(bra, ket):
        forms = []
        for axis in range(3):
            form = {}
            for coefficient, symbol in ((-a[axis], SEPARATIONS.index(s)), (b[axis], width + SEPARATIONS.index(t))):
                if coefficient:
                    form[symbol] = form.get(symbol, 0.0) + coefficient
            forms.append(tuple(sorted((k, round(v, 14)) for k, v in form.items())))
        across = sorted(_positive(f) for f in forms[:2])
        key = ((across[0], across[1], forms[2]), (rho_i, rho_j))
        term = index.setdefault(key, len(index))
        column[term] = column.get(term, 0.0) + factor * p * q


def _positive(form):
    """A lateral displacement up to its sign, which does not matter."""
    return form if not form or form[0][1] > 0 else tuple((k, -v) for k, v in form)
