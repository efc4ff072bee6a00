"""Small structures, and a run that labels them with one of our own methods."""

from functools import partial

import numpy as np
from ase import Atoms
from ase.build import molecule

from nddo_ml.interfaces.ase import NDDO
from nddo_ml.labels.journal import Journal
from nddo_ml.labels.label import label
from nddo_ml.labels.levels.own import OwnMethod
from nddo_ml.labels.queue import queue
from nddo_ml.labels.sampling import Sampling, Source
from nddo_ml.labels.structures import Structure, from_atoms

LEVEL = OwnMethod("AM1")
CHEAP = partial(NDDO, "AM1", threads=1)
PHOSPHORUS = Atoms("P4", [[0, 0, 0], [1.56, 1.56, 0], [1.56, 0, 1.56], [0, 1.56, 1.56]])     # every bond is in a ring


def structure(numbers, positions, charge=0, multiplicity=1, **rest):
    """A structure from lists."""
    return Structure(np.array(numbers, dtype=int), np.array(positions, dtype=float), charge, multiplicity, **rest)


def water(shift=0.0):
    """Water, one of its atoms shifted (angstrom)."""
    atoms = molecule("H2O")
    atoms.positions[1] += [0, shift, 0]
    return from_atoms(atoms)


def waters(count):
    """So many different waters as sources."""
    return [Source(structure=water(0.01 * k)) for k in range(count)]


def run(path, sources, steps=(), level=LEVEL, retry=False):
    """Label the sources into a file; the progress at the end."""
    with Journal(path, level.name) as journal, queue(1) as tasks:
        *_, last = label(sources, Sampling(steps, CHEAP, method="AM1"), level, journal, tasks, retry)
    return last
