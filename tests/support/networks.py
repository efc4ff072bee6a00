"""Networks with weights of no meaning, and what they say."""

import torch

from nddo_ml import Hamiltonian
from nddo_ml.hamiltonian import walk
from nddo_ml.networks import build


def shaken(config, size=0.1, seed=0):
    """A network with random weights everywhere."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    network = build(config)
    with torch.no_grad():
        for p in network.parameters():
            p.add_(size * torch.randn(p.shape, generator=generator, dtype=p.dtype))
    return network.requires_grad_(False)


def shifts_of(network, molecules):
    """What a network says about molecules."""
    H = Hamiltonian("PM6", network=network)
    topology = walk.topology(H.method, molecules)
    between = walk.distances(topology, molecules.positions)
    return network(molecules.numbers, topology.i, topology.j, between.R, between.u)
