"""Overlap of Slater functions on two atoms, and the resonance integrals made from it.

In elliptic coordinates mu = (r_a + r_b)/R, nu = (r_a - r_b)/R an overlap is a polynomial in mu and nu times
exp[-p mu - b nu], p and b = R (zeta_a +- zeta_b)/2. The integral over mu is done by hand (powers of mu - 1), that over nu by
Gauss-Legendre quadrature with enough points for 12 digits:

    S = sum_jq  exp(y_j) X_q W_jq,   X_q = exp{-R/2 [zeta_a (1 + nu_q) + zeta_b (1 - nu_q)]}
    y_j = (n_a + 1/2) ln(zeta_a/z) + (n_b + 1/2) ln(zeta_b/z) + j ln(R z),   z = zeta_a + zeta_b

Nothing cancels, and neither R -> 0 nor b -> 0 needs a series. Principal quantum numbers enter only the constants W and the
coefficients of the logarithms, so all pairs of a class are evaluated together.
Mulliken, Rieke, Orloff, Orloff, J. Chem. Phys. 17, 1248 (1949)
"""

from functools import cache
from itertools import product
from math import factorial, inf, lgamma, log, sqrt
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.polynomial.legendre import leggauss
from numpy.typing import NDArray
from torch import Tensor

from nddo_ml.common.struct import cached
from nddo_ml.integrals.configurations import MEMBERS
from nddo_ml.integrals.frame import SHELLS, Axes
from nddo_ml.integrals.multipole import AtomIntegrals
from nddo_ml.integrals.pair_species import PairSpecies, SlaterClasses
from nddo_ml.integrals.switch import step

Array = NDArray[np.float64]

REACH = 15.0       # angstrom: no overlap from here on, as in MOPAC
FADE = 12.0        # angstrom: from here on `fade` acts
EXCLUDED = -2000   # added to the logarithm of what does not exist
ALWAYS_NEAR = 15.0   # bohr; below, looking for negligible pairs costs more than it saves
# (points, b0, b1, c): that many points of the quadrature are enough if |b| <= b0 - b1 n, or if (zeta_max/zeta_min - 1) n <= c
# (the overlap then decays faster with R than the error grows), n = n_a + n_b. Errors up to 15 angstrom stay below 3e-13.
POINTS = ((16, 12.0, 0.55, 7.5), (20, 20.0, 0.75, 13.0), (24, 30.0, 0.93, 20.0), (32, 57.0, 1.4, 40.0), (48, 135.0, 2.8, 150.0),
          (64, inf, 0.0, inf))
# polynomials in cos of the s, p, d functions by (l, m), times sin^m: {power taken out as r: coefficient}
ANGULAR = {(0, 0): {0: 1.0}, (1, 0): {0: 1.0}, (1, 1): {0: sqrt(1 / 2)},
           (2, 0): {0: 1.5, 2: -0.5}, (2, 1): {0: sqrt(3 / 2)}, (2, 2): {0: sqrt(3 / 8)}}


def resonance(
    species: PairSpecies, R: Float[Tensor, "pair"], axes: Axes, atoms: tuple[AtomIntegrals, AtomIntegrals], bohr: float,
    factors: Float[Tensor, "pair orbitals"] | None = None,
) -> tuple[Int[Tensor, "near"], Float[Tensor, "near n_i n_j"]]:
    """The pairs that overlap (near) and their 1/2 (beta_i + beta_j) S_ij (near, n_i, n_j), laboratory frame, eV; R in bohr.

    atoms: i and j of each pair; bohr in angstrom; factors: of each integral in the frame of the pair, n_i n_j of them. Pairs
    are left out beyond 15 angstrom, and before that where S is below 1e-13 (`reach`).
    Dewar, Thiel, JACS 99, 4899 (1977)
    """
    n_i, n_j = species.shells
    classes = species.slater
    if n_j == 0:
        return classes.pairs.new_zeros(0), R.new_zeros(0, n_i, 0)
    names = [(A, name) for A, n in zip(atoms, species.shells, strict=True) for name in "spd"[:len(SHELLS[n])]]
    values = torch.stack([getattr(A, kind + name) for kind in ("zeta_", "beta_") for A, name in names], 1)
    zeta, beta = torch.split(values, len(names), 1)
    excluded, along = classes.excluded, axes.along
    O_i, O_j = (None, None) if axes.rotations is None else (axes.rotations.O_i, axes.rotations.O_j)
    if excluded is not None:
        zeta = torch.where(zeta > 0, zeta, 1.0)
    near, points = reach(R.detach(), zeta.detach(), classes, REACH / bohr)
    if near is None:
        near = classes.pairs
    else:
        R, zeta, beta = (x.index_select(0, near) for x in (R, zeta, beta))
        excluded, along, O_i, O_j, factors = (
            None if x is None else x.index_select(0, near) for x in (excluded, along, O_i, O_j, factors))
    c = overlap_constants(n_i, n_j, classes.numbers, points, R.device)
    y = torch.log(torch.cat((zeta @ c.sums, R[:, None]), 1)) @ c.powers
    if excluded is not None:
        y = torch.addmm(y, excluded, c.exclusions)
    X = torch.exp((zeta @ c.exponents) * R[:, None])
    local = ((X @ c.quadrature) * torch.exp(y)) @ c.orbitals * (beta @ c.mean)
    if factors is not None:
        local = local * factors
    if O_i is not None and O_j is not None:
        return near, O_i @ local.reshape(len(R), n_i, n_j) @ O_j.transpose(1, 2)
    if along is not None:      # sigma integrals with the s function of j, of all orbitals of i
        local = local * along[:, 1:1 + n_i]
    return near, local[:, :, None]


