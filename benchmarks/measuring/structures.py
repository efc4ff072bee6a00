"""What is measured: structures of 3 to 642 atoms and lists of small molecules, and the frames of a trajectory of each.

All programs are given the same frames. They come from a seed, so that they are the same in every run.
"""

from functools import cache
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import molecule
from ase.collections import g2
from ase.io import read
from ase.units import fs, kB
from jaxtyping import Float

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parents[1] / "molecules"
TITLES = {          # name of a structure -> what tables call it; from small to large
    "water": "water", "ethanol": "ethanol", "aspirin": "aspirin", "ala_4": "(Ala)4", "ala_10": "(Ala)10", "h2o_64": "64 waters",
    "ala_20": "(Ala)20", "crambin": "crambin", "batch": "256 molecules of 3 to 14 atoms, each",
}
PERIOD = 32         # frames, fs


def small_molecules(count: int = 256) -> list[Atoms]:
    """Molecules of 3 to 14 atoms of H, C, N, O (the G2 set), each copy slightly displaced."""
    generator = np.random.default_rng(0)
    chosen = [a for a in (molecule(name) for name in g2.names)
              if 3 <= len(a) <= 14 and set(a.numbers) <= {1, 6, 7, 8} and a.numbers.sum() % 2 == 0
              and not a.get_initial_magnetic_moments().any()]
    made = [chosen[k % len(chosen)].copy() for k in range(count)]
    for atoms in made:
        atoms.positions += generator.normal(0, 0.02, atoms.positions.shape)
    return made


@cache
def structure(name: str) -> tuple[Atoms, ...]:
    """The molecules of this name: one, or those that are calculated in one call."""
    if name == "batch":
        return tuple(small_molecules())
    if name in ("water", "ethanol"):
        return (molecule({"water": "H2O", "ethanol": "CH3CH2OH"}[name]),)
    return (read(ROOT / "nddo_ml/data/molecules/aspirin.xyz" if name == "aspirin" else HERE / f"{name}.xyz"),)


def frames(atoms: Atoms, seed: int = 0) -> Float[np.ndarray, "frame atom 3"]:
    """Positions in steps of 1 fs of a motion that returns, angstrom: x(t) = x + v/w sin(w t), with w = 2 pi/32 fs and the
    velocities v of a Maxwell distribution at 300 K. A step moves hydrogen by 0.03 angstrom and carbon by 0.008 at most times.
    """
    generator, w = np.random.default_rng(seed), 2.0 * np.pi / (PERIOD * fs)
    v = generator.normal(size=(len(atoms), 3)) * np.sqrt(kB * 300.0 / atoms.get_masses())[:, None]
    return atoms.positions + np.sin(w * fs * np.arange(PERIOD))[:, None, None] * v / w
