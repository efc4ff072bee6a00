"""Writing: frames to a file in the format of its suffix.

Charge, multiplicity, isotopes and fixed atoms are written where the format can hold them. The file is read again, and what does
not come back is said.
"""

import io
import re
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.constraints import FixAtoms, FixCartesian
from ase.io import write as ase_write
from ase.io.formats import UnknownFileTypeError, filetype, ioformats, open_with_compression

from nddo_ml.errors import IncompatibleFile, NDDOError
from nddo_ml.structures import mdl, pdb
from nddo_ml.structures.reading import read
from nddo_ml.structures.said import FORMAL, agreed, charges, multiplicities
from nddo_ml.structures.xyz import SPECIES

BONDED = 1.3      # angstrom: a hydrogen atom belongs to a heavy atom within this, when charges are given to atoms
LARGEST_CHARGE = {"pdb": 9, "mdl": 15}      # of one atom


def check_format(path: Path) -> None:
    """Refuse a structure file whose suffix names no format that can be written.

    Raises:
        IncompatibleFile: it names none.
    """
    try:
        known = ioformats.get(filetype(str(path), read=False))
    except UnknownFileTypeError:
        known = None
    if known is None or not known.can_write:
        raise IncompatibleFile(f"{path} is of no format that ASE writes: end its name in .extxyz, .xyz or .pdb, for example.")


def write(path: Path, frames: list[Atoms]) -> list[str]:
    """Warnings of what the format does not hold, after the frames are written.

    Raises:
        IncompatibleFile: they cannot be written.
    """
    form = filetype(str(path), read=False)
    try:
        if form in _TEXTS:
            if len(frames) > 1 and form not in SEVERAL:
                raise ValueError("one structure only")
            with open_with_compression(str(path), "wt") as file:
                file.write(_TEXTS[form](frames))
        elif form in ("json", "db"):
            _database(path, frames, form)
        else:
            ase_write(path, frames if len(frames) > 1 else frames[0])
    except Exception as error:   # writers raise whatever they stumble over
        raise IncompatibleFile(f"{path} cannot be written ({type(error).__name__}: {str(error) or 'no details'}): choose a "
                               f"format that holds {len(frames)} structure(s), such as extxyz.") from error
    return _lost(path, frames, form)


def _lost(path, frames, form):
    """Warnings of what a file does not give back."""
    if not ioformats[form].can_read:      # a picture
        return []
    try:
        pairs = [(atoms, frame.atoms) for atoms, frame in zip(frames, read(path, isolated=True), strict=True)]
    except (NDDOError, ValueError):
        return [f"{path} could not be read again as it was written: keep the structures as extxyz too."]
    missing = sorted({what for before, after in pairs for what in _differences(before, after)})
    hint = "" if form == "extxyz" else "; .extxyz does"
    return [f"{path}: the format {form} does not hold the {', '.join(missing)}{hint}."] if missing else []


def _differences(before: Atoms, after: Atoms | None) -> list[str]:
    """What the atoms that were read again lack of those that were written, in words."""
    if after is None:
        return ["structure"]
    missing = ["charge"] if _charge(before) != _charge(after) else []
    missing += ["multiplicity"] if _multiplicity(before) != _multiplicity(after) else []
    same = len(before) == len(after) and np.allclose(before.get_masses(), after.get_masses(), rtol=0, atol=0.01)
    missing += ["names of species"] if SPECIES in before.arrays and SPECIES not in after.arrays else []
    missing += ["masses of isotopes"] if before.has("masses") and not same else []
    return missing + (["constraints"] if before.constraints and _held(before) != _held(after) else [])


def _held(atoms):
    """The cartesian components that are fixed, and the names of other constraints."""
    fixed, others = np.zeros((len(atoms), 3), dtype=bool), []
    for constraint in atoms.constraints:
        if isinstance(constraint, FixAtoms | FixCartesian):
            fixed[constraint.index] |= getattr(constraint, "mask", True)
        else:
            others.append(type(constraint).__name__)
    return fixed.tolist(), sorted(others)


