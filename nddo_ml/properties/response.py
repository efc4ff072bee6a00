"""Second and third derivatives of the energy: Hessian, dipole derivatives, polarizability, Raman tensors.

All are derivatives of one differentiable energy E(positions, field) (scf.response), taken for every molecule of a batch at
once: the k-th coordinates of all molecules form one direction, because no molecule knows of another. Lists hold one tensor
per molecule.

differentiable=True puts a result on the tape of the molecules' positions and of every parameter that requires gradients, for
losses on frequencies, intensities and polarizabilities; its derivatives are third derivatives of the energy, and exact.
"""

from collections.abc import Callable
from typing import Unpack

import torch
from jaxtyping import Float
from torch import Tensor

from nddo_ml.common.struct import outside_inference
from nddo_ml.molecules import Molecules
from nddo_ml.properties.model import EnergyModel, ModelKeywords

CHUNK = 24   # directions differentiated at once: memory against speed


@outside_inference
@torch.enable_grad()
def hessian(
    model: EnergyModel, molecules: Molecules, progress: Callable[[float], object] | None = None, differentiable: bool = False,
    **options: Unpack[ModelKeywords]
) -> list[Float[Tensor, "coordinate coordinate"]]:
    """d2E/dR2 of each molecule, eV/angstrom^2, rows and columns in the order x1 y1 z1 x2 ...

    model: a Hamiltonian. progress: called with the fraction done. differentiable: see the head of this file. options: as for
    the model's call.

    Raises: SCFNotConverged, and what the model raises; so do all functions below.
    """
    positions, order = _positions(molecules, differentiable), 3 if differentiable else 2
    result = _result(model, molecules.with_positions(positions), order, options)
    total = result.energy.sum() + 0.0 * positions.square().sum()   # a free atom's energy does not know its position
    gradient, = torch.autograd.grad(total, positions, create_graph=True)
    rows = _rows(gradient, positions, molecules, progress, differentiable)
    return [0.5 * (H + H.T) for H in rows]


@outside_inference
@torch.enable_grad()
def dipole_derivatives(model: EnergyModel, molecules: Molecules, **options: Unpack[ModelKeywords]
                       ) -> list[Float[Tensor, "coordinate 3"]]:
    """dmu/dR of each molecule, e, from mu = -dE/dF; origin of an ion's dipole fixed in space."""
    return [m.detach() for m in _dipoles(model, molecules, 2, options)[1]]


@outside_inference
@torch.enable_grad()
def polarizability(model: EnergyModel, molecules: Molecules, differentiable: bool = False, **options: Unpack[ModelKeywords]
                   ) -> Float[Tensor, "molecule 3 3"]:
    """Static polarizability alpha = dmu/dF = -d2E/dF2 of each molecule, as a volume in angstrom^3.

    dmu/dF of a Result's dipole is in e angstrom per V/angstrom; times e^2/(4 pi epsilon_0) = 14.39964 eV angstrom it is the
    volume. 1 angstrom^3 = 6.74833 bohr^3, the atomic unit. differentiable: see the head of this file.
    """
    if differentiable:
        return _dipoles(model, molecules, 3, options, create_graph=True, positions=False)[2]
    return _dipoles(model, molecules, 2, options, positions=False)[2].detach()


@outside_inference
@torch.enable_grad()
def polarizability_derivatives(model: EnergyModel, molecules: Molecules, **options: Unpack[ModelKeywords]
                               ) -> list[Float[Tensor, "coordinate 3 3"]]:
    """d alpha/dR of each molecule, angstrom^2: what Raman activities are made of. Third derivatives of the energy."""
    positions, _, alpha = _dipoles(model, molecules, 3, options, create_graph=True)
    pairs = [(a, b) for a in range(3) for b in range(a + 1)]
    columns = torch.stack([alpha[:, a, b] for a, b in pairs])
    slopes = torch.zeros(len(pairs), *positions.shape, dtype=positions.dtype, device=positions.device)
    for k in range(len(pairs)):
        slopes[k], = torch.autograd.grad(columns[k].sum(), positions, retain_graph=True)
    full = torch.zeros(3, 3, *positions.shape, dtype=positions.dtype, device=positions.device)
    for k, (a, b) in enumerate(pairs):
        full[a, b] = full[b, a] = slopes[k]
    return [block.reshape(3, 3, -1).permute(2, 0, 1) for block in full.split(molecules.sizes, 2)]


def _dipoles(model: EnergyModel, molecules: Molecules, order: int, options: ModelKeywords, create_graph: bool = False,
             positions: bool = True):
    """Positions on the tape, dmu/dR per molecule and the polarizability (angstrom^3) of each molecule."""
    x = _positions(molecules, create_graph) if positions or create_graph else molecules.positions.detach()
    field = x.new_zeros(len(molecules), 3).requires_grad_()
    result = _result(model, molecules.with_positions(x), order, {**options, "field": field})
    mu = -torch.autograd.grad(result.energy.sum(), field, create_graph=True)[0]
    alpha, derivatives = [], []
    for axis in range(3):
        wanted = (field, x) if positions else (field,)
        slopes = torch.autograd.grad(mu[:, axis].sum(), wanted, retain_graph=True, create_graph=create_graph)
        alpha.append(slopes[0])
        derivatives += slopes[1:]
    alpha = torch.stack(alpha, 1) * model.method.constants.coulomb    # e angstrom / (V/angstrom) -> angstrom^3
    per_molecule = [d.reshape(-1, 3) for d in torch.stack(derivatives, -1).split(molecules.sizes)] if positions else []
    return x, per_molecule, alpha


def _result(model: EnergyModel, molecules: Molecules, order: int, options: ModelKeywords):
    """The result of molecules that all converge."""
    converged: ModelKeywords = {**options, "raise_unconverged": True}
    return model(molecules, forces=False, order=order, **converged)


def _positions(molecules, differentiable):
    """Positions to differentiate by: those of the molecules if they are on a tape that goes on, else a copy of them."""
    x = molecules.positions
    return x if differentiable and x.requires_grad else x.detach().clone().requires_grad_()


def _rows(gradient, positions, molecules, progress, create_graph):
    """Blocks d gradient / d positions of every molecule, one direction for all molecules at once."""
    sizes = molecules.sizes
    largest = max(sizes)
    starts = torch.tensor([0, *sizes]).cumsum(0)[:-1].tolist()
    derivatives = []
    for first in range(0, 3 * largest, CHUNK):
        directions = range(first, min(first + CHUNK, 3 * largest))
        v = positions.new_zeros(len(directions), *positions.shape)
        for row, k in enumerate(directions):
            for start, n in zip(starts, sizes, strict=True):
                if k < 3 * n:
                    v[row, start + k // 3, k % 3] = 1.0
        derivatives += _along(gradient, positions, v, create_graph)
        if progress is not None:
            progress((directions[-1] + 1) / (3 * largest))
    columns = torch.stack(derivatives)
    return [columns[:3 * n, start:start + n].reshape(3 * n, 3 * n) for start, n in zip(starts, sizes, strict=True)]


def _along(gradient, positions, v, create_graph):
    """Derivatives of the gradient along each v, all at once unless they must stay on the tape."""
    def derivative(direction: Tensor) -> Tensor:
        return torch.autograd.grad(gradient, positions, direction, retain_graph=True, create_graph=create_graph)[0]

    return [derivative(d) for d in v] if create_graph else torch.func.vmap(derivative)(v)
