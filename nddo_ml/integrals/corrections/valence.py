"""Continuous valences: how many neighbours an atom has, counted smoothly (the H4 hydrogen bonds).

v(a, b) = 1 for r <= r0 = r_a + r_b, 0 for r >= 1.6 r0, 1 - p7[(r - r0)/(0.6 r0)] between; the valence of a is its sum over b.
J. Rezac, P. Hobza, J. Chem. Theory Comput. 8, 141 (2012)
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nddo_ml.integrals.corrections import angles, tables
from nddo_ml.integrals.corrections.geometry import Geometry, neighbour_table

REACH = 1.6


def p7(y: Float[Tensor, "*row"]) -> Float[Tensor, "*row"]:
    """-20 y^7 + 70 y^6 - 84 y^5 + 35 y^4: from 0 at 0 to 1 at 1, three derivatives zero at both ends."""
    square = y * y
    return square * square * (35.0 - y * (84.0 - y * (70.0 - 20.0 * y)))


@dataclass(frozen=True, eq=False)
class Valence:
    """Smooth bonds between atoms closer than 1.6 r0, and their sums."""

    geometry: Geometry
    a: Int[Tensor, "bond"]              # atoms of each bond; each pair once
    b: Int[Tensor, "bond"]
    v: Float[Tensor, "bond"]            # 0 to 1
    hydrogen: Float[Tensor, "atom"]     # sum of the bonds of each atom with H
    other: Float[Tensor, "atom"]        # sum of its bonds with all other elements

    @staticmethod
    def of(geometry: Geometry) -> "Valence":
        """The valences of all atoms."""
        composition, R = geometry.composition, geometry.R_constant
        r0 = tables.valence_radii(R.device).index_select(0, composition.species_pair)
        pair = (R < REACH * r0).nonzero()[:, 0]
        a, b, r0 = composition.i[pair], composition.j[pair], r0[pair]
        y = ((geometry.R.index_select(0, pair) - r0) / ((REACH - 1.0) * r0)).clamp(min=0.0)
        v = 1.0 - p7(y)
        nothing = v.new_zeros(composition.numbers.shape)
        a_H, b_H = composition.is_element(a, 1), composition.is_element(b, 1)
        hydrogen = nothing.index_add(0, a, torch.where(b_H, v, 0.0)).index_add(0, b, torch.where(a_H, v, 0.0))
        other = nothing.index_add(0, a, torch.where(b_H, 0.0, v)).index_add(0, b, torch.where(a_H, 0.0, v))
        return Valence(geometry, a, b, v, hydrogen, other)

    def by_distance(self, first: int, second: int, width: int) -> Int[Tensor, "atom width"]:
        """Atoms of the second element smoothly bonded to each atom of the first, closest first, padded with -1."""
        is_element = self.geometry.composition.is_element
        a, b = torch.cat([self.a, self.b]), torch.cat([self.b, self.a])
        kept = (is_element(a, first) & is_element(b, second)).nonzero()[:, 0]
        a, b = a[kept], b[kept]
        order = (self.geometry.x[a] - self.geometry.x[b]).square().sum(-1).argsort(stable=True)
        order = order[a[order].argsort(stable=True)]
        return neighbour_table(a[order], b[order], self.hydrogen.shape[0], width)

    def carboxylate(self, oxygen: Int[Tensor, "row"]) -> Float[Tensor, "row"]:
        """How much each oxygen atom is one end of a carboxylate group: 1 if it and the other oxygen have one neighbour and the
        carbon between them three, less otherwise; C is the closest carbon, the other oxygen the one closest to C.
        """
        carbon = self.by_distance(8, 6, 1)[oxygen, 0]
        oxygens = self.by_distance(6, 8, 2)[carbon.clamp(min=0)]
        partner = torch.where(oxygens[:, 0] == oxygen, oxygens[:, 1], oxygens[:, 0])
        complete = (carbon >= 0) & (partner >= 0)
        total = self.hydrogen + self.other
        group = torch.stack([oxygen, partner.clamp(min=0), carbon.clamp(min=0)])
        ideal = total.new_tensor([1.0, 1.0, 3.0])[:, None]
        match = (1.0 - angles.magnitude(ideal - total[group])).clamp(min=0.0)
        return torch.where(complete, match[0] * match[1] * match[2], 0.0)
