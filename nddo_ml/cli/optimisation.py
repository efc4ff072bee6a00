"""The optimisation of one structure: by the package's own optimiser, or, with constraints that bend, by ASE's."""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from ase import Atoms
from jaxtyping import Float

from nddo_ml.cli.wanted import Report, Wanted
from nddo_ml.geometry import constraints
from nddo_ml.geometry.optimise import OptimisationStep, Optimised
from nddo_ml.geometry.relax import FollowedStates, to_minima
from nddo_ml.hamiltonian.model import Hamiltonian
from nddo_ml.hamiltonian.starts import HasDensity
from nddo_ml.interfaces.ase import NDDO
from nddo_ml.interfaces.results import array
from nddo_ml.molecules import Molecules, PointCharges
from nddo_ml.properties.model import ModelKeywords


class TrajectoryPoint(NamedTuple):
    """One geometry of a trajectory."""

    atoms: Atoms
    energy: float                            # eV
    forces: Float[np.ndarray, "atom 3"]      # eV/angstrom


@dataclass(frozen=True, eq=False)
class Optimisation:
    """How an optimisation went."""

    optimised: Optimised
    trajectory: list[TrajectoryPoint]      # the geometries that were accepted
    last: HasDensity                    # the last one of the model, which need not be of the final geometry


@dataclass(frozen=True, eq=False)
class _Trajectory:
    """Geometries as they come, each reported with how far it is from the end."""

    start: Atoms
    fmax: float
    report: Report
    geometries: list[TrajectoryPoint] = field(default_factory=list)

    def add(self, positions: Float[np.ndarray, "atom 3"], energy: float, forces: Float[np.ndarray, "atom 3"]) -> None:
        """One more geometry."""
        atoms = self.start.copy()
        atoms.set_positions(positions, apply_constraint=False)
        self.geometries.append(TrajectoryPoint(atoms, energy, forces))
        largest = float(np.linalg.norm(constraints.free_forces(atoms, forces), axis=-1).max())
        self.report(f"optimisation, step {len(self.geometries) - 1}: largest force {largest:.4f} eV/Å",
                    min(1.0, self.fmax / max(largest, 1e-12)))


def optimised(atoms: Atoms, model: Hamiltonian, molecules: Molecules, wanted: Wanted, report: Report) -> Optimisation:
    """The optimisation of a structure and its molecule.

    Raises: NDDOError, if the first geometry cannot be calculated, with its reason.
    """
    # the first geometry on its own, so that a molecule that cannot be calculated is refused with its reason
    options: ModelKeywords = {**wanted.scf, "raise_unconverged": True}
    first = model(molecules, forces=True, **options)
    trajectory = _Trajectory(atoms, wanted.fmax, report)
    if constraints.is_linear(atoms):
        return _relaxed(FollowedStates(model, wanted.scf, first), molecules, wanted, trajectory)
    return _followed(model, molecules, wanted, trajectory)


def _relaxed(following: FollowedStates, molecules: Molecules, wanted: Wanted, trajectory: _Trajectory) -> Optimisation:
    """By the package's own optimiser."""
    def seen(step: OptimisationStep) -> None:
        if bool(step.accepted[0]) or not trajectory.geometries:
            trajectory.add(array(step.molecules.positions), float(step.energy[0]), array(step.forces))

    fixed = [constraints.fixed_directions(trajectory.start)]
    minimum = to_minima(following, molecules, wanted.fmax, wanted.steps, seen, fixed)
    return Optimisation(minimum, trajectory.geometries, following.last[0][0])


def _followed(model: Hamiltonian, molecules: Molecules, wanted: Wanted, trajectory: _Trajectory) -> Optimisation:
    """By ASE's BFGS, which obeys constraints that bend."""
    moving, charges = trajectory.start.copy(), wanted.point_charges
    calculator = NDDO(model, int(molecules.charge[0]), int(molecules.unpaired[0]) + 1, point_charges=_table(charges),
                      unrestricted=wanted.unrestricted, max_steps=wanted.max_steps, stability=wanted.stability)
    moving.calc = calculator

    def seen() -> None:
        trajectory.add(moving.positions, moving.get_potential_energy(), moving.get_forces(apply_constraint=False))

    reached = constraints.follow(moving, wanted.fmax, wanted.steps, seen)
    last, count = calculator.result, len(trajectory.geometries)
    assert last is not None and last.forces is not None
    no, zero = torch.zeros_like(molecules.charge, dtype=torch.bool), torch.zeros_like(molecules.charge)
    stuck = no | (not reached and count < wanted.steps)
    end = molecules.with_positions(torch.from_numpy(moving.positions))
    minimum = Optimised(end, last.energy, last.forces, converged=no | reached, failed=no, evaluations=zero + count, stuck=stuck,
                        lost=stuck, step=zero.double())
    return Optimisation(minimum, trajectory.geometries, last)


def _table(charges: PointCharges | None) -> tuple[np.ndarray, np.ndarray] | None:
    """Point charges as the calculator takes them."""
    return None if charges is None else (array(charges.positions), array(charges.charges))
