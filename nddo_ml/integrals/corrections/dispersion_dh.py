"""Damped C6 dispersion of PM6-DH+ and PM7, from atomic coefficients that know one thing of their surroundings: carbon with
four neighbours is less polarizable.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from nddo_ml.common.struct import cached
from nddo_ml.integrals.corrections import tables
from nddo_ml.integrals.corrections.geometry import Geometry
from nddo_ml.units import Constants

SP3_CARBON = tables.SIZE      # its row, after the elements
C6_SP3_CARBON = 0.95          # J nm^6/mol


@dataclass(frozen=True)
class DispersionDH:
    """E = -scale sum C6 / r^6 / {1 + exp[-alpha (r/(s R0) - 1)]} over all pairs of elements with data, kcal/mol.

    C6 = 2 (C6_A^2 C6_B^2 N_A N_B)^(1/3) / [(C6_A N_B^2)^(1/3) + (C6_B N_A^2)^(1/3)]
    R0 = 2 (R0_A^3 + R0_B^3)/(R0_A^2 + R0_B^2)
    P. Jurecka et al., J. Comput. Chem. 28, 555 (2007); M. Korth et al., J. Chem. Theory Comput. 6, 344 (2010).
    """

    alpha: float
    s: float
    scale: float

    def __call__(self, geometry: Geometry, constants: Constants) -> Float[Tensor, "molecule"] | None:
        composition = geometry.composition
        if composition.i.numel() == 0:
            return None
        c6_table, r0_table = pair_tables(composition.numbers.device)
        species = composition.numbers
        if 6 in composition.elements:
            species = torch.where((species == 6) & (geometry.bond_count == 4), SP3_CARBON, species)
        pair = species.index_select(0, composition.i) * (tables.SIZE + 1) + species.index_select(0, composition.j)
        c6, r0 = c6_table.index_select(0, pair), r0_table.index_select(0, pair)
        r = geometry.R
        energy = c6 * torch.sigmoid((self.alpha / self.s) * (r / r0) - self.alpha) / r**6
        return -self.scale * composition.per_molecule(energy, composition.i)


@cached
def pair_tables(device: torch.device) -> tuple[Float[Tensor, "two"], Float[Tensor, "two"]]:
    """C6 (kcal/mol angstrom^6; 0 without data) and R0 (angstrom; 1 without data) of pairs of species, flattened."""
    c6, r0, n = (torch.cat([x, x[6:7]]) for x in (tables.column(name, device) for name in ("C6", "R0", "Neff")))
    c6[SP3_CARBON] = C6_SP3_CARBON
    known = (c6 > 0)[:, None] & (c6 > 0)
    a, b, n_a, n_b = c6[:, None], c6, n[:, None], n
    cubic = 2.0 * (a * a * b * b * n_a * n_b) ** (1 / 3) / ((a * n_b * n_b) ** (1 / 3) + (b * n_a * n_a) ** (1 / 3))
    radius = 2.0 * (r0[:, None] ** 3 + r0**3) / (r0[:, None] ** 2 + r0**2) / 100.0
    c6_pair = torch.where(known, cubic, 0.0) * 1e6 / 4184.0
    return c6_pair.flatten(), torch.where(known, radius, 1.0).flatten()
