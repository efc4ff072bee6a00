"""Charge distributions as point charges.

Each component of a product of two orbitals (frame.py) is modelled by a few charges; their coordinates are multiples of a
separation of that atom, and they carry an additive term rho. Two components interact as

    [X, Y] = EV sum_ab q_a q_b / sqrt(|r_a - r_b|^2 + (rho_a + rho_b)^2)

Every configuration is written down once, below. From there `charge_kernel` derives constant matrices of a pair class:
coordinate differences of charges are linear in (R, separations, additive terms), integrals in the inverse distances.
Products of s and p among themselves use the linear quadrupoles of Dewar and Thiel, anything with d those of Thiel and Voityuk.

Dewar, Thiel, Theor. Chim. Acta 46, 89 (1977); Thiel, Voityuk, ibid. 81, 391 (1992); 93, 315 (1996).
"""

from collections.abc import Callable, Iterator
from functools import cache, partial
from itertools import product
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from nddo_ml.common.struct import cached
from nddo_ml.integrals.frame import COMPONENTS, component_starts

Matrix = NDArray[np.float64]

CORE = "core"    # a partner that is a bare unit charge with its own additive term
MEMBERS = {0: (0,), 1: (1, -1, 0), 2: (2, 1, 0, -1, -2)}   # m of x, y, z and of the d functions, in their order
AXES = {"x": (1.0, 0.0, 0.0), "y": (0.0, 1.0, 0.0), "z": (0.0, 0.0, 1.0)}
SIGNS = (1.0, -1.0)
DISTANCE = (-1, "R")


class Point(NamedTuple):
    """A charge of a configuration."""

    charge: float
    x: float        # coordinates in units of the separation named `scale`
    y: float
    z: float
    scale: str
    rho: str        # name of its additive term


# A configuration for each |m| of one kind of component
Configuration = Callable[[int], list[Point]]

# A linear form in R, separations and additive terms: ((side, name), coefficient), side 0 for atom i, 1 for j, -1 for R
LinearForm = tuple[tuple[tuple[int, str], float], ...]


def charge(rho: str, weight: float = 1.0) -> list[Point]:
    """A charge at the atom."""
    return [Point(weight, 0.0, 0.0, 0.0, "", rho)]


def dipole(m: int, D: str, rho: str) -> list[Point]:
    """Charges +-1/2 at +-D along z (m = 0) or x (m = 1)."""
    x, z = (0.0, 1.0) if m == 0 else (1.0, 0.0)
    return [Point(sign / 2, sign * x, 0.0, sign * z, D, rho) for sign in SIGNS]


def on_axis(axis: str, distance: float, weight: float, D: str, rho: str) -> list[Point]:
    """Charges `weight` at +- distance D on an axis."""
    x, y, z = (distance * component for component in AXES[axis])
    return [Point(weight, sign * x, sign * y, sign * z, D, rho) for sign in SIGNS]


def linear_quadrupole(axis: str, rho: str, weight: float = 1.0) -> list[Point]:
    """1/4 at +-2Q on an axis, -1/2 at the atom."""
    return on_axis(axis, 2.0, weight / 4, "Q", rho) + charge(rho, -weight / 2)


def square_quadrupole(half: float, D: str, rho: str) -> list[Point]:
    """1/4 at (x,z) = +-(h,h), -1/4 at +-(h,-h), h = half D."""
    return [Point(a * b / 4, a * half, 0.0, b * half, D, rho) for a, b in product(SIGNS, repeat=2)]


def linear_pp_charge(rho: str) -> list[Point]:
    """The spherical mean of p_x p_x, p_y p_y, p_z p_z: a charge and a third of all linear quadrupoles."""
    return charge("rho0") + [point for axis in "xyz" for point in linear_quadrupole(axis, rho, 1 / 3)]


