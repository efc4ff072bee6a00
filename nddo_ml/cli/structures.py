"""Structures in and out: whatever ASE reads, with the names and charges that ASE drops, and the molecules the package brings
along.
"""

import io
import os
from importlib import resources
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.data import chemical_symbols
from ase.io import read as ase_read
from ase.io import write as ase_write
from ase.io.formats import UnknownFileTypeError, filetype, ioformats

from nddo_ml.elements import SPARKLE, is_sparkle, number
from nddo_ml.errors import IncompatibleFile, InvalidMolecule
from nddo_ml.molecules import PointCharges

MDL_CHARGES = {1: 3, 2: 2, 3: 1, 5: -1, 6: -2, 7: -3}   # old charge codes of the atom lines of a molfile
SPECIES = "nddo_species"   # array of names of sparkles and pseudo-atoms, as the calculator knows it


def bundled() -> dict[str, Path]:
    """Molecules that come with the package: name -> file."""
    folder = resources.files("nddo_ml").joinpath("data", "molecules")
    return {Path(entry.name).stem: Path(str(entry)) for entry in sorted(folder.iterdir(), key=lambda e: e.name)
            if entry.name.endswith(".xyz")}


def find(name: str) -> Path:
    """The file of that name, or else the bundled molecule of that name. IncompatibleFile: there is neither."""
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


def read(path: Path, isolated=False) -> list[Atoms]:
    """The structures of a file. isolated: forget cells and periodic boundaries. IncompatibleFile: it cannot be read, or is
    empty.
    """
    try:
        frames = _READERS.get(path.suffix.lower(), _read_any)(path)
    except (IncompatibleFile, InvalidMolecule):
        raise
    except UnknownFileTypeError as error:
        raise IncompatibleFile(f"{path} is of no format that ASE knows: convert it to xyz, extxyz, pdb or sdf.") from error
    except Exception as error:   # ASE's readers raise whatever they stumble over
        raise IncompatibleFile(f"{path} cannot be read as {_format(path)} ({_reason(error)}): expected a complete structure "
                               "file; check it, and that its suffix tells its format.") from error
    if not frames:
        raise IncompatibleFile(f"{path} contains no structure: expected at least one.")
    for atoms in frames:
        atoms.calc = None
        if isolated:
            atoms.pbc = False
    return frames


def read_charges(path: Path) -> PointCharges:
    """The point charges of a file of lines x y z (angstrom) q (e); lines that start with # are left out. IncompatibleFile: it
    cannot be read as that."""
    if not path.is_file():
        raise IncompatibleFile(f"There is no file {path}: give one with a line x y z q for each point charge.")
    try:
        table = np.loadtxt(path, ndmin=2)
    except ValueError as error:
        raise IncompatibleFile(f"{path} cannot be read as point charges ({error}): expected lines of four numbers, x y z "
                               "(angstrom) q (e).") from error
    if table.size and table.shape[1] != 4:
        raise IncompatibleFile(f"{path} has {table.shape[1]} numbers in a line: expected four, x y z (angstrom) q (e).")
    return PointCharges.single(table[:, :3], table[:, 3]) if table.size else PointCharges.single([], [])


def check_writable(path: Path) -> None:
    """Refuse a file that could not be written, before hours have gone into its contents. IncompatibleFile."""
    if path.is_dir():
        raise IncompatibleFile(f"{path} is a folder: give the name of a file to write.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise IncompatibleFile(f"{path} cannot be written: the folder {path.parent} cannot be made "
                               f"({error.strerror}).") from error
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise IncompatibleFile(f"{path} cannot be written: there is no permission to. Choose another place.")


def check_format(path: Path) -> None:
    """Refuse a structure file whose suffix names no format that ASE writes. IncompatibleFile."""
    try:
        known = ioformats.get(filetype(path, read=False))
    except UnknownFileTypeError:
        known = None
    if known is None or not known.can_write:
        raise IncompatibleFile(f"{path} is of no format that ASE writes: end its name in .extxyz, .xyz or .pdb, for example.")


def write(path: Path, frames: list[Atoms]) -> None:
    """Frames to a file in the format of its suffix. IncompatibleFile: that is not possible."""
    try:
        ase_write(path, frames if len(frames) > 1 else frames[0])
    except Exception as error:   # ASE's writers raise whatever they stumble over
        raise IncompatibleFile(f"{path} cannot be written ({_reason(error)}): choose a format that holds {len(frames)} "
                               "structure(s), such as extxyz.") from error


def with_results(atoms: Atoms, results: dict, info: dict) -> Atoms:
    """A copy that carries calculated properties (ASE's names) and entries of info, ready to be written."""
    copy = atoms.copy()
    copy.info |= info
    copy.calc = SinglePointCalculator(copy, **results)
    return copy


