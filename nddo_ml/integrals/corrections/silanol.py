"""The Si-O-H angle of PM7: silanols would be too bent or too open without it."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from nddo_ml.integrals.corrections import angles
from nddo_ml.integrals.corrections.geometry import Geometry, neighbour_table
from nddo_ml.units import Constants


@dataclass(frozen=True)
class SiliconOxygenHydrogen:
    """E = k (angle - angle0)^2 exp[-g_SiO max(0, r_SiO^2 - r0_SiO^2)] exp[-g_OH max(0, r_OH^2 - r0_OH^2)] of each O bonded to
    Si and H; kcal/mol, angle in radians, angstrom. J.J.P. Stewart, J. Mol. Model. 19, 1 (2013).
    """

    elements: ClassVar[frozenset[int]] = frozenset((1, 8, 14))

    k: float = 15.0
    angle0: float = math.radians(125.0)
    g_SiO: float = 33.0
    r0_SiO: float = 1.7
    g_OH: float = 68.0
    r0_OH: float = 1.0

    def __call__(self, geometry: Geometry, constants: Constants) -> Float[Tensor, "molecule"] | None:
        composition = geometry.composition
        atom, neighbour = geometry.bonded
        oxygen = composition.is_element(atom, 8)
        to_si = (oxygen & composition.is_element(neighbour, 14)).nonzero()[:, 0]
        to_h = (oxygen & composition.is_element(neighbour, 1)).nonzero()[:, 0]
        if to_si.numel() == 0 or to_h.numel() == 0:
            return None
        hydrogens = neighbour_table(atom[to_h], neighbour[to_h], composition.numbers.shape[0])[atom[to_si]]
        row, column = (hydrogens >= 0).nonzero(as_tuple=True)
        if row.numel() == 0:
            return None
        o, si, h = atom[to_si][row], neighbour[to_si][row], hydrogens[row, column]
        x = geometry.at(o)
        a, b = geometry.at(si) - x, geometry.at(h) - x
        stretch_SiO = (angles.dot(a, a) - self.r0_SiO**2).clamp(min=0.0)
        stretch_OH = (angles.dot(b, b) - self.r0_OH**2).clamp(min=0.0)
        bend = angles.angle(a, b) - self.angle0
        energy = self.k * bend * bend * torch.exp(-self.g_SiO * stretch_SiO - self.g_OH * stretch_OH)
        return composition.per_molecule(energy, o)
