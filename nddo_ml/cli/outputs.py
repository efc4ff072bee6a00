"""The files that `nddo-ml run` writes: JSON with everything, structures, trajectories, orbitals, spectra."""

import json
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase.outputs import all_outputs

import nddo_ml
from nddo_ml.cli import structures
from nddo_ml.cli.advice import warnings
from nddo_ml.cli.calculate import Calculation, Entries, Spectroscopy
from nddo_ml.common.json import finite
from nddo_ml.errors import NDDOError
from nddo_ml.geometry.constraints import described
from nddo_ml.hamiltonian.model import Hamiltonian
from nddo_ml.interfaces.molden import write_molden
from nddo_ml.interfaces.results import ase_results
from nddo_ml.methods import method as find_method
from nddo_ml.properties import spectra
from nddo_ml.structures import writing

UNITS = {"energy": "eV", "positions": "angstrom", "forces": "eV/angstrom", "point_charge_forces": "eV/angstrom",
         "charges": "e", "dipole": "e angstrom", "dipole_debye": "debye", "heat_of_formation": "kcal/mol at 298 K",
         "atomization_energy": "eV", "orbital_energies": "eV", "homo": "eV",
         "lumo": "eV", "residual": "eV", "frequencies": "cm^-1, imaginary ones negative", "intensities": "km/mol",
         "raman_activities": "angstrom^4/amu", "reduced_masses": "amu", "modes": "amu^-1/2", "polarizability": "angstrom^3",
         "thermochemistry": "eV, eV/K, K, Pa"}


@dataclass(frozen=True)
class OutputFiles:
    """Files to write; None: not wanted."""

    json: Path | None = None            # everything, for machines
    structures: Path | None = None      # final geometries
    trajectory: Path | None = None      # accepted geometries of optimisations
    molden: Path | None = None          # orbitals
    ir: Path | None = None              # infrared spectrum, a picture

    def check(self) -> None:
        """Check that all can be written, before anything is calculated.

        Raises: IncompatibleFile, if one cannot.
        """
        for file in astuple(self):
            if file is not None:
                structures.check_writable(file)
        for file in (self.structures, self.trajectory):
            if file is not None:
                writing.check_format(file)


def write(entries: Entries, files: OutputFiles, model: Hamiltonian, method: str) -> tuple[list[Path], list[str]]:
    """The files written, and warnings of what they cannot hold."""
    good = [(k, entry) for k, (_, entry) in enumerate(entries, 1) if isinstance(entry, Calculation)]
    many = len(entries) > 1
    done, notes = [], []
    if files.json is not None:
        files.json.write_text(json.dumps(document(entries, method), indent=1, allow_nan=False) + "\n", encoding="utf-8")
        done.append(files.json)
    if files.structures is not None and good:
        notes += writing.write(files.structures, [structures.with_results(c.atoms, *properties(c)) for _, c in good])
        done.append(files.structures)
    steps = [structures.with_results(g.atoms, {"energy": g.energy, "forces": g.forces}, {"frame": k} | state(c))
             for k, c in good if c.optimisation is not None for g in c.optimisation.trajectory]
    if files.trajectory is not None and steps:
        notes += writing.write(files.trajectory, steps)
        done.append(files.trajectory)
    for k, calculation in good:
        if files.molden is not None:
            done.append(write_molden(numbered(files.molden, k, many), model, calculation.result))
        if files.ir is not None and calculation.spectroscopy is not None:
            s = calculation.spectroscopy
            title = f"{calculation.atoms.get_chemical_formula()}, {calculation.result.method}"
            spectrum = spectra.ir_spectrum(s.vibrations.frequencies, s.intensities)
            done.append(spectra.plot(spectrum, numbered(files.ir, k, many), title))
    return done, notes


def numbered(path: Path, k: int, many: bool) -> Path:
    """The path itself, or that of frame k of many."""
    return path.with_name(f"{path.stem}-{k}{path.suffix}") if many else path