def _read_any(path):
    frames = ase_read(path, index=":")
    return list(frames) if isinstance(frames, list) else [frames]


def _reason(error):
    return f"{type(error).__name__}: {str(error) or 'no details'}"


def _format(path):
    try:
        return filetype(path, read=False)
    except Exception:   # a file too broken for a guess
        return path.suffix or "text"


def _read_xyz(path):
    """XYZ and extended XYZ; the first column may hold atomic numbers or names of sparkles and pseudo-atoms."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    named, comments, start, frames = {}, [], 0, 0
    while start < len(lines) and lines[start].strip():
        count = _count(path, lines, start)
        comments.append(lines[start + 1])
        if "properties=" not in lines[start + 1].lower() or "properties=species:s:1" in lines[start + 1].lower():
            for k in range(start + 2, start + 2 + count):
                _translate(path, lines, k, named, (frames, k - start - 2))
        start += count + 2
        frames += 1
    found = ase_read(io.StringIO("\n".join(lines[:start]) + "\n"), index=":", format="extxyz") if frames else []
    for frame, atoms in enumerate(found):
        if "=" not in comments[frame]:   # prose, which the reader took for flags
            atoms.info = {"comment": comments[frame].strip()} if comments[frame].strip() else {}
        own = {atom: name for (f, atom), name in named.items() if f == frame}
        if own:
            atoms.arrays[SPECIES] = np.array([own.get(k, s) for k, s in enumerate(atoms.symbols)])
    return found


def _count(path, lines, start):
    """Number of atoms a frame announces; there must be so many lines."""
    try:
        count = int(lines[start].split()[0])
    except ValueError:
        raise IncompatibleFile(f"{path}, line {start + 1}: found {lines[start][:40]!r}, expected the number of atoms of an xyz "
                               "structure.") from None
    if len(lines) < start + 2 + count:
        raise IncompatibleFile(f"{path}, line {start + 1}: {count} atoms announced, but only {max(len(lines) - start - 2, 0)} "
                               "lines of atoms follow: the file is cut short, or the number is wrong.")
    return count


def _translate(path, lines, k, named, key):
    """Line k with an element symbol ASE understands in front; a name it does not understand goes to `named`."""
    words = lines[k].split()
    if len(words) < 4:
        raise IncompatibleFile(f"{path}, line {k + 1}: found {lines[k][:60]!r}, expected an element and three coordinates.")
    if words[0] in chemical_symbols:
        return
    try:
        species = number(words[0])
    except InvalidMolecule as error:
        raise InvalidMolecule(f"{path}, line {k + 1}: {error}") from None
    element = species - SPARKLE if is_sparkle(species) else species
    if species >= SPARKLE:
        named[key] = words[0]
    symbol = chemical_symbols[element] if element < len(chemical_symbols) else "X"
    lines[k] = " ".join([symbol, *words[1:]])


def _read_sdf(path):
    """All records of an SD file or molfile, with the total charge of each."""
    frames = []
    for k, block in enumerate(path.read_text(encoding="utf-8", errors="replace").split("$$$$")):
        block = block.removeprefix("\n") if k else block           # the line of the separator; a first title may be empty
        if block.strip():
            atoms = ase_read(io.StringIO(block), format="sdf")
            charge = _mdl_charge(block.splitlines(), len(atoms))
            if charge:
                atoms.info["charge"] = charge
            frames.append(atoms)
    return frames


def _mdl_charge(lines, count):
    """Total charge of a molfile: its "M  CHG" lines, or without any the codes of its atom lines (V3000: CHG=)."""
    entries = [line.split()[3:] for line in lines if line.startswith("M  CHG")]
    if entries:
        return sum(int(c) for words in entries for c in words[1::2])
    if "V3000" in lines[3]:
        words = (word for line in lines if line.startswith("M  V30") for word in line.split())
        return sum(int(word[4:]) for word in words if word.startswith("CHG="))
    codes = (line[36:39].strip() for line in lines[4:4 + count])
    return sum(MDL_CHARGES.get(int(code), 0) for code in codes if code.isdigit())


def _read_pdb(path):
    """All models of a PDB file; formal charges in columns 79-80 are added up."""
    frames = _read_any(path)
    charges, model = [0] * len(frames), 0
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        if line.startswith("ENDMDL"):
            model += 1
        elif line.startswith(("ATOM", "HETATM")) and model < len(frames):
            code = line[78:80].strip()
            if len(code) == 2 and code[0].isdigit() and code[1] in "+-":
                charges[model] += int(code[1] + code[0])
    for atoms, charge in zip(frames, charges, strict=True):
        if charge:
            atoms.info["charge"] = charge
    return frames


_READERS = {".xyz": _read_xyz, ".extxyz": _read_xyz, ".sdf": _read_sdf, ".mol": _read_sdf, ".pdb": _read_pdb}
