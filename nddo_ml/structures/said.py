"""What a file or an Atoms object says of its charge and its multiplicity, whatever it calls them.

Names are compared without capitals, blanks and underscores: `Charge`, `total_charge`, `q`, `mult`, `spin_multiplicity`. "spin"
is read as 2S + 1; "unpaired" and "uhf" count unpaired electrons. Whatever bears such a name is read or refused, never ignored.
"""

import re
from collections.abc import Callable, Hashable, Mapping
from functools import lru_cache
from typing import Any, overload

import numpy as np
from ase import Atoms

from nddo_ml.errors import InvalidMolecule

CHARGE = frozenset({"charge", "totalcharge", "totcharge", "netcharge", "molecularcharge", "moleculecharge", "molcharge",
                    "ioncharge", "systemcharge", "formalcharge", "totalformalcharge", "chrg", "chg", "q", "qtot",
                    "qtotal", "totalq"})
MULTIPLICITY = frozenset({"multiplicity", "mult", "spinmultiplicity", "spinmult", "totalspinmultiplicity", "totalmultiplicity",
                          "molecularmultiplicity", "moleculemultiplicity", "2s+1", "spin"})
UNPAIRED = frozenset({"unpaired", "unpairedelectrons", "numunpaired", "nunpaired", "uhf"})
FORMAL = "formal_charges"   # array of whole charges of atoms, as SDF and PDB files hold them
ROUNDING = 0.1   # e or Bohr magnetons by which a sum of partial charges or moments may miss the whole number it stands for


Sources = dict[str, Any]     # where a value is said, in words -> the value as it is said; None: nothing is said there


@lru_cache(maxsize=4096)
def meaning(key: Hashable) -> str | None:
    """What a name stands for: "charge", "multiplicity", "unpaired" or None."""
    plain = re.sub(r"[\s_-]", "", str(key)).lower()
    known = {"charge": CHARGE, "multiplicity": MULTIPLICITY, "unpaired": UNPAIRED}
    return next((what for what, names in known.items() if plain in names), None)


def charges(atoms: Atoms) -> Sources:
    """The total charge (e) that info, the formal and the initial charges of an Atoms object say, by source."""
    sources: Sources = {_name(key): value for key, value in atoms.info.items() if meaning(key) == "charge"}
    if FORMAL in atoms.arrays:
        sources["the formal charges"] = int(np.sum(atoms.arrays[FORMAL]))
    return sources | {"the sum of the initial charges": _sum(atoms, "initial_charges")}


def multiplicities(atoms: Atoms) -> Sources:
    """The multiplicity that info and the initial magnetic moments of an Atoms object say, by source.

    Raises:
        InvalidMolecule: a number of unpaired electrons is no whole number.
    """
    sources: Sources = {}
    for key, value in atoms.info.items():
        if meaning(key) == "multiplicity":
            sources[_name(key) + (" (taken as 2S + 1)" if key == "spin" else "")] = value
        elif meaning(key) == "unpaired" and not isinstance(value, bool | np.bool_):
            sources[f"{_name(key)} (unpaired electrons)"] = whole("number of unpaired electrons", _name(key), value) + 1
    moments = _sum(atoms, "initial_magmoms")
    return sources | {"the initial magnetic moments": None if moments is None else abs(moments) + 1}


@overload
def agreed(what: str, sources: Mapping[str, Any]) -> int | None: ...


@overload
def agreed(what: str, sources: Mapping[str, Any], default: int) -> int: ...


def agreed(what: str, sources: Mapping[str, Any], default: int | None = None) -> int | None:
    """The one whole number that all sources agree on that say anything; the default where none does.

    Raises:
        InvalidMolecule: two sources contradict each other, or a value is no whole number.
    """
    given = {source: whole(what, source, value) for source, value in sources.items() if value is not None}
    if len(set(given.values())) > 1:
        listed = ", ".join(f"{value} from {source}" for source, value in given.items())
        raise InvalidMolecule(f"Contradicting values of the {what}: {listed}. Remove all but one, or make them agree.")
    return next(iter(given.values()), default)


