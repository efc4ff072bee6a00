"""D3 dispersion, with zero or with rational damping: C6 coefficients interpolated in the coordination numbers of both atoms.

The interpolation weight of a pair of reference systems is the product of one weight per atom, so C6 of a pair is a small
bilinear form; it is contracted once per atom and element, not once per pair.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nddo_ml.integrals.corrections import tables
from nddo_ml.integrals.corrections.geometry import Composition, Geometry
from nddo_ml.integrals.switch import step
from nddo_ml.pairs import near
from nddo_ml.units import Constants

CUTOFF = 15.0   # angstrom
COUNTED = (15.0, 20.0)   # angstrom: over which distant atoms, which count as 1e-7 neighbours each, cease to count at all


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

    def __call__(self, geometry: Geometry, constants: Constants) -> Float[Tensor, "molecule"] | None:
        composition = geometry.composition
        if composition.i.numel() == 0:
            return None
        bohr = constants.bohr
        pair = near(geometry.R_constant, CUTOFF)
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


@dataclass(frozen=True)
class DispersionD3BJ:
    """E = - sum { s6 C6/[R^6 + f^6] + s8 C8/[R^8 + f^8] } over all pairs, f = a1 sqrt(C8/C6) + a2 (bohr), kcal/mol.

    C8/C6 = 3 Q_A Q_B, Q as in DispersionD3. There is no cutoff, so the energy has derivatives of every order everywhere and
    falls as -C6/R^6; coordination numbers end smoothly, so that it is size-consistent; no three-body term.  S. Grimme, S.
    Ehrlich, L. Goerigk, J. Comput. Chem. 32, 1456 (2011)
    """

    s6: float
    s8: float
    a1: float
    a2: float

    def __call__(self, geometry: Geometry, constants: Constants) -> Float[Tensor, "molecule"] | None:
        composition = geometry.composition
        if composition.i.numel() == 0:
            return None
        c6 = dispersion_coefficient(composition, coordination_number(geometry, COUNTED))
        ratio = 3.0 * moment_products(c6.device).index_select(0, composition.species_pair)
        square = (geometry.R / constants.bohr).square()
        damping = (self.a1 * ratio.sqrt() + self.a2).square()
        sixth = self.s6 / (square**3 + damping**3)
        eighth = self.s8 * ratio / (square**4 + damping**4)
        total = composition.per_molecule(c6 * (sixth + eighth), composition.i)
        return -constants.hartree * constants.kcal_mol * total


OMEGA_B97X_D3BJ = DispersionD3BJ(s6=1.0, s8=0.2641, a1=0.0, a2=5.4959)
"""Dispersion of omegaB97X-D3(BJ): A. Najibi, L. Goerigk, J. Chem. Theory Comput. 14, 5725 (2018)."""


def coordination_number(geometry: Geometry, ends: tuple[float, float] | None = None) -> Float[Tensor, "atom"]:
    """CN_A = sum_B 1/(1 + exp{-16 [(4/3)(rcov_A + rcov_B)/R - 1]}), over all atoms of the molecule.

    Infinitely far atoms count 1e-7 each in this formula; between the distances `ends` (angstrom) they are faded out.
    """
    composition = geometry.composition
    count = torch.sigmoid(16.0 * composition.coordination_limit / geometry.R - 16.0)
    if ends is not None:
        count = count * step((ends[1] - geometry.R) / (ends[1] - ends[0]))
    total = count.new_zeros(composition.numbers.shape)
    return total.index_add(0, composition.i, count).index_add(0, composition.j, count)


def dispersion_coefficient(
    composition: Composition, CN: Float[Tensor, "atom"], pair: Int[Tensor, "chosen"] | None = None
) -> Float[Tensor, "_"]:
    """C6_AB = sum_ref C6_ref w_A w_B, w = exp[-4 (CN - CN_ref)^2] normalised over the references of the atom, hartree bohr^6;
    one per entry of `pair`, indices into the pairs of the composition (None: all).

    Exponents are shifted by their largest, so that a coordination number far beyond every reference gives the nearest one.
    """
    c6, reference, _ = tables.d3_reference(CN.device)
    species, kind = composition.numbers.unique(return_inverse=True)
    known = reference[composition.numbers]
    w = torch.softmax(torch.where(known >= 0.0, -4.0 * (CN[:, None] - known) ** 2, -torch.inf), dim=1)
    # (atom a, element e of its partner, reference of the partner): sum over the references of a
    half = torch.einsum("ar,aers->aes", w, c6[composition.numbers[:, None], species])
    i, j = composition.i, composition.j
    if pair is not None:
        i, j = i.index_select(0, pair), j.index_select(0, pair)
    row = i * species.shape[0] + kind.index_select(0, j)
    return (half.flatten(0, 1).index_select(0, row) * w.index_select(0, j)).sum(-1)


def moment_products(device: torch.device) -> Float[Tensor, "two"]:
    """Q_A Q_B of pairs of elements, flattened, bohr^2."""
    z = torch.arange(tables.SIZE, dtype=torch.float64, device=device)
    Q = (0.5 * tables.column("r2r4", device) * z.sqrt()).sqrt()
    return (Q[:, None] * Q).flatten()
