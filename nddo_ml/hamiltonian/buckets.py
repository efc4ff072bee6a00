"""What a Hamiltonian is asked for, cut into molecules that are solved together, and what it makes of them."""

from collections.abc import Mapping

from nddo_ml.common.struct import record
from nddo_ml.hamiltonian.starts import HasDensity
from nddo_ml.integrals.blocks import Integrals
from nddo_ml.integrals.placed import Parameters
from nddo_ml.integrals.topology import Topology
from nddo_ml.molecules import Molecules, Surroundings
from nddo_ml.networks.shifts import Shifts
from nddo_ml.pairs import Distances
from nddo_ml.scf.options import SCF


@record
class Bucket:
    """Molecules that are solved together, and how."""

    index: list[int]                # which of the batch they are
    names: list[int] | None         # what errors call them; None: a single molecule
    molecules: Molecules
    surroundings: Surroundings
    channels: int                   # of spin
    guess: HasDensity | None
    scf: SCF


@record
class Assembly:
    """What a Hamiltonian makes of molecules before it knows their density."""

    topology: Topology
    distances: Distances
    shifts: Shifts | None           # what a network said
    parameters: Parameters
    integrals: Integrals
    faults: Mapping[int, str]       # why molecules, by their place, were given published parameters instead
