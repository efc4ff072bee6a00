"""From the axis of a pair to the laboratory: rotation of orbitals and of the multipoles of their products.

Two-centre integrals are simple in a frame whose z axis joins the two atoms. They do not change when that frame turns about z
or is reflected in a plane through z, so any orthonormal frame that varies smoothly with u will do: here a Householder
reflection, a rational function of u without a pole. A product of two orbitals is a sum of `components`: charges, vectors and
quadrupoles, each of which rotates by itself. Both steps are one constant matrix acting on products of the frame's elements.
"""

from functools import cache
from itertools import accumulate

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from nddo_ml.common.struct import cached, record
from nddo_ml.orbitals import packed_pairs

Matrix = NDArray[np.float64]

_S3 = 3**0.5 / 2
# d functions in AO order (x2-y2, xz, z2, yz, xy): d_m(u) = u.T_m.u, Tr(T_a T_b) = 3/2 delta_ab
D_TENSORS = np.zeros((5, 3, 3))
D_TENSORS[0] = np.diag([_S3, -_S3, 0])
D_TENSORS[1, [0, 2], [2, 0]] = _S3
D_TENSORS[2] = np.diag([-0.5, -0.5, 1])
D_TENSORS[3, [1, 2], [2, 1]] = _S3
D_TENSORS[4, [0, 1], [1, 0]] = _S3

# angular momenta of the components of an atom: charges of ss and pp, dipole of sp, quadrupole of pp; charge of dd, dipole of
# pd, quadrupoles of sd and dd. Components of l = 1 are ordered x, y, z, those of l = 2 like the d functions.
COMPONENTS = {0: (), 1: (0,), 4: (0, 0, 1, 2), 9: (0, 0, 1, 2, 0, 1, 2, 2)}
SHELLS = {0: (), 1: (0,), 4: (0, 1), 9: (0, 1, 2)}   # angular momenta of the orbitals of an atom


def frame(u: Float[Tensor, "pair 3"]) -> Float[Tensor, "pair 3 3"]:
    """Orthonormal axes with the third along u: rows (and, the matrix being symmetric, columns) e_x, e_y, e_z = u.

    E = v v^T/v_z - s, v = u + s z, s = sign(u_z): minus s times the reflection that takes z to -s u. Its determinant is s;
    integrals of a pair do not see that. s is constant within an evaluation and |v_z| >= 1, so every derivative is finite.
    """
    z = u.detach()[:, 2:]
    s = torch.copysign(torch.ones_like(z), z)
    identity = _identity(u.device)
    v = u + s * identity[2]
    return v[:, :, None] * (v / v[:, 2:])[:, None] - s[:, :, None] * identity


def harmonics(u: Float[Tensor, "pair 3"], n: int) -> Float[Tensor, "pair component"]:
    """The components of an atom with n orbitals along u: 1 for each charge, u for each vector, d(u) for each quadrupole.

    They rotate integrals whose other partner is a charge: only m = 0 survives there.
    """
    products = torch.cat((torch.ones_like(u[:, :1]), u, (u[:, :, None] * u[:, None]).flatten(1)), 1)
    return products @ _axial(n, u.device)


@record
class Rotations:
    """From the frame of each pair to the laboratory, for pairs of atoms that both have p functions."""

    T_i: Float[Tensor, "pair m_i component_i"]      # packed distributions of atom i from its local components
    T_j: Float[Tensor, "pair m_j component_j"]      # the same of atom j
    O_i: Float[Tensor, "pair n_i n_i"]              # orbitals of atom i from its local orbitals
    O_j: Float[Tensor, "pair n_j n_j"]              # the same of atom j


@record
class Axes:
    """How the integrals of a group of pairs are turned to the laboratory; s functions alone need no turning."""

    rotations: Rotations | None                              # where both atoms have p functions
    along: Float[Tensor, "pair component_i"] | None          # harmonics of atom i along u, where its partner is a charge


def axes(u: Float[Tensor, "pair 3"], shells: tuple[int, int], cores: bool = False) -> Axes:
    """The axes of pairs with unit vectors u from i to j, atoms treated with shells = (n_i, n_j) orbitals, n_i >= n_j.

    cores: whether the partner is a charge also where it has p functions, because its core has integrals of its own.
    """
    n_i, n_j = shells
    turned = None
    if n_j >= 4:
        T_i, O_i = rotations(frame(u), n_i)
        m_j, components_j = n_j * (n_j + 1) // 2, component_starts(n_j)[1]
        T_j, O_j = (T_i, O_i) if n_j == n_i else (T_i[:, :m_j, :components_j], O_i[:, :n_j, :n_j])
        turned = Rotations(T_i, T_j, O_i, O_j)
    return Axes(turned, harmonics(u, n_i) if n_i >= 4 and (n_j < 4 or cores) else None)


def rotations(
    E: Float[Tensor, "pair 3 3"], n: int
) -> tuple[Float[Tensor, "pair m component"], Float[Tensor, "pair n n"]]:
    """T (pair, m, component): packed distributions in the laboratory, of an atom with n >= 4 orbitals, from local components;
    O (pair, n, n): orbitals in the laboratory from local orbitals. E: `frame` of each pair.

    The leading blocks are those of an atom with fewer orbitals.
    """
    e = E.flatten(1).index_select(1, _upper(E.device))
    products = torch.cat((torch.ones_like(e[:, :1]), e, (e[:, :, None] * e[:, None]).flatten(1)), 1)
    constant, shape = _rotation(n, E.device)
    T, O = torch.split(products @ constant, [shape[0] * shape[1], n * n], 1)
    return T.reshape(len(E), *shape), O.reshape(len(E), n, n)


