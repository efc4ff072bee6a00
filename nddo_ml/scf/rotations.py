"""Rotations between occupied and virtual orbitals, and how the Fock matrix answers to them.

With the orthonormal orbitals C a rotation is a block X (molecule, spin, virtual, occupied): the occupied orbitals become C_o
+ C_v X. The first-order change of the density and the response operator are

    dD = C_v X C_o^T + transpose,      J X = F_vv X - X F_oo + C_v^T [J(dP) - K(dD)] C_o

symmetric, and positive definite at a minimum. With canonical orbitals the first two terms are (eps_v - eps_o) o X. In a batch
the blocks of all molecules have the largest size that occurs; columns of orbitals that do not belong are zero, so nothing
outside a molecule's own block ever differs from zero. Orbitals with fractional occupation (half-electron states) appear on both
sides; dD then carries the difference of the two occupations, and pairs of equal occupation do not mix.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from nddo_ml.common.struct import record
from nddo_ml.orbitals import Layout
from nddo_ml.scf.density import Matrices, Orbitals
from nddo_ml.scf.flat import FlatKernel
from nddo_ml.scf.fock import Kernel, two_electron

Rotation = Float[Tensor, "molecule spin virtual occupied"]
Rotations = Float[Tensor, "molecule vector spin virtual occupied"]
Operator = Callable[[Tensor], Tensor]       # from Rotations to Rotations


@record
class Spaces:
    """The occupied and the virtual orbitals of a state."""

    C_o: Float[Tensor, "molecule spin orbital occupied"]    # zero columns where a molecule has fewer
    C_v: Float[Tensor, "molecule spin orbital virtual"]     # the same
    f_o: Float[Tensor, "molecule spin occupied"]            # occupations
    weight: Float[Tensor, "molecule spin virtual occupied"]     # difference of occupations; 0 where there is no rotation
    # all orbitals in order, kept where the two spaces share some (half-electron states)
    C: Float[Tensor, "molecule spin orbital level"] | None = None


def spaces(orbitals: Orbitals, real: Float[Tensor, "molecule orbital"]) -> Spaces:
    """The occupied and virtual spaces of orbitals in ascending order; `real` is 0 for padding."""
    f, C = orbitals.f, orbitals.C
    levels = f.shape[-1]
    is_real = (torch.arange(levels, device=f.device)[None] < real.sum(1)[:, None])[:, None].expand_as(f)
    holds, lacks = f > 0, (f < 1) & is_real
    highest = int(holds.any(0).any(0).nonzero().amax()) + 1 if bool(holds.any()) else 0
    bottom = int(lacks.any(0).any(0).nonzero().amin()) if bool(lacks.any()) else levels
    f_o, f_v = f[..., :highest] * holds[..., :highest], f[..., bottom:]
    holds, lacks = holds[..., :highest], lacks[..., bottom:]
    weight = (f_o[..., None, :] - f_v[..., :, None]).clamp(min=0.0)
    weight = weight * (holds[..., None, :] & lacks[..., :, None])
    C_o, C_v = C[..., :highest] * holds[..., None, :].to(C.dtype), C[..., bottom:] * lacks[..., None, :].to(C.dtype)
    shared = highest > bottom and bool(((f > 0) & (f < 1)).any())
    return Spaces(C_o, C_v, f_o, weight, C if shared else None)


def occupied_virtual(F: Matrices, spaces: Spaces) -> Rotation:
    """The gradient block C_v^T F C_o (eV), zero where no rotation exists."""
    return (spaces.C_v.mT @ (F @ spaces.C_o)) * (spaces.weight > 0)


@record
class Levels:
    """The Fock matrix within the two spaces, eV."""

    F_oo: Float[Tensor, "molecule spin occupied occupied"]
    F_vv: Float[Tensor, "molecule spin virtual virtual"]
    gap: Float[Tensor, "molecule spin virtual occupied"]    # differences of the diagonals; 1 where no rotation exists


def levels(F: Matrices, spaces: Spaces) -> Levels:
    """F in the orbitals of the two spaces."""
    C_o, C_v = spaces.C_o, spaces.C_v
    F_oo, F_vv = C_o.mT @ (F @ C_o), C_v.mT @ (F @ C_v)
    gap = F_vv.diagonal(dim1=-2, dim2=-1)[..., :, None] - F_oo.diagonal(dim1=-2, dim2=-1)[..., None, :]
    return Levels(F_oo, F_vv, torch.where(spaces.weight > 0, gap, torch.ones_like(gap)))


def density_change(X: Rotations, spaces: Spaces) -> Float[Tensor, "molecule vector spin orbital orbital"]:
    """dD of rotations X, one per vector: C_v (weight X) C_o^T + transpose."""
    half = spaces.C_v[:, None] @ ((X * spaces.weight[:, None]) @ spaces.C_o[:, None].mT)
    return half + half.mT


def response(layout: Layout, kernel: Kernel | FlatKernel, spaces: Spaces, levels: Levels) -> Operator:
    """The operator X -> J X of Rotations, eV."""
    allowed = (spaces.weight > 0).to(levels.gap.dtype)[:, None]
    F_oo, F_vv = levels.F_oo[:, None], levels.F_vv[:, None]
    C_o, C_v = spaces.C_o[:, None], spaces.C_v[:, None]

    def apply(X: Tensor) -> Tensor:
        induced = two_electron(layout, kernel, density_change(X, spaces))
        return (F_vv @ X - X @ F_oo + C_v.mT @ (induced @ C_o)) * allowed

    return apply


def generator(X: Float[Tensor, "... virtual occupied"], levels: int) -> Float[Tensor, "... level level"]:
    """X - X^T as an antisymmetric matrix over all levels: occupied ones come first, virtual ones last, some may be both."""
    A = torch.nn.functional.pad(X, (0, levels - X.shape[-1], levels - X.shape[-2], 0))
    return A - A.mT


def rotate(spaces: Spaces, X: Rotation) -> Spaces:
    """The spaces after the rotation X, orthonormal: Cholesky of 1 + X^T X and 1 + X X^T, or the exponential of X - X^T where
    the two spaces share orbitals.
    """
    C_o, C_v = spaces.C_o, spaces.C_v
    if spaces.C is not None:
        levels, (virtual, occupied) = spaces.C.shape[-1], X.shape[-2:]
        C = spaces.C @ torch.linalg.matrix_exp(generator(X, levels))
        held, lacking = (x.square().sum(-2, keepdim=True) > 0 for x in (C_o, C_v))
        return Spaces(C[..., :occupied] * held, C[..., levels - virtual:] * lacking, spaces.f_o, spaces.weight, C)

    def orthonormal(Y: Tensor, M: Tensor) -> Tensor:
        L = torch.linalg.cholesky(torch.eye(M.shape[-1], dtype=M.dtype, device=M.device) + M)
        return torch.linalg.solve_triangular(L, Y.mT, upper=False).mT

    turned = orthonormal(C_o + C_v @ X, X.mT @ X), orthonormal(C_v - C_o @ X.mT, X @ X.mT)
    return Spaces(*turned, spaces.f_o, spaces.weight)
