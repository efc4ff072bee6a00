"""Checkpoints of a real-space training: weights, and the states of all processes, from which it goes on exactly.

A checkpoint holds plain values and tensors only, so that the names of classes may change. The names of their fields may not.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

from nddo_ml.common.files import read_checkpoint, write_checkpoint
from nddo_ml.common.processes import ALONE, World
from nddo_ml.errors import IncompatibleFile
from nddo_ml.wavefunction.real_space.ansatz import Wavefunction
from nddo_ml.wavefunction.real_space.config import RealSpaceConfig
from nddo_ml.wavefunction.real_space.sampling import Walkers
from nddo_ml.wavefunction.real_space.systems import ElectronSystem
from nddo_ml.wavefunction.real_space.variational import WalkerState

FORMAT = "nddo_ml wavefunction 2"
LOOSE = ("output", "iterations", "evaluation", "log", "exact")     # may change between a checkpoint and its continuation


@dataclass(frozen=True)
class RealSpaceCalculation:
    """What a checkpoint belongs to."""

    config: RealSpaceConfig
    system: ElectronSystem
    psi: Wavefunction


def plain(system: ElectronSystem) -> dict:
    """A system as JSON and checkpoints hold it."""
    return {"numbers": list(system.numbers), "positions": [list(x) for x in system.positions], "up": system.up,
            "down": system.down}


def write(path: Path, calculation: RealSpaceCalculation, state: WalkerState, world: World = ALONE) -> None:
    """Write a checkpoint with the states of all processes, whole or not at all."""
    states = world.gathered(asdict(state))
    if world.first:
        write_checkpoint(path, FORMAT, {"config": asdict(calculation.config), "system": plain(calculation.system),
                                        "weights": calculation.psi.state_dict(), "states": states})


def read(path: Path, calculation: RealSpaceCalculation, world: World = ALONE) -> WalkerState:
    """The state of this process in a checkpoint, whose weights are put into the calculation's wavefunction.

    Raises:
        IncompatibleFile: it cannot be read, or is of another molecule, of other settings or of another number of processes.
    """
    content = read_checkpoint(path, FORMAT, calculation.config.device)
    old, new = content["config"], asdict(calculation.config)
    if content["system"] != plain(calculation.system):
        spins = f"{content['system']['up']} up, {content['system']['down']} down"
        raise IncompatibleFile(f"{path} is of another molecule ({old['molecule']}; {spins}), not of "
                               f"{calculation.config.molecule}: choose another output, or --restart.")
    for key in old:
        if key not in (*LOOSE, "molecule", "unit") and old[key] != new.get(key):
            raise IncompatibleFile(f"{path} belongs to a run with other settings ({key}: {old[key]!r} then, {new.get(key)!r} "
                                   "now): restore them, choose another output, or --restart.")
    if len(content["states"]) != world.size:
        raise IncompatibleFile(f"{path} was written by {len(content['states'])} processes, and this run has {world.size}: "
                               "start as many, choose another output, or --restart.")
    calculation.psi.load_state_dict(content["weights"])
    state = content["states"][world.rank]
    return WalkerState(**{**state, "walkers": Walkers(**state["walkers"]), "generator": state["generator"].cpu()})