def packed(components: Float[Tensor, "pair component"], n: int) -> Float[Tensor, "pair m"]:
    """Packed distributions of an atom with n orbitals from the coefficients of its components."""
    return components @ _decomposition_transposed(n, components.device)


@cache
def decomposition(n: int) -> Matrix:
    """(m, component): each product of two of the n orbitals of an atom as charges, vectors and quadrupoles.

    s s, p p, d d carry a charge; p_a p_b = (2/sqrt3) T_m[a,b] Q_m, s d_m = Q_m, p_a d_m = (2/sqrt3) T_m[a,c] M_c,
    d_m d_m' = (8/sqrt27) Tr(T_m T_m' T_k) Q_k with the tensors T of the d functions.   Thiel, Voityuk (1992), table II
    """
    a, _, table = packed_pairs(n)
    starts, total = component_starts(n)
    c = np.zeros((len(a), total))
    c[0, 0] = 1
    if n == 1:
        return c
    p, d = range(1, 4), range(4, n)
    k = 2 / 3**0.5
    for x in p:
        c[table[x, x], starts[1]] = 1
        c[table[x, 0], starts[2] + x - 1] = 1
        for y in p:
            c[table[x, y], starts[3]:starts[3] + 5] = k * D_TENSORS[:, x - 1, y - 1]
    for m in d:
        T = D_TENSORS[m - 4]
        c[table[m, m], starts[4]] = 1
        c[table[m, 0], starts[6] + m - 4] = 1
        for x in p:
            c[table[m, x], starts[5]:starts[5] + 3] = k * T[x - 1]
        for o in d:
            c[table[m, o], starts[7]:starts[7] + 5] = 4 / 3 * k * np.einsum("ab,bc,kca->k", T, D_TENSORS[o - 4], D_TENSORS)
    return c


def component_starts(n: int) -> tuple[list[int], int]:
    """Index of the first component of each kind, and the number of components of an atom with n orbitals."""
    *starts, total = accumulate((2 * l + 1 for l in COMPONENTS[n]), initial=0)
    return starts, total


def orbital_starts(n: int) -> list[tuple[int, int]]:
    """(l, first orbital) of each shell of an atom with n orbitals."""
    return [(l, l * l) for l in SHELLS[n]]


@cached
def _rotation(n: int, device: torch.device) -> tuple[Float[Tensor, "43 columns"], tuple[int, int]]:
    """Constant (43, m c + n n) from the products [1, e, e x e] of the six elements e of a frame to T and O; shape of T."""
    ends, total = component_starts(n)
    C = decomposition(n)
    T, O = np.zeros((43, len(C), total)), np.zeros((43, n, n))
    by_l = _orbital_products()
    for start, l in zip(ends, COMPONENTS[n], strict=True):
        part = slice(start, start + 2 * l + 1)
        T[:, :, part] = np.einsum("da,fab->fdb", C[:, part], by_l[l])
    for l, start in orbital_starts(n):
        part = slice(start, start + 2 * l + 1)
        O[:, part, part] = by_l[l]
    return torch.from_numpy(np.concatenate((T.reshape(43, -1), O.reshape(43, -1)), 1)).to(device), (len(C), total)


def _orbital_products() -> tuple[Matrix, Matrix, Matrix]:
    """For l = 0, 1, 2 the rotation of orbitals as (43, 2l+1, 2l+1) over the products of a frame's elements.

    p_a = sum_A E[A,a] p_A;  d_a = sum_A 2/3 Tr(T_a E^T T_A E) d_A
    """
    place = np.zeros((3, 3), dtype=int)
    for k, (a, b) in enumerate(zip(*np.triu_indices(3), strict=True)):
        place[a, b] = place[b, a] = k
    s, p, d = np.zeros((43, 1, 1)), np.zeros((43, 3, 3)), np.zeros((43, 5, 5))
    s[0] = 1
    for A, a in np.ndindex(3, 3):
        p[1 + place[A, a], a, A] += 1
        for B, b in np.ndindex(3, 3):   # T_a[b,a] E[A,a] T_A[A,B] E[B,b]
            d[7 + 6 * place[A, a] + place[B, b]] += 2 / 3 * np.outer(D_TENSORS[:, b, a], D_TENSORS[:, A, B])
    return s, p, d


@cached
def _axial(n: int, device: torch.device) -> Float[Tensor, "13 component"]:
    """Constant (13, component) from [1, u, u x u] to the components along u."""
    by_l = np.zeros((13, 1)), np.zeros((13, 3)), np.zeros((13, 5))
    by_l[0][0] = 1
    by_l[1][1:4] = np.eye(3)
    by_l[2][4:] = D_TENSORS.reshape(5, 9).T
    return torch.from_numpy(np.concatenate([by_l[l] for l in COMPONENTS[n]], 1)).to(device)


@cached
def _decomposition_transposed(n: int, device: torch.device) -> Float[Tensor, "component m"]:
    return torch.from_numpy(decomposition(n).T.copy()).to(device)


@cached
def _upper(device: torch.device) -> Int[Tensor, "6"]:
    """Flat places of the upper triangle of a 3 x 3 matrix."""
    a, b = np.triu_indices(3)
    return torch.from_numpy(3 * a + b).to(device)


@cached
def _identity(device: torch.device) -> Float[Tensor, "3 3"]:
    return torch.eye(3, dtype=torch.float64, device=device)
