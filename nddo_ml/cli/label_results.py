"""`nddo-ml label --from`: energies of variational wavefunctions, with their error bars, as labels to train on."""

import json
from dataclasses import dataclass
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


@dataclass(frozen=True)
class VariationalLevel:
    """The level of these labels: all electrons, no dispersion apart."""

    kind: str       # of wavefunction
    dispersion = "included"

    @property
    def name(self) -> str:
        """That of the level, as frames hold it."""
        return f"variational Monte Carlo, {self.kind}"


def labelled(path: Path) -> tuple[Atoms, str]:
    """The labelled frame of a result.json, and the name of its level.

    Raises:
        IncompatibleFile: it is no such result, or its numbers are not finite.
    """
    try:
        result = json.loads(path.read_text())
        if result.get("format") != RESULT:
            raise ValueError("another format")
        level = VariationalLevel(result["config"]["ansatz"]["kind"])
        numbers, positions = np.array(result["numbers"], dtype=np.int64), np.array(result["positions"]) * CODATA_2018.bohr
        energy, error = result["energy"] * CODATA_2018.hartree, result["error"] * CODATA_2018.hartree
        slope = CODATA_2018.hartree / CODATA_2018.bohr
        forces, forces_error = (np.array(result[key]) * slope if key in result else None for key in ("forces", "forces_error"))
        charge, spin = sum(result["numbers"]) - result["up"] - result["down"], result["up"] - result["down"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as problem:
        raise IncompatibleFile(f"{path} is no result of `nddo-ml wavefunction` ({type(problem).__name__}: {problem}): expected "
                               "the result.json in the output folder of a run.") from problem
    if not (np.isfinite(energy) and error > 0):
        raise IncompatibleFile(f"{path} holds the energy {result['energy']} +- {result['error']}: expected finite numbers.")
    structure = Structure(numbers, positions, charge, spin + 1, source=path.parent.name)
    atoms = frame(structure, Label(energy, forces), level)
    atoms.info["ref_energy_error"] = error
    if forces is None:
        atoms.info["ref_forces_missing"] = "not measured"
    elif forces_error is not None:
        atoms.arrays["ref_forces_error"] = forces_error
    return atoms, level.name


def run(files: list[str], output: Path) -> int:
    """Append a frame for each result; those that stand there already are left alone. The exit code: 0.

    Raises:
        IncompatibleFile: a file is no result, or they are of different levels.
    """
    if not files:
        raise IncompatibleFile("Nothing to label: give the result.json of at least one run after --from.")
    if output.suffix.lower() not in (".extxyz", ".xyz"):
        raise IncompatibleFile(f"{output}: labels are written as extended XYZ; end the name in .extxyz.")
    check_writable(output)
    frames = [labelled(Path(name)) for name in files]
    levels = sorted({level for _, level in frames})
    if len(levels) > 1:
        raise IncompatibleFile(f"The results are of different levels ({', '.join(levels)}): label them into separate files.")
    new = 0
    with Journal(output, levels[0]) as journal:
        for atoms, _ in frames:
            if atoms.info["id"] not in journal.labelled:
                journal.add(atoms)
                new += 1
        there = len(journal.labelled)
    Console(stderr=True).print(f"{output}: {there} frame{'s' * (there != 1)} of {levels[0]}; {new} new", highlight=False)
    return 0
