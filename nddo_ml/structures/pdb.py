"""PDB and mmCIF, by gemmi: every model or frame, one of the alternate locations, formal charges.

A line of a PDB file is set right before gemmi reads it. The element is taken from its columns, also where they are shifted, or
else from the columns of the name (" CA " is carbon, "CA  " calcium). A charge is written 1+, +1 or +, and with - likewise.
"""

import re
from collections import defaultdict
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np
from ase import Atoms

from nddo_ml.elements import symbol
from nddo_ml.errors import IncompatibleFile, InvalidMolecule
from nddo_ml.structures.frames import ISOTOPES, Frame, with_formal_charges, with_isotopes

ENDS = ("END", "ENDMDL", "MODEL")      # what lies between two of them is a frame
FIELD = re.compile(r"\s{0,2}([A-Za-z]{1,2})?\s*(\d[+-]|[+-]\d|[+-]|0)?\s*")     # element and charge
OLD = re.compile(r"[0-9][A-Z0-9]{3}\s*\d+")     # name of the entry and number of the line, in files older than 1996
NAMES = ("atomtypes", "residuenames", "residuenumbers", "chains")               # arrays of ASE's reader, and the chain
TWO_LETTERS = ("CL", "BR")             # elements of ligands whose names stand in the first column throughout


class _Row(NamedTuple):
    """An atom as a line of a PDB file names it."""

    index: int
    name: str
    residue: str
    residue_number: int
    chain: str


def frames(text: str, path: Path) -> list[Frame]:
    """The frames of a PDB file: its models, or what END separates. path: names the file in messages."""
    read, block, cell = [], [], ""
    for line in [*text.splitlines(), "END"]:
        if line.startswith("CRYST1"):
            cell = line
        elif line.startswith(("ATOM", "HETATM")):
            block.append(line)
        elif line.split()[:1] and line.split()[0] in ENDS and block:
            read.append(_frame(block, cell, f"{path}, frame {len(read) + 1}"))
            block = []
    return read


def cif_frames(text: str, path: Path) -> list[Frame]:
    """The models of an mmCIF file. path: names the file in messages."""
    import gemmi

    read = []
    for block in gemmi.cif.read_string(text):
        structure = gemmi.make_structure_from_block(block)
        for model in structure:
            where = f"{path}, frame {len(read) + 1}"
            atoms = [(atom, residue, chain) for chain in model for residue in chain for atom in residue]
            try:
                read.append(_built(atoms, [atom.charge for atom, *_ in atoms], structure.cell, where, []))
            except InvalidMolecule as error:
                read.append(Frame(error=error))
    return read


def text(frames: list[Atoms], charges: list[np.ndarray]) -> str:
    """The frames as a PDB file. charges: formal charges (e) of the atoms of each frame."""
    import gemmi

    structure = gemmi.Structure()
    if frames[0].pbc.any():
        structure.cell = gemmi.UnitCell(*frames[0].cell.cellpar())
    for number, (atoms, formal) in enumerate(zip(frames, charges, strict=True), 1):
        model = gemmi.Model(number)
        for chain_name, in_chain in groupby((_row(atoms, k) for k in range(len(atoms))), lambda row: row.chain):
            chain = gemmi.Chain(chain_name)
            for (name, residue_number), in_residue in groupby(in_chain, lambda row: (row.residue, row.residue_number)):
                residue = gemmi.Residue()
                residue.name, residue.seqid, residue.het_flag = name, gemmi.SeqId(residue_number, " "), "H"
                for row in in_residue:
                    residue.add_atom(_gemmi_atom(atoms, row, int(formal[row.index])))
                chain.add_residue(residue)
            model.add_chain(chain)
        structure.add_model(model)
    options = gemmi.PdbWriteOptions(minimal_file=True)
    options.cryst1_record, options.ter_records = bool(frames[0].pbc.any()), False
    return structure.make_pdb_string(options)


