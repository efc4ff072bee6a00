"""What features, heads and networks of one's own must have; docs/howto/extending.md shows one of each.

All are torch modules, in float64 by the time they are used. A file of weights names their classes ("module:Class") and holds
their `config`, from which they are made again: the class called with it must give a module of the same tensors.
"""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor

from nddo_ml.networks.environment import Environment
from nddo_ml.networks.message_passing import Features
from nddo_ml.networks.shifts import Shifts


@runtime_checkable
class FeatureModule(Protocol):
    """What each atom sees of its surroundings: `features(environment)` returns Features.

    Neighbours enter through `switch` at the cutoff or something as smooth, scalars do not change when the molecule turns, and
    vectors turn with it. Made as Class(species, **config), where species are the atomic numbers in the order of
    Environment.kind.
    """

    channels: int       # scalars of an atom
    vectors: int        # vectors of an atom; 0: none
    cutoff: float       # angstrom
    config: dict        # the settings it is made from

    def __call__(self, env: Environment) -> Features: ...


class HeadModule(Protocol):
    """What features say of the parameters: `head(environment, features)` returns columns of Shifts by their names.

    A head may return columns of atoms (U, factors, block, local) and of the near pairs (resonance, core, charges). The network
    multiplies them by its gates, so that free atoms and distant pairs keep the parent's parameters, and adds them to what other
    heads say. To bound them is the head's own affair. Made as Class(features, species).
    """

    def __call__(self, env: Environment, features: Features) -> dict[str, Tensor]: ...


@runtime_checkable
class Network(Protocol):
    """Everything at once: `network(numbers, i, j, R, u)` returns the Shifts of a batch from all its pairs.

    i and j are the two atoms of each pair, R their distance in angstrom and u the unit vector from i to j. An atomic number
    that is not among its species raises MissingParameter. Made as Class(**config).
    """

    species: Sequence[int]      # the atomic numbers it knows
    config: dict                # the settings it is made from

    def __call__(self, numbers: Int[Tensor, "atom"], i: Int[Tensor, "pair"], j: Int[Tensor, "pair"],
                 R: Float[Tensor, "pair"], u: Float[Tensor, "pair 3"]) -> Shifts: ...


def lacking(module: object, protocol: type) -> list[str]:
    """The attributes of a protocol that a module does not have."""
    return [name for name in protocol.__annotations__ if not hasattr(module, name)]
