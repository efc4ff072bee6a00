"""Results as other programs want them: off the tape, and under ASE's names."""

from dataclasses import fields, replace
from typing import Any

import numpy as np
from torch import Tensor

from nddo_ml.hamiltonian.results import Result


def off_tape(result: Result) -> Result:
    """The result with every tensor detached, so that it can be copied, pickled and kept; itself, if they are."""
    values = {f.name: getattr(result, f.name) for f in fields(result)}
    tensors = [*values.values(), *result.energies.values(), result.molecules.positions]
    if not any(isinstance(value, Tensor) and value.requires_grad for value in tensors):
        return result
    detached = {name: value.detach() for name, value in values.items() if isinstance(value, Tensor)}
    energies = {name: value.detach() for name, value in result.energies.items()}
    molecules = result.molecules.with_positions(result.molecules.positions.detach())
    return replace(result, **detached, energies=energies, molecules=molecules)


def ase_results(result: Result, k: int = 0) -> dict[str, Any]:
    """Properties of molecule k under ASE's names and in its units (eV, angstrom, e)."""
    alone = len(result.molecules) == 1
    owned = ... if alone else array(result.molecules.molecule) == k
    energy = result.energy.tolist()[k]

    def of_atoms(tensor: Tensor) -> np.ndarray:
        return np.array(array(tensor)[owned])

    named = {"energy": energy, "free_energy": energy, "dipole": array(result.dipole)[k].copy(),
             "charges": of_atoms(result.charges), "magmom": float(result.molecules.unpaired.tolist()[k]),
             "magmoms": of_atoms(result.spin_populations)}
    if result.forces is not None:
        named["forces"] = of_atoms(result.forces)
    if result.point_charge_forces is not None and k == 0 and alone:
        named["point_charge_forces"] = array(result.point_charge_forces)
    return named


def array(tensor: Tensor) -> np.ndarray:
    """The numbers of a tensor, off the tape and on the CPU."""
    return tensor.detach().cpu().numpy()
