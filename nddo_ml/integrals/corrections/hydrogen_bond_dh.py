"""The hydrogen bonds of PM6-DH+ and PM7: an attraction X-H...Y that depends on the directions at both ends.

Each end C sees H at an angle psi = R1-C-H and a torsion phi = R2-R1-C-H and prefers those of its lone pair (psi0, phi0). The
energy has kinks at planar arrangements, where the slope returned is the mean of both sides.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nddo_ml.integrals.corrections import angles
from nddo_ml.integrals.corrections.geometry import Geometry
from nddo_ml.integrals.corrections.references import BondEnds, closest_neighbours, reference_atoms, separate
from nddo_ml.integrals.corrections.triples import hydrogen_bonds
from nddo_ml.units import Constants

TETRAHEDRAL, PYRAMIDAL, PLANAR = math.radians(109.48), math.radians(54.74), math.radians(120.0)
FLAT_PSI, FLAT_PHI = math.radians(19.48), math.radians(35.26)   # how far psi0 falls and phi0 rises at a planar nitrogen


@dataclass(frozen=True)
class HydrogenBondDH:
    """E = c/r_XY^2 cos^2(XHY) angular(X, Y) damping, kcal/mol; c is the mean of those of X and Y (hartree bohr^2).

    angular = (a_X b_X a_Y b_Y)^2 (PM6-DH+), 1 - (1 - a_X b_X a_Y b_Y)^2 (PM7); r_XY is the largest distance of X and Y
    (angstrom), OO (kcal/mol) the extra attraction of O-H...O. M. Korth, J. Chem. Theory Comput. 6, 3808 (2010); J.J.P. Stewart,
    J. Mol. Model. 19, 1 (2013).
    """

    c_N: float
    c_O: float
    r_XY: float
    pm7: bool
    OO: float = 0.0

    def __call__(self, geometry: Geometry, constants: Constants) -> Float[Tensor, "molecule"] | None:
        triples = hydrogen_bonds(geometry, 1.4, self.r_XY)
        if triples is None:
            return None
        neighbours = closest_neighbours(geometry)
        kept = separate(neighbours, *triples).nonzero()[:, 0]
        if kept.numel() == 0:
            return None
        x, h, y = (atom[kept] for atom in triples)
        ends = reference_atoms(geometry, neighbours, torch.cat([x, y]), torch.cat([h, h]))
        a, b = directions(geometry, ends)
        b_X, b_Y = b.unflatten(0, (2, -1)).unbind()
        a_X, a_Y = a.unflatten(0, (2, -1)).unbind()
        ab = a_X * a_Y * b_X * angles.magnitude(b_Y)
        energy = self.energy(geometry, constants, x, h, y, ab)
        turned_away = (torch.minimum(a_X, a_Y) <= 0.0) | (b_X < 0.0)
        return geometry.composition.per_molecule(torch.where(turned_away, 0.0, energy), x)

    def energy(
        self, geometry: Geometry, constants: Constants, x: Int[Tensor, "row"], h: Int[Tensor, "row"], y: Int[Tensor, "row"],
        ab: Float[Tensor, "row"],
    ) -> Float[Tensor, "row"]:
        """Energy of each X-H...Y with the angular factor ab = a_X b_X a_Y b_Y, kcal/mol."""
        to_X, to_Y, across = geometry.at(x) - geometry.at(h), geometry.at(y) - geometry.at(h), geometry.at(y) - geometry.at(x)
        HX, HY, XY = (angles.length(v) for v in (to_X, to_Y, across))
        c0 = (-angles.dot(to_X, to_Y) / (HX * HY)).clamp(min=0.0)
        is_N = geometry.composition.is_element(torch.stack([x, y]), 7)
        c = (self.c_O + (self.c_N - self.c_O) * is_N.to(c0.dtype)).mean(0)
        c = c * (constants.bohr**2 * constants.hartree * constants.kcal_mol)
        covalent = torch.sigmoid(-60.0 * (torch.minimum(HX, HY) / 1.2 - 1.0))
        if self.pm7:
            covalent = torch.where((HX - HY).abs() <= 0.5, 1.0, covalent)
            angular = ab * (2.0 - ab)
        else:
            angular = ab * ab
        damping = covalent * torch.sigmoid(100.0 * (XY / 2.4 - 1.0)) * torch.sigmoid(-10.0 * (XY / 7.0 - 1.0))
        square = c0 * c0
        energy = c / (XY * XY) * square * angular * damping
        if self.OO:
            contact = self.OO * torch.exp(-80.0 * (XY - 2.67).clamp(min=0.0) ** 2) * square * square
            energy = energy + torch.where(is_N.any(0), 0.0, contact)
        return energy


def directions(geometry: Geometry, ends: BondEnds) -> tuple[Float[Tensor, "end"], Float[Tensor, "end"]]:
    """a = cos(psi0 - psi) and b = cos(phi0 - phi) of each end, at the best of the preferred angles psi0 and phi0."""
    C, H, R1, R2, R3 = (geometry.at(atom) for atom in (ends.C, ends.H, ends.R1, ends.R2, ends.R3))
    nitrogen = geometry.composition.is_element(ends.C, 7)
    carbonyl, pyramidal = ~nitrogen & (ends.count == 1), nitrogen & (ends.count != 2)
    cos_psi, sin_psi = angles.cosine_sine(R1 - C, H - C)
    cos_phi, sin_phi = angles.torsion(R2, R1, C, H)
    psi0, phi0, sign = preferred(R1, R2, R3, C, pyramidal)
    planar = carbonyl | (nitrogen & ~pyramidal)
    psi0, phi0 = torch.where(planar, PLANAR, psi0), torch.where(planar, 0.0, phi0)
    a = psi0.cos() * cos_psi + psi0.sin() * sin_psi
    a = torch.where(carbonyl, torch.maximum(a, -cos_psi), a)
    along, across = -phi0.cos() * cos_phi, phi0.sin() * sin_phi
    across = torch.where(sign == 0.0, angles.magnitude(across), -sign * across)
    b = torch.where(carbonyl, angles.magnitude(cos_phi), along + across)
    behind = angles.length(H - C).detach() > angles.length(H - R1).detach()
    b = torch.where(carbonyl & behind, 0.0, b)
    return a, torch.where((ends.R2 == ends.R3) | (ends.R3 == ends.H), 1.0, b)


def preferred(
    R1: Float[Tensor, "end 3"], R2: Float[Tensor, "end 3"], R3: Float[Tensor, "end 3"], C: Float[Tensor, "end 3"],
    pyramidal: Bool[Tensor, "end"],
) -> tuple[Float[Tensor, "end"], Float[Tensor, "end"], Float[Tensor, "end"]]:
    """psi0, phi0 and the side (sign of tau) of each end; a pyramidal nitrogen adapts them to its height above the plane.

    tau = F(torsion R2-R1-N-R3), g = 1 - |tau|/54.74 deg; psi0 = 109.48 - 19.48 g, phi0 = 54.74 + 35.26 g (degrees), with
    F(x) = pi - x for x >= 0, -pi - x for x < 0. The side is 0 at tau = 0 and at all other ends.
    """
    cosine, sine = angles.torsion(R2, R1, C, R3)
    height = angles.magnitude(sine)
    flat = height <= 0.0
    turned = torch.atan2(torch.where(flat, 1.0, height), -cosine)
    tau = torch.where(flat, torch.pi * (cosine.detach() > 0).to(turned.dtype), turned)
    g = torch.where(pyramidal, (PYRAMIDAL - tau) / PYRAMIDAL, 0.0)
    cis = (height <= angles.KINK) & (cosine > 0)   # tau = pi; also where the torsion is not defined
    side = torch.where(height > angles.KINK, torch.sign(sine), cis.to(sine.dtype)).detach()
    side = torch.where(pyramidal, side, 0.0)
    return TETRAHEDRAL - FLAT_PSI * g, PYRAMIDAL + FLAT_PHI * g, side
