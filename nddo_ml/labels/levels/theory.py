"""A level of theory: what it is called with, what it returns, and how that is written down."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from ase import Atoms
from jaxtyping import Float

import nddo_ml
from nddo_ml.errors import UnknownOption
from nddo_ml.labels.structures import Structure

OCCUPIED = 1e-6     # electrons; an orbital with fewer is empty


@dataclass(frozen=True, eq=False)
class Label:
    """What a level says of a structure; None: it does not say."""

    energy: float                                                 # eV
    forces: Float[np.ndarray, "atom 3"] | None = None             # eV/angstrom
    dipole: Float[np.ndarray, "3"] | None = None                  # e angstrom, about the origin
    charges: Float[np.ndarray, "atom"] | None = None              # of the atoms, e
    gap: float | None = None                                      # eV
    s2: float | None = None                                       # <S^2>
    dispersion_energy: float | None = None                        # eV, where it is kept apart from `energy`
    dispersion_forces: Float[np.ndarray, "atom 3"] | None = None  # eV/angstrom, likewise
    point_charge_forces: Float[np.ndarray, "site 3"] | None = None    # on the charges around the structure, eV/angstrom
    unrelaxed_dipole: Float[np.ndarray, "3"] | None = None        # of a wave function without its orbital response, e angstrom
    iterations: int | None = None                                 # of the SCF


@runtime_checkable
class NamedLevel(Protocol):
    """What a level says of itself."""

    @property
    def name(self) -> str:
        """All that decides its numbers: labels of levels with different names are never mixed."""
        ...

    @property
    def dispersion(self) -> str:
        """Where the dispersion energy is: "apart" (in keys of its own), "included", or "none"."""
        ...


@runtime_checkable
class Level(NamedLevel, Protocol):
    """A level of theory: a frozen record that can be pickled and turns structures into labels."""

    def __call__(self, structure: Structure) -> Label:
        """The label of a structure."""
        ...


def refuse_point_charges(level: NamedLevel, structure: Structure) -> None:
    """Refuse a structure among point charges for a level that cannot take them.

    Raises:
        UnknownOption: there are point charges.
    """
    if structure.point_charges is not None:
        raise UnknownOption(f"{level.name} takes no point charges here: use a density functional, HF or one of our own "
                            "methods.")


def frontier_gap(eps: Float[np.ndarray, "level"], f: Float[np.ndarray, "level"]) -> float:
    """Lowest empty less highest occupied level (occupations f), in the unit of eps; 0 where there is only one kind."""
    empty, occupied = eps[f < OCCUPIED], eps[f > OCCUPIED]
    return float(empty.min() - occupied.max()) if len(empty) and len(occupied) else 0.0


def frame(structure: Structure, label: Label, level: NamedLevel) -> Atoms:
    """The labelled structure as it is written to a file: keys ref_*, units eV, angstrom and e (docs/howto/labels.md)."""
    atoms = structure.atoms
    per_atom = {"ref_forces": label.forces, "ref_forces_d3": label.dispersion_forces, "ref_charges": label.charges}
    atoms.arrays |= {key: np.asarray(value) for key, value in per_atom.items() if value is not None}
    on_charges = label.point_charge_forces
    values = {"ref_energy": label.energy, "ref_dipole": label.dipole, "ref_gap": label.gap, "ref_s2": label.s2,
              "ref_energy_d3": label.dispersion_energy, "ref_dipole_unrelaxed": label.unrelaxed_dipole,
              "ref_scf_cycles": label.iterations, "ref_pc_forces": None if on_charges is None else np.ravel(on_charges)}
    atoms.info |= {key: value for key, value in values.items() if value is not None}
    if label.forces is None:
        atoms.info["ref_forces_missing"] = "PySCF has no gradient of this level"
    atoms.info |= {"ref_dispersion": level.dispersion, "level": level.name, "code": f"nddo_ml {nddo_ml.__version__}",
                   "id": structure.id}
    return atoms
