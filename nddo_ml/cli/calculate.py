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

from nddo_ml.common.json import finite
from nddo_ml.elements import masses
from nddo_ml.errors import UnknownOption
from nddo_ml.geometry import constraints
from nddo_ml.geometry.flat import lifted
from nddo_ml.geometry.optimise import Optimised
from nddo_ml.geometry.relax import Evaluation, to_minima
from nddo_ml.hamiltonian.model import Hamiltonian
from nddo_ml.hamiltonian.results import Result
from nddo_ml.interfaces.ase import NDDO, ase_results, molecule, off_tape
from nddo_ml.molecules import Molecules, PointCharges
from nddo_ml.properties import response
from nddo_ml.properties.thermochemistry import ATMOSPHERE, Thermochemistry, thermochemistry
from nddo_ml.properties.vibrations import SOFT, Raman, Vibrations, ir_intensities, normal_modes, raman_activities
from nddo_ml.scf.options import SCF


@dataclass(frozen=True)
class Wanted:
    """What to calculate, and how. fmax: largest force on an atom at the end of an optimisation, eV/angstrom, within `steps`
    evaluations.
    """

    charge: int | None = None
    multiplicity: int | None = None
    unrestricted: bool | None = SCF.unrestricted
    stability: bool | None = SCF.stability
    max_steps: int = SCF.max_steps
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
        return {"unrestricted": self.unrestricted, "max_steps": self.max_steps, "stability": self.stability,
                "point_charges": self.point_charges}


@dataclass(frozen=True, eq=False)
class Spectroscopy:
    """Vibrations with infrared intensities (km/mol), Raman activities if asked for, polarizability (angstrom^3) and
    thermochemistry (None where atoms are fixed: that is no ideal gas).
    """

    vibrations: Vibrations
    intensities: torch.Tensor
    raman: Raman | None
    polarizability: torch.Tensor
    thermochemistry: Thermochemistry | None


@dataclass(frozen=True, eq=False)
class Calculation:
    """Everything found about one structure; `atoms` at its final geometry, `trajectory` the accepted geometries of an
    optimisation; `notes` how the file was read.
    """

    atoms: Atoms
    molecules: Molecules
    result: Result
    seconds: float
    optimised: Optimised | None = None
    trajectory: list[Atoms] = field(default_factory=list)
    spectroscopy: Spectroscopy | None = None
    notes: tuple[str, ...] = ()

    @property
    def largest_force(self) -> float:
        """Largest force on an atom, eV/angstrom, without what constraints take."""
        forces = constraints.free_forces(self.atoms, self.result.forces.detach().cpu().numpy())
        return float(np.linalg.norm(forces, axis=-1).max())

    @property
    def warnings(self) -> list[str]:
        """What a user should know before trusting the numbers."""
        found = []
        if self.optimised is not None:
            found += _of_optimisation(self.optimised, self.largest_force)
        if self.spectroscopy is not None:
            found += _of_vibrations(self)
        return found


def _of_optimisation(optimised, largest):
    """What stopped an optimisation that did not converge, and the steps of the energy that it climbed."""
    found = []
    if not bool(optimised.converged[0]):
        if bool(optimised.stuck[0]) and bool(optimised.lost[0]):
            why = ("no step, however short, led to a geometry that can be calculated (the SCF fails or atoms meet): look at "
                   "the structure, raise --max-steps")
        elif bool(optimised.stuck[0]):
            why = ("no step, however short, was acceptable, because the energy has a step or a kink here (nddo-ml methods NAME "
                   "tells where a method has them) or the SCF changes its state: look at the structure, start from another one")
        elif bool(optimised.lost[0]):
            why = "the last geometries could not be calculated: look at the structure"
        else:
            why = "raise --steps"
        found.append(f"The optimisation stopped after {int(optimised.evaluations[0])} evaluations with a largest force of "
                     f"{largest:.4f} eV/Å: {why}.")
    if float(optimised.step[0]):
        found.append(f"The energy has a step of {float(optimised.step[0]):.4f} eV on the way (nddo-ml methods NAME tells where "
                     "a method has them): from there on the forces were followed, whatever the energy.")
    return found


