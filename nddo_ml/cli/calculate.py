"""What `nddo-ml run` does with one structure: SCF, optionally optimisation, vibrations and thermochemistry."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from ase import Atoms
from jaxtyping import Float
from torch import Tensor

from nddo_ml.cli.optimisation import Optimisation, optimised
from nddo_ml.cli.wanted import Report, Wanted
from nddo_ml.elements import masses
from nddo_ml.errors import NDDOError, UnknownOption
from nddo_ml.geometry import constraints
from nddo_ml.geometry.flat import lifted
from nddo_ml.hamiltonian.model import Hamiltonian
from nddo_ml.hamiltonian.results import Result
from nddo_ml.interfaces.atoms import molecule
from nddo_ml.interfaces.results import array, off_tape
from nddo_ml.molecules import Molecules
from nddo_ml.properties import response
from nddo_ml.properties.model import ModelKeywords
from nddo_ml.properties.thermochemistry import IdealGas, Thermochemistry, thermochemistry
from nddo_ml.properties.vibrations import Raman, Vibrations, ir_intensities, normal_modes, raman_activities


@dataclass(frozen=True, eq=False)
class Spectroscopy:
    """What follows from second and third derivatives of the energy."""

    vibrations: Vibrations
    intensities: Float[Tensor, "mode"]              # infrared, km/mol
    raman: Raman | None                             # None: not asked for
    polarizability: Float[Tensor, "3 3"]            # angstrom^3
    thermochemistry: Thermochemistry | None         # None: atoms are fixed, which is no ideal gas


@dataclass(frozen=True, eq=False)
class Calculation:
    """Everything about one structure."""

    atoms: Atoms                                    # at its final geometry
    molecules: Molecules                            # the same
    result: Result
    seconds: float
    optimisation: Optimisation | None = None        # None: not asked for
    spectroscopy: Spectroscopy | None = None        # None: not asked for
    notes: tuple[str, ...] = ()                     # how the file was read

    @property
    def forces(self) -> Float[Tensor, "atom 3"]:
        """Forces at the final geometry, eV/angstrom."""
        assert self.result.forces is not None
        return self.result.forces

    @property
    def largest_force(self) -> float:
        """Largest force on an atom, eV/angstrom, without what constraints take."""
        return float(np.linalg.norm(constraints.free_forces(self.atoms, array(self.forces)), axis=-1).max())

    @property
    def charge(self) -> int:
        """Total charge, e."""
        return int(self.molecules.charge[0])

    @property
    def multiplicity(self) -> int:
        """2S + 1."""
        return int(self.molecules.unpaired[0]) + 1


# what became of the structures of a file: each with its name
Entries = list[tuple[str, Calculation | NDDOError]]


def calculate(atoms: Atoms, model: Hamiltonian, wanted: Wanted, report: Report) -> Calculation:
    """The calculation of one structure; report is told what is being done and which fraction of it is done.

    Raises: InvalidMolecule, MissingParameter, SCFNotConverged; UnknownOption, for frequencies with constraints that bend.
    """
    start = time.perf_counter()
    if wanted.vibrations and not constraints.is_linear(atoms):
        raise UnknownOption(f"Frequencies with {constraints.described(atoms)}: those of atoms held by it are not defined here. "
                            "Fix atoms or cartesian components instead, or remove the constraint.")
    molecules, optimisation, last = molecule(atoms, model.method, wanted.charge, wanted.multiplicity), None, None
    if wanted.optimisation:
        molecules = molecules if atoms.constraints else lifted(molecules)
        optimisation = optimised(atoms, model, molecules, wanted, report)
        molecules, last = optimisation.optimised.molecules, optimisation.last
        atoms = atoms.copy()
        atoms.set_positions(array(molecules.positions), apply_constraint=False)
    report("SCF", 0.0)
    options: ModelKeywords = {**wanted.scf, "guess": last, "raise_unconverged": True}
    result = off_tape(model(molecules, forces=True, **options))
    calculation = Calculation(atoms, molecules, result, 0.0, optimisation)
    if wanted.vibrations:
        calculation = replace(calculation, spectroscopy=_spectroscopy(calculation, model, wanted, report))
    return replace(calculation, seconds=time.perf_counter() - start)


def _spectroscopy(calculation: Calculation, model: Hamiltonian, wanted: Wanted, report: Report) -> Spectroscopy:
    """Second (and with Raman third) derivatives and what follows from them."""
    atoms, molecules, result = calculation.atoms, calculation.molecules, calculation.result
    options: ModelKeywords = {"unrestricted": len(result.density(0)) == 2, "max_steps": wanted.max_steps, "guess": result}
    weights = torch.from_numpy(atoms.get_masses()) if atoms.has("masses") else masses(molecules.numbers.cpu())
    report("Hessian", 0.0)
    H = response.hessian(model, molecules, progress=_part(report, "Hessian"), **options)[0]
    fixed = constraints.fixed_directions(atoms)
    vibrations = normal_modes(H.cpu(), weights, molecules.positions.cpu(), fixed=fixed)
    report("infrared intensities", 0.0)
    intensities = ir_intensities(response.dipole_derivatives(model, molecules, **options)[0].cpu(), vibrations.modes)
    alpha = response.polarizability(model, molecules, **options)[0].cpu()
    raman = None
    if wanted.raman:
        report("Raman activities", 0.0)
        raman = raman_activities(response.polarizability_derivatives(model, molecules, **options)[0].cpu(), vibrations.modes)
    gas = IdealGas(float(result.energy[0]), calculation.multiplicity, wanted.temperature, wanted.pressure,
                   wanted.symmetry_number)
    thermo = None if fixed is not None else thermochemistry(vibrations.frequencies, molecules.numbers, molecules.positions,
                                                            weights, gas)
    return Spectroscopy(vibrations, intensities, raman, alpha, thermo)


def _part(report: Report, what: str) -> Callable[[float], object]:
    return lambda fraction: report(what, fraction)
