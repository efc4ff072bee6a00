"""Forces of many trajectories by one model, in one batch; each SCF starts from the density of the step before.

Trajectories are known by a name that they keep while others come to their end.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from jaxtyping import Float

from nddo_ml.dynamics.langevin import Trajectory
from nddo_ml.ensembles.ensemble import EnsembleResult
from nddo_ml.hamiltonian.results import Result
from nddo_ml.hamiltonian.starts import EarlierDensities
from nddo_ml.molecules import Molecules

TOLERANCE = 1e-5        # eV, of the SCF of a step

R = TypeVar("R", bound=Result | EnsembleResult)      # what a model returns: a Hamiltonian, an ensemble, or what is called alike


@dataclass(frozen=True, eq=False)
class EvaluatedTrajectories(Generic[R]):
    """What a model says of trajectories at one moment; forces are NaN where the SCF failed."""

    names: list[int]        # of the trajectories, in the order of the result
    result: R

    @property
    def forces(self) -> dict[int, Float[np.ndarray, "atom 3"]]:
        """Forces by the name of the trajectory, eV/angstrom."""
        forces = self.result.forces
        assert forces is not None
        parts = forces.detach().split(self.result.molecules.sizes)
        return dict(zip(self.names, [part.cpu().numpy() for part in parts], strict=True))

    def guess(self, names: list[int], molecules: Molecules) -> "R | EarlierDensities":
        """Densities to start from, of some of the trajectories at later positions."""
        if names == self.names:
            return self.result
        return EarlierDensities([(self.result, self.names.index(k)) for k in names], molecules)


def together(trajectories: Mapping[int, Trajectory]) -> Molecules:
    """The trajectories at this moment as one batch."""
    t = list(trajectories.values())
    return Molecules.batch([k.numbers for k in t], [k.positions for k in t], [k.charge for k in t],
                           [k.multiplicity for k in t])


@torch.no_grad()
def evaluated(model: Callable[..., R], trajectories: Mapping[int, Trajectory], last: EvaluatedTrajectories[Any] | None = None,
              tolerance: float = TOLERANCE) -> EvaluatedTrajectories[R]:
    """Energies and forces of all trajectories by a model (a Hamiltonian, an ensemble, or what is called alike).

    last: what was said at an earlier step, perhaps of other trajectories too. tolerance: of the SCF, eV.
    """
    names, molecules = list(trajectories), together(trajectories)
    guess = None if last is None else last.guess(names, molecules)
    result = model(molecules, forces=True, guess=guess, tolerance=tolerance, raise_unconverged=False)
    return EvaluatedTrajectories(names, result)
