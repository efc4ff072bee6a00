"""SD files, molfiles (V2000 and V3000) and mol2, by RDKit: every record with its charges, isotopes and radicals."""

import re
from pathlib import Path

import numpy as np
from ase import Atoms

from nddo_ml.elements import symbol
from nddo_ml.errors import IncompatibleFile, InvalidMolecule
from nddo_ml.structures.frames import Frame, with_formal_charges, with_isotopes
from nddo_ml.structures.said import FORMAL, ROUNDING, meaning

UNPAIRED = {1: 0, 2: 1, 3: 2}        # electrons of a radical centre: singlet, doublet, triplet
SPINS = {1: 2, 2: 3}                 # and back
DOUBLET = 4                          # old charge code of an atom line: no charge, a doublet radical
FIELD = re.compile(r"^>[^\n]*<([^>\n]+)>[^\n]*\n([^\n]+)", re.MULTILINE)     # name and first line of a data field
LARGEST = 999                        # atoms of a V2000 record


def frames(text: str, path: Path) -> list[Frame]:
    """The records of an SD file or molfile. path: names the file in messages."""
    records = [r for r in re.split(r"^\$\$\$\$.*\n?", text, flags=re.MULTILINE) if r.strip()]
    return [_named(_record, record, f"{path}, record {k}" + _title(record)) for k, record in enumerate(records, 1)]


def mol2_frames(text: str, path: Path) -> list[Frame]:
    """The molecules of a mol2 file; the charge is the sum of its column of charges. path: names the file in messages."""
    records = text.split("@<TRIPOS>MOLECULE")[1:]
    return [_named(_mol2, "@<TRIPOS>MOLECULE" + record, f"{path}, record {k}") for k, record in enumerate(records, 1)]


def text(frames: list[Atoms], charges: list[np.ndarray], spins: list[np.ndarray], several: bool) -> str:
    """The frames as an SD file, or (several=False) one of them as a molfile.

    charges, spins: formal charges (e) and unpaired electrons (0, 1, 2) of the atoms of each frame.
    """
    return "".join(_block(*frame, several) for frame in zip(frames, charges, spins, strict=True))


def isotope_mass(number: int, nucleons: int) -> float:
    """Mass of the isotope of an element (its atomic number) with so many nucleons, u.

    Raises:
        InvalidMolecule: there is no such isotope.
    """
    from rdkit import Chem

    mass = Chem.GetPeriodicTable().GetMassForIsotope(int(number), int(nucleons))
    if mass == 0:
        raise InvalidMolecule(f"{symbol(number)} has no isotope of mass number {nucleons}.")
    return mass


def _block(atoms, formal, unpaired, several):
    from rdkit import Chem
    from rdkit.Geometry import Point3D

    molecule = Chem.RWMol()
    masses = atoms.get_masses()
    place = Chem.Conformer(len(atoms))
    place.Set3D(True)
    for k, number in enumerate(atoms.numbers):
        atom = Chem.Atom(int(number))
        atom.SetFormalCharge(int(formal[k]))
        atom.SetNoImplicit(True)
        if atoms.has("masses") and abs(masses[k] - Chem.GetPeriodicTable().GetAtomicWeight(int(number))) > 0.1:
            atom.SetIsotope(round(float(masses[k])))
        molecule.AddAtom(atom)
        place.SetAtomPosition(k, Point3D(*map(float, atoms.positions[k])))
    molecule.AddConformer(place)
    molecule.SetProp("_Name", atoms.get_chemical_formula())
    block = Chem.MolToMolBlock(molecule, kekulize=False, forceV3000=len(atoms) > LARGEST)
    if len(atoms) <= LARGEST:       # RDKit writes no radicals of atoms without bonds
        centres = [f"M  RAD  1 {k + 1:3d} {SPINS[int(n)]:3d}\n" for k, n in enumerate(unpaired) if n]
        block = block.replace("M  END", "".join(centres) + "M  END")
    fields = "".join(f">  <{key}>\n{value}\n\n" for key, value in atoms.info.items()
                     if several and isinstance(value, int | float | str | np.number) and "\n" not in str(value))
    return block + (f"{fields}$$$$\n" if several else "")


def _named(read, record, where):
    """The frame of a record, or the error that names it."""
    try:
        return read(record, where)
    except (InvalidMolecule, IncompatibleFile) as error:
        return Frame(error=error if str(error).startswith(where) else type(error)(f"{where}: {error}"))
    except Exception as error:   # lines cut short, for example
        return Frame(error=IncompatibleFile(f"{where} cannot be read ({type(error).__name__}: {error})."))


def _title(record):
    title = record.split("\n", 1)[0].strip()
    return f" ({title[:40]})" if title else ""


