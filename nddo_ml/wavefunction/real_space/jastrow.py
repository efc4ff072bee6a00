"""The Jastrow factor, which gives the wavefunction the slopes that Coulomb singularities demand where two particles meet.

Everything else in the wavefunction is smooth there, so these cusps are exact and the local energy stays finite.
T. Kato, Commun. Pure Appl. Math. 10, 151 (1957); R. T. Pack, W. Byers Brown, J. Chem. Phys. 45, 556 (1966).
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nddo_ml.wavefunction.real_space.features import square_length
from nddo_ml.wavefunction.real_space.jets import Quantity, exp, mapped, pair_sum, reciprocal, spread, sqrt

PARALLEL, ANTIPARALLEL = 0.25, 0.5      # slopes of ln|psi| at r_ij = 0


class Jastrow(nn.Module):
    """J = sum_i<j -c a^2/(a + r_ij) + sum_iA -Z_A b_A (1 - exp(-r_iA/b_A)), with the slopes c and -Z_A at coincidence.

    c is 1/4 for electrons of one spin and 1/2 for others; the lengths a (one for each c) and b_A are learned.
    """

    charges: Tensor
    parallel: Tensor
    antiparallel: Tensor
    diagonal: Tensor

    def __init__(self, charges: Float[Tensor, "atom"], up: int, down: int):
        super().__init__()
        n = up + down
        spin = torch.arange(n) < up
        same = spin[:, None] == spin[None, :]
        upper = torch.triu(torch.ones(n, n, dtype=torch.bool), 1)
        self.register_buffer("charges", charges.clone())
        self.register_buffer("parallel", (same & upper).to(charges) * PARALLEL)
        self.register_buffer("antiparallel", (~same & upper).to(charges) * ANTIPARALLEL)
        self.register_buffer("diagonal", torch.eye(n, dtype=charges.dtype)[..., None])
        self.log_range = nn.Parameter(torch.zeros(2, dtype=charges.dtype))
        self.log_size = nn.Parameter(-charges.log())

    def forward(self, nucleus: Quantity, pair: Quantity) -> Quantity:
        """J of the vectors `... electron atom 3` and `... electron electron 3`, as a dense jet if they are local jets."""
        a = self.log_range.exp()
        r = sqrt(square_length(pair) + self.diagonal)          # an electron and itself: any length, its weight is 0
        total = (pair_sum(reciprocal(r + a[0]) * (-a[0] ** 2), self.parallel)
                 + pair_sum(reciprocal(r + a[1]) * (-a[1] ** 2), self.antiparallel))
        total = total + spread(self.nuclear(nucleus))
        return mapped(total, lambda t: t.sum((-2, -1)))

    def nuclear(self, nucleus: Quantity) -> Quantity:
        """The part of the nuclei for each electron, `... electron 1`: sum_A -Z_A b_A (1 - exp(-r_iA/b_A))."""
        b = self.log_size.exp()[:, None]
        u = (exp(sqrt(square_length(nucleus)) * (-1 / b)) - 1.0) * (self.charges[:, None] * b)
        return mapped(u, lambda t: t.sum(-2))
