"""What the integrals must be told about a method.

The integrals know no methods: whoever asks for them hands over a `Recipe`, the physical constants, the functions and the fixed
data of each species by which one NDDO method differs from another. `nddo_ml.methods.Method.recipe` makes it. Fitted parameters
are no part of it: they come beside it, because a network may have changed them.
"""

from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from nddo_ml.integrals.nuclear import CoreEnergy, CoreRules
from nddo_ml.integrals.parameters import Elements
from nddo_ml.units import Constants

# A weight or factor of each pair as a function of its distance R (pair) in angstrom.
OfDistance = Callable[[Float[Tensor, "pair"]], Float[Tensor, "pair"]]

# Rules of pairs of atoms whose species are the rows i and j of the method's table: they depend on nothing else, so keep them.
RulesOfPairs = Callable[[Int[Tensor, "pair"], Int[Tensor, "pair"]], CoreRules]


@dataclass(frozen=True, eq=False)
class Recipe:
    """The formulas and the fixed data of a method. Rows are the species of its table; tensors lie on the CPU and are shared."""

    constants: Constants                  # the physical constants the method was fitted with
    elements: Elements                    # fixed data of each row
    rho_core: Float[Tensor, "row"]        # bohr; 0 where a core is seen through the rho0 of the atom's ss distribution
    core_rules: RulesOfPairs              # which core-core formula and constants each pair takes
    core_energy: CoreEnergy               # core-core repulsion of each pair
    join: OfDistance | None = None        # weight of two-centre integrals against their point-charge limit; None: always 1
    fade: OfDistance | None = None        # factor of the resonance integrals; None: always 1
