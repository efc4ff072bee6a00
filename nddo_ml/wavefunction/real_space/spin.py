"""The square of the total spin of a real-space wavefunction; what exceeds S (S + 1) of the state shows other spins mixed in.

    S^2 = m (m + 1) + n_down - sum_ij P_ij,    m = (n_up - n_down)/2

P_ij exchanges the spin-up electron i and the spin-down electron j.        P.-O. Loewdin, Phys. Rev. 97, 1474 (1955)
"""

import torch
from jaxtyping import Float
from torch import Tensor

from nddo_ml.wavefunction.real_space.protocols import SpinAmplitude


def spin_square(psi: SpinAmplitude, r: Float[Tensor, "walker electron 3"]) -> Float[Tensor, "walker"]:
    """(S^2 psi)/psi at each walker, in units of hbar^2; its average over |psi|^2 is <S^2>."""
    m = (psi.up - psi.down) / 2
    with torch.no_grad():
        sign, log = psi(r)
        total = torch.full_like(log, m * (m + 1) + psi.down)
        for i in range(psi.up):
            for j in range(psi.up, psi.up + psi.down):
                exchanged = r.clone()
                exchanged[:, i], exchanged[:, j] = r[:, j], r[:, i]
                other, log_other = psi(exchanged)
                total -= sign * other * torch.exp(log_other - log)
    return total
