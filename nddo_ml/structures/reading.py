"""Reading: the right reader for a file, and what its frames say made plain for everyone who calculates them."""

import tempfile
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.constraints import FixCartesian, FixScaled
from ase.io.formats import UnknownFileTypeError, filetype

from nddo_ml.errors import IncompatibleFile, InvalidMolecule
from nddo_ml.structures import mdl, pdb, programs, xyz
from nddo_ml.structures.frames import COMPRESSED, MARKS, Frame, content, decoded, suffix
from nddo_ml.structures.said import settle

SUFFIXES = {".xyz": xyz.frames, ".extxyz": xyz.frames, ".sdf": mdl.frames, ".sd": mdl.frames, ".mol": mdl.frames,
            ".mdl": mdl.frames, ".mol2": mdl.mol2_frames, ".pdb": pdb.frames, ".ent": pdb.frames, ".mmcif": pdb.cif_frames,
            ".mcif": pdb.cif_frames}
FORMATS = {"xyz": xyz.frames, "extxyz": xyz.frames, "sdf": mdl.frames, "mol": mdl.frames, "proteindatabank": pdb.frames}
MMCIF = "_atom_site.Cartn_x"      # what tells a CIF file of a protein from one of a crystal


def read(path: Path, isolated: bool = False, charge: int | None = None, multiplicity: int | None = None,
         results: bool = False) -> list[Frame]:
    """The frames of a file, each with its atoms or with the error that names it.

    atoms.info holds one "charge" (e) and one "multiplicity" where anything is said of them. The masses are those of isotopes,
    the constraints those of the file.

    isolated: forget periodic boundaries.
    charge, multiplicity: what goes before the file, with a note where that differs.
    results: keep the energies and forces of the file (atoms.calc).

    Raises:
        IncompatibleFile: the file as a whole cannot be read, or is empty.
        InvalidMolecule: a format that holds one structure only holds one that is none.
    """
    try:
        frames = _frames(path)
    except (IncompatibleFile, InvalidMolecule):
        raise
    except UnknownFileTypeError as error:
        raise IncompatibleFile(f"{path} is of no format that ASE knows: convert it to xyz, extxyz, pdb or sdf.") from error
    except Exception as error:   # ASE's readers raise whatever they stumble over
        raise IncompatibleFile(f"{path} cannot be read as {_format(path)} ({type(error).__name__}: "
                               f"{str(error) or 'no details'}): expected a complete structure file; check it, and that its "
                               "suffix tells its format.") from error
    if not frames:
        raise IncompatibleFile(f"{path} contains no structure: expected at least one.")
    several = len(frames) > 1
    return [_settled(frame, f"{path}, frame {k}" if several else str(path), isolated, charge, multiplicity, results)
            for k, frame in enumerate(frames, 1)]


def atoms_of(frames: list[Frame]) -> list[Atoms]:
    """The Atoms of all frames.

    Raises:
        NDDOError: the first error among the frames.
    """
    for frame in frames:
        if frame.error is not None:
            raise frame.error
    return [frame.atoms for frame in frames if frame.atoms is not None]


def _frames(path):
    data = content(path)
    text = decoded(data)
    reader = SUFFIXES.get(suffix(path))
    if suffix(path) == ".cif" and MMCIF in text:
        reader = pdb.cif_frames
    if reader is None:
        with _in_place(path, data, text) as file:
            reader = FORMATS.get(_guessed(file) or "")
            if reader is None:
                return programs.frames(text, file)
    return reader(text, path)


@contextmanager
def _in_place(path, data, text):
    """A file that ASE can read: the file itself, or a copy under its own name, unpacked and without a byte-order mark."""
    marked = data.startswith(tuple(mark for mark, _ in MARKS))
    if not marked and path.suffix.lower() not in COMPRESSED:
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / (path.stem if path.suffix.lower() in COMPRESSED else path.name)
        copy.write_bytes(text.encode() if marked else data)
        yield copy


def _guessed(file):
    """ASE's name of the format; None, where it has none."""
    try:
        return filetype(str(file))
    except UnknownFileTypeError:
        return None


def _settled(frame, where, isolated, charge, multiplicity, results):
    """The frame with one charge and one multiplicity, or the error that says why not."""
    if frame.atoms is None:
        return frame
    atoms = frame.atoms
    if not results:
        atoms.calc = None
    if isolated:
        atoms.pbc = False
    atoms.constraints = [c for c in map(partial(_cartesian, atoms), atoms.constraints)
                         if np.any(getattr(c, "mask", True)) and np.size(getattr(c, "index", 0))]     # ASE makes empty ones
    try:
        notes = settle(atoms, charge, multiplicity)
    except InvalidMolecule as error:
        return Frame(error=InvalidMolecule(f"{where}: {error}"))
    return replace(frame, notes=(*frame.notes, *notes))


def _cartesian(atoms, constraint):
    """A constraint along the axes of a rectangular cell (POSCAR) as one along x, y and z."""
    if isinstance(constraint, FixScaled) and np.allclose(atoms.cell, np.diag(np.diag(atoms.cell))):
        return FixCartesian(constraint.index, constraint.mask)
    return constraint


def _format(path):
    try:
        return filetype(path, read=False)
    except Exception:   # a file too broken for a guess
        return suffix(path) or "text"
