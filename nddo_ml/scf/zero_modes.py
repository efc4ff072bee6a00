"""Rotations of the orbitals that cost nothing.

A partly filled p or pi shell leaves the density of an atom or a linear molecule less symmetric than its nuclei. Turning the
density alone about an axis through all nuclei then changes nothing, so with L the generator of that turn in the basis

    X0 = C_v^T L C_o,      J X0 = 0

and the response equations J X = b have no unique solution. Displacements and fields have no component along X0 (the energy
to first order in them does not depend on how the density is turned), so in exact arithmetic X0 does not matter to second
derivatives; in floating point it is noise divided by zero. X is taken orthogonal to X0: the state follows the nuclei and does
not turn about their axis.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from nddo_ml.integrals.frame import D_TENSORS
from nddo_ml.molecules import Molecules
from nddo_ml.orbitals import Layout
from nddo_ml.scf.rotations import Operator, Spaces

ON_AXIS = 1e-3     # angstrom from the axis (root of the sum of squares) up to which nuclei lie on it
BROKEN = 1e-4      # norm of X0 from which a density breaks the symmetry
DROPPED = 1e6      # eV^2, no cost of a rotation
COSTLESS = 1e-3    # eV: |J X0| of a normalised X0 beyond which something outside (a field, charges) holds the density


def free_axes(molecules: Molecules) -> Float[Tensor, "molecule 3 3"] | None:
    """Unit vectors about which the nuclei of each molecule can be turned without moving: three for an atom, one for a linear
    molecule, rows of zeros for the rest. None if no molecule of the batch has any.
    """
    x, owner, count = molecules.positions.detach(), molecules.molecule, len(molecules)
    atoms = torch.bincount(owner, minlength=count).to(x.dtype)
    x = x - (x.new_zeros(count, 3).index_add(0, owner, x) / atoms[:, None])[owner]
    spread = x.new_zeros(count, 3, 3).index_add(0, owner, x[:, :, None] * x[:, None])
    values, vectors = torch.linalg.eigh(spread)
    free = values.sum(-1, keepdim=True) - values < ON_AXIS**2
    return vectors.mT * free[..., None] if bool(free.any()) else None


def generators(layout: Layout, axes: Float[Tensor, "molecule axis 3"]) -> Float[Tensor, "molecule axis orbital orbital"]:
    """L of a turn of all orbitals about each axis: K = [axis]_x for the p functions, T -> K T - T K for the tensors T of the d
    functions, 0 for s functions.
    """
    unit = torch.eye(3, dtype=axes.dtype, device=axes.device)
    K = torch.linalg.cross(axes[:, :, None].expand(*axes.shape, 3), unit.expand(*axes.shape, 3)).mT
    T = torch.as_tensor(D_TENSORS, dtype=axes.dtype, device=axes.device)
    turned = K[:, :, None] @ T - T @ K[:, :, None]
    L = axes.new_zeros(*axes.shape[:2], 9, 9)
    L[..., 1:4, 1:4] = K
    L[..., 4:, 4:] = torch.einsum("kab,mnlab->mnkl", T, turned) / 1.5      # Tr(T_k T_l) = 3/2 delta_kl
    shell, own = layout.shell.clamp(min=0), layout.owner
    together = (own[:, :, None] == own[:, None]) & (own >= 0)[:, None]
    rows = torch.arange(len(L), device=L.device)[:, None, None]
    return L.movedim(1, -1)[rows, shell[:, :, None], shell[:, None]].movedim(-1, 1) * together[:, None]


def zero_modes(L: Float[Tensor, "molecule axis orbital orbital"], spaces: Spaces, operator: Operator
               ) -> Float[Tensor, "molecule axis spin virtual occupied"] | None:
    """Orthonormal rotations X0 that cost nothing, rows of zeros where there are fewer than axes; None if there is none.

    operator: X -> J X of the state; a generator that it does not annihilate is no zero mode.
    """
    X = (spaces.C_v.mT[:, None] @ L[:, :, None] @ spaces.C_o[:, None]) * (spaces.weight > 0)[:, None]
    shape, X = X.shape, X.flatten(2)
    square, mix = torch.linalg.eigh(X @ X.mT)
    kept = square > BROKEN**2
    X = mix.mT @ X * (kept / torch.where(kept, square, 1.0).sqrt())[..., None]
    if X.shape[-1] == 0 or not bool(kept.any()):
        return None
    cost = operator(X.view(shape)).flatten(2)
    # fields may hold the density about some axes and not about others; rows that were dropped stay apart
    mix = torch.linalg.eigh(cost @ cost.mT + torch.diag_embed(DROPPED * ~kept))[1].mT
    X, cost = mix @ X, mix @ cost
    X = X * (cost.norm(dim=-1, keepdim=True) < COSTLESS)
    norm = X.norm(dim=-1, keepdim=True)
    return (X / norm.clamp(min=0.5)).view(shape) if bool((norm > 0.5).any()) else None


def without(modes: Float[Tensor, "molecule axis spin virtual occupied"] | None,
            X: Float[Tensor, "molecule vector spin virtual occupied"]
            ) -> Float[Tensor, "molecule vector spin virtual occupied"]:
    """X less its components along the zero modes."""
    if modes is None:
        return X
    along = torch.einsum("mksvo,mnsvo->mnk", modes, X)
    return X - torch.einsum("mnk,mksvo->mnsvo", along, modes)