def whole(what: str, source: str, value: Any) -> int:
    """A value as an integer: 1, 1.0, "+1", "1+". Sums of partial charges or moments may be off by ROUNDING.

    what, source: the quantity, and where its value comes from, for the message.

    Raises:
        InvalidMolecule: the value is no whole number.
    """
    slack = ROUNDING if "initial" in source else 1e-9
    word = value.strip(" ,;") if isinstance(value, str) else value
    signed = re.fullmatch(r"(\d+)([+-])", word) if isinstance(word, str) else None
    try:
        if isinstance(value, bool | np.bool_):
            raise TypeError("a truth value")
        number = float(signed[2] + signed[1] if signed else word)
        if abs(number - round(number)) <= slack:
            return round(number)
    except (TypeError, ValueError, OverflowError):
        pass
    shown = value.tolist() if isinstance(value, np.ndarray | np.generic) else value
    raise InvalidMolecule(f"The {what} from {source} is {shown!r}: expected a whole number. If it stands for something "
                          "else, rename or remove it.")


def settle(atoms: Atoms, charge: int | None = None, multiplicity: int | None = None) -> list[str]:
    """Notes of what was overruled when one charge and one multiplicity are left in atoms.info, where anything is said.

    charge, multiplicity: what the user gave, which goes before what the file says. Where a charge given by the user makes the
    file's multiplicity impossible, that is forgotten too.

    Raises:
        InvalidMolecule: the user gave nothing, and the sources contradict each other or are no whole numbers.
    """
    before, spin = _said("charge", charges, atoms, charge), _said("multiplicity", multiplicities, atoms, multiplicity)
    notes = [f"--{what} {value:{form}} instead of {said:{form}} as the file says." if isinstance(said, int) else
             f"--{what} {value:{form}} instead of what the file says ({said})."
             for what, value, said, form in (("charge", charge, before, "+d"), ("multiplicity", multiplicity, spin, "d"))
             if value is not None and said is not None and said != value]
    shift = 0 if charge is None or not isinstance(before, int | None) else charge - (before or 0)
    if multiplicity is None and spin is not None and shift % 2:
        notes.append(f"The file's multiplicity {spin} is impossible with charge {charge:+d} and forgotten; give --multiplicity "
                     "for another.")
        _forget(atoms, "multiplicity", "initial_magmoms")
        spin = None
    if charge is not None:
        _forget(atoms, "charge", "initial_charges", *([FORMAL] if before != charge else []))
    if multiplicity is not None:
        _forget(atoms, "multiplicity", "initial_magmoms")
    left = {"charge": before if charge is None else charge, "multiplicity": spin if multiplicity is None else multiplicity}
    for what, value in left.items():
        if value is not None:
            _forget(atoms, what)
            atoms.info[what] = value
    return notes


def _said(what: str, sources: Callable[[Atoms], Sources], atoms: Atoms, override: int | None) -> int | str | None:
    """What the file says; a text, if that makes no sense and the user overrides it anyway."""
    try:
        return agreed(what, sources(atoms))
    except InvalidMolecule as error:
        if override is None:
            raise
        return str(error)


def _forget(atoms: Atoms, what: str, *arrays: str) -> None:
    """Remove everything that says `what`."""
    names = (what, "unpaired") if what == "multiplicity" else (what,)
    for key in [key for key in atoms.info if meaning(key) in names]:
        del atoms.info[key]
    for name in arrays:
        atoms.arrays.pop(name, None)


def _name(key: str) -> str:
    """How an entry of info is called in messages."""
    return f'atoms.info["{key}"]'


def _sum(atoms: Atoms, array: str) -> float | None:
    """Sum of an array of initial values; None where there is none or where all of them are zero."""
    values = atoms.arrays.get(array)
    return float(np.sum(values)) if values is not None and np.any(values) else None