def _row(atoms, k):
    """The names of an atom, its own and those it has from a PDB file."""
    a = atoms.arrays
    return _Row(k, str(a["atomtypes"][k]) if "atomtypes" in a else atoms.symbols[k],
                str(a["residuenames"][k]).strip() if "residuenames" in a else "MOL",
                int(a["residuenumbers"][k]) if "residuenumbers" in a else 1, str(a["chains"][k]) if "chains" in a else "A")


def _gemmi_atom(atoms, row, charge):
    import gemmi

    atom, k = gemmi.Atom(), row.index
    atom.name, atom.pos, atom.charge = row.name, gemmi.Position(*atoms.positions[k]), charge
    deuterium = atoms.numbers[k] == 1 and atoms.has("masses") and abs(atoms.get_masses()[k] - ISOTOPES["D"]) < 0.01
    atom.element = gemmi.Element("D" if deuterium else atoms.symbols[k])
    atom.occ = float(atoms.arrays["occupancy"][k]) if "occupancy" in atoms.arrays else 1.0
    atom.b_iso = float(atoms.arrays["bfactor"][k]) if "bfactor" in atoms.arrays else 0.0
    return atom


def _frame(block, cell, where):
    """The frame of some lines of atoms."""
    import gemmi

    try:
        fields = [_field(line, where) for line in block]
        places = [_place(line, where) for line in block]
        left = _left_justified(block)
        lines = [_line(line, k, field[0], left) for k, (line, field) in enumerate(zip(block, fields, strict=True))]
        structure = gemmi.read_pdb_string("\n".join([*([cell] if cell else []), *lines, "END", ""]))
        atoms = sorted(((atom, residue, chain) for chain in structure[0] for residue in chain for atom in residue),
                       key=lambda atom: atom[0].serial)
        if len(atoms) != len(block):
            raise IncompatibleFile(f"{where}: {len(block)} lines of atoms, of which {len(atoms)} can be read.")
        for (atom, *_), place in zip(atoms, places, strict=True):
            atom.pos = gemmi.Position(*place)
        notes = []
        if any(element is None for element, _ in fields):
            notes.append(f"{where.rpartition(', ')[0]}: elements are taken from the names of the atoms, where their own "
                         "columns are empty.")
        return _built(atoms, [charge for _, charge in fields], structure.cell, where, notes)
    except (InvalidMolecule, IncompatibleFile) as error:
        return Frame(error=error)
    except Exception as error:   # gemmi raises RuntimeError and ValueError
        return Frame(error=IncompatibleFile(f"{where} cannot be read ({error}): expected the columns of a PDB file."))


def _field(line, where):
    """(element or None, formal charge) of a line of an atom. InvalidMolecule: its columns hold something else."""
    import gemmi

    name = line[12:16].strip().lstrip("0123456789").upper()
    tail = line[66:].rstrip().ljust(14)          # from column 67 on; the element belongs in 77 and 78, the charge in 79 and 80
    shifted = re.search(r"(?<=\s)([A-Za-z]{1,2})(\d[+-]|[+-]\d|[+-])?$", tail.rstrip()[:14])
    if not tail[11:].strip() and shifted and shifted.start() >= 7 and name.startswith(shifted[1].upper()):
        tail = " " * 10 + tail[shifted.start():]     # one or two columns to the left, and no name of a segment
    if OLD.fullmatch(tail[6:].strip()):
        return None, 0
    field = FIELD.fullmatch(tail[10:16])
    letters = (field[1] or "").upper() if field else ""
    known = letters != "" and gemmi.Element(letters).atomic_number > 0
    if field is None or (letters and not known and not name.startswith(letters)):
        raise InvalidMolecule(f"{where}: columns 77 to 80 of the atom {line[6:16].strip()!r} hold {tail[10:16].strip()!r}: "
                              "expected an element and a charge written 1+, +1 or + (and likewise with -).")
    word = field[2] or "0"
    charge = int(re.sub(r"\D", "", word) or 1) * (-1 if "-" in word else 1)
    return (letters.capitalize() if known else None), charge


