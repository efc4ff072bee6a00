"""Which orbitals a real-space ansatz starts from, and what is said about it: a start holds the right symmetry or is not used.

An atom starts from Slater functions of its own, whose configuration interaction knows its term; molecules from the determinants
of an NDDO method. A minimal basis does not hold every state: the 2s of helium is missing from PM6, whose triplet is therefore
odd where the real one is even.
"""

from dataclasses import dataclass

import torch

from nddo_ml.elements import symbol
from nddo_ml.errors import InvalidMolecule, MissingParameter, SCFNotConverged
from nddo_ml.wavefunction.real_space.atomic_start import atomic_field, term
from nddo_ml.wavefunction.real_space.mean_field_start import MeanField, mean_field
from nddo_ml.wavefunction.real_space.systems import System

USUAL = "PM6"


@dataclass(frozen=True)
class Beginning:
    """field: the determinants an ansatz is fitted to; None: it begins as envelopes of Slater's exponents. said: what it is, and
    why it is not the usual one."""

    field: MeanField | None
    said: str


def beginning(system: System, start: str, determinants: int) -> Beginning:
    """The start of that name: "auto", "" for exponents, an NDDO method, or the file of a trained Hamiltonian.

    MissingParameter, SCFNotConverged: a method that was asked for by name does not hold the state.
    """
    if not start:
        return Beginning(None, "Slater's exponents")
    if start != "auto":
        return Beginning(_symmetric(system, start, determinants), f"the determinants of {start}")
    try:
        if len(system.numbers) > 1:
            return Beginning(_symmetric(system, USUAL, determinants), f"the determinants of {USUAL}")
        field = atomic_field(system, determinants)
        return Beginning(field, f"Slater functions of the atom, {system.up - system.down + 1}{term(field)}")
    except (MissingParameter, SCFNotConverged, InvalidMolecule) as error:
        return Beginning(None, f"Slater's exponents, since: {error}")


def _symmetric(system, method, determinants):
    """The determinants of a method. MissingParameter: they are of another symmetry than the state."""
    field = mean_field(system, method, determinants)
    lacking = sorted({symbol(system.numbers[atom]) for atom in lacking_s(field)})
    if len(system.numbers) == 1:
        found, right = term(field), term(atomic_field(system, determinants))
        if not found.same(right):
            raise MissingParameter(f"The orbitals of {method} start {symbol(system.numbers[0])} in a state {found} instead of "
                                   f"the lowest one of its spin, {right}: leave `start` out.")
    elif lacking:
        raise MissingParameter(f"{method} would put an electron into p orbitals of {', '.join(lacking)}, of which it has no s "
                               "orbital of the same shell: start without its orbitals (start = \"\").")
    return field


def lacking_s(field: MeanField) -> set[int]:
    """Atoms whose p orbitals hold more than half of an electron's orbital in the heaviest determinant, together, while the s
    orbital of their shell, lower in energy, is missing."""
    known = {(s.atom, s.n) for s in field.shells if s.l == 0}
    odd = torch.cat([torch.full((2 * s.l + 1,), (s.atom, s.n) not in known) for s in field.shells])
    shares = [C[0, odd].square().sum(0) / C[0].square().sum(0) for C in field.C]
    if not any(bool((x > 0.5).any()) for x in shares):
        return set()
    return {s.atom for s in field.shells if (s.atom, s.n) not in known}
