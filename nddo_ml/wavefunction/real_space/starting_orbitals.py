"""Which orbitals a real-space ansatz starts from: a start has the symmetry of the state, or it is not used.

An atom starts from Slater functions of its own, whose configuration interaction finds the term of the state; a molecule
starts from the determinants of an NDDO method. The minimal basis of NDDO does not hold every state: PM6 has no 2s orbital of
helium, so that its triplet is odd where the real one is even.
"""

from dataclasses import dataclass

import torch

from nddo_ml.elements import symbol
from nddo_ml.errors import InvalidMolecule, MissingParameter, SCFNotConverged
from nddo_ml.wavefunction.real_space.atomic_start import atomic_field, term
from nddo_ml.wavefunction.real_space.mean_field_start import MeanField, mean_field
from nddo_ml.wavefunction.real_space.systems import ElectronSystem

USUAL = "PM6"


@dataclass(frozen=True)
class StartingOrbitals:
    """What an ansatz starts from."""

    field: MeanField | None     # the determinants it is fitted to; None: it stays at envelopes with Slater's exponents
    said: str                   # what they are, and why they are not the usual ones, in words


def starting_orbitals(system: ElectronSystem, start: str, determinants: int) -> StartingOrbitals:
    """The start of that name: "auto", "" for Slater's exponents, an NDDO method, or the file of a trained Hamiltonian.

    Raises:
        MissingParameter: a method that was asked for by name does not hold the state.
        SCFNotConverged: it finds no state at all.
    """
    if not start:
        return StartingOrbitals(None, "Slater's exponents")
    if start != "auto":
        return StartingOrbitals(_symmetric(system, start, determinants), f"the determinants of {start}")
    try:
        if len(system.numbers) > 1:
            return StartingOrbitals(_symmetric(system, USUAL, determinants), f"the determinants of {USUAL}")
        field = atomic_field(system, determinants)
        return StartingOrbitals(field, f"Slater functions of the atom, {system.up - system.down + 1}{term(field)}")
    except (MissingParameter, SCFNotConverged, InvalidMolecule) as error:
        return StartingOrbitals(None, f"Slater's exponents, since: {error}")


def _symmetric(system, method, determinants):
    """The determinants of a method; MissingParameter where they are of another symmetry than the state."""
    field = mean_field(system, method, determinants)
    lacking = sorted({symbol(system.numbers[atom]) for atom in lacking_s(field)})
    if len(system.numbers) == 1:
        own, right = term(field), term(atomic_field(system, determinants))
        if not own.same(right):
            raise MissingParameter(f"The orbitals of {method} start {symbol(system.numbers[0])} in a state {own} instead of "
                                   f"the lowest one of its spin, {right}: leave `start` out.")
    elif lacking:
        raise MissingParameter(f"{method} would put an electron into p orbitals of {', '.join(lacking)}, of which it has no s "
                               "orbital of the same shell: start without its orbitals (start = \"\").")
    return field


def lacking_s(field: MeanField) -> set[int]:
    """The atoms without an s orbital in the shell of their p orbitals, if those p orbitals hold an electron.

    They hold one if together they make up more than half of an orbital of the heaviest determinant. The missing s orbital would
    be lower in energy, so the state is not the one that is asked for.
    """
    known = {(s.atom, s.n) for s in field.shells if s.l == 0}
    odd = torch.cat([torch.full((s.size,), (s.atom, s.n) not in known) for s in field.shells])
    shares = [C[0, odd].square().sum(0) / C[0].square().sum(0) for C in field.C]
    if not any(bool((x > 0.5).any()) for x in shares):
        return set()
    return {s.atom for s in field.shells if (s.atom, s.n) not in known}
