"""The non-planar nitrogen of PM6: three-coordinate nitrogen with at most one hydrogen is made flatter."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from nddo_ml.integrals.corrections import angles
from nddo_ml.integrals.corrections.geometry import Geometry, neighbour_table
from nddo_ml.units import Constants


@dataclass(frozen=True)
class NonplanarNitrogen:
    """E = amplitude exp[-exponent (2 pi - sum of the three bond angles)] of each N with three neighbours, at most one of
    them H; kcal/mol, angles in radians. (MOPAC adds this energy but not its gradient.) J.J.P. Stewart, MOPAC.
    """

    elements: ClassVar[frozenset[int]] = frozenset((7,))

    amplitude: float = -0.5
    exponent: float = 10.0

    def __call__(self, geometry: Geometry, constants: Constants) -> Float[Tensor, "molecule"] | None:
        composition = geometry.composition
        n = ((geometry.bond_count == 3) & (composition.numbers == 7)).nonzero()[:, 0]
        if n.numel() == 0:
            return None
        around = neighbour_table(*geometry.bonded, composition.numbers.shape[0], width=3)[n]
        few = (composition.is_element(around, 1).sum(1) <= 1).nonzero()[:, 0]
        if few.numel() == 0:
            return None
        n, around = n[few], around[few]
        bond = geometry.at(around.reshape(-1)).reshape(-1, 3, 3) - geometry.at(n)[:, None]
        total = angles.angle(bond, bond.roll(1, 1)).sum(1)
        energy = self.amplitude * torch.exp(-self.exponent * (2.0 * torch.pi - total))
        return composition.per_molecule(energy, n)