def _record(record, where):
    from rdkit import Chem, rdBase

    with rdBase.BlockLogs():
        molecule, positions = Chem.MolFromMolBlock(record, sanitize=False, removeHs=False, strictParsing=False), None
        if molecule is None and "V3000" not in record:
            tidy, positions = _tidy(record, where)
            molecule = Chem.MolFromMolBlock(tidy, sanitize=False, removeHs=False, strictParsing=False)
    if molecule is None:
        raise IncompatibleFile(f"{where} cannot be read as a molfile: check the line of counts and those of atoms and bonds.")
    atoms = _atoms(molecule, where)
    if positions is not None:
        atoms.positions = positions
    unpaired = _radicals(record, len(atoms))
    notes = []
    if unpaired:
        atoms.info["multiplicity"] = sum(unpaired) + 1
    fields = {key: value.strip() for key, value in FIELD.findall(record) if meaning(key)}
    if len(unpaired) > 1 and "multiplicity" not in map(meaning, fields):
        notes.append(f"{where}: {len(unpaired)} radical centres are taken as parallel, multiplicity {sum(unpaired) + 1}.")
    for key, value in fields.items():
        atoms.info[f"{key} " if key in atoms.info else key] = value    # both stay: they must agree
    return Frame(atoms, tuple(notes))


def _atoms(molecule, where):
    """Atoms with formal charges and masses of isotopes."""
    numbers, charges, isotopes = [], [], {}
    for k, atom in enumerate(molecule.GetAtoms()):
        if atom.GetAtomicNum() == 0:
            raise InvalidMolecule(f"{where}: atom {k + 1} is {atom.GetSymbol()!r}, which is no element.")
        numbers.append(atom.GetAtomicNum())
        charges.append(atom.GetFormalCharge())
        if atom.GetIsotope():
            isotopes[k] = isotope_mass(atom.GetAtomicNum(), atom.GetIsotope())
    positions = molecule.GetConformer().GetPositions() if molecule.GetNumConformers() else np.zeros((0, 3))
    return with_isotopes(with_formal_charges(Atoms(numbers, positions), charges), isotopes)


def _radicals(record, count):
    """Unpaired electrons of the radical centres of a record; empty, where it has none."""
    lines = record.split("\n")
    if "V3000" in lines[3]:
        entries = re.findall(r"\bRAD=(\d)", re.sub(r"-\nM  V30 ", "", record))
    else:
        entries = [word for line in lines if line.startswith("M  RAD") for word in line.split()[4::2]]
        if not re.search(r"^M  (CHG|RAD)", record, flags=re.MULTILINE):    # which would replace the codes of the lines of atoms
            entries = ["2" for line in lines[4:4 + count] if line[36:39].strip() == str(DOUBLET)]
    return [UNPAIRED[int(word)] for word in entries if word != "0"]


def _tidy(record, where):
    """A V2000 record that does not keep to its columns as one that does, without bonds, and the positions of its atoms."""
    lines = record.split("\n")
    try:
        count = int(lines[3].split()[0])
        positions, body = [], []
        for line in lines[4:4 + count]:
            if len(line.split()) < 4:
                raise ValueError(f"found {line.strip()[:40]!r} among the lines of atoms")
            x, y, z, name, *codes = line.split()
            positions.append([float(x), float(y), float(z)])
            body.append(f"{0:10.4f}{0:10.4f}{0:10.4f} {name:<3}"
                        + "".join(f"{int(code):{3 if j else 2}d}" for j, code in enumerate((codes + ["0"] * 12)[:12])))
        if len(body) < count:
            raise ValueError(f"{len(body)} of {count} atoms")
    except (ValueError, IndexError) as error:
        raise IncompatibleFile(f"{where} cannot be read as a molfile ({error}): expected a line of counts, and a line of three "
                               "coordinates and an element for every atom.") from None
    properties = [line for line in lines[4 + count:] if line.startswith("M  ")]
    return "\n".join([*lines[:3], f"{count:3d}  0  0  0  0  0  0  0  0  0999 V2000", *body, *properties, ""]), positions


def _mol2(record, where):
    from rdkit import Chem, rdBase

    with rdBase.BlockLogs():
        molecule = Chem.MolFromMol2Block(record, sanitize=False, removeHs=False, cleanupSubstructures=False)
    if molecule is None:
        raise IncompatibleFile(f"{where} cannot be read as mol2: check its sections ATOM and BOND and the types of its atoms.")
    atoms = _atoms(molecule, where)
    atoms.arrays.pop(FORMAL, None)
    partial = [float(a.GetProp("_TriposPartialCharge")) for a in molecule.GetAtoms() if a.HasProp("_TriposPartialCharge")]
    if len(partial) < len(atoms) or "NO_CHARGES" in record:
        return Frame(atoms, (f"{where} holds no charges: taken as neutral, unless --charge says otherwise.",))
    total = sum(partial)
    if abs(total - round(total)) > ROUNDING:
        raise InvalidMolecule(f"{where}: its charges add up to {total:.3f}, expected a whole number.")
    atoms.info["charge"] = round(total)
    return Frame(atoms)
