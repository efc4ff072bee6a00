"""A frame of a structure file, and what readers of all formats share: isotopes, numbers, compressed and marked text."""

import bz2
import codecs
import gzip
import lzma
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms

from nddo_ml.errors import IncompatibleFile, NDDOError
from nddo_ml.structures.said import FORMAL

ISOTOPES = {"D": 2.01410177811, "T": 3.01604928199}   # u; Wang et al., Chin. Phys. C 41, 030003 (2017)
COMPRESSED = (".gz", ".bz2", ".xz")
PACKED = ((b"\x1f\x8b", gzip.decompress), (b"BZh", bz2.decompress), (b"\xfd7zXZ\x00", lzma.decompress))
MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
FORTRAN = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+))(?:[dD]|\*\^)([+-]?\d+)")   # 1.5D-03; 1.5*^-3 is Mathematica's, in QM9


@dataclass(frozen=True, eq=False)
class Frame:
    """One structure of a file, or the error that says why there is none."""

    atoms: Atoms | None = None
    notes: tuple[str, ...] = ()         # for the user, on how it was read
    error: NDDOError | None = None      # where there are no atoms


def suffix(path: Path) -> str:
    """The suffix that tells the format, in lower case: ".xyz" of "a.XYZ.gz"."""
    name = path.name.lower()
    for packed in COMPRESSED:
        name = name.removesuffix(packed)
    return Path(name).suffix


def content(path: Path) -> bytes:
    """The bytes of a file, unpacked if it is compressed.

    Raises:
        IncompatibleFile: it is compressed, but cannot be unpacked.
    """
    data = path.read_bytes()
    for magic, unpack in PACKED:
        if data.startswith(magic):
            try:
                return unpack(data)
            except (OSError, EOFError, ValueError, lzma.LZMAError) as error:
                raise IncompatibleFile(f"{path} is compressed, but cannot be unpacked ({error}): it is cut short or damaged.") \
                    from error
    return data


def decoded(data: bytes) -> str:
    """Bytes as text, with "\\n" at the end of lines and without a byte-order mark."""
    encoding = next((name for mark, name in MARKS if data.startswith(mark)), "utf-8")
    return data.decode(encoding, errors="replace").replace("\r\n", "\n").replace("\r", "\n")


def plain(word: str) -> str:
    """A word, rewritten for Python if it is a number with an exponent as Fortran or Mathematica write it."""
    number = FORTRAN.fullmatch(word)
    return f"{number[1]}e{number[2]}" if number else word


def with_isotopes(atoms: Atoms, isotopes: dict[int, float]) -> Atoms:
    """The atoms with the masses (u) of some of them, by index; a file's own column of masses goes before."""
    if isotopes and not atoms.has("masses"):
        masses = atoms.get_masses()
        masses[list(isotopes)] = list(isotopes.values())
        atoms.set_array("masses", masses, float, ())
    return atoms


def with_formal_charges(atoms: Atoms, charges: Sequence[int]) -> Atoms:
    """The atoms with their formal charges (e, one per atom) as an array, unless all are zero."""
    if np.any(charges):
        atoms.set_array(FORMAL, np.asarray(charges, dtype=int))
    return atoms