def _place(line, where):
    """The coordinates of a line of an atom, of which gemmi would read what is no number as 0. InvalidMolecule."""
    try:
        return [float(line[k:k + 8]) for k in (30, 38, 46)]
    except ValueError:
        raise InvalidMolecule(f"{where}: columns 31 to 54 of the atom {line[6:16].strip()!r} hold {line[30:54]!r}: expected "
                              "three coordinates of eight columns each.") from None


def _left_justified(block):
    """Whether names of one letter stand in the first of their columns, where elements of two letters belong."""
    return any(line[12:16].rstrip() in ("N", "C", "O", "H") for line in block)


def _line(line, k, element, left):
    """A line of an atom with its index as serial number and its element in columns 77 and 78."""
    if element is None and left:
        element = _first_letters(line[12:16].strip(), line[17:20].strip())
    return f"{line[:6]}{k % 100000:5d}{line[11:66].ljust(55)}          {element or '':>2}"


def _first_letters(name, residue):
    """The element of a name that stands in the first column in any case."""
    import gemmi

    letters = name.lstrip("0123456789").upper()
    known = gemmi.find_tabulated_residue(residue)
    if letters == residue.upper() or (letters[:2] in TWO_LETTERS and not known.is_amino_acid()):   # an ion
        return letters[:2]
    return letters[:1]


def _built(atoms, charges, cell, where, notes):
    """The frame of gemmi's atoms, with one of the alternate locations."""
    kept, note = _one_location(atoms)
    isotopes, symbols = {}, []
    for index, k in enumerate(kept):
        atom, residue, _ = atoms[k]
        name = atom.element.name
        if name == "X":
            name = atom.name.lstrip("0123456789")[:1].upper()     # "OXT " one column to the left
            if not name or name not in "HCNOFPSIBK":
                raise InvalidMolecule(f"{where}: the element of the atom {atom.name!r} of {residue.name} {residue.seqid} is "
                                      "unknown: write it into columns 77 and 78.")
        if name in ISOTOPES:
            isotopes[index] = ISOTOPES[name]
        symbols.append(symbol(1) if name in ISOTOPES else name)
    atoms = [atoms[k] for k in kept]
    built = Atoms(symbols, [atom.pos.tolist() for atom, *_ in atoms])
    if cell.is_crystal():
        built.cell, built.pbc = [cell.a, cell.b, cell.c, cell.alpha, cell.beta, cell.gamma], True
    columns = ([a.name or s for (a, *_), s in zip(atoms, symbols, strict=True)], [r.name or "UNL" for _, r, _ in atoms],
               [r.seqid.num or 0 for _, r, _ in atoms], [c.name.strip() or "A" for *_, c in atoms])
    for name, column in zip(NAMES, columns, strict=True):
        built.set_array(name, np.array(column))
    built.set_array("occupancy", np.array([a.occ for a, *_ in atoms]))
    built.set_array("bfactor", np.array([a.b_iso for a, *_ in atoms]))
    with_formal_charges(built, [charges[k] for k in kept])
    return Frame(with_isotopes(built, isotopes), (*notes, *([f"{where}: {note}"] if note else [])))


def _one_location(atoms):
    """Indices of the atoms that stay where a residue has alternate locations, and what to say about it.

    In each residue that location is kept which has the highest occupancy, of equal ones the first.
    """
    places = defaultdict(list)
    for k, (atom, residue, chain) in enumerate(atoms):
        places[chain.name, str(residue.seqid)].append((k, atom, residue))
    kept, dropped, said = [], 0, []
    for (chain, number), members in places.items():
        occupancy = {}
        for _, atom, _ in members:
            if atom.altloc != "\0":
                occupancy.setdefault(atom.altloc, []).append(atom.occ)
        best = max(occupancy, key=lambda label: np.mean(occupancy[label]), default=None) if len(occupancy) > 1 else None
        if best is not None:
            said.append(f"{best} of {members[0][2].name} {chain}{number}")
        for k, atom, _ in members:
            if best is None or atom.altloc in ("\0", best):
                kept.append(k)
            else:
                dropped += 1
    note = f"of alternate locations {', '.join(said[:6])}{', ...' if len(said) > 6 else ''} are kept, {dropped} atoms left out."
    return sorted(kept), note if dropped else ""
