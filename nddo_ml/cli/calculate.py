"""What `nddo-ml run` does with one structure: SCF, optionally optimisation, vibrations and thermochemistry, gathered in one
record.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from ase import Atoms
from ase.outputs import all_outputs

from nddo_ml.dynamics.flat import lifted
from nddo_ml.dynamics.optimise import Optimised, optimise
from nddo_ml.elements import masses
from nddo_ml.errors import UnknownOption
from nddo_ml.interfaces.ase import ase_results, molecule, off_tape
from nddo_ml.model import Hamiltonian
from nddo_ml.molecules import Molecules, PointCharges
from nddo_ml.properties import response
from nddo_ml.properties.thermochemistry import ATMOSPHERE, Thermochemistry, thermochemistry
from nddo_ml.properties.vibrations import Raman, Vibrations, ir_intensities, normal_modes, raman_activities
from nddo_ml.results import Result


@dataclass(frozen=True)
class Wanted:
    """What to calculate, and how. fmax: largest force on an atom at the end of an optimisation, eV/angstrom, within `steps`
    evaluations.
    """

    charge: int | None = None
    multiplicity: int | None = None
    unrestricted: bool | None = None
    stability: bool = False
    max_steps: int = 300
    optimisation: bool = False
    fmax: float = 0.01
    steps: int = 500
    vibrations: bool = False
    raman: bool = False
    temperature: float = 298.15
    pressure: float = ATMOSPHERE
    symmetry_number: int | None = None
    point_charges: PointCharges | None = None

    def __post_init__(self):
        if self.point_charges is not None and self.vibrations:
            raise UnknownOption("Frequencies are those of an isolated molecule, which turns and moves freely: leave out "
                                "--point-charges, or take the Hessian from the calculator (get_hessian).")

    @property
    def scf(self) -> dict:
        """The part that is passed to the model."""
        return {"unrestricted": self.unrestricted, "max_steps": self.max_steps, "point_charges": self.point_charges}


@dataclass(frozen=True, eq=False)
class Spectroscopy:
    """Vibrations with infrared intensities (km/mol), Raman activities if asked for, polarizability (angstrom^3) and
    thermochemistry.
    """

    vibrations: Vibrations
    intensities: torch.Tensor
    raman: Raman | None
    polarizability: torch.Tensor
    thermochemistry: Thermochemistry


@dataclass(frozen=True, eq=False)
class Calculation:
    """Everything found about one structure; `atoms` at its final geometry, `trajectory` the accepted geometries of an
    optimisation.
    """

    atoms: Atoms
    molecules: Molecules
    result: Result
    seconds: float
    optimised: Optimised | None = None
    trajectory: list[Atoms] = field(default_factory=list)
    spectroscopy: Spectroscopy | None = None

    @property
    def largest_force(self) -> float:
        """Largest force on an atom, eV/angstrom."""
        return float(self.result.forces.norm(dim=-1).max())

    @property
    def warnings(self) -> list[str]:
        """What a user should know before trusting the numbers."""
        found = []
        if self.optimised is not None and not bool(self.optimised.converged[0]):
            found.append(f"The optimisation stopped after {int(self.optimised.evaluations[0])} evaluations with a largest "
                         f"force of {self.largest_force:.4f} eV/Å: raise --steps, or look at the structure.")
        if self.spectroscopy is not None:
            if self.largest_force > 0.05:
                found.append(f"This is no stationary point (largest force {self.largest_force:.3f} eV/Å), so its frequencies "
                             "mean little: use --opt.")
            if self.spectroscopy.vibrations.imaginary:
                found.append(f"{self.spectroscopy.vibrations.imaginary} imaginary frequencies: not a minimum; they are left "
                             "out of the thermochemistry.")
        return found


def calculate(atoms: Atoms, model: Hamiltonian, wanted: Wanted, progress: Callable[[str, float], None]) -> Calculation:
    """The calculation of one structure; progress is told what is being done and which fraction of it is done.

    Raises InvalidMolecule, MissingParameter, SCFNotConverged.
    """
    start = time.perf_counter()
    molecules, optimised, trajectory, last = molecule(atoms, model.method, wanted.charge, wanted.multiplicity), None, [], None
    if wanted.optimisation:
        molecules = molecules if atoms.constraints else lifted(molecules)
        # the first geometry on its own, so that a molecule that cannot be calculated is refused with its reason
        last = model(molecules, forces=True, raise_unconverged=True, **wanted.scf)
        optimised, trajectory = _relax(atoms, model, molecules, wanted, last, progress)
        molecules = optimised.molecules
        atoms = atoms.copy()
        atoms.positions = molecules.positions.cpu().numpy()
    progress("SCF", 0.0)
    result = off_tape(model(molecules, forces=True, stability=wanted.stability, guess=last, raise_unconverged=True,
                            **wanted.scf))
    found = Calculation(atoms, molecules, result, 0.0, optimised, trajectory)
    if wanted.vibrations:
        found = replace(found, spectroscopy=_spectroscopy(found, model, wanted, progress))
    return replace(found, seconds=time.perf_counter() - start)


def _relax(atoms, model, molecules, wanted, last, progress):
    """The optimisation and its accepted geometries."""
    trajectory = []

    def energy_forces(moved):
        nonlocal last
        result = model(moved, forces=True, guess=last, raise_unconverged=False, **wanted.scf)
        last = result if bool(result.converged.all()) else last
        return result.energy.detach(), result.forces.detach()

    def seen(step):
        if bool(step.accepted[0]) or not trajectory:
            frame = atoms.copy()
            frame.positions = step.molecules.positions.cpu().numpy()
            trajectory.append((frame, float(step.energy[0]), step.forces.cpu().numpy()))
            largest = float(step.forces.norm(dim=-1).max())
            progress(f"optimisation, step {step.round}: largest force {largest:.4f} eV/Å",
                     min(1.0, wanted.fmax / max(largest, 1e-12)))

    found = optimise(energy_forces, molecules, wanted.fmax, wanted.steps, seen)
    return found, trajectory


def _spectroscopy(found, model, wanted, progress):
    """Second (and with Raman third) derivatives and what follows from them."""
    molecules, result = found.molecules, found.result
    options = {"unrestricted": len(result.density(0)) == 2, "max_steps": wanted.max_steps, "guess": result}
    weights = torch.from_numpy(found.atoms.get_masses()) if found.atoms.has("masses") else masses(molecules.numbers.cpu())
    progress("Hessian", 0.0)
    H = torch.zeros(3, 3, dtype=torch.float64)   # of an atom: nothing depends on where it is
    if len(found.atoms) > 1:
        H = response.hessian(model, molecules, progress=lambda fraction: progress("Hessian", fraction), **options)[0]
    vibrations = normal_modes(H.cpu(), weights, molecules.positions.cpu())
    progress("infrared intensities", 0.0)
    intensities = ir_intensities(response.dipole_derivatives(model, molecules, **options)[0].cpu(), vibrations.modes)
    alpha = response.polarizability(model, molecules, **options)[0].cpu()
    raman = None
    if wanted.raman:
        progress("Raman activities", 0.0)
        raman = raman_activities(response.polarizability_derivatives(model, molecules, **options)[0].cpu(), vibrations.modes)
    thermo = thermochemistry(vibrations.frequencies, molecules.numbers, molecules.positions, weights, float(result.energy[0]),
                             int(molecules.unpaired[0]) + 1, wanted.temperature, wanted.pressure, wanted.symmetry_number)
    return Spectroscopy(vibrations, intensities, raman, alpha, thermo)


def record(found: Calculation) -> dict:
    """The calculation as plain numbers, lists and strings, ready for JSON; units as in `UNITS`."""
    r, m = found.result, found.molecules
    homo, lumo = r.homo_lumo(0)
    entry = {
        "formula": found.atoms.get_chemical_formula(), "method": r.method, "charge": int(m.charge[0]),
        "multiplicity": int(m.unpaired[0]) + 1, "numbers": m.numbers.tolist(), "positions": m.positions.tolist(),
        "energy": float(r.energy[0]), "energies": {name: float(value[0]) for name, value in r.energies.items()},
        "heat_of_formation": float(r.heat_of_formation[0]),
        "atomization_energy": float(r.atomization_energy[0]), "forces": r.forces.tolist(), "charges": r.charges.tolist(),
        "dipole": r.dipole[0].tolist(), "dipole_debye": r.dipole_debye[0].tolist(),
        "spin_populations": r.spin_populations.tolist(),
        "s2": float(r.s2[0]), "homo": homo, "lumo": lumo, "orbital_energies": r.orbital_energies(0).tolist(),
        "occupations": r.occupations(0).tolist(), "bond_orders": r.bond_orders(0).tolist(),
        "scf": {"converged": bool(r.converged[0]), "iterations": int(r.iterations[0]), "residual": float(r.residual[0]),
                "route": r.route[0]},
        "seconds": found.seconds, "warnings": found.warnings}
    if r.point_charge_forces is not None:
        entry["point_charge_forces"] = r.point_charge_forces.tolist()
    if found.optimised is not None:
        entry["optimisation"] = {
            "converged": bool(found.optimised.converged[0]), "evaluations": int(found.optimised.evaluations[0]),
            "largest_force": found.largest_force, "energies": [energy for _, energy, _ in found.trajectory]}
    if found.spectroscopy is not None:
        entry |= _vibrational_record(found.spectroscopy)
    return finite(entry)


def _vibrational_record(s):
    v, t = s.vibrations, s.thermochemistry
    found = {"vibrations": {"frequencies": v.frequencies.tolist(), "intensities": s.intensities.tolist(),
                            "reduced_masses": v.reduced_masses.tolist(), "modes": v.modes.tolist(),
                            "residual": v.residual.tolist()},
             "polarizability": s.polarizability.tolist(),
             "thermochemistry": {name: getattr(t, name) for name in t.__dataclass_fields__}
             | {"heat_capacity_pressure": t.heat_capacity_pressure}}
    if s.raman is not None:
        found["vibrations"] |= {"raman_activities": s.raman.activities.tolist(),
                                "depolarisation": s.raman.depolarisation.tolist()}
    return found


UNITS = {"energy": "eV", "positions": "angstrom", "forces": "eV/angstrom", "point_charge_forces": "eV/angstrom",
         "charges": "e", "dipole": "e angstrom", "dipole_debye": "debye", "heat_of_formation": "kcal/mol at 298 K",
         "atomization_energy": "eV", "orbital_energies": "eV", "homo": "eV",
         "lumo": "eV", "residual": "eV", "frequencies": "cm^-1, imaginary ones negative", "intensities": "km/mol",
         "raman_activities": "angstrom^4/amu", "reduced_masses": "amu", "modes": "amu^-1/2", "polarizability": "angstrom^3",
         "thermochemistry": "eV, eV/K, K, Pa"}


def finite(tree):
    """Plain data with every number that JSON has no word for (NaN, infinity) as None."""
    if isinstance(tree, dict):
        return {key: finite(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [finite(value) for value in tree]
    return None if isinstance(tree, float) and not np.isfinite(tree) else tree


def written(found: Calculation) -> tuple[dict, dict]:
    """Properties (ASE's names) and info of the final geometry for a structure file."""
    r, m = found.result, found.molecules
    info = {"charge": int(m.charge[0]), "multiplicity": int(m.unpaired[0]) + 1, "method": r.method}
    known = {"heat_of_formation": float(r.heat_of_formation[0]), "atomization_energy": float(r.atomization_energy[0])}
    results = {name: value for name, value in ase_results(r).items() if name in all_outputs}
    return results, info | {name: value for name, value in known.items() if np.isfinite(value)}
