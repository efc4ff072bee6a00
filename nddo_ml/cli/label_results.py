"""`nddo-ml label --from`: energies of variational wavefunctions, with their error bars, as labels to train on."""

import json
from pathlib import Path

import numpy as np
from ase import Atoms
from rich.console import Console

from nddo_ml.cli.structures import check_writable
from nddo_ml.errors import IncompatibleFile
from nddo_ml.labels.journal import Journal
from nddo_ml.labels.levels.theory import Label, frame
from nddo_ml.labels.structures import Structure
from nddo_ml.units import CODATA_2018
from nddo_ml.wavefunction.real_space.run import RESULT


class Variational:
    """The level of these labels: all electrons, no dispersion apart."""

    dispersion = "included"

    def __init__(self, kind: str):
        self.name = f"variational Monte Carlo, {kind}"


def labelled(path: Path) -> tuple[Atoms, str]:
    """The labelled frame of a result.json, and the name of its level. IncompatibleFile: it is none."""
    try:
        found = json.loads(path.read_text())
        if found.get("format") != RESULT:
            raise ValueError("another format")
        level = Variational(found["config"]["ansatz"]["kind"])
        positions = np.array(found["positions"]) * CODATA_2018.bohr
        energy, error = found["energy"] * CODATA_2018.hartree, found["error"] * CODATA_2018.hartree
        slope = CODATA_2018.hartree / CODATA_2018.bohr
        forces, forces_error = (np.array(found[key]) * slope if key in found else None for key in ("forces", "forces_error"))
        charge, spin = sum(found["numbers"]) - found["up"] - found["down"], found["up"] - found["down"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as problem:
        raise IncompatibleFile(f"{path} is no result of `nddo-ml wavefunction` ({type(problem).__name__}: {problem}): expected "
                               "the result.json in the output folder of a run.") from problem
    if not (np.isfinite(energy) and error > 0):
        raise IncompatibleFile(f"{path} holds the energy {found['energy']} +- {found['error']}: expected finite numbers.")
    structure = Structure(found["numbers"], positions, charge, spin + 1, source=path.parent.name)
    atoms = frame(structure, Label(energy, forces), level)
    atoms.info["ref_energy_error"] = error
    if forces is None:
        atoms.info["ref_forces_missing"] = "not measured"
    else:
        atoms.arrays["ref_forces_error"] = forces_error
    return atoms, level.name


def run(files: list[str], output: Path) -> int:
    """Append a frame for each result; those that stand there already are left alone. Returns 0. IncompatibleFile."""
    if not files:
        raise IncompatibleFile("Nothing to label: give the result.json of at least one run after --from.")
    if output.suffix.lower() not in (".extxyz", ".xyz"):
        raise IncompatibleFile(f"{output}: labels are written as extended XYZ; end the name in .extxyz.")
    check_writable(output)
    made = [labelled(Path(name)) for name in files]
    levels = sorted({level for _, level in made})
    if len(levels) > 1:
        raise IncompatibleFile(f"The results are of different levels ({', '.join(levels)}): label them into separate files.")
    new = 0
    with Journal(output, levels[0]) as journal:
        for atoms, _ in made:
            if atoms.info["id"] not in journal.labelled:
                journal.add(atoms)
                new += 1
        there = len(journal.labelled)
    Console(stderr=True).print(f"{output}: {there} frame{'s' * (there != 1)} of {levels[0]}; {new} new", highlight=False)
    return 0
