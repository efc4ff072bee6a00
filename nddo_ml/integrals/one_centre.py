"""Two-electron integrals with all four orbitals on one atom.

Their angular part is a constant: every integral is a fixed combination of five g integrals (s and p) and twelve Slater-Condon
parameters (anything with d). The combinations are computed once from the angular functions, so that an atom costs one
matrix product. The result is invariant to rotations of the orbitals.
"""

import numpy as np
import torch
from jaxtyping import Float
from numpy.polynomial.legendre import leggauss, legval
from numpy.typing import NDArray
from torch import Tensor

from nddo_ml.common.struct import cached
from nddo_ml.integrals.multipole import AtomIntegrals
from nddo_ml.integrals.slater_condon import G_NAMES, RADIAL, SLATER_NAMES
from nddo_ml.orbitals import packed_pairs

Matrices = NDArray[np.float64]

_SHELLS = "spppddddd"


def one_centre(atoms: AtomIntegrals, n_ao: int) -> Float[Tensor, "row m m"]:
    """(ij|kl) of each row over the packed charge distributions of its first n_ao orbitals (1, 4 or 9), eV.

    (ss|ss) = g_ss, (ss|pp) = g_sp, (sp|sp) = h_sp, (pp|pp) = g_pp, (pp|p'p') = g_p2, (pp'|pp') = (g_pp - g_p2)/2;
    with d functions (ab|cd) = sum_k 4 pi/(2k+1) sum_q <a|Y_kq|b> <c|Y_kq|d> Rk(ab,cd).
    An atom treated with more orbitals than it has gets zeros.
    Dewar, Thiel, JACS 99, 4899 (1977); Pelikan, Turi Nagy, Chem. Zvesti 28, 594 (1974); Thiel, Voityuk, Theor. Chim. Acta
    81, 391 (1992)
    """
    if n_ao == 1:
        return atoms.g_ss[:, None, None]
    values = torch.stack([getattr(atoms, name) for name in G_NAMES], 1)
    if n_ao == 9:
        values = torch.cat((values, atoms.slater), 1)
    m = n_ao * (n_ao + 1) // 2
    return (values @ combinations(n_ao, values.device)).view(-1, m, m)


@cached
def combinations(n_ao: int, device: torch.device) -> Float[Tensor, "parameter mm"]:
    """Constant coefficients of each (ij|kl) in the five g integrals and, for n_ao = 9, the Slater-Condon parameters."""
    coefficients = _sp_coefficients(n_ao)
    if n_ao == 9:
        coefficients = np.concatenate((coefficients, _d_coefficients()))
    return torch.from_numpy(coefficients.reshape(len(coefficients), -1)).to(device)


def _sp_coefficients(n_ao: int) -> Matrices:
    """(5, m, m): the integrals over s and p functions alone."""
    pair = packed_pairs(n_ao)[2]
    m = n_ao * (n_ao + 1) // 2
    c = np.zeros((len(G_NAMES), m, m))
    ss, p = pair[0, 0], range(1, 4)
    c[0, ss, ss] = 1
    for x in p:
        c[1, ss, pair[x, x]] = c[1, pair[x, x], ss] = 1
        c[2, pair[x, 0], pair[x, 0]] = 1
        c[3, pair[x, x], pair[x, x]] = 1
        for y in p:
            if y != x:
                c[4, pair[x, x], pair[y, y]] = 1
                c[3:, pair[x, y], pair[x, y]] = 0.5, -0.5
    return c


def _d_coefficients() -> Matrices:
    """(12, 45, 45): the integrals with at least one d function."""
    a, b, _ = packed_pairs(9)
    kind = np.array(["".join(sorted(_SHELLS[x] + _SHELLS[y], key="spd".index)) for x, y in zip(a, b, strict=True)])
    angular = angular_integrals()
    c = np.zeros((len(SLATER_NAMES), 45, 45))
    for row, name in enumerate(SLATER_NAMES):
        one, two, k = RADIAL[name]
        block = (kind[:, None] == one) & (kind[None] == two)
        c[row] = np.where(block | block.T, angular[k], 0.0)
    return c


def angular_integrals() -> Matrices:
    """(5, 45, 45): 4 pi/(2k+1) sum_q <a|Y_kq|b> <c|Y_kq|d> for k = 0 ... 4, over packed distributions ab, cd of s, p and d.

    By the addition theorem that is Int Int (ab)(1) P_k(cos 12) (cd)(2), here by a quadrature exact for polynomials of degree 9.
    """
    z, w = leggauss(5)
    phi = 2 * np.pi * np.arange(10) / 10
    r = np.sqrt(1 - z * z)
    x, y, z = (v.ravel() for v in (np.outer(r, np.cos(phi)), np.outer(r, np.sin(phi)), np.outer(z, np.ones(10))))
    weight = np.repeat(w, 10) / 20      # of the mean over the sphere
    s3 = np.sqrt(3.0)
    p = [s3 * x, s3 * y, s3 * z]
    d = [s3 / 2 * (x * x - y * y), s3 * x * z, z * z - (x * x + y * y) / 2, s3 * y * z, s3 * x * y]
    orbital = np.stack([np.ones_like(x), *p, *(np.sqrt(5.0) * f for f in d)])
    a, b, _ = packed_pairs(9)
    density = weight * orbital[a] * orbital[b]
    cosine = np.outer(x, x) + np.outer(y, y) + np.outer(z, z)
    values = np.stack([density @ legval(cosine, np.eye(5)[k]) @ density.T for k in range(5)])
    values = (values + values.swapaxes(1, 2)) / 2
    return np.where(np.abs(values) > 1e-13, values, 0.0)    # below: rounding of exact zeros
