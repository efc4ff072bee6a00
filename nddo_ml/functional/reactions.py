"""What functionals are judged by: species, reactions between them with reference energies, and properties of a density."""

from collections.abc import Sequence
from dataclasses import dataclass

from nddo_ml.units import CODATA_2018

KCAL = CODATA_2018.hartree * CODATA_2018.kcal_mol                            # kcal/mol per hartree
KINDS = ("atomisation", "barrier", "total", "stretched", "fractional")       # of reactions
PROPERTIES = ("dipole", "orbital", "density")                                # kinds of properties


@dataclass(frozen=True)
class ChemicalSystem:
    """A molecule or an atom."""

    key: str                                    # by which reactions name it
    symbols: tuple[str, ...]                    # of its elements
    positions: tuple[tuple[float, ...], ...]    # of its atoms, angstrom
    charge: int                                 # elementary charges
    unpaired: int                               # how many electrons are
    missing: tuple[float, float] = (0.0, 0.0)   # electrons taken from the highest occupied orbital of either spin


@dataclass(frozen=True)
class Reaction:
    """sum(coefficients * E(systems)) = reference."""

    kind: str                           # one of KINDS
    name: str                           # of what is atomised, or of the transition state
    systems: tuple[str, ...]            # keys of the systems
    coefficients: tuple[float, ...]     # of their energies
    reference: float                    # kcal/mol


@dataclass(frozen=True)
class Property:
    """A number that the density of a system should give.

    The kinds are dipole (its length, debye), orbital (energy of the highest occupied orbital, eV) and density (mean square
    distance per electron, bohr^-3, from the density of a wave function, which should be 0).
    """

    kind: str               # one of PROPERTIES
    system: str             # key of the system
    reference: float | str  # its value; of a density the name of the wave function


def needed_systems(reactions: Sequence[Reaction]) -> list[str]:
    """Keys of all systems of the reactions, once each."""
    return list(dict.fromkeys(key for reaction in reactions for key in reaction.systems))