def _of_vibrations(found):
    """What is to be known of frequencies."""
    vibrations, notes = found.spectroscopy.vibrations, []
    if found.largest_force > 0.05:
        notes.append(f"This is no stationary point (largest force {found.largest_force:.3f} eV/Å), so its frequencies mean "
                     "little: use --opt.")
    if found.spectroscopy.thermochemistry is None:
        notes.append(f"Frequencies of what may move ({constraints.described(found.atoms)}), translations and rotations "
                     "included; no thermochemistry. Remove the constraints for those of the whole molecule.")
    if vibrations.unstable:
        left = "" if found.spectroscopy.thermochemistry is None else "; they are left out of the thermochemistry"
        notes.append(f"{vibrations.unstable} imaginary frequencies: not a minimum{left}.")
    elif vibrations.imaginary and found.spectroscopy.thermochemistry is not None:
        notes.append(f"{vibrations.imaginary} imaginary frequencies below {SOFT:g}i cm⁻¹, as soft modes have in geometries of "
                     "finite accuracy (--fmax): left out of the thermochemistry.")
    return notes


def calculate(atoms: Atoms, model: Hamiltonian, wanted: Wanted, progress: Callable[[str, float], None]) -> Calculation:
    """The calculation of one structure; progress is told what is being done and which fraction of it is done.

    Raises InvalidMolecule, MissingParameter, SCFNotConverged.
    """
    start = time.perf_counter()
    if wanted.vibrations and not constraints.is_linear(atoms):
        raise UnknownOption(f"Frequencies with {constraints.described(atoms)}: those of atoms held by it are not defined here. "
                            "Fix atoms or cartesian components instead, or remove the constraint.")
    molecules, optimised, trajectory, last = molecule(atoms, model.method, wanted.charge, wanted.multiplicity), None, [], None
    if wanted.optimisation:
        molecules = molecules if atoms.constraints else lifted(molecules)
        # the first geometry on its own, so that a molecule that cannot be calculated is refused with its reason
        last = model(molecules, forces=True, raise_unconverged=True, **wanted.scf)
        relax = _relax if constraints.is_linear(atoms) else _follow
        optimised, trajectory, last = relax(atoms, model, molecules, wanted, last, progress)
        molecules = optimised.molecules
        atoms = atoms.copy()
        atoms.set_positions(molecules.positions.cpu().numpy(), apply_constraint=False)
    progress("SCF", 0.0)
    result = off_tape(model(molecules, forces=True, guess=last, raise_unconverged=True, **wanted.scf))
    found = Calculation(atoms, molecules, result, 0.0, optimised, trajectory)
    if wanted.vibrations:
        found = replace(found, spectroscopy=_spectroscopy(found, model, wanted, progress))
    return replace(found, seconds=time.perf_counter() - start)


def _relax(atoms, model, molecules, wanted, last, progress):
    """The optimisation, its accepted geometries and its last result."""
    trajectory, evaluation = [], Evaluation(model, wanted.scf, last)

    def seen(step):
        if bool(step.accepted[0]) or not trajectory:
            _record_step(trajectory, atoms, step.molecules.positions, float(step.energy[0]), step.forces, wanted, progress)

    found = to_minima(evaluation, molecules, wanted.fmax, wanted.steps, seen, [constraints.fixed_directions(atoms)])
    return found, trajectory, evaluation.last[0][0]


def _follow(atoms, model, molecules, wanted, last, progress):
    """The same with ASE's BFGS, for constraints that bend."""
    trajectory, moving, charges = [], atoms.copy(), wanted.point_charges
    moving.calc = NDDO(model, int(molecules.charge[0]), int(molecules.unpaired[0]) + 1, wanted.unrestricted,
                       max_steps=wanted.max_steps, stability=wanted.stability,
                       point_charges=None if charges is None else (charges.positions.numpy(), charges.charges.numpy()))

    def seen():
        forces = torch.from_numpy(moving.get_forces(apply_constraint=False))
        _record_step(trajectory, atoms, torch.from_numpy(moving.positions), moving.get_potential_energy(), forces, wanted,
                     progress)

    converged = torch.tensor([constraints.follow(moving, wanted.fmax, wanted.steps, seen)])
    last, no, zero = moving.calc.result, torch.zeros_like(converged), torch.zeros_like(molecules.charge)
    stuck = ~converged & (len(trajectory) < wanted.steps)
    return Optimised(molecules.with_positions(torch.from_numpy(moving.positions)), last.energy, last.forces, converged, no,
                     zero + len(trajectory), stuck, stuck, zero.double()), trajectory, last


