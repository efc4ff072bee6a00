"""XYZ and extended XYZ, as programs and people write them.

The first column may hold atomic numbers, D and T, and names of sparkles and pseudo-atoms. Blank lines stand anywhere, numbers
have exponents of Fortran or Mathematica, the lines that QM9 adds are passed over. ASE reads what is left. Charge and
multiplicity are read from `key=value`, and from prose where a number follows ("charge: -1, multiplicity 2"), with a note; bare
words never count.
"""

import io
import re
from pathlib import Path

import numpy as np
from ase.data import chemical_symbols
from ase.io.extxyz import key_val_str_to_dict, read_extxyz

from nddo_ml.elements import SPARKLE, is_sparkle, number
from nddo_ml.errors import IncompatibleFile, InvalidMolecule
from nddo_ml.structures.frames import ISOTOPES, Frame, plain, with_isotopes
from nddo_ml.structures.said import meaning

SPECIES = "nddo_species"   # array of names of sparkles and pseudo-atoms, as the calculator knows it
QM9 = "gdb"                # first word of the comments of QM9
QM9_LINES = 3              # after the atoms: frequencies, SMILES, InChI
PROSE = re.compile(r"""(?<![\w.=-])(?:(?:total|net|molecular|spin)[ _])?(charge|multiplicity|mult)["']?
                       (?:\s*:\s*|\s+)["']?([+-]?\d+[+-]?)(?![\w.*])""", re.IGNORECASE | re.VERBOSE)
PAIR = re.compile(r"\s*[+-]?\d+\s+[1-9]\d?\s*")   # charge and multiplicity, as some programs write them


class _Broken(IncompatibleFile):
    """A frame that cannot be read: the message, and the line where the next one is looked for."""

    def __init__(self, message: str, start: int):
        super().__init__(message)
        self.start = start


def frames(text: str, path: Path) -> list[Frame]:
    """The frames of an xyz file. path: names the file in messages."""
    lines, start, read = text.splitlines(), 0, []
    while (start := _filled(lines, start)) < len(lines):
        try:
            frame, start = _frame(lines, start, f"{path}, frame {len(read) + 1}")
        except _Broken as error:
            frame, start = Frame(error=IncompatibleFile(str(error))), _header(lines, error.start)
        read.append(frame)
    return read


def _filled(lines, start):
    """The first line from `start` on that is not blank."""
    return next((k for k in range(start, len(lines)) if lines[k].strip()), len(lines))


def _header(lines, start):
    """The first line from `start` on that looks like the head of a frame: a number alone, and an atom two lines below."""
    return next((k for k in range(start, len(lines) - 2) if lines[k].strip().isdigit() and _is_atom(lines[k + 2])), len(lines))


def _is_atom(line):
    """Whether a line reads as a name and three numbers."""
    words = line.split()
    if len(words) < 4 or (words[0].replace(".", "").isdigit() and not words[0].isdigit()):
        return False
    try:
        return all(np.isfinite(float(plain(word))) for word in words[1:4])
    except ValueError:
        return False


def _frame(lines, start, where):
    """The frame that begins at a line, and the line after it."""
    count = _count(lines, start, where)
    comment = lines[start + 1].strip() if start + 1 < len(lines) else ""
    columns = _columns(comment)
    species = columns.get("species") if columns else 0
    body, isotopes, named, k = [], {}, {}, start + 2
    while len(body) < count:
        k = _filled(lines, k)
        if k == len(lines):
            raise _Broken(f"{where}, line {start + 1}: {count} atoms announced, but only {len(body)} lines of atoms follow: "
                          "the file is cut short, or the number is wrong.", k)
        words = _words(lines, k, species, columns.get("pos", 1), where, start)
        if species is not None:
            try:
                words[species] = _symbol(words[species], len(body), isotopes, named)
            except InvalidMolecule as error:
                raise _Broken(f"{where}, line {k + 1}: {error}", start + 2) from None
        body.append(" ".join(words if columns else words[:4]))
        k += 1
    extra, end = _after(lines, k, comment)
    if count and end < len(lines) and _is_atom(lines[end]):
        raise _Broken(f"{where}, line {start + 1}: {count} atoms announced, but more lines of atoms follow (line {end + 1}): "
                      "correct the number.", end)
    atoms, notes = _read(count, [*body, *extra], comment, bool(columns), where, (start, end))
    with_isotopes(atoms, isotopes)
    if named:
        atoms.arrays[SPECIES] = np.array([named.get(k, s) for k, s in enumerate(atoms.symbols)])
    return Frame(atoms, notes), end