def fade(R: Float[Tensor, "*pair"]) -> Float[Tensor, "*pair"]:
    """Factor that takes resonance integrals to 0 at 15 angstrom with all their derivatives; 1 below 12."""
    return step((REACH - R) / (REACH - FADE))


def reach(
    R: Float[Tensor, "pair"], zeta: Float[Tensor, "pair shell"], classes: SlaterClasses, limit: float
) -> tuple[Int[Tensor, "near"] | None, int]:
    """The pairs that overlap (None: all), and the number of quadrature points they need; R and limit in bohr."""
    if len(R) == 0:
        return None, POINTS[0][0]
    low, high = zeta.aminmax(dim=1)
    bounds = torch.stack((R.max(), (high - low).max(), (high / low).max()))
    farthest, difference, ratio = bounds.tolist()
    near, n = None, 2 * max(map(max, classes.numbers))
    if farthest > ALWAYS_NEAR:
        close = ((R < limit) & (R * low < negligible(n))).nonzero()[:, 0]
        near, farthest = (close if len(close) < len(R) else None), min(farthest, limit)
    b = farthest * difference / 2
    return near, next(q for q, b0, b1, c in POINTS if b <= b0 - b1 * n or (ratio - 1) * n <= c)


@cache
def negligible(n: int) -> float:
    """x = R zeta with x^n exp(-x)/n! = 1e-15: what is left there of an overlap of functions with n_a + n_b <= n."""
    x = 30.0
    for _ in range(50):
        x = n * log(x) - lgamma(n + 1) + 15 * log(10)
    return x


class OverlapConstants(NamedTuple):
    """Constant matrices of `resonance`. A column is one power j of one integral (a, b, m) of one class of quantum numbers."""

    sums: Float[Tensor, "shell logarithm"]              # zeta of i and j, then zeta_a + zeta_b for each a of i, b of j
    exponents: Float[Tensor, "shell node"]              # of X, for each a, b
    quadrature: Float[Tensor, "node column"]
    powers: Float[Tensor, "logarithm column"]           # rows: zeta, zeta_a + zeta_b, R
    exclusions: Float[Tensor, "condition column"]      # rows as in SlaterClasses.excluded
    orbitals: Float[Tensor, "column orbitals"]          # which integral stands at which pair of local orbitals
    mean: Float[Tensor, "shell orbitals"]