def _record_step(trajectory, atoms, positions, energy, forces, wanted, progress):
    """One more geometry of a trajectory, and how far it is from the end."""
    frame = atoms.copy()
    frame.set_positions(positions.cpu().numpy(), apply_constraint=False)
    forces = forces.cpu().numpy()
    trajectory.append((frame, energy, forces))
    largest = float(np.linalg.norm(constraints.free_forces(frame, forces), axis=-1).max())
    progress(f"optimisation, step {len(trajectory) - 1}: largest force {largest:.4f} eV/Å",
             min(1.0, wanted.fmax / max(largest, 1e-12)))


def _spectroscopy(found, model, wanted, progress):
    """Second (and with Raman third) derivatives and what follows from them."""
    molecules, result = found.molecules, found.result
    options = {"unrestricted": len(result.density(0)) == 2, "max_steps": wanted.max_steps, "guess": result}
    weights = torch.from_numpy(found.atoms.get_masses()) if found.atoms.has("masses") else masses(molecules.numbers.cpu())
    progress("Hessian", 0.0)
    H = response.hessian(model, molecules, progress=lambda fraction: progress("Hessian", fraction), **options)[0]
    fixed = constraints.fixed_directions(found.atoms)
    vibrations = normal_modes(H.cpu(), weights, molecules.positions.cpu(), fixed=fixed)
    progress("infrared intensities", 0.0)
    intensities = ir_intensities(response.dipole_derivatives(model, molecules, **options)[0].cpu(), vibrations.modes)
    alpha = response.polarizability(model, molecules, **options)[0].cpu()
    raman = None
    if wanted.raman:
        progress("Raman activities", 0.0)
        raman = raman_activities(response.polarizability_derivatives(model, molecules, **options)[0].cpu(), vibrations.modes)
    if fixed is not None:
        return Spectroscopy(vibrations, intensities, raman, alpha, None)
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
        "seconds": found.seconds, "notes": list(found.notes), "warnings": found.warnings}
    if r.point_charge_forces is not None:
        entry["point_charge_forces"] = r.point_charge_forces.tolist()
    if found.optimised is not None:
        entry["optimisation"] = {
            "converged": bool(found.optimised.converged[0]), "evaluations": int(found.optimised.evaluations[0]),
            "largest_force": found.largest_force, "energies": [energy for _, energy, _ in found.trajectory],
            "step_in_the_energy": float(found.optimised.step[0])}
    if found.atoms.constraints:
        entry["constraints"] = constraints.described(found.atoms)
    if found.spectroscopy is not None:
        entry |= _vibrational_record(found.spectroscopy)
    return finite(entry)


def _vibrational_record(s):
    v, t = s.vibrations, s.thermochemistry
    found = {"vibrations": {"frequencies": v.frequencies.tolist(), "intensities": s.intensities.tolist(),
                            "reduced_masses": v.reduced_masses.tolist(), "modes": v.modes.tolist(),
                            "residual": v.residual.tolist()},
             "polarizability": s.polarizability.tolist()}
    if t is not None:
        found["thermochemistry"] = {name: getattr(t, name) for name in t.__dataclass_fields__} | {
            "heat_capacity_pressure": t.heat_capacity_pressure}
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


def written(found: Calculation) -> tuple[dict, dict]:
    """Properties (ASE's names) and info of the final geometry for a structure file."""
    r = found.result
    info = state(found) | {"method": r.method}
    known = {"heat_of_formation": float(r.heat_of_formation[0]), "atomization_energy": float(r.atomization_energy[0])}
    results = {name: value for name, value in ase_results(r).items() if name in all_outputs}
    return results, info | {name: value for name, value in known.items() if np.isfinite(value)}


def state(found: Calculation) -> dict:
    """Charge and multiplicity, for the info of a structure file."""
    return {"charge": int(found.molecules.charge[0]), "multiplicity": int(found.molecules.unpaired[0]) + 1}