def linear_pp_quadrupole(m: int, rho: str) -> list[Point]:
    """What is left of p p: (oo - pp)/sqrt3 = (Q_zz - (Q_xx + Q_yy)/2)/sqrt3, Q_xz and (Q_xx - Q_yy)/2 for m = 0, 1, 2."""
    if m == 1:
        return square_quadrupole(1.0, "Q", rho)
    weights = {"z": 3**-0.5, "x": -(3**-0.5) / 2, "y": -(3**-0.5) / 2} if m == 0 else {"x": 0.5, "y": -0.5}
    return [point for axis, weight in weights.items() for point in linear_quadrupole(axis, rho, weight)]


def quadrupole(m: int, D: str, rho: str) -> list[Point]:
    """(2/sqrt3) M_20, M_21, M_22 for m = 0, 1, 2: charges at D on the axes, or at D/sqrt2 on the diagonals of xz."""
    if m == 1:
        return square_quadrupole(2**-0.5, D, rho)
    weights = {"z": 1 / 4, "x": -1 / 8, "y": -1 / 8} if m == 0 else {"x": 1 / 4, "y": -1 / 4}
    norm = 2 / 3**0.5 if m == 0 else 1.0
    return [point for axis, weight in weights.items() for point in on_axis(axis, 1.0, norm * weight, D, rho)]


def _only(points: list[Point]) -> Configuration:
    """The configuration of a component of l = 0."""
    def points_of(m: int) -> list[Point]:
        return points
    return points_of


# one function of |m| per kind of component, in the order of frame.COMPONENTS
SS = _only(charge("rho0"))
SP_LINEAR: tuple[Configuration, ...] = (
    SS, _only(linear_pp_charge("rho2")), partial(dipole, D="D1", rho="rho1"), partial(linear_pp_quadrupole, rho="rho2"))
SP_TO_CORE: tuple[Configuration, ...] = (
    SS, _only(linear_pp_charge("rho2c")), partial(dipole, D="D1", rho="rho1c"), partial(linear_pp_quadrupole, rho="rho2c"))
SP_IN_D: tuple[Configuration, ...] = (
    SS, SS, partial(dipole, D="D1", rho="rho1c"), partial(quadrupole, D="D_pp", rho="rho2c"))
D_KINDS: tuple[Configuration, ...] = (
    _only(charge("rho_dd0")), partial(dipole, D="D_pd", rho="rho_pd"), partial(quadrupole, D="D_sd", rho="rho_sd"),
    partial(quadrupole, D="D_dd", rho="rho_dd"))
TO_CORE: tuple[Configuration, ...] = (_only(charge("rho_core")),)


class ChargeKernel(NamedTuple):
    """Constant matrices of a pair class. With g = (R, features of i, features of j):

    integrals = ((g @ coordinates)^2 @ distances)^(-1/2) @ integrals
    """

    features_i: tuple[str, ...]                             # names of the separations and additive terms of atom i
    features_j: tuple[str, ...]                             # the same of atom j
    coordinates: Float[Tensor, "feature coordinate"]
    distances: Float[Tensor, "coordinate term"]
    integrals: Float[Tensor, "term integral"]               # eV bohr


@cached
def charge_kernel(n_i: int, n_j: int | str, hartree: float, device: torch.device) -> ChargeKernel:
    """The kernel of pairs of atoms with n_i and n_j orbitals (n_j may be CORE).

    Its integrals (eV) are those of all components of i with all of j, in row order. Where j is a charge (one orbital or CORE),
    only the components m = 0 of i are not zero: they stand in the columns of all m, to be multiplied by the harmonics of u.
    """
    (features_i, features_j), coordinates, distances, weights = _constants(n_i, n_j)
    matrices = (coordinates, distances, hartree * weights)
    return ChargeKernel(features_i, features_j, *(torch.from_numpy(np.ascontiguousarray(m)).to(device) for m in matrices))


