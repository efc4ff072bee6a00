"""The hydrogen bonds of PM6-D3: every H near the middle of two electronegative atoms attracts, with no lists of bonds."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nddo_ml.integrals.corrections import angles, tables
from nddo_ml.integrals.corrections.geometry import Geometry, expand
from nddo_ml.units import Constants

ELECTRONEGATIVE = frozenset({7, 8, 9, 15, 16, 17})
NEGLIGIBLE = 20.0   # exponent of the dampings beyond which a term is below 1e-12 kcal/mol, with its angular factor


@dataclass(frozen=True)
class HydrogenBondD3:
    """E = -(c/R^4) (cos theta - 1)^4 / 8 * s[-20 (R_HM/R - 1)] s[20 (R/R0 - 1)] s[-20 (R/r_long - 1)], kcal/mol.

    Summed over pairs X, Y of N, O, F, P, S, Cl with R^2 < R2_max and every H; s is the logistic function, theta = X-H-Y, M the
    midpoint of X and Y, R0 the D3 radius of the pair. c in hartree bohr^4, r_long in bohr, R2_max in bohr^2. J.J.P. Stewart,
    MOPAC.
    """

    c: float = 1.301
    r_long: float = 7.50388
    R2_max: float = 250.0

    def __call__(self, geometry: Geometry, constants: Constants) -> Float[Tensor, "molecule"] | None:
        composition = geometry.composition
        if 1 not in composition.elements or not composition.elements & ELECTRONEGATIVE:
            return None
        bohr = constants.bohr
        pair, x, y = geometry.closer(ELECTRONEGATIVE, ELECTRONEGATIVE, self.R2_max**0.5 * bohr)
        if pair.numel() == 0:
            return None
        row, h = hydrogens_nearby(geometry, pair, x, y, self.r_long * bohr)
        pair, x, y = pair[row], x[row], y[row]
        at_X, at_Y, at_H = geometry.at(x), geometry.at(y), geometry.at(h)
        to_X, to_Y = at_X - at_H, at_Y - at_H
        cosine = angles.dot(to_X, to_Y) / (angles.length(to_X) * angles.length(to_Y))
        R = geometry.R.index_select(0, pair) / bohr
        R_HM = angles.length(to_X + to_Y) / (2.0 * bohr)
        R0 = tables.d3_reference(R.device)[2].flatten().index_select(0, composition.species_pair[pair]) / bohr
        near = torch.sigmoid(-20.0 * (R_HM / R - 1.0))
        damping = near * torch.sigmoid(20.0 * (R / R0 - 1.0)) * torch.sigmoid(-20.0 * (R / self.r_long - 1.0))
        energy = (self.c / 8.0) * (cosine - 1.0) ** 4 / R**4 * damping
        return -constants.hartree * constants.kcal_mol * composition.per_molecule(energy, x)


def hydrogens_nearby(
    geometry: Geometry, pair: Int[Tensor, "pair"], x: Int[Tensor, "pair"], y: Int[Tensor, "pair"], r_long: float
) -> tuple[Int[Tensor, "triple"], Int[Tensor, "triple"]]:
    """(row, H): the hydrogen atoms of the same molecule near enough to the midpoint of each pair x, y to matter."""
    composition = geometry.composition
    hydrogens = (composition.numbers == 1).nonzero()[:, 0]
    count = torch.bincount(composition.molecule[hydrogens], minlength=composition.molecules)
    owner = composition.molecule[x]
    row, k = expand(count[owner])
    h = hydrogens.index_select(0, (count.cumsum(0) - count)[owner].index_select(0, row) + k)
    R = geometry.R_constant[pair]
    midpoint = 0.5 * (geometry.x[x] + geometry.x[y])
    distance = (midpoint.index_select(0, row) - geometry.x.index_select(0, h)).square().sum(-1)
    reach = R * (1.0 + (NEGLIGIBLE / 20.0 - (R / r_long - 1.0).clamp(min=0.0)))
    kept = (distance < (reach * reach).index_select(0, row)).nonzero()[:, 0]
    return row.index_select(0, kept), h.index_select(0, kept)
