"""The halogen-bond term of PM6-D3H4X: a repulsion of heavy halogens from lone pairs, which dispersion and
multipoles alone let come too close.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from nddo_ml.common.struct import cached
from nddo_ml.integrals.corrections import tables
from nddo_ml.integrals.corrections.geometry import Geometry
from nddo_ml.units import Constants

HALOGENS, ACCEPTORS = frozenset({17, 35, 53}), frozenset({7, 8, 16})


@dataclass(frozen=True)
class Halogen:
    """E = sum a exp(b r) over pairs of a halogen and an acceptor, kcal/mol.

    J. Rezac, P. Hobza, Chem. Phys. Lett. 506, 286 (2011); P.S. Brahmkshatriya et al., Curr. Comput.-Aided Drug Des. 9,
    118 (2013).
    """

    pairs: tuple[tuple[int, int, float, float], ...]    # atomic numbers of both, a (kcal/mol), b (1/angstrom)

    def __call__(self, geometry: Geometry, constants: Constants) -> Float[Tensor, "molecule"] | None:
        composition = geometry.composition
        if not (composition.elements & HALOGENS and composition.elements & ACCEPTORS):
            return None
        pair, halogen, acceptor = composition.pairs.between(HALOGENS, ACCEPTORS)
        if pair.numel() == 0:
            return None
        a, b = constants_of_pairs(self.pairs, geometry.R.device)
        z, w = composition.numbers[halogen], composition.numbers[acceptor]
        energy = a[z, w] * torch.exp(b[z, w] * geometry.R.index_select(0, pair))
        return composition.per_molecule(energy, halogen)


@cached
def constants_of_pairs(
    pairs: tuple[tuple[int, int, float, float], ...], device: torch.device
) -> tuple[Float[Tensor, "element element"], Float[Tensor, "element element"]]:
    """a and b by atomic numbers of halogen and acceptor; a = 0 where there is no term."""
    a, b = torch.zeros(2, tables.SIZE, tables.SIZE, dtype=torch.float64, device=device)
    for z, w, factor, exponent in pairs:
        a[z, w], b[z, w] = factor, exponent
    return a, b


D3H4X = Halogen((
    (17, 7, 1.049e12, -9.95), (35, 7, 55600.0, -3.04), (53, 7, 5.237e8, -6.77),
    (17, 8, 1.871e9, -7.44), (35, 8, 21600.0, -3.3), (53, 8, 2.436e6, -4.71), (53, 16, 1.051e6, -3.82),
))
