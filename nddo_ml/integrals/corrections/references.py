"""The reference atoms R1, R2, R3 that give a donor or acceptor C of a hydrogen bond its direction (PM6-DH+, PM7).

Neighbours here are the up to four closest atoms within 4/3 (rcov_A + rcov_B). All of this is selection: constant under
differentiation, and discontinuous where the published method is. M. Korth, J. Chem. Theory Comput. 6, 3808 (2010)
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from nddo_ml.integrals.corrections.geometry import Geometry, neighbour_table
from nddo_ml.integrals.corrections.tables import column


@dataclass(frozen=True)
class BondEnds:
    """Ends of hydrogen bonds; all atoms by their index."""

    C: Int[Tensor, "end"]           # the donor or acceptor
    H: Int[Tensor, "end"]
    R1: Int[Tensor, "end"]          # reference atoms
    R2: Int[Tensor, "end"]
    R3: Int[Tensor, "end"]
    count: Int[Tensor, "end"]       # number of neighbours of C


def closest_neighbours(geometry: Geometry) -> Int[Tensor, "atom 4"]:
    """The neighbours of each atom, closest first, at most four; -1 where there are fewer."""
    composition = geometry.composition
    pair = (geometry.R_constant < composition.coordination_limit).nonzero()[:, 0]
    i, j, R = composition.i[pair], composition.j[pair], geometry.R_constant[pair]
    atom, other, R = torch.cat([i, j]), torch.cat([j, i]), torch.cat([R, R])
    order = (atom * composition.numbers.shape[0] + other).argsort()
    order = order[R[order].argsort(stable=True)]
    order = order[atom[order].argsort(stable=True)]
    return neighbour_table(atom[order], other[order], composition.numbers.shape[0], width=4)


def separate(
    neighbours: Int[Tensor, "atom 4"], x: Int[Tensor, "row"], h: Int[Tensor, "row"], y: Int[Tensor, "row"]
) -> Bool[Tensor, "row"]:
    """True for X-H...Y whose X and Y are not neighbours and share no neighbour other than H."""
    of_x, of_y = neighbours[x], neighbours[y]
    shared = (of_x[:, :, None] == of_y[:, None, :]) & ((of_x >= 0) & (of_x != h[:, None]))[:, :, None]
    return ~(shared.flatten(1).any(1) | (of_x == y[:, None]).any(1))


def reference_atoms(
    geometry: Geometry, neighbours: Int[Tensor, "atom 4"], C: Int[Tensor, "end"], H: Int[Tensor, "end"]
) -> BondEnds:
    """Reference atoms of each end.

    Three or four neighbours: the three farthest from H, in that order. Two: the farther, the other, and H if it is within the
    neighbour distance of C, else C. One: R1 is it, R2 its neighbour farthest from H (C may be that), R3 as before. None: all
    three are H if within the neighbour distance, else C.
    """
    around = neighbours[C]
    count = (around >= 0).sum(1)
    sorted_around = farthest_first(geometry, around, H)
    near_H = torch.where((around == H[:, None]).any(1) | within_neighbour_distance(geometry, C, H), H, C)
    beyond = farthest_first(geometry, neighbours[sorted_around[:, 0].clamp(min=0)], H)[:, 0]
    R1 = torch.where(count > 0, sorted_around[:, 0], near_H)
    R2 = torch.where(count > 1, sorted_around[:, 1], torch.where(count == 1, beyond, near_H))
    R3 = torch.where(count > 2, sorted_around[:, 2], near_H)
    return BondEnds(C, H, R1, R2, R3, count)


def farthest_first(geometry: Geometry, atoms: Int[Tensor, "end k"], H: Int[Tensor, "end"]) -> Int[Tensor, "end k"]:
    """Each row of atoms by decreasing distance from H, padding last."""
    distance = (geometry.x[atoms.clamp(min=0)] - geometry.x[H][:, None]).square().sum(-1)
    order = torch.where(atoms >= 0, distance, -1.0).argsort(dim=1, descending=True, stable=True)
    return atoms.gather(1, order)


def within_neighbour_distance(
    geometry: Geometry, C: Int[Tensor, "end"], H: Int[Tensor, "end"]
) -> Bool[Tensor, "end"]:
    """True where C and H are closer than 4/3 (rcov_C + rcov_H)."""
    rcov = column("rcov", C.device)
    limit = 4.0 / 3.0 * (rcov[geometry.composition.numbers[C]] + rcov[1])
    return (geometry.x[C] - geometry.x[H]).square().sum(-1) < limit * limit
