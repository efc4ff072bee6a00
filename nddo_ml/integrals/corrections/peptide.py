"""The torsional term of peptide bonds: MNDO to PM7 bend the nitrogen of an amide too easily out of its plane.

Each carbonyl carbon claims one nitrogen; the barrier raises the energy of the twisted O=C-N-X and O=C-N-H.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nddo_ml.integrals.corrections import angles
from nddo_ml.integrals.corrections.geometry import Geometry, neighbour_table
from nddo_ml.units import Constants

H, C, N, O = (frozenset({z}) for z in (1, 6, 7, 8))
EVERY = frozenset(range(95))


@dataclass(frozen=True)
class Peptide:
    """E = htype [sin^2 phi(O-C-N-X) + sin^2 phi(O-C-N-H)] of each peptide group, kcal/mol.

    Groups: for each C in index order the first O within 1.3 A, N within 1.6 A, H within 1.3 A of N and another atom X within
    1.7 A of N, such that the N is not used before. htype in kcal/mol. J.J.P. Stewart, MOPAC manual, "molecular mechanics".
    """

    elements: ClassVar[frozenset[int]] = frozenset((1, 6, 7, 8))

    htype: float

    def __call__(self, geometry: Geometry, constants: Constants) -> Float[Tensor, "molecule"] | None:
        group = peptide_groups(geometry)
        if group is None:
            return None
        o, c, n, h, x = group
        c_twice, n_twice, o_twice = (geometry.at(torch.cat([a, a])) for a in (c, n, o))
        _, sine = angles.torsion(o_twice, c_twice, n_twice, geometry.at(torch.cat([x, h])))
        return self.htype * geometry.composition.per_molecule(sine * sine, torch.cat([c, c]))


def peptide_groups(geometry: Geometry) -> tuple[Int[Tensor, "group"], ...] | None:
    """(O, C, N, H, X) of each peptide group; None if there is none."""
    atoms = geometry.composition.numbers.shape[0]
    _, c, o = geometry.closer(C, O, 1.3)
    if c.numel() == 0:
        return None
    first_o = first(c, o, atoms)
    _, c, n = geometry.closer(C, N, 1.6)
    _, hydrogenated, h = geometry.closer(N, H, 1.3)
    first_h = first(hydrogenated, h, atoms)
    link = ((first_o[c] < atoms) & (first_h[n] < atoms)).nonzero()[:, 0]
    if link.numel() == 0:
        return None
    c, n = c[link], n[link]
    order = (c * atoms + n).argsort()
    c, n = c[order], n[order]
    _, nitrogen, other = geometry.closer(N, EVERY, 1.7)
    both = geometry.composition.is_element(other, 7)
    nitrogen, other = (torch.cat([nitrogen, other[both]]), torch.cat([other, nitrogen[both]]))
    order = (nitrogen * atoms + other).argsort()
    around = neighbour_table(nitrogen[order], other[order], atoms)[n]
    h = first_h[n]
    allowed = (around >= 0) & (around != c[:, None]) & (around != h[:, None])
    x = torch.where(allowed, around, atoms).amin(1)
    link = (x < atoms).nonzero()[:, 0]
    c, n, h, x = c[link], n[link], h[link], x[link]
    link = claims(c, n, atoms)
    if link.numel() == 0:
        return None
    return first_o[c[link]], c[link], n[link], h[link], x[link]


def first(atom: Int[Tensor, "link"], neighbour: Int[Tensor, "link"], atoms: int) -> Int[Tensor, "atom"]:
    """Lowest neighbour of each atom, `atoms` where it has none."""
    return torch.full((atoms,), atoms, device=atom.device).scatter_reduce_(0, atom, neighbour, "amin")


def claims(claimant: Int[Tensor, "row"], resource: Int[Tensor, "row"], atoms: int) -> Int[Tensor, "kept"]:
    """Rows kept if claimants, in index order, each take their first resource not taken before; rows are sorted by both.

    Deferred acceptance: everyone proposes to its first open resource, which keeps the lowest claimant and refuses the
    others for good; the end does not depend on the order of proposals, so all propose at once.
    """
    refused = torch.zeros_like(claimant, dtype=torch.bool)
    rows = torch.arange(claimant.shape[0], device=claimant.device)
    while True:
        open_row = torch.where(refused, claimant.shape[0], rows)
        proposed = first(claimant, open_row, max(atoms, claimant.shape[0]))[claimant] == open_row
        proposed &= ~refused
        holder = first(resource[proposed], claimant[proposed], max(atoms, claimant.shape[0]))
        lost = proposed & (holder[resource] != claimant)
        if not bool(lost.any()):
            return proposed.nonzero()[:, 0]
        refused |= lost
