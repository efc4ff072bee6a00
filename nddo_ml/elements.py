"""Species: the chemical elements, and the orbital-free cores that methods treat as atoms.

A species number is the atomic number for an element, 1000 + Z for the sparkle of element Z (a lanthanide as a bare core of
charge +3, named "Eu:sparkle"), and 2001 onwards for the pseudo-atoms of MOPAC (point charges with a repulsive core, named by
their charge: "+", "-", "++", "--", "+3", "-3", "+1/2", "-1/2").
"""

import difflib
from importlib.resources import files

import numpy as np
import torch
from ase import data
from jaxtyping import Float, Int
from torch import Tensor

from nddo_ml.common.struct import cached
from nddo_ml.errors import InvalidMolecule

ELEMENTS = 118
SPARKLE = 1000          # species number of a sparkle less its atomic number
LANTHANIDES = range(57, 72)
PSEUDO_ATOMS = {"+": 2001, "-": 2002, "++": 2003, "--": 2004, "+3": 2005, "-3": 2006, "+1/2": 2007, "-1/2": 2008}
SPECIES = 2009          # upper bound of the species numbers

_SYMBOLS = (
    {z: data.chemical_symbols[z] for z in range(1, ELEMENTS + 1)}
    | {SPARKLE + z: f"{data.chemical_symbols[z]}:sparkle" for z in LANTHANIDES}
    | {number: name for name, number in PSEUDO_ATOMS.items()}
)
_NUMBERS = {name.lower(): number for number, name in _SYMBOLS.items()}


def symbol(number: int) -> str:
    """Name of a species: "Fe", "Eu:sparkle", "+1/2".

    Raises:
        InvalidMolecule: the number is that of no species.
    """
    try:
        return _SYMBOLS[int(number)]
    except KeyError:
        raise InvalidMolecule(f"{number} is not a species number: expected an atomic number 1 to {ELEMENTS}, {SPARKLE} + Z for "
                              f"the sparkle of a lanthanide, or {min(PSEUDO_ATOMS.values())} to {SPECIES - 1} for a "
                              f"pseudo-atom ({', '.join(PSEUDO_ATOMS)}).") from None


def number(name: str | int) -> int:
    """Species number of a name (upper or lower case), or of a number given as such.

    Raises:
        InvalidMolecule: it is the name or number of no species.
    """
    text = str(name).strip()
    if text.isdigit():
        symbol(int(text))
        return int(text)
    try:
        return _NUMBERS[text.lower()]
    except KeyError:
        close = difflib.get_close_matches(text.lower(), _NUMBERS, n=1)
        hint = f" Did you mean {_SYMBOLS[_NUMBERS[close[0]]]!r}?" if close else ""
        raise InvalidMolecule(f"{name!r} is not the name of a species: expected an element symbol, a sparkle such as "
                              f"'Eu:sparkle', or a pseudo-atom ({', '.join(PSEUDO_ATOMS)}).{hint}") from None


def is_sparkle(number: int) -> bool:
    """Whether a species number is that of a sparkle."""
    return number - SPARKLE in LANTHANIDES


def masses(numbers: Int[Tensor, "atom"]) -> Float[Tensor, "atom"]:
    """Standard atomic masses (IUPAC 2016, u); a sparkle weighs as its element, a pseudo-atom nothing."""
    return _per_species("mass", numbers.device).index_select(0, numbers)


def dipole_masses(numbers: Int[Tensor, "atom"]) -> Float[Tensor, "atom"]:
    """The masses (u) that place the centre of mass, the origin of an ion's dipole, as in MOPAC; elsewhere those of `masses`."""
    return _per_species("dipole mass", numbers.device).index_select(0, numbers)


def covalent_radii(numbers: Int[Tensor, "atom"]) -> Float[Tensor, "atom"]:
    """Covalent radii (Cordero et al., Dalton Trans. 2008, 2832; angstrom); a sparkle as its element, a pseudo-atom 0."""
    return _per_species("radius", numbers.device).index_select(0, numbers)


@cached
def _per_species(quantity: str, device: torch.device) -> Tensor:
    """A quantity of each species number: "mass", "dipole mass" or "radius"."""
    values = np.zeros(SPECIES)
    source = {"mass": data.atomic_masses, "dipole mass": data.atomic_masses, "radius": data.covalent_radii}[quantity].copy()
    if quantity == "dipole mass":
        lines = files("nddo_ml").joinpath("data", "dipole_masses.csv").read_text(encoding="utf-8").splitlines()
        table = np.loadtxt(lines, delimiter=",", skiprows=3, usecols=(0, 2))
        source[table[:, 0].astype(int)] = table[:, 1]
    values[1 : ELEMENTS + 1] = source[1 : ELEMENTS + 1]
    for z in LANTHANIDES:
        values[SPARKLE + z] = source[z]
    return torch.from_numpy(values).to(device)
