"""The electronic energy of a self-consistent state, differentiable as often as asked for, half-electron states included."""

import torch
from jaxtyping import Float
from torch import Tensor

from nddo_ml.errors import InvalidMolecule
from nddo_ml.hamiltonian.state import State
from nddo_ml.integrals.blocks import Integrals
from nddo_ml.molecules import Molecules
from nddo_ml.scf import half_electron, response
from nddo_ml.scf.fock import electronic_energy, fock, kernel, one_electron
from nddo_ml.scf.response import Reference
from nddo_ml.scf.zero_modes import free_axes

Energy = tuple[Float[Tensor, "molecule"], Float[Tensor, "molecule spin orbital orbital"]]


def energy(molecules: Molecules, integrals: Integrals, state: State, order: int, tolerance: float) -> Energy:
    """The energy of each molecule (eV) and the density its populations come from; see walk.energy."""
    layout, D, f = state.problem.layout, state.solution.D, state.problem.occupations
    open_shell = bool(((f > 0) & (f < 1)).any())
    if order == 1 and not open_shell:
        return electronic_energy(layout, integrals, D), D
    reference = response.reference(state.problem, state.orbitals, state.solution, tolerance, free_axes(molecules))
    if not open_shell:
        return response.energy(reference, integrals, order)
    if order > 1:
        raise InvalidMolecule("Half-electron states have exact forces but no exact second derivatives here: use "
                              "unrestricted=True for an open shell, or differences of the forces.")
    singlet = ((f > 0) & (f < 1)).any(-1)[:, 0] & (molecules.unpaired == 0)
    return _half_electron(integrals, state, reference, singlet)


def _half_electron(integrals: Integrals, state: State, reference: Reference, singlet: Tensor) -> Energy:
    """The energy of half-electron states, whose open orbitals answer to a change already in the first derivative."""
    layout, D = state.problem.layout, state.solution.D
    two, c, moved = kernel(layout, integrals), half_electron.open_orbitals(state.orbitals), D
    if torch.is_grad_enabled():
        X = response.rotation(reference, integrals)[1]
        c, moved = half_electron.open_orbitals(state.orbitals, X[:, 0]), D + response.linear_change(reference, X)
    F = fock(layout, two, one_electron(layout, integrals), moved)[:, 0]
    correction, added = half_electron.correction(layout, two, c, F, singlet)
    return electronic_energy(layout, integrals, D) + correction, (D + added[:, None]).detach()
