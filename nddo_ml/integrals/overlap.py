"""Overlap of Slater functions on two atoms, and the resonance integrals made from it.

In elliptic coordinates mu = (r_a + r_b)/R, nu = (r_a - r_b)/R an overlap is a polynomial in mu and nu times
exp[-p mu - b nu], p and b = R (zeta_a +- zeta_b)/2. The integral over mu is done by hand (powers of mu - 1), that over nu by
Gauss-Legendre quadrature with enough points for machine precision:

    S = sum_jq  exp(y_j) X_q W_jq,   X_q = exp{-R/2 [zeta_a (1 + nu_q) + zeta_b (1 - nu_q)]}
    y_j = (n_a + 1/2) ln(zeta_a/z) + (n_b + 1/2) ln(zeta_b/z) + j ln(R z),   z = zeta_a + zeta_b

All terms are of order one, nothing cancels, and R -> 0 needs no series. Principal quantum numbers enter only the constants W and the
coefficients of the logarithms, so all pairs of a class are evaluated together.
Mulliken, Rieke, Orloff, Orloff, J. Chem. Phys. 17, 1248 (1949)
"""

from functools import cache
from math import factorial, inf, sqrt

import numpy as np
import torch
from jaxtyping import Float
from numpy.polynomial import polynomial
from torch import Tensor

from nddo_ml.integrals.frame import SHELLS
from nddo_ml.struct import record

REACH = 15.0       # angstrom: no overlap from here on, as in MOPAC
EXCLUDED = -2000   # added to the logarithm of what does not exist
_ALWAYS_NEAR = 8.0          # angstrom; below, looking for negligible pairs costs more than it saves
_NEGLIGIBLE = 1e-14
# points of the quadrature: enough if |b| <= the second number, or if the ratio of two exponents <= the third (far apart, the
# overlap then decays faster than the error grows). Found by comparison with 300 points for degree 14, error 1e-13 e^(|b|-p) / 2.
_POINTS = ((16, 9.0, 4.8), (20, 19.0, 7.9), (24, 31.0, 11.7), (32, 63.0, 21.0), (48, 160.0, 80.0), (96, inf, inf))


@record
class SlaterClasses:
    """Principal quantum numbers of the pairs of a group: `numbers`, the distinct (n_s, n_p, n_d of i; of j) as far as i and j have those
    shells, and `excluded` (pair, class + 2): 1 for the classes a pair is not of, and where i or j has no p functions; None if
    all zero. Depends on elements only: make it once per group of pairs.
    """

    numbers: tuple
    excluded: Float[Tensor, "pair class+2"] | None


def slater_classes(shells, E_i, E_j) -> SlaterClasses:
    """The classes of pairs whose atoms are treated with `shells` orbitals; E_i, E_j: Elements per pair."""
    names = ("n_s", "n_p", "n_d")
    columns = [getattr(E, name) for E, n in zip((E_i, E_j), shells, strict=True) for name in names[:len(SHELLS[n])]]
    absent = [(E.n_ao < 4) if n >= 4 else torch.zeros_like(E.n_ao, dtype=torch.bool) for E, n in zip((E_i, E_j), shells, strict=True)]
    columns = torch.stack(columns, 1)
    # without p functions n_p is free: take n_s, to have fewer classes
    for has_none, n, p in ((absent[0], shells[0], 1), (absent[1], shells[1], len(SHELLS[shells[0]]) + 1)):
        if n >= 4:
            columns[:, p] = torch.where(has_none, columns[:, p - 1], columns[:, p])
    numbers, index = torch.unique(columns, dim=0, return_inverse=True)
    other = index[:, None] != torch.arange(len(numbers), device=index.device)
    excluded = torch.cat((other, torch.stack(absent, 1)), 1)
    return SlaterClasses(tuple(map(tuple, numbers.tolist())), excluded.to(torch.float64) if bool(excluded.any()) else None)


def resonance(shells, R: Float[Tensor, "pair"], O_i, O_j, along, A_i, A_j, classes: SlaterClasses, bohr: float):
    """Pairs close enough to overlap (near), and 1/2 (beta_i + beta_j) S_ij of each (near, n_i, n_j) in the laboratory frame, eV; R in angstrom.

    O_i, O_j: rotations of the orbitals (frame.rotations) where both atoms have p functions; along: harmonics of u on i otherwise.
    """
    n_i, n_j = shells
    names_i, names_j = (("s", "p", "d")[:len(SHELLS[n])] for n in shells)
    values = torch.stack([getattr(A, f"{kind}_{l}") for kind in ("zeta", "beta") for A, names in ((A_i, names_i), (A_j, names_j))
                          for l in names], 1)
    count = len(names_i) + len(names_j)
    R, zeta, beta, excluded = R / bohr, values[:, :count], values[:, count:], classes.excluded
    if excluded is not None:
        zeta = _filled(zeta, excluded, len(names_i), n_i, n_j)
    near, points = _reach(R.detach(), zeta.detach(), classes, bohr)
    if near is not None:
        R, zeta, beta, O_i, O_j, along, excluded = (
            None if x is None else x.index_select(0, near) for x in (R, zeta, beta, O_i, O_j, along, excluded))
    else:
        near = torch.arange(len(R), device=R.device)
    c = _constants(shells, classes.numbers, points, R.device)
    logarithms = torch.log(torch.cat((zeta @ c["sums"], R[:, None]), 1))
    if excluded is not None:
        logarithms = torch.cat((logarithms, excluded), 1)
    y = torch.exp(torch.addmm(c["offsets"], logarithms, c["powers"]) if False else logarithms @ c["powers"])
    X = torch.exp((zeta @ c["exponents"]) * R[:, None])
    local = ((X @ c["quadrature"]) * y) @ c["integrals"] * (beta @ c["beta"])
    if n_j == 1:
        return near, (local if n_i == 1 else local * along[:, 1:1 + n_i])[:, :, None]
    return near, O_i @ local.unflatten(1, (n_i, n_j)) @ O_j.transpose(1, 2)
