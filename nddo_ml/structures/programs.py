"""Files of other programs.

ASE reads the atoms. What it leaves out of charge, multiplicity, isotopes and fixed atoms is read here, or a note says that it
is not read.
"""

import io
import json
import re
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.constraints import FixAtoms
from ase.io import read as ase_read
from ase.io.formats import filetype

from nddo_ml.errors import IncompatibleFile
from nddo_ml.structures.frames import Frame, plain, with_isotopes
from nddo_ml.structures.mdl import isotope_mass

NUMBER = r"([-+]?\d+(?:\.\d*)?)"
# format: what a charge, a multiplicity and a number of unpaired electrons are written like
STATEMENTS = {
    "turbomole": (rf"\$eht\b[^\n]*\bcharge\s*=\s*{NUMBER}|\$?chrg\s+{NUMBER}", None,
                  rf"\$eht\b[^\n]*\bunpaired\s*=\s*{NUMBER}|\$?uhf\s+{NUMBER}"),
    "gaussian-out": (rf"\bCharge\s*=\s*{NUMBER}\s+Multiplicity", rf"\bMultiplicity\s*=\s*{NUMBER}", None),
    "orca-output": (rf"Total Charge\s+Charge[\s.]*\s{NUMBER}", rf"Multiplicity\s+Mult[\s.]*\s{NUMBER}", None),
    "nwchem-in": (rf"^\s*charge\s+{NUMBER}", rf"^\s*mult\s+{NUMBER}", rf"^\s*nopen\s+{NUMBER}"),
    "nwchem-out": (rf"^\s*Charge\s*[:=]\s*{NUMBER}", rf"^\s*Spin multiplicity\s*[:=]\s*{NUMBER}", None),
    "gamess-us-out": (rf"CHARGE OF MOLECULE\s*=\s*{NUMBER}", rf"(?:SPIN|STATE) MULTIPLICITY\s*=\s*{NUMBER}", None),
    "espresso-in": (rf"\btot_charge\s*=\s*{NUMBER}", None, rf"\btot_magnetization\s*=\s*{NUMBER}"),
    "dftb": (rf"^\s*Charge\s*=\s*{NUMBER}", None, rf"^\s*UnpairedElectrons\s*=\s*{NUMBER}"),
}
INPUTS = {"turbomole", "nwchem-in", "espresso-in", "dftb"}      # where a word in place of a number is a mistake
# formats with no place for a charge, or with charges of atoms that ASE reads
WITHOUT = {"aims", "bundletrajectory", "cfg", "cube", "db", "dlp-history", "dlp4", "dmol-arc", "dmol-car", "dmol-incoor",
           "eon", "gen", "gpumd", "gromacs", "gromos", "json", "jsv", "lammps-data", "lammps-dump-binary", "lammps-dump-text",
           "mustem", "netcdftrajectory", "prismatic", "res", "rmc6f", "siesta-xv", "struct", "struct_out", "sys", "traj",
           "turbomole-gradient", "v-sim", "vasp", "vasp-out", "vasp-xdatcar", "vasp-xml", "vti", "vtu", "xsf"}
ORCA = re.compile(r"(?ims)^[ \t]*\*[ \t]*xyz[ \t]+([-+]?\d+)[ \t]+(\d+)[^\n]*\n(.*?)^[ \t]*\*")
# an atom, perhaps a freeze code, three coordinates (a line of a Z-matrix has no code below 1, or more words)
PLACED = re.compile(r"^\s*([A-Za-z][\w()=.,-]*?)(?:[\s,]+(-\d+|0))?"
                    r"((?:[\s,]+[-+]?(?:\d+\.?\d*|\.\d+)(?:[eEdD][-+]?\d+)?){3})\s*$")


def frames(text: str, path: Path) -> list[Frame]:
    """The frames of a file that ASE reads; text: what is in it."""
    coordinates = ORCA.search(text)
    if coordinates:
        return [_orca(coordinates, path)]
    form = filetype(str(path))
    return _READERS.get(form, _by_ase)(text, path, form)


def _by_ase(text, path, form):
    """The frames as ASE reads them, with what the text says of charge and multiplicity."""
    images, notes = _images(path, form), ()
    if form in STATEMENTS:
        for atoms in images:
            atoms.info |= _stated(text, form)
    elif form not in WITHOUT:
        notes = (f"{path.name}: a charge is not read from files of the format {form}: give --charge, unless it is neutral.",)
    return [Frame(atoms, notes) for atoms in images]