def properties(calculation: Calculation) -> tuple[dict[str, Any], dict[str, Any]]:
    """Properties (ASE's names) and info of the final geometry for a structure file."""
    r = calculation.result
    known = {"heat_of_formation": float(r.heat_of_formation[0]), "atomization_energy": float(r.atomization_energy[0])}
    results = {name: value for name, value in ase_results(r).items() if name in all_outputs}
    return results, state(calculation) | {"method": r.method} | {n: value for n, value in known.items() if np.isfinite(value)}


def state(calculation: Calculation) -> dict[str, int]:
    """Charge and multiplicity, for the info of a structure file."""
    return {"charge": calculation.charge, "multiplicity": calculation.multiplicity}


def document(entries: Entries, method: str) -> dict[str, Any]:
    """Everything for machines: one entry per frame, with its results or its error; units as in UNITS."""
    frames = [{"frame": k, "error": {"type": type(entry).__name__, "message": str(entry)}} if isinstance(entry, NDDOError)
              else {"frame": k, **numbers(entry)} for k, (_, entry) in enumerate(entries, 1)]
    return finite({"program": "nddo_ml", "version": nddo_ml.__version__, "method": find_method(method).name,
                   "citation": find_method(method).citation, "units": UNITS, "frames": frames})


def numbers(calculation: Calculation) -> dict[str, Any]:
    """The calculation as plain numbers, lists and strings."""
    r, m = calculation.result, calculation.molecules
    homo, lumo = r.homo_lumo(0)
    entry = {
        "formula": calculation.atoms.get_chemical_formula(), "method": r.method, **state(calculation),
        "numbers": m.numbers.tolist(), "positions": m.positions.tolist(),
        "energy": float(r.energy[0]), "energies": {name: float(value[0]) for name, value in r.energies.items()},
        "heat_of_formation": float(r.heat_of_formation[0]), "atomization_energy": float(r.atomization_energy[0]),
        "forces": calculation.forces.tolist(), "charges": r.charges.tolist(),
        "dipole": r.dipole[0].tolist(), "dipole_debye": r.dipole_debye[0].tolist(),
        "spin_populations": r.spin_populations.tolist(),
        "s2": float(r.s2[0]), "homo": homo, "lumo": lumo, "orbital_energies": r.orbital_energies(0).tolist(),
        "occupations": r.occupations(0).tolist(), "bond_orders": r.bond_orders(0).tolist(),
        "scf": {"converged": bool(r.converged[0]), "iterations": int(r.iterations[0]), "residual": float(r.residual[0]),
                "route": r.route[0]},
        "seconds": calculation.seconds, "notes": list(calculation.notes), "warnings": warnings(calculation)}
    if r.point_charge_forces is not None:
        entry["point_charge_forces"] = r.point_charge_forces.tolist()
    if calculation.optimisation is not None:
        optimised, trajectory = calculation.optimisation.optimised, calculation.optimisation.trajectory
        entry["optimisation"] = {
            "converged": bool(optimised.converged[0]), "evaluations": int(optimised.evaluations[0]),
            "largest_force": calculation.largest_force, "energies": [g.energy for g in trajectory],
            "step_in_the_energy": float(optimised.step[0])}
    if calculation.atoms.constraints:
        entry["constraints"] = described(calculation.atoms)
    if calculation.spectroscopy is not None:
        entry |= _vibrational(calculation.spectroscopy)
    return finite(entry)


def _vibrational(s: Spectroscopy) -> dict[str, Any]:
    v, t = s.vibrations, s.thermochemistry
    entry = {"vibrations": {"frequencies": v.frequencies.tolist(), "intensities": s.intensities.tolist(),
                            "reduced_masses": v.reduced_masses.tolist(), "modes": v.modes.tolist(),
                            "residual": v.residual.tolist()},
             "polarizability": s.polarizability.tolist()}
    if t is not None:
        entry["thermochemistry"] = asdict(t) | {"heat_capacity_pressure": t.heat_capacity_pressure}
    if s.raman is not None:
        entry["vibrations"] |= {"raman_activities": s.raman.activities.tolist(),
                                "depolarisation": s.raman.depolarisation.tolist()}
    return entry
