"""What a network says to the integrals: shifts of the parent's parameters.

All shifts are bounded and vanish with the neighbours: U moves by at most U_BOUND, everything else is multiplied by exp(shift)
with |shift| <= the bound of its kind. A free atom therefore keeps its parameters, and zero shifts are the parent exactly.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nddo_ml.common.struct import record

U_BOUND = 4.0           # eV
BOUND = 0.24            # of the logarithm of one-centre parameters and resonance integrals: within 30 %, g_sp and g_p2 too
CORE_BOUNDS = (0.5, 0.2)          # of the logarithms of the size (x, K) and the exponents (alpha) of core-core terms
CHARGE_BOUND = 0.2      # e, that a pair moves from one core to the other
LARGEST_MOVED = 0.5     # e, that all pairs of an atom may move together; more is no correction of a charge any more
BLOCK_BOUND = 1.0       # eV, of the elements of an equivariant one-centre block
U_NAMES = ("U_ss", "U_pp", "U_dd")
FACTOR_NAMES = ("zeta_s", "zeta_p", "zeta_d", "g_ss", "g_pp", "h_pp", "h_sp", "beta_s", "beta_p", "beta_d", "rho2")
# resonance integrals by shells and m: (a, b, m), a on the first atom of an ordered pair
SYMMETRIC = ((0, 0, 0), (1, 1, 0), (1, 1, 1), (2, 2, 0), (2, 2, 1), (2, 2, 2))
ORDERED = ((0, 1, 0), (0, 2, 0), (1, 2, 0), (1, 2, 1))
CHANNELS = (*SYMMETRIC, *ORDERED, *((b, a, m) for a, b, m in ORDERED))


@record
class Shifts:
    """Shifts of the parameters of a batch; a column is None where a network does not shift it."""

    U: Float[Tensor, "atom 3"] | None                   # added to U_NAMES, eV
    factors: Float[Tensor, "atom factor"] | None        # logarithms of the factors of FACTOR_NAMES
    pairs: Int[Tensor, "near"]                          # places of the pairs within reach among all pairs of the batch
    resonance: Float[Tensor, "near 14"] | None          # logarithms of the factors of the resonance integrals, by CHANNELS
    core: Float[Tensor, "near 2"] | None                # logarithms of the factors of size and exponents of core-core terms
    block: Float[Tensor, "atom 9"] | None               # added to one-electron s-x, s-y, s-z, xx, yx, yy, zx, zy, zz, eV
    local: Float[Tensor, "atom"] | None                 # energy of each atom, eV
    charges: Float[Tensor, "near"] | None = None        # core charge that moves from the second atom to the first, e

    def drift(self) -> Float[Tensor, ""]:
        """Mean square of the shifts relative to their bounds: what a training may hold down."""
        parts = [(self.U, U_BOUND), (self.factors, BOUND), (self.resonance, BOUND), (self.block, BLOCK_BOUND),
                 (self.charges, CHARGE_BOUND)]
        squares = [(x / bound).square().mean() for x, bound in parts if x is not None and x.numel()]
        if self.core is not None and self.core.numel():
            squares.append((self.core / self.core.new_tensor(CORE_BOUNDS)).square().mean())
        return torch.stack(squares).mean() if squares else self.pairs.new_zeros((), dtype=torch.float64)