@cache
def _constants(n_i: int, n_j: int | str) -> tuple[tuple[tuple[str, ...], tuple[str, ...]], Matrix, Matrix, Matrix]:
    """Names of the features used of i and of j; coordinates, distances and integrals of `ChargeKernel`, hartree = 1."""
    shape = component_starts(n_i)[1], component_starts(n_j)[1] if isinstance(n_j, int) else 1
    terms: dict[tuple[LinearForm, ...], Matrix] = {}
    for row, column, points_i, points_j in _brackets(n_i, n_j):
        for a, b in product(points_i, points_j):
            weight = terms.setdefault(_separation(a, b), np.zeros(shape))
            weight[row, column] += a.charge * b.charge
    terms = {form: weight for form, weight in terms.items() if np.abs(weight).max() > 1e-14}
    squares = {form: k for k, form in enumerate(sorted({form for term in terms for form in term}))}
    used = [sorted({name for form in squares for (side, name), _ in form if side == atom}) for atom in (0, 1)]
    row_of = {DISTANCE: 0} | {(atom, name): k for k, (atom, name) in enumerate(
        [(atom, name) for atom in (0, 1) for name in used[atom]], start=1)}
    coordinates, distances = np.zeros((len(row_of), len(squares))), np.zeros((len(squares), len(terms)))
    for form, k in squares.items():
        for name, coefficient in form:
            coordinates[row_of[name], k] = coefficient
    for k, term in enumerate(terms):
        for form in term:
            distances[squares[form], k] += 1
    return (tuple(used[0]), tuple(used[1])), coordinates, distances, np.stack([w.ravel() for w in terms.values()])


def _brackets(n_i: int, n_j: int | str) -> Iterator[tuple[int, int, list[Point], list[Point]]]:
    """(component of i, component of j, configuration, configuration) of every integral that is not zero by symmetry."""
    to_core = not isinstance(n_j, int)
    charge_like = n_j in (1, CORE)
    starts_i = component_starts(n_i)[0]
    starts_j, kinds_j = ([0], (0,)) if to_core else (component_starts(n_j)[0], COMPONENTS[n_j])
    for (a, l), (b, k) in product(enumerate(COMPONENTS[n_i]), enumerate(kinds_j)):
        both_sp = a < 4 and b < 4
        kinds_i = SP_TO_CORE if to_core else SP_LINEAR if both_sp else SP_IN_D
        other = TO_CORE if to_core else (SP_LINEAR if both_sp else SP_IN_D) + D_KINDS
        for (p, m), (q, m_j) in product(enumerate(MEMBERS[l]), enumerate(MEMBERS[k])):
            if charge_like:
                m = m_j = 0
            if m == m_j:   # m < 0 is m > 0 turned about z
                yield starts_i[a] + p, starts_j[b] + q, (kinds_i + D_KINDS)[a](abs(m)), other[b](abs(m))


def _separation(a: Point, b: Point) -> tuple[LinearForm, ...]:
    """The distance of a charge on i and one on j (at z = R) as a sorted tuple of linear forms: sum of squares of all of them.

    Mirror images and the exchange of x and y do not change it, so such pairs share a term.
    """
    z = _form({DISTANCE: 1.0}, a, b, a.z, b.z)
    lateral = sorted(form for form in (_form({}, a, b, a.x, b.x), _form({}, a, b, a.y, b.y)) if form)
    rho = tuple(sorted({(0, a.rho): 1.0, (1, b.rho): 1.0}.items()))
    return (z, *lateral, rho)


def _form(start: dict[tuple[int, str], float], a: Point, b: Point, at_i: float, at_j: float) -> LinearForm:
    """The linear form `start` + (coordinate on j) - (coordinate on i); its sign is fixed where it has no constant part."""
    form = dict(start)
    for side, point, value in ((0, a, -at_i), (1, b, at_j)):
        if value:
            form[side, point.scale] = form.get((side, point.scale), 0.0) + value
    items = tuple(sorted(form.items()))
    return tuple((key, -value) for key, value in items) if items and items[0][1] < 0 else items
