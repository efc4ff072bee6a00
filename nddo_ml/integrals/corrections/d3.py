"""D3 dispersion with zero damping: C6 coefficients interpolated in the coordination numbers of both atoms.

The interpolation weight of a pair of reference systems is the product of one weight per atom, so C6 of a pair is a small
bilinear form; it is contracted once per atom and element, not once per pair.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from nddo_ml.integrals.corrections import tables
from nddo_ml.integrals.corrections.geometry import Composition, Geometry
from nddo_ml.units import Constants

CUTOFF = 15.0   # angstrom


@dataclass(frozen=True)
class DispersionD3:
    """E = - sum_{R < 15 A} { s6 C6/R^6 /[1 + 6 (rs6 R0/R)^alpha6] + s8 C8/R^8 /[1 + 6 (rs8 R0/R)^(alpha6 + 2)] }, kcal/mol.

    C8 = 3 C6 Q_A Q_B, Q = sqrt(r2r4 sqrt(Z)/2). S. Grimme et al., J. Chem. Phys. 132, 154104 (2010).
    """

    s6: float
    rs6: float
    alpha6: int
    s8: float = 0.0
    rs8: float = 1.0

    def __call__(self, geometry: Geometry, constants: Constants) -> Tensor | None:
        composition = geometry.composition
        if composition.i.numel() == 0:
            return None
        bohr = constants.bohr
        pair = (geometry.R_constant < CUTOFF).nonzero()[:, 0]
        c6 = dispersion_coefficient(composition, coordination_number(geometry), pair)
        R = geometry.R.index_select(0, pair) / bohr
        species = composition.species_pair.index_select(0, pair)
        R0 = tables.d3_reference(R.device)[2].flatten().index_select(0, species) / bohr
        inverse = 1.0 / R
        reduced = R0 * inverse
        sixth = inverse**6
        energy = self.s6 * sixth / (1.0 + 6.0 * (self.rs6 * reduced) ** self.alpha6)
        if self.s8:
            c8 = (3.0 * self.s8) * moment_products(R.device).index_select(0, species)
            energy = energy + c8 * sixth * inverse**2 / (1.0 + 6.0 * (self.rs8 * reduced) ** (self.alpha6 + 2))
        total = composition.per_molecule(c6 * energy, composition.i.index_select(0, pair))
        return -constants.hartree * constants.kcal_mol * total


def coordination_number(geometry: Geometry) -> Float[Tensor, "atom"]:
    """CN_A = sum_B 1/(1 + exp{-16 [(4/3)(rcov_A + rcov_B)/R - 1]}), over all atoms of the molecule."""
    composition = geometry.composition
    count = torch.sigmoid(16.0 * composition.coordination_limit / geometry.R - 16.0)
    total = count.new_zeros(composition.numbers.shape)
    return total.index_add(0, composition.i, count).index_add(0, composition.j, count)


def dispersion_coefficient(composition: Composition, CN: Float[Tensor, "atom"], pair: Tensor) -> Float[Tensor, "pair"]:
    """C6_AB = sum_ref C6_ref w_A w_B, w = exp[-4 (CN - CN_ref)^2] normalised over the references of the atom, hartree bohr^6.

    Exponents are shifted by their largest, so that a coordination number far beyond every reference gives the nearest one.
    """
    c6, reference, _ = tables.d3_reference(CN.device)
    species, kind = composition.numbers.unique(return_inverse=True)
    known = reference[composition.numbers]
    w = torch.softmax(torch.where(known >= 0.0, -4.0 * (CN[:, None] - known) ** 2, -torch.inf), dim=1)
    # (atom a, element e of its partner, reference of the partner): sum over the references of a
    half = torch.einsum("ar,aers->aes", w, c6[composition.numbers[:, None], species])
    i, j = composition.i.index_select(0, pair), composition.j.index_select(0, pair)
    row = i * species.shape[0] + kind.index_select(0, j)
    return (half.flatten(0, 1).index_select(0, row) * w.index_select(0, j)).sum(-1)


def moment_products(device: torch.device) -> Tensor:
    """Q_A Q_B of pairs of elements, flattened, bohr^2."""
    z = torch.arange(tables.SIZE, dtype=torch.float64, device=device)
    Q = (0.5 * tables.column("r2r4", device) * z.sqrt()).sqrt()
    return (Q[:, None] * Q).flatten()
