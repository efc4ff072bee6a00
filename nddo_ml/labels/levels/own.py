"""The Hamiltonians of this package, published or learned, as levels of theory."""

from dataclasses import dataclass

import numpy as np
import torch

from nddo_ml.common.struct import cached
from nddo_ml.common.threads import threads
from nddo_ml.hamiltonian.model import Hamiltonian
from nddo_ml.labels.levels.theory import Label
from nddo_ml.labels.structures import Structure
from nddo_ml.molecules import Molecules, PointCharges
from nddo_ml.properties.centres import centres_of_mass
from nddo_ml.properties.gaps import has_gap


@dataclass(frozen=True)
class OwnMethod:
    """A method of this package."""

    method: str     # its name, or the file of a learned one
    dispersion = "included"

    @property
    def name(self) -> str:
        """That of the method."""
        return self.method

    def __call__(self, structure: Structure) -> Label:
        """The label of a structure, calculated in one thread (tasks run side by side).

        Raises:
            MissingParameter: the method has no parameters for an element.
            SCFNotConverged: the SCF did not converge.
        """
        molecules = Molecules.single(structure.numbers, structure.positions, structure.charge, structure.multiplicity)
        around = structure.point_charges
        charges = None if around is None else PointCharges.single(around[:, :3], around[:, 3])
        with threads(1):
            result = _hamiltonian(self.method)(molecules, forces=True, unrestricted=True if structure.unrestricted else None,
                                               point_charges=charges, raise_unconverged=True)
        dipole = _array(result.dipole[0]) + structure.charge * centres_of_mass(molecules)[0].numpy()
        s2 = float(result.s2[0].detach()) if structure.multiplicity > 1 or structure.unrestricted else None
        return Label(float(result.energy[0].detach()), _array(result.forces), dipole, _array(result.charges),
                     float(result.gap(0).detach()) if has_gap(result.occupations(0)) else 0.0, s2,
                     point_charge_forces=None if charges is None else _array(result.point_charge_forces),
                     iterations=int(result.iterations[0]))


@cached
def _hamiltonian(method: str) -> Hamiltonian:
    return Hamiltonian(method)


def _array(tensor: torch.Tensor | None) -> np.ndarray:
    """The values of a tensor that was asked for."""
    assert tensor is not None
    return tensor.detach().numpy()
