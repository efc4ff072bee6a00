"""The Hamiltonians of this package, published or learned, as levels of theory."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from nddo_ml.common.struct import cached
from nddo_ml.elements import dipole_masses
from nddo_ml.hamiltonian.model import Hamiltonian
from nddo_ml.hamiltonian.results import Result
from nddo_ml.labels.levels.theory import Label
from nddo_ml.labels.structures import Structure
from nddo_ml.molecules import Molecules, PointCharges


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
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            result = _hamiltonian(self.method)(molecules, forces=True, unrestricted=True if structure.unrestricted else None,
                                               point_charges=charges, raise_unconverged=True)
        finally:
            torch.set_num_threads(threads)
        dipole = _array(result.dipole[0]) + structure.charge * _centre_of_mass(molecules)
        s2 = float(result.s2[0].detach()) if structure.multiplicity > 1 or structure.unrestricted else None
        return Label(float(result.energy[0].detach()), _array(result.forces), dipole, _array(result.charges),
                     float(result.gap(0).detach()) if _has_gap(result) else 0.0, s2,
                     point_charge_forces=None if charges is None else _array(result.point_charge_forces),
                     iterations=int(result.iterations[0]))


@cached
def _hamiltonian(method: str) -> Hamiltonian:
    return Hamiltonian(method)


def _array(tensor: torch.Tensor | None) -> np.ndarray:
    """The values of a tensor that was asked for."""
    assert tensor is not None
    return tensor.detach().numpy()


def _centre_of_mass(molecules: Molecules) -> Float[np.ndarray, "3"]:
    """The point about which a Result gives the dipole of an ion, angstrom."""
    m = dipole_masses(molecules.numbers)
    return ((m[:, None] * molecules.positions).sum(0) / m.sum()).numpy()


def _has_gap(result: Result) -> bool:
    """Whether there are both occupied and empty orbitals."""
    f = result.occupations(0)
    return bool((f < 2.0 / len(f)).any()) and bool((f > 0).any())