def _after(lines, k, comment):
    """(lines of cell vectors, first line of the next frame) behind the atoms."""
    end = _filled(lines, k)
    if comment.split()[:1] == [QM9]:
        for _ in range(QM9_LINES):
            end = _filled(lines, end if end < len(lines) and lines[end].strip().isdigit() else end + 1)
    first = end
    while end < len(lines) and lines[end].startswith("VEC"):    # as ADF writes them
        end += 1
    return lines[first:end], _filled(lines, end)


def _count(lines, start, where):
    """Number of atoms a frame announces."""
    word = lines[start].split()[0]
    if not word.isdigit():
        raise _Broken(f"{where}, line {start + 1}: found {lines[start][:40]!r}, expected the number of atoms of an xyz "
                      "structure.", start + 1)
    return int(word)


def _columns(comment):
    """name -> first column of an extended XYZ comment; nothing for any other."""
    columns, first = {}, 0
    said = re.search(r"(?<!\w)Properties\s*=\s*[\"']?([\w:]+)", comment)
    fields = said[1].split(":") if said else []
    for name, width in zip(fields[::3], fields[2::3], strict=False):
        columns[name] = first
        first += int(width) if width.isdigit() else 1
    return columns


def _words(lines, k, species, place, where, start):
    """The words of a line of an atom, numbers as Python reads them."""
    words = lines[k].split()
    if "^" in lines[k] or "d" in lines[k].lower():
        words = [word if j == species else plain(word) for j, word in enumerate(words)]
    try:
        if len([float(word) for word in words[place:place + 3]]) < 3:
            raise ValueError("too few words")
    except ValueError:
        raise _Broken(f"{where}, line {k + 1}: found {lines[k].strip()[:60]!r}, expected an element and three coordinates "
                      f"({lines[start].split()[0]} atoms are announced in line {start + 1}).", start + 2) from None
    return words


def _symbol(word, atom, isotopes, named):
    """The symbol ASE knows; masses and names it does not know go to `isotopes` and `named`."""
    if word in chemical_symbols:
        return word
    if word.upper() in ISOTOPES:
        isotopes[atom] = ISOTOPES[word.upper()]
        return "H"
    species = number(word)
    element = species - SPARKLE if is_sparkle(species) else species
    if species >= SPARKLE:
        named[atom] = word
    return chemical_symbols[element] if element < len(chemical_symbols) else "X"


def _read(count, body, comment, extended, where, span):
    """(atoms, notes) by ASE, with what the comment says; span: first line of this frame and of the next."""
    info, header, notes = {}, comment, ()
    if not extended:
        comment = header = re.sub(r"[,;]\s*(?=[\w+]+\s*=)", " ", comment)      # a=1, b=2
        info, notes = _prose(comment, where)
        if not _pairs(comment):                       # nothing but prose, which the reader would take for flags
            info |= {"comment": comment} if comment else {}
            header = ""
    try:
        atoms = next(read_extxyz(io.StringIO("\n".join([str(count), header, *body, ""])), index=0))
    except Exception as error:   # ASE's reader raises whatever it stumbles over
        raise _Broken(f"{where}, line {span[0] + 1}, cannot be read ({type(error).__name__}: {error}): check the comment and "
                      "the lines of atoms.", span[1]) from error
    for key in [key for key, value in atoms.info.items() if value is True and meaning(key)]:
        if not re.search(re.escape(key) + r"[\"']?\s*=", comment):   # a bare word
            del atoms.info[key]
    atoms.info |= info
    return atoms, notes


def _pairs(comment):
    """Whether ASE finds a key=value in the comment."""
    try:
        return "=" in comment and any("=" not in key and re.search(rf"{re.escape(key)}[\"']?\s*=", comment)
                                      for key in key_val_str_to_dict(comment))
    except Exception:   # a title with quotes, for example
        return False


def _prose(comment, where):
    """(info, notes) of a charge and a multiplicity that a comment says in words, or in pairs that ASE does not find."""
    said = {}
    for word, value in PROSE.findall(comment):
        said.setdefault("charge" if word.lower() == "charge" else "multiplicity", value)
    file = where.rpartition(", ")[0]
    notes = [f"{file}: {what} {value} is read from the comment {comment[:60]!r}." for what, value in said.items()]
    if not _pairs(comment):
        said |= {key: value for key, value in re.findall(r"([\w+]+)\s*=\s*[\"']?([^\s\"',;]+)", comment) if meaning(key)}
    if PAIR.fullmatch(comment) and comment.split() not in (["0", "1"], ["0", "2"]):
        charge, multiplicity = comment.split()
        notes.append(f"{file}: the comment {comment!r} is not read; if it means charge and multiplicity, write charge={charge} "
                     f"multiplicity={multiplicity}.")
    return said, tuple(notes)
