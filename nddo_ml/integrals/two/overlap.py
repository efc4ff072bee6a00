"""Overlaps of Slater functions on two atoms, and the resonance integrals made from them.

In elliptical coordinates the overlap is a polynomial in mu and nu under exp(-p mu - b nu), p = R(za + zb)/2, b = R(za - zb)/2:

    S = N_a N_b (R/2)^(na+nb+1) sum_kl T_kl A_k(p) B_l(b),    A_k = int_1^inf mu^k e^(-p mu) dmu,    B_l = int_-1^1 nu^l e^(-b nu) dnu

T depends on the quantum numbers only. A is a finite sum of positive terms; B is a Gauss-Legendre sum with as many points as the largest b needs for
machine precision. MOPAC's truncated series of B is not copied (docs/parity.md).
"""

from functools import cache
from math import comb, factorial, sqrt

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

CUTOFF = 15.0       # angstrom: MOPAC's limit of the overlap, part of the methods as published
NEGLIGIBLE = 45.0   # exponent: exp(-45) is 3e-20
LARGEST_N = 7
ORDER = 2 * LARGEST_N + 1   # powers of mu and nu
CHANNELS = tuple((la, lb, m) for la in range(3) for lb in range(3) for m in range(min(la, lb) + 1))
ANGULAR = {(0, 0): {0: 1.0}, (1, 0): {0: 1.0}, (1, 1): {0: sqrt(0.5)}, (2, 0): {0: 1.5, 2: -0.5}, (2, 1): {0: sqrt(1.5)}, (2, 2): {0: sqrt(0.375)}}


def channels(l_i: int, l_j: int):
    """The (la, lb, m) overlaps of atoms with shells up to l_i and l_j."""
    return [c for c in CHANNELS if c[0] <= l_i and c[1] <= l_j]


def _binomial(a, b, n):
    """Coefficients of (a + b x)^n in powers of x."""
    return [comb(n, k) * a ** (n - k) * b**k for k in range(n + 1)]


def _times(P, Q):
    """Product of two polynomials in (mu, nu), {(k, l): c}."""
    found = {}
    for (k, l), c in P.items():
        for (m, n), d in Q.items():
            found[k + m, l + n] = found.get((k + m, l + n), 0.0) + c * d
    return found


@cache
def polynomial(na: int, la: int, nb: int, lb: int, m: int):
    """T_kl (ORDER, ORDER) of one overlap, normalisation factors of n and l and the sign of the common frame included."""
    total = {}
    for i, ci in ANGULAR[la, m].items():
        for j, cj in ANGULAR[lb, m].items():
            P = {(0, 0): ci * cj}
            for power, sign in ((na - la + i, 1), (nb - lb + j, -1)):
                P = _times(P, {(power - k, k): c for k, c in enumerate(_binomial(1, sign, power))})
            for power, sign in ((la - m - i, 1), (lb - m - j, -1)):
                P = _times(P, {(k, k): c for k, c in enumerate(_binomial(1, sign, power))})
            for _ in range(m):
                P = _times(P, {(2, 0): 1.0, (2, 2): -1.0, (0, 0): -1.0, (0, 2): 1.0})
            for key, c in P.items():
                total[key] = total.get(key, 0.0) + c
    T = np.zeros((ORDER, ORDER))
    norm = sqrt((2 * la + 1) * (2 * lb + 1)) / 2 / sqrt(factorial(2 * na) * factorial(2 * nb)) * (-1) ** (lb - m)
    for (k, l), c in total.items():
        T[k, l] = c * norm
    return T


@cache
def _table(l_i, l_j, n_max):
    """Polynomials of all quantum numbers up to n_max: (n_i and n_j combinations, channel, k l) with k, l < 2 n_max + 1."""
    width = 2 * n_max + 1
    rows = []
    for n in np.ndindex(*[n_max + 1] * 2):
        rows.append([])
        for la, lb, m in channels(l_i, l_j):
            ok = n[0] > la and n[1] > lb
            rows[-1].append(polynomial(n[0], la, n[1], lb, m)[:width, :width].ravel() if ok else np.zeros(width * width))
    return torch.from_numpy(np.array(rows))


