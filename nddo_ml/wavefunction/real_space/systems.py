"""Systems: what a real-space wavefunction describes, fixed nuclei and numbers of electrons of each spin, in atomic units."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from nddo_ml.elements import number, symbol
from nddo_ml.errors import InvalidMolecule, UnknownOption
from nddo_ml.units import CODATA_2018

LARGEST = 18            # nuclear charge: beyond argon the core electrons ask for an effective potential
COINCIDENT = 0.1        # bohr
UNITS = {"bohr": 1.0, "angstrom": 1 / CODATA_2018.bohr}

Coordinates: TypeAlias = Tensor | np.ndarray | Sequence[Sequence[float | int]]


@dataclass(frozen=True)
class ElectronSystem:
    """Fixed nuclei and the electrons around them."""

    numbers: tuple[int, ...]                                # atomic numbers
    positions: tuple[tuple[float, float, float], ...]       # of the nuclei, bohr
    up: int                                                 # electrons of spin up, not fewer than those of spin down
    down: int                                               # electrons of spin down

    @property
    def electrons(self) -> int:
        """Number of electrons."""
        return self.up + self.down

    @property
    def nuclei(self) -> Float[Tensor, "atom 3"]:
        """Positions of the nuclei, bohr."""
        return torch.tensor(self.positions, dtype=torch.float64)

    @property
    def charges(self) -> Float[Tensor, "atom"]:
        """Nuclear charges."""
        return torch.tensor(self.numbers, dtype=torch.float64)

    @property
    def repulsion(self) -> float:
        """Repulsion of the nuclei, hartree."""
        R, Z = self.nuclei, self.charges
        i, j = torch.triu_indices(len(Z), len(Z), 1)
        return float((Z[i] * Z[j] / (R[i] - R[j]).norm(dim=-1)).sum())

    @property
    def formula(self) -> str:
        """Symbols and positions in bohr on one line, as `from_text` reads them."""
        return "; ".join(f"{symbol(z)} {x:g} {y:g} {w:g}" for z, (x, y, w) in zip(self.numbers, self.positions, strict=True))


def electron_system(numbers: Sequence[int], positions: Coordinates, charge: int = 0, multiplicity: int | None = None,
                    unit: str = "bohr") -> ElectronSystem:
    """The system of nuclei, total charge and multiplicity; None: the lowest multiplicity that fits.

    Raises:
        InvalidMolecule: no atoms, an element beyond argon, coinciding or non-finite positions, no electrons, or a multiplicity
            that does not fit their number.
        UnknownOption: the unit is neither bohr nor angstrom.
    """
    if unit not in UNITS:
        raise UnknownOption(f"unit = {unit!r}: expected {', '.join(UNITS)}.")
    numbers = tuple(int(z) for z in numbers)
    if not numbers:
        raise InvalidMolecule("A molecule without atoms: give at least one, as in \"He 0 0 0\".")
    for k, z in enumerate(numbers):
        if not 1 <= z <= LARGEST:
            raise InvalidMolecule(f"Atom {k + 1} is {symbol(z)} (Z={z}): real-space wavefunctions treat all electrons and "
                                  f"reach from H to {symbol(LARGEST)}; use the orbital ansatz or `nddo-ml run` instead.")
    R = torch.as_tensor(positions, dtype=torch.float64).reshape(-1, 3) * UNITS[unit]
    if len(R) != len(numbers):
        raise InvalidMolecule(f"{len(numbers)} atoms but {len(R)} positions: give three coordinates for each atom.")
    if not torch.isfinite(R).all():
        raise InvalidMolecule("A coordinate is not a finite number: check the input.")
    distance = torch.cdist(R, R) + 1e9 * torch.eye(len(R))
    if float(distance.min()) < COINCIDENT:
        i, j = divmod(int(distance.argmin()), len(R))
        raise InvalidMolecule(f"Atoms {i + 1} and {j + 1} are {float(distance.min()):.3g} bohr apart: expected at least "
                              f"{COINCIDENT} (is the unit right? it is {unit}).")
    electrons = sum(numbers) - charge
    if electrons < 1:
        raise InvalidMolecule(f"Charge {charge} leaves {electrons} electrons: expected at least one.")
    multiplicity = 1 + electrons % 2 if multiplicity is None else multiplicity
    unpaired = multiplicity - 1
    if unpaired < 0 or unpaired > electrons or (electrons - unpaired) % 2:
        possible = ", ".join(str(m) for m in range(1 + electrons % 2, min(electrons, 8) + 2, 2))
        raise InvalidMolecule(f"Multiplicity {multiplicity} is impossible with {electrons} electrons: expected one of "
                              f"{possible}.")
    places = tuple((x, y, z) for x, y, z in R.tolist())
    return ElectronSystem(numbers, places, (electrons + unpaired) // 2, (electrons - unpaired) // 2)


def from_text(text: str, charge: int = 0, multiplicity: int | None = None, unit: str = "bohr") -> ElectronSystem:
    """The system of a line such as "Li 0 0 0; H 0 0 3.015".

    Raises:
        InvalidMolecule: the line cannot be read, or `electron_system` refuses the molecule.
        UnknownOption: the unit is neither bohr nor angstrom.
    """
    numbers, positions = [], []
    for part in filter(None, (piece.strip() for piece in re.split(r"[;\n]", text))):
        words = part.split()
        try:
            xyz = [float(x) for x in words[1:]]
        except ValueError:
            xyz = []
        if len(xyz) != 3:
            raise InvalidMolecule(f"{part!r} is not an atom: expected a symbol and three coordinates, as in "
                                  "\"Li 0 0 0; H 0 0 3.015\".")
        numbers.append(number(words[0]))
        positions.append(xyz)
    return electron_system(numbers, positions, charge, multiplicity, unit)


def owners(system: ElectronSystem) -> list[int]:
    """The nucleus that each electron starts at, spin-up electrons first: as many as its charge asks for, spins alternating."""
    room = list(system.numbers)
    while sum(room) < system.electrons:                # an anion: one more on each, from the largest charge down
        room[max(range(len(room)), key=lambda a: system.numbers[a] - room[a] + 0.01 * system.numbers[a])] += 1
    up, down = [], []
    for a in [a for level in range(max(room)) for a in range(len(room)) if room[a] > level][:system.electrons]:
        to_up = len(up) < system.up and (len(down) >= system.down or up.count(a) < down.count(a)
                                         or (up.count(a) == down.count(a) and len(up) <= len(down)))
        (up if to_up else down).append(a)
    return up + down
