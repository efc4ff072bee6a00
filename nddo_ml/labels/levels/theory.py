"""A level of theory: what it is called with, what it returns, and how that is written down."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from ase import Atoms
from jaxtyping import Float

import nddo_ml
from nddo_ml.errors import UnknownOption
from nddo_ml.labels.structures import Structure


@dataclass(frozen=True, eq=False)
class Label:
    """What a level says of a structure: energy (eV); None where the level does not say: forces (atom 3), eV/angstrom; dipole
    (3), e angstrom, about the origin; charges (atom), e; gap (eV); s2; dispersion energy and forces where they are kept apart;
    site_forces (site 3) on the point charges; unrelaxed_dipole: of a wave function without its orbital response; iterations.
    """

    energy: float
    forces: Float[np.ndarray, "atom 3"] | None = None
    dipole: Float[np.ndarray, "3"] | None = None
    charges: Float[np.ndarray, "atom"] | None = None
    gap: float | None = None
    s2: float | None = None
    dispersion_energy: float | None = None
    dispersion_forces: Float[np.ndarray, "atom 3"] | None = None
    site_forces: Float[np.ndarray, "site 3"] | None = None
    unrelaxed_dipole: Float[np.ndarray, "3"] | None = None
    iterations: int | None = None


class Level(Protocol):
    """name: all that decides its numbers. dispersion: "apart" (kept in its own keys), "included" or "none"."""

    name: str
    dispersion: str

    def __call__(self, structure: Structure) -> Label: ...


def without_sites(level: Level, structure: Structure) -> None:
    """Refuse point charges where a level cannot take them. UnknownOption."""
    if structure.sites is not None:
        raise UnknownOption(f"{level.name} takes no point charges here: use a density functional, HF or one of our own "
                            "methods.")


def frontier_gap(eps, f) -> float:
    """Lowest empty less highest occupied level, in the unit of eps; 0 where there is only one kind."""
    empty, occupied = eps[f < 1e-6], eps[f > 1e-6]
    return float(empty.min() - occupied.max()) if len(empty) and len(occupied) else 0.0


def frame(structure: Structure, label: Label, level: Level) -> Atoms:
    """The labelled structure as it is written: keys ref_*, units eV, angstrom, e."""
    atoms = structure.atoms
    per_atom = {"ref_forces": label.forces, "ref_forces_d3": label.dispersion_forces, "ref_charges": label.charges}
    atoms.arrays |= {key: np.asarray(value) for key, value in per_atom.items() if value is not None}
    found = {"ref_energy": label.energy, "ref_dipole": label.dipole, "ref_gap": label.gap, "ref_s2": label.s2,
             "ref_energy_d3": label.dispersion_energy, "ref_dipole_unrelaxed": label.unrelaxed_dipole,
             "ref_scf_cycles": label.iterations,
             "ref_pc_forces": None if label.site_forces is None else np.ravel(label.site_forces)}
    atoms.info |= {key: value for key, value in found.items() if value is not None}
    if label.forces is None:
        atoms.info["ref_forces_missing"] = "PySCF has no gradient of this level"
    atoms.info |= {"ref_dispersion": level.dispersion, "level": level.name, "code": f"nddo_ml {nddo_ml.__version__}",
                   "id": structure.id}
    return atoms