@cache
def _falling(width):
    """k!/(k-j)! as (j, k): A_k = e^-p sum_j p^-(j+1) k!/(k-j)!."""
    return torch.tensor([[factorial(k) / factorial(k - j) if j <= k else 0.0 for k in range(width)] for j in range(width)], dtype=torch.float64)


@cache
def _gauss_legendre(points, width):
    nodes, weights = np.polynomial.legendre.leggauss(points)
    return torch.from_numpy(nodes), torch.from_numpy(weights[:, None] * nodes[:, None] ** np.arange(width))


def a_integrals(p: Float[Tensor, "..."], width: int) -> Float[Tensor, "... k"]:
    """A_k(p), k < width."""
    powers = (1.0 / p)[..., None] ** torch.arange(1, width + 1, device=p.device, dtype=p.dtype)
    return torch.exp(-p)[..., None] * (powers @ _falling(width).to(p.device))


def b_integrals(b: Float[Tensor, "..."], width: int) -> Float[Tensor, "... l"]:
    """B_l(b), l < width, relative to the largest to machine precision."""
    largest = float(b.detach().abs().max()) if b.numel() else 0.0
    points = 8 * (2 + int(sqrt(20.0 * largest) + largest / 8) // 8 + 1)
    nodes, weights = _gauss_legendre(points, width)
    return torch.exp(-b[..., None] * nodes.to(b.device)) @ weights.to(b.device)


def overlaps(l_i: int, l_j: int, R: Float[Tensor, "pair"], n_i: Int[Tensor, "pair l"], n_j, zeta_i: Float[Tensor, "pair l"], zeta_j):
    """Overlaps in the local frame (pair, channel); R in bohr, quantum numbers and exponents per shell s, p, d.

    A shell with exponent 0 does not exist: its overlaps are zero.
    """
    found = channels(l_i, l_j)
    shells_i, shells_j = [c[0] for c in found], [c[1] for c in found]
    za, zb = zeta_i[:, shells_i], zeta_j[:, shells_j]
    na, nb = n_i[:, shells_i], n_j[:, shells_j]
    exists = (za > 0) & (zb > 0)
    za, zb = torch.where(exists, za, 1.0), torch.where(exists, zb, 1.0)
    n_max = int(torch.maximum(n_i.max(), n_j.max()))
    width = 2 * n_max + 1
    # one polynomial per channel: quantum numbers differ between the shells of an atom
    table = _table(l_i, l_j, n_max).to(R.device)
    index = (na * (n_max + 1) + nb) * len(found) + torch.arange(len(found), device=R.device)
    T = table.view(-1, width, width).index_select(0, index.reshape(-1)).view(*index.shape, width, width)
    p, b = 0.5 * R[:, None] * (za + zb), 0.5 * R[:, None] * (za - zb)
    A, B = a_integrals(p, width), b_integrals(b, width)
    S = ((A[..., None, :] @ T)[..., 0, :] * B).sum(-1)
    power = (na + nb + 1).to(R.dtype)
    radial = torch.exp(power * torch.log(0.5 * R)[:, None] + (na + 0.5) * torch.log(2 * za) + (nb + 0.5) * torch.log(2 * zb))
    return torch.where(exists, S * radial, 0.0)


@cache
def _placement(l_i, l_j):
    """Index that spreads channels (and a final zero) over the local orbital block (n_i, n_j)."""
    m_of = [0, 1, -1, 0, 2, 1, 0, -1, -2]    # s, x, y, z, x2-y2, xz, z2, yz, xy
    l_of = [0, 1, 1, 1, 2, 2, 2, 2, 2]
    found = channels(l_i, l_j)
    sizes = [(l + 1) ** 2 for l in (l_i, l_j)]
    place = [[found.index((l_of[a], l_of[b], abs(m_of[a]))) if m_of[a] == m_of[b] else len(found) for b in range(sizes[1])] for a in range(sizes[0])]
    return torch.tensor(place).reshape(-1), torch.tensor(l_of)


def local_block(l_i, l_j, S: Float[Tensor, "pair channel"]) -> Float[Tensor, "pair n_i n_j"]:
    """The local overlap block from its channels."""
    place, _ = _placement(l_i, l_j)
    padded = torch.nn.functional.pad(S, (0, 1))
    return padded.index_select(1, place.to(S.device)).view(len(S), (l_i + 1) ** 2, (l_j + 1) ** 2)
