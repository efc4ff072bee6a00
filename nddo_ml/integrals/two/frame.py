"""The local frame of a pair and the rotations it induces.

Local z points from atom i to atom j; x is made from the Cartesian axis least parallel to it, a choice that is constant within one evaluation, so
nothing is singular anywhere. All local integrals are invariant under rotation about z, so energies and derivatives do not depend on the choice.
"""

from functools import cache

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from nddo_ml.orbitals import packed_pairs

_R3 = 3**0.5 / 2
D_TENSORS = np.zeros((5, 3, 3))   # d(x2-y2), d(xz), d(z2), d(yz), d(xy) as symmetric traceless tensors, Tr(T_a T_b) = 3/2 delta_ab
D_TENSORS[0] = np.diag([_R3, -_R3, 0.0])
D_TENSORS[1][0, 2] = D_TENSORS[1][2, 0] = _R3
D_TENSORS[2] = np.diag([-0.5, -0.5, 1.0])
D_TENSORS[3][1, 2] = D_TENSORS[3][2, 1] = _R3
D_TENSORS[4][0, 1] = D_TENSORS[4][1, 0] = _R3


def frames(u: Float[Tensor, "pair 3"]) -> Float[Tensor, "pair 3 3"]:
    """Rows are the local axes x, y, z = u of each pair."""
    reference = torch.nn.functional.one_hot(u.detach().abs().argmin(1), 3).to(u.dtype)
    x = reference - (reference * u).sum(1, keepdim=True) * u
    x = x * torch.rsqrt(x.square().sum(1, keepdim=True))
    return torch.stack([x, torch.linalg.cross(u, x), u], 1)


@cache
def _d_projection():
    """(81, 25): products of direction cosines M_xX M_yY to the rotation of d functions (lab, local)."""
    return torch.from_numpy(np.einsum("axy,bXY->xXyYab", D_TENSORS, D_TENSORS).reshape(81, 25) * (2 / 3))


def orbital_rotation(frame: Float[Tensor, "pair 3 3"], orbitals: int) -> Float[Tensor, "pair lab local"]:
    """Local orbitals of an atom in terms of laboratory ones, s, p (and d)."""
    pairs = len(frame)
    cosines = frame.mT
    if orbitals == 1:
        return frame.new_ones(pairs, 1, 1)
    if orbitals == 4:
        return torch.nn.functional.pad(cosines, (1, 0, 1, 0)) + _corner(orbitals, frame)
    products = (cosines[:, :, :, None, None] * cosines[:, None, None]).reshape(pairs, 81)
    d = (products @ _d_projection().to(frame.device)).view(pairs, 5, 5)
    return (torch.nn.functional.pad(cosines, (1, 5, 1, 5)) + torch.nn.functional.pad(d, (4, 0, 4, 0))) + _corner(orbitals, frame)


def _corner(orbitals, like):
    corner = like.new_zeros(orbitals, orbitals)
    corner[0, 0] = 1.0
    return corner


@cache
def _product_places(orbitals):
    a, b, _ = packed_pairs(orbitals)
    places = [(x[:, None] * orbitals + y[None]).reshape(-1) for x, y in ((a, a), (b, b), (a, b), (b, a))]
    return [torch.from_numpy(p) for p in places], torch.from_numpy(np.where(a == b, 0.5, 1.0))


def distribution_rotation(O: Float[Tensor, "pair lab local"]) -> Float[Tensor, "pair lab_product local_product"]:
    """The same for packed products of two orbitals: T_(ij),(IJ) = O_iI O_jJ + O_iJ O_jI (half of it for I = J)."""
    pairs, n = O.shape[:2]
    if n == 1:
        return O
    (ii, jj, ij, ji), half = _product_places(n)
    flat = O.reshape(pairs, n * n)
    m = len(half)
    a, b, c, d = (flat.index_select(1, p.to(O.device)) for p in (ii, jj, ij, ji))
    return (a * b + c * d).view(pairs, m, m) * half.to(O.device)
