"""The carbon-carbon triple bond of PM6 and PM7: 12 kcal/mol that the parameters leave out.

This is the smooth form of MOPAC 23.2; earlier releases step at 1.27 angstrom and count neighbours.
"""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from nddo_ml.integrals.corrections.geometry import Geometry
from nddo_ml.units import Constants

C = frozenset({6})


@dataclass(frozen=True)
class TripleBond:
    """E = sum over C-C pairs of energy g(r), kcal/mol; g falls smoothly from 1 at r_min to 0 at r_max (angstrom).

    g = 1 - 10 y^3 + 15 y^4 - 6 y^5 + (25 y - 5)(y^3 - 3 y^4 + 3 y^5 - y^6),   y = (r - r_min)/(r_max - r_min)
    J.J.P. Stewart, MOPAC 23.2.
    """

    elements: ClassVar[frozenset[int]] = frozenset((6,))

    energy: float = 12.0
    r_min: float = 1.21
    r_max: float = 1.33

    def __call__(self, geometry: Geometry, constants: Constants) -> Float[Tensor, "molecule"] | None:
        pair, c, _ = geometry.closer(C, C, self.r_max)
        if pair.numel() == 0:
            return None
        y = ((geometry.R.index_select(0, pair) - self.r_min) / (self.r_max - self.r_min)).clamp(min=0.0)
        y3 = y * y * y
        one = 1.0 - y
        g = 1.0 - y3 * (10.0 - y * (15.0 - 6.0 * y)) + (25.0 * y - 5.0) * y3 * one * one * one
        return self.energy * geometry.composition.per_molecule(g, c)
