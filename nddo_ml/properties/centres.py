"""Centres of mass: the origins that the dipole moments of ions are given about."""

from jaxtyping import Float
from torch import Tensor

from nddo_ml.elements import dipole_masses
from nddo_ml.molecules import Molecules


def centres_of_mass(molecules: Molecules) -> Float[Tensor, "molecule 3"]:
    """The centre of mass of each molecule, angstrom, with the masses of MOPAC (elements.dipole_masses)."""
    masses = dipole_masses(molecules.numbers)
    total = masses.new_zeros(len(molecules)).index_add(0, molecules.molecule, masses)
    moment = masses.new_zeros(len(molecules), 3).index_add(0, molecules.molecule, masses[:, None] * molecules.positions)
    return moment / total[:, None]