@cached
def overlap_constants(
    n_i: int, n_j: int, numbers: tuple[tuple[int, ...], ...], points: int, device: torch.device
) -> OverlapConstants:
    """The constants of pairs with n_i and n_j orbitals and these quantum numbers, for a quadrature of that many points."""
    first, second = SHELLS[n_i], SHELLS[n_j]
    shells, combinations = len(first) + len(second), list(product(first, second))
    nodes, weights = leggauss(points)
    columns = [(c, a, b, m, j) for c, n in enumerate(numbers) for a, b in combinations for m in range(min(a, b) + 1)
               for j in range(n[a] + n[len(first) + b] + 1)]
    sums, exponents = np.zeros((shells, shells + len(combinations))), np.zeros((shells, len(combinations), points))
    sums[:, :shells] = np.eye(shells)
    for k, (a, b) in enumerate(combinations):
        sums[[a, len(first) + b], shells + k] = 1
        exponents[a, k], exponents[len(first) + b, k] = -(1 + nodes) / 2, -(1 - nodes) / 2
    distance = shells + len(combinations)
    powers, exclusions = np.zeros((distance + 1, len(columns))), np.zeros((len(numbers) + 2, len(columns)))
    quadrature, orbitals = np.zeros((len(combinations), points, len(columns))), np.zeros((len(columns), n_i, n_j))
    for k, (c, a, b, m, j) in enumerate(columns):
        pair, n_a, n_b = combinations.index((a, b)), numbers[c][a], numbers[c][len(first) + b]
        powers[[a, len(first) + b], k] = n_a + 0.5, n_b + 0.5
        powers[[shells + pair, distance], k] = j - (n_a + n_b + 1), j
        exclusions[c, k], exclusions[-2:, k] = EXCLUDED, (EXCLUDED * (a == 1), EXCLUDED * (b == 1))
        quadrature[pair, :, k] = weights * polynomials(n_a, a, n_b, b, m, tuple(nodes.tolist()))[j]
        for sign in (1, -1)[:1 + (m > 0)]:
            orbitals[k, a * a + MEMBERS[a].index(sign * m), b * b + MEMBERS[b].index(sign * m)] = 1
    mean = np.zeros((shells, n_i, n_j))
    for a, b in combinations:
        mean[[a, len(first) + b], a * a:(a + 1)**2, b * b:(b + 1)**2] = 0.5
    if n_j == 1:   # sigma integrals stand at all orbitals of their shell, to be multiplied by the harmonics of the axis
        for k, (_, a, *_) in enumerate(columns):
            orbitals[k, a * a:(a + 1)**2] = 1
    matrices = (sums, exponents.reshape(shells, -1), quadrature.reshape(-1, len(columns)), powers, exclusions,
                orbitals.reshape(len(columns), -1), mean.reshape(shells, -1))
    return OverlapConstants(*(torch.from_numpy(np.ascontiguousarray(x)).to(device) for x in matrices))


@cache
def polynomials(n_a: int, l_a: int, n_b: int, l_b: int, m: int, nodes: tuple[float, ...]) -> Array:
    """Coefficients of p^j at the nodes in nu, j = 0 ... n_a + n_b, in units of (zeta_a/z)^(n_a+1/2) (zeta_b/z)^(n_b+1/2) 2^-j.

    The integrand is (mu+nu)^(n_a-l_a) (mu-nu)^(n_b-l_b) [(mu^2-1)(1-nu^2)]^m times the angular factors
    r_a^(l-m) P(cos a), in which z_a = (1 + mu nu) R/2 and r_a = (mu + nu) R/2; Int (mu-1)^k exp(-p (mu-1)) dmu = k!/p^(k+1).
    The common z axis makes the sign (-1)^(l_b-m).
    """
    nu: Array = np.array(nodes)
    r_a, r_b = [1 + nu, np.ones_like(nu)], [1 - nu, np.ones_like(nu)]      # mu + nu, mu - nu in powers of mu - 1
    z_a, z_b = [1 + nu, nu], [1 - nu, -nu]                                 # 1 + mu nu, 1 - mu nu
    pi = [np.zeros_like(nu), 2 * (1 - nu * nu), 1 - nu * nu]               # (mu^2 - 1)(1 - nu^2)
    total = np.zeros((n_a + n_b + 1, len(nu)))
    for (i, c_i), (j, c_j) in product(ANGULAR[l_a, m].items(), ANGULAR[l_b, m].items()):
        factors = ((r_a, n_a - l_a + i), (r_b, n_b - l_b + j), (z_a, l_a - m - i), (z_b, l_b - m - j), (pi, m))
        term: list[Array] = [np.ones_like(nu)]
        for factor, power in factors:
            for _ in range(power):
                term = times(term, factor)
        total += c_i * c_j * np.array(term)
    n = n_a + n_b
    norm = (-1)**(l_b - m) * sqrt((2 * l_a + 1) * (2 * l_b + 1)) / 2 / sqrt(factorial(2 * n_a) * factorial(2 * n_b))
    # power k of mu - 1 gives k! p^(n-k), n = n_a + n_b; 2^(n+1) of the normalisation, 2^-j of p = R z/2
    return np.stack([norm * factorial(n - j) * 2.0**(n + 1 - j) * total[n - j] for j in range(n + 1)])


def times(p: list[Array], q: list[Array]) -> list[Array]:
    """Product of two polynomials whose coefficients are arrays."""
    result = [np.zeros_like(p[0]) for _ in range(len(p) + len(q) - 1)]
    for i, a in enumerate(p):
        for j, b in enumerate(q):
            result[i + j] = result[i + j] + a * b
    return result
