"""What a Hamiltonian keeps from one call to the next, so that a molecule that moves pays for its indices once.

Two things are kept: what the tables of the Hamiltonian amount to (multipoles and one-centre integrals of every species), as
long as not a bit of them changes, and the topologies of the last molecules with the parameters gathered for them.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor

from nddo_ml.common.struct import Lock, in_turn
from nddo_ml.hamiltonian import faults
from nddo_ml.hamiltonian.shifted import Rows
from nddo_ml.integrals.topology import Topology
from nddo_ml.methods import Method
from nddo_ml.molecules import Molecules

T = TypeVar("T")

MOST_PAIRS = 500_000    # of the topologies kept, in all

Species = tuple[bytes, bytes, torch.device]      # numbers and owners of the atoms, device


@dataclass
class Kept:
    """A topology and what was made for it from one version of the tables, by name."""

    topology: Topology
    version: faults.Tables | None = None
    made: dict[str, Any] = field(default_factory=dict)


class Memory:
    """The memory of one Hamiltonian; several threads may use it."""

    def __init__(self) -> None:
        self._topologies: OrderedDict[Species, Kept] = OrderedDict()
        self._version: faults.Tables | None = None
        self._rows: tuple[faults.Tables, Rows] | None = None
        self._lock = Lock()

    @in_turn
    def version(self, columns: Sequence[Tensor], names: Sequence[str], method: Method) -> faults.Tables:
        """What the tables hold now, see `faults.tables`: the same object as long as nothing in them changes."""
        earlier = self._version
        if earlier is None or not earlier.holds(columns):
            earlier = self._version = faults.tables(columns, names, method, earlier)
        return earlier

    @in_turn
    def rows(self, version: faults.Tables, make: Callable[[], Rows]) -> Rows:
        """The rows of this version of the tables; `make` makes them where they are not known."""
        if self._rows is None or self._rows[0] is not version:
            self._rows = version, make()
        return self._rows[1]

    @in_turn
    def topology(self, molecules: Molecules, most: int, make: Callable[[], Topology]) -> Kept:
        """What is kept of these species, made by `make` where it is not known; at most so many are kept."""
        numbers, owners = molecules.numbers, molecules.molecule
        if not numbers.is_cpu:
            numbers, owners = numbers.cpu(), owners.cpu()
        key = numbers.numpy().tobytes(), owners.numpy().tobytes(), molecules.numbers.device
        kept = self._topologies.get(key)
        if kept is not None:
            self._topologies.move_to_end(key)
            return kept
        kept = self._topologies[key] = Kept(make())
        pairs = sum(len(each.topology.i) for each in self._topologies.values())
        while len(self._topologies) > 1 and (len(self._topologies) > most or pairs > MOST_PAIRS):
            pairs -= len(self._topologies.popitem(last=False)[1].topology.i)
        return kept

    @in_turn
    def kept(self, kept: Kept, version: faults.Tables, name: str, make: Callable[[], T]) -> T:
        """What was made for a topology from this version of the tables under a name; `make` makes it where it is not known."""
        if kept.version is not version:
            kept.made, kept.version = {}, version
        if name not in kept.made:
            with torch.no_grad():
                kept.made[name] = make()
        return kept.made[name]

    @in_turn
    def forget(self) -> None:
        """Keep nothing of what was: the next calculation is as the first one."""
        self._topologies.clear()
        self._rows = self._version = None
