"""The H4 hydrogen bonds and the H-H repulsion of PM6-D3H4.

J. Rezac, P. Hobza, J. Chem. Theory Comput. 8, 141 (2012); kcal/mol and angstrom throughout.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nddo_ml.integrals.corrections import angles
from nddo_ml.integrals.corrections.geometry import Geometry
from nddo_ml.integrals.corrections.triples import hydrogen_bonds
from nddo_ml.integrals.corrections.valence import Valence, p7
from nddo_ml.units import Constants

H = frozenset({1})
RADIAL = (-0.00303407407407313510, 0.07357629629627092382, -0.70087111111082800452, 3.25309629629461749545,
          -7.20687407406838786983, 5.31754666665572184314, 3.40736000001102778967, -4.68512000000450434811)
CONTACT = (-2714.952351603469651, 17103.650110591705015, -42511.857982217959943, 52063.196799138342612,
           -31430.658335972289933, 7516.084696095140316)
WALL, TAIL, TAIL_EXPONENT, TAIL_POWER = 25.46293603147693, 118.7326, -1.53965, 1.72905
HH_RANGE = 9.0   # angstrom, where the tail is 1e-28 kcal/mol


@dataclass(frozen=True)
class HydrogenRepulsion:
    """Repulsion of all pairs of hydrogen atoms: constant up to 1 A, a polynomial to 1.5 A, then 118.7 exp(-1.54 r^1.73)."""

    elements: ClassVar[frozenset[int]] = frozenset((1,))

    def __call__(self, geometry: Geometry, constants: Constants) -> Float[Tensor, "molecule"] | None:
        pair, atom, _ = geometry.closer(H, H, HH_RANGE)
        if pair.numel() == 0:
            return None
        r = geometry.R.index_select(0, pair)
        energy = TAIL * torch.exp(TAIL_EXPONENT * r**TAIL_POWER)
        close = r.detach() < 1.5
        if bool(close.any()):
            inside = torch.where(r.detach() > 1.0, polynomial(CONTACT, r.clamp(max=1.5)), WALL)
            energy = torch.where(close, inside, energy)
        return geometry.composition.per_molecule(energy, atom)


@dataclass(frozen=True)
class HydrogenBondH4:
    """E = par rad(r_DA) [1 - p7(theta/90 deg)^2] transfer water amine carboxylate over D-H...A with D, A = N or O within 5.5 A.

    D is the end closer to H, theta = 180 deg - angle(D-H-A). The last four factors: the proton on its way from D to A, a
    two-hydrogen oxygen as donor to oxygen, a four-coordinate N as donor, a carboxylate oxygen as acceptor.
    """

    elements: ClassVar[frozenset[int]] = frozenset((1,))

    OH_O: float = 2.32
    OH_N: float = 3.10
    NH_O: float = 1.07
    NH_N: float = 2.01
    water: float = 0.42
    amine: float = 3.61
    carboxylate: float = 1.41

    def __call__(self, geometry: Geometry, constants: Constants) -> Float[Tensor, "molecule"] | None:
        triples = hydrogen_bonds(geometry, 1.15, 5.5)
        if triples is None:
            return None
        x, h, y = triples
        nearer = (geometry.x[x] - geometry.x[h]).square().sum(-1) <= (geometry.x[y] - geometry.x[h]).square().sum(-1)
        d, a = torch.where(nearer, x, y), torch.where(nearer, y, x)
        to_D, to_A, across = geometry.at(d) - geometry.at(h), geometry.at(a) - geometry.at(h), geometry.at(a) - geometry.at(d)
        r_DH, r_AH, r_DA = (angles.length(v) for v in (to_D, to_A, across))
        theta = angles.angle(-to_D, to_A)
        bend = 1.0 - p7(theta / (torch.pi / 2)) ** 2
        energy = self.strength(geometry, d, a) * polynomial(RADIAL, r_DA) * bend * transfer(r_DH, r_AH)
        energy = energy * self.surroundings(geometry, d, a)
        return geometry.composition.per_molecule(energy, h)

    def strength(self, geometry: Geometry, d: Int[Tensor, "row"], a: Int[Tensor, "row"]) -> Float[Tensor, "row"]:
        """The parameter of each donor and acceptor element."""
        table = geometry.R.new_tensor([self.OH_O, self.OH_N, self.NH_O, self.NH_N])
        donor_N, acceptor_N = (geometry.composition.is_element(atom, 7).long() for atom in (d, a))
        return table[2 * donor_N + acceptor_N]

    def surroundings(self, geometry: Geometry, d: Int[Tensor, "row"], a: Int[Tensor, "row"]) -> Float[Tensor, "row"]:
        """Product of the water, amine and carboxylate factors of each hydrogen bond."""
        is_element = geometry.composition.is_element
        valence = Valence.of(geometry)
        hydrogen, other = valence.hydrogen[d], valence.other[d]
        h = hydrogen - 1.0
        step = torch.where(hydrogen <= 1.0, 0.0, torch.where(hydrogen <= 2.0, h, (2.0 - h).clamp(min=0.0)))
        water = 1.0 + (self.water - 1.0) * step * (1.0 - other).clamp(min=0.0)
        amine = 1.0 + (self.amine - 1.0) * (hydrogen + other - 3.0).clamp(min=0.0)
        donor_N, acceptor_O = is_element(d, 7), is_element(a, 8)
        factor = torch.where(donor_N, amine, torch.where(acceptor_O, water, 1.0))
        if 6 not in geometry.composition.elements:
            return factor
        return factor * torch.where(acceptor_O, 1.0 + (self.carboxylate - 1.0) * valence.carboxylate(a), 1.0)


def transfer(r_DH: Float[Tensor, "row"], r_AH: Float[Tensor, "row"]) -> Float[Tensor, "row"]:
    """1 - p7[(r_DH - 1.15)/((r_DH + r_AH)/2 - 1.15)] beyond r_DH = 1.15 A, 1 before: a shared proton makes no hydrogen bond."""
    beyond = r_DH.detach() > 1.15
    span = torch.where(beyond, 0.5 * (r_DH + r_AH) - 1.15, 1.0)
    return torch.where(beyond, 1.0 - p7((r_DH - 1.15) / span), 1.0)


def polynomial(coefficients: tuple[float, ...], x: Float[Tensor, "row"]) -> Float[Tensor, "row"]:
    """Polynomial in x, highest power first."""
    total = torch.full_like(x, coefficients[0])
    for c in coefficients[1:]:
        total = total * x + c
    return total