def _images(path: Path, form: str) -> list[Atoms]:
    """All structures of a file, as ASE reads them."""
    images = ase_read(path, index=":", format=form)
    return list(images) if isinstance(images, list) else [images]


def _stated(text, form):
    """What a text says, by the patterns of its format; several values, or in an input a word that is no number, as a list,
    which is refused later."""
    said = {}
    for name, pattern in zip(("charge", "multiplicity", "unpaired"), STATEMENTS[form], strict=True):
        given = {float(next(filter(None, m.groups()))) for m in re.finditer(pattern, text, re.IGNORECASE | re.MULTILINE)} \
            if pattern else ()
        if given:
            said[name] = given.pop() if len(given) == 1 else sorted(given)
        elif pattern and form in INPUTS:
            words = re.finditer(pattern.replace(NUMBER, r"(\S+)"), text, re.IGNORECASE | re.MULTILINE)
            bad = [next(filter(None, m.groups())) for m in words]
            said |= {name: bad} if bad else {}
    return said


def _gaussian(text, path, form):
    """Gaussian's input: charge and multiplicity, isotopes (iso=2) and freeze codes (-1)."""
    from ase.io.gaussian import read_gaussian_in

    lines, codes = text.split("\n"), []
    for k, line in enumerate(lines):
        if atom := PLACED.match(line):
            codes.append(int(atom[2] or 0))
            numbers = atom[3].replace(",", " ").split()
            lines[k] = " ".join([atom[1], *(repr(float(plain(word))) for word in numbers)])      # ASE takes 0 for a Z-matrix
        lines[k] = re.sub(r"^(\s*[-+]?\d+)\s*,\s*(\d+\s*)$", r"\1 \2", lines[k])     # charge, multiplicity
    atoms = read_gaussian_in(io.StringIO("\n".join(lines)), attach_calculator=True)
    said = atoms.calc.parameters
    atoms.info |= {"charge": said["charge"], "multiplicity": said["mult"]}
    isotopes = {k: isotope_mass(int(atoms.numbers[k]), int(value)) if float(value).is_integer() else float(value)
                for k, value in enumerate(said.get("isolist") or ()) if value is not None}
    with_isotopes(atoms, isotopes)
    if len(codes) == len(atoms) and any(code < 0 for code in codes):
        atoms.set_constraint(FixAtoms([k for k, code in enumerate(codes) if code < 0]))
    return [Frame(atoms)]


def _orca(coordinates: re.Match[str], path: Path) -> Frame:
    """The frame of ORCA's input with its coordinates in it."""
    charge, multiplicity, body = coordinates.groups()
    rows = [line.split() for line in body.split("\n") if line.strip()]
    try:
        atoms = Atoms([row[0] for row in rows], [[float(plain(word)) for word in row[1:4]] for row in rows])
    except (KeyError, ValueError, IndexError) as error:
        raise IncompatibleFile(f"{path}: the lines between '* xyz' and '*' cannot be read ({error}): expected an element and "
                               "three coordinates in each.") from None
    atoms.info = {"charge": int(charge), "multiplicity": int(multiplicity)}
    return Frame(atoms)


def _cjson(text, path, form):
    """Chemical JSON: the total charge and multiplicity, or the formal charges."""
    atoms = _images(path, form)[0]
    data = {key.replace(" ", "").lower(): value for key, value in json.loads(text).items()}
    properties = data.get("properties") or {}
    atoms.info |= {key: value for key, value in (properties | _numbers(data)).items() if not isinstance(value, dict | list)}
    formal = (data.get("atoms") or {}).get("formalCharges")
    if formal and np.any(formal):
        atoms.info.setdefault("charge", int(np.sum(formal)))
    return [Frame(atoms)]


def _numbers(data):
    return {key: data[key] for key in ("charge", "multiplicity", "totalcharge") if key in data}


def _database(text, path, form):
    """ASE's JSON and SQLite files, with the keys that their rows carry."""
    from ase.db import connect

    read = []
    for row in connect(str(path), type=form).select():
        atoms = row.toatoms()
        atoms.info |= row.key_value_pairs
        read.append(Frame(atoms))
    return read


_READERS = {"gaussian-in": _gaussian, "cjson": _cjson, "json": _database, "db": _database}
