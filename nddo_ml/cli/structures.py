"""Files as a user names them: structures, the molecules the package brings along, point charges, places to write to."""

import os
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from nddo_ml.errors import IncompatibleFile
from nddo_ml.molecules import PointCharges


def bundled() -> dict[str, Path]:
    """Molecules that come with the package: name -> file."""
    folder = resources.files("nddo_ml").joinpath("data", "molecules")
    return {Path(entry.name).stem: Path(str(entry)) for entry in sorted(folder.iterdir(), key=lambda e: e.name)
            if entry.name.endswith(".xyz")}


def find(name: str) -> Path:
    """The file of that name, or else the bundled molecule of that name.

    Raises: IncompatibleFile, if there is neither.
    """
    path = Path(name)
    if path.is_dir():
        raise IncompatibleFile(f"{name} is a folder: give a file with a structure.")
    if path.exists():
        return path
    known = bundled()
    if name in known:
        return known[name]
    raise IncompatibleFile(f"There is no file {name}: give a structure file (xyz, extxyz, pdb, sdf or anything else ASE reads) "
                           f"or the name of a bundled molecule ({', '.join(known)}).")


def read_charges(path: Path) -> PointCharges:
    """The point charges of a file of lines x y z (angstrom) q (e); lines that start with # are left out.

    Raises: IncompatibleFile, if it cannot be read as that.
    """
    if not path.is_file():
        raise IncompatibleFile(f"There is no file {path}: give one with a line x y z q for each point charge.")
    try:
        lines = [line for line in path.read_text().splitlines() if line.strip() and not line.lstrip().startswith("#")]
        table = np.loadtxt(lines, ndmin=2) if lines else None
    except ValueError as error:
        raise IncompatibleFile(f"{path} cannot be read as point charges ({error}): expected lines of four numbers, x y z "
                               "(angstrom) q (e).") from error
    if table is None:
        raise IncompatibleFile(f"{path} holds no point charge: expected lines of four numbers, x y z (angstrom) q (e). Leave "
                               "--point-charges out for a molecule on its own.")
    if table.shape[1] != 4:
        raise IncompatibleFile(f"{path} has {table.shape[1]} numbers in a line: expected four, x y z (angstrom) q (e).")
    return PointCharges.single(table[:, :3], table[:, 3])


def check_writable(path: Path) -> None:
    """Refuse a file that could not be written, before hours have gone into its contents; its folder is made.

    Raises: IncompatibleFile.
    """
    if path.is_dir():
        raise IncompatibleFile(f"{path} is a folder: give the name of a file to write.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise IncompatibleFile(f"{path} cannot be written: the folder {path.parent} cannot be made "
                               f"({error.strerror}).") from error
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise IncompatibleFile(f"{path} cannot be written: there is no permission to. Choose another place.")


def with_results(atoms: Atoms, results: dict[str, Any], info: dict[str, Any]) -> Atoms:
    """A copy that carries calculated properties (ASE's names) and entries of info, ready to be written."""
    copy = atoms.copy()
    copy.info |= info
    copy.calc = SinglePointCalculator(copy, **results)
    return copy
