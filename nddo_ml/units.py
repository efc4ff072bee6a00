"""The only place with unit factors.

The package works in eV, angstrom and e. `Constants` holds the numbers a method was fitted with: they enter its integrals
and its heat of formation, and mixing sets shifts total energies by up to 0.1 eV. Everything else (spectra,
thermochemistry) uses CODATA 2018 throughout.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Constants:
    """The physical constants that a method was fitted with."""

    hartree: float      # eV
    bohr: float         # angstrom
    kcal_mol: float     # kcal/mol in an eV
    debye: float        # D in an e angstrom

    @property
    def coulomb(self) -> float:
        """e^2/(4 pi eps0) in eV angstrom."""
        return self.hartree * self.bohr


CODATA_2018 = Constants(hartree=27.211386245988, bohr=0.529177210903, kcal_mol=23.06054783061903, debye=4.803204712570)
MNDO_1977 = Constants(hartree=27.21, bohr=0.529167, kcal_mol=23.061, debye=4.802943112781)