def _charge(atoms: Atoms) -> int:
    """The charge that is said, or 0."""
    return agreed("charge", charges(atoms), 0)


def _multiplicity(atoms: Atoms) -> int:
    """The multiplicity that is said, or the lowest."""
    return agreed("multiplicity", multiplicities(atoms), 1 + (int(atoms.numbers.sum()) - _charge(atoms)) % 2)


def _formal(atoms, most):
    """Whole charges of the atoms that add up to the charge: those of the file, or where the calculation sees it."""
    total = _charge(atoms)
    if FORMAL in atoms.arrays and atoms.arrays[FORMAL].sum() == total:
        return atoms.arrays[FORMAL]
    return np.sign(total) * _shared(np.sign(total) * _by_group(atoms, "charges"), abs(total), most)


def _unpaired(atoms):
    """Unpaired electrons of the atoms, where the multiplicity is not the lowest."""
    lowest = 1 + (int(atoms.numbers.sum()) - _charge(atoms)) % 2
    count = _multiplicity(atoms) - 1 if _multiplicity(atoms) != lowest else 0
    return _shared(_by_group(atoms, "magmoms"), count, 2)


def _by_group(atoms, name):
    """Calculated values of the atoms, those of hydrogen added to the heavy atom it belongs to."""
    known = atoms.calc.results.get(name) if atoms.calc is not None else None
    values = np.zeros(len(atoms)) if known is None else np.array(known, dtype=float)
    heavy = np.flatnonzero(atoms.numbers > 1)
    if len(heavy):
        for k in np.flatnonzero(atoms.numbers == 1):
            distance = np.linalg.norm(atoms.positions[heavy] - atoms.positions[k], axis=1)
            if distance.min() < BONDED:
                values[heavy[distance.argmin()]] += values[k]
                values[k] = 0.0
        values[heavy] += 1e-6     # of equal atoms, a heavy one
    return values


def _shared(weights, total, most):
    """Whole numbers of the atoms that add up to `total`, one after the other to the atom that lacks most, none above `most`."""
    given = np.zeros(len(weights), dtype=int)
    for _ in range(total):
        given[np.argmax(np.where(given < most, weights - given, -np.inf))] += 1
    return given


def _pdb(frames):
    return pdb.text(frames, [_formal(atoms, LARGEST_CHARGE["pdb"]) for atoms in frames])


def _mdl(frames, several):
    formal = [_formal(atoms, LARGEST_CHARGE["mdl"]) for atoms in frames]
    return mdl.text(frames, formal, [_unpaired(atoms) for atoms in frames], several)


def _gaussian(frames):
    return _by_ase(frames[0], "gaussian-in", charge=_charge(frames[0]), mult=_multiplicity(frames[0]))


def _turbomole(frames):
    text = _by_ase(frames[0], "turbomole")
    said = f"$eht charge={_charge(frames[0])} unpaired={_multiplicity(frames[0]) - 1}\n"
    return re.sub(r"^\$end", said + "$end", text, flags=re.MULTILINE)


def _by_ase(atoms, form, **options):
    text = io.StringIO()
    plain = atoms.copy()      # ASE would take options of the calculator
    ase_write(text, plain, format=form, **options)
    return text.getvalue()


def _database(path, frames, form):
    from ase.db import connect

    with connect(str(path), type=form, append=False) as rows:       # pyright: ignore[reportGeneralTypeIssues]  (as ASE means it)
        for atoms in frames:
            rows.write(atoms, total_charge=_charge(atoms), multiplicity=_multiplicity(atoms))


SEVERAL = ("proteindatabank", "sdf")
_TEXTS = {"proteindatabank": _pdb, "sdf": lambda frames: _mdl(frames, True), "mol": lambda frames: _mdl(frames, False),
          "gaussian-in": _gaussian, "turbomole": _turbomole}
