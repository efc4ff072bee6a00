"""Small ensembles, and structures with opinions of them."""

import numpy as np
import torch
from ase.build import molecule
from support.labels import structure

from nddo_ml import Hamiltonian
from nddo_ml.active.calibrate import Opinion
from nddo_ml.active.explore import Candidate
from nddo_ml.labels.structures import from_atoms
from nddo_ml.networks import build

NETWORK = {"channels": 4, "radial": 4, "layers": 1}


def member(seed, size=0.05):
    """AM1 with a network that was moved at random."""
    torch.manual_seed(seed)
    network = build(NETWORK)
    with torch.no_grad():
        for p in network.parameters():
            p.add_(size * torch.randn_like(p))
    return Hamiltonian("AM1", network=network)


def named(name="H2O"):
    """A neutral singlet that ASE knows by name."""
    return from_atoms(molecule(name), multiplicity=1)


def candidate(positions, uncertainty, trajectory=None, force=1.0):
    """A water molecule of which the ensemble says what is wanted."""
    opinion = Opinion(-1.0, np.full((3, 3), force), 0.1, np.full(3, uncertainty / 2), 0.2, np.full(3, uncertainty))
    return Candidate(structure([8, 1, 1], positions), opinion, trajectory)
