"""The density on a grid, as a functional sees it: spin densities, products of their gradients, kinetic energy densities.

The spin axis has length 2, or length 1 for a closed shell, whose two channels are alike and are then treated once. Where a
channel is empty a function of it is replaced by its limit, so that values and derivatives of all orders stay finite.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import pi

import torch
from jaxtyping import Float
from torch import Tensor

EMPTY = 1e-15            # bohr^-3: below it a spin channel is empty
POLARISED = 1e-12        # of 1 - |zeta|: below it the density is fully polarised
DENSE = 1e-12            # bohr^-3: points of a lower total density do not count
UU, UD, DD = 0, 1, 2     # rows of sigma


@dataclass(frozen=True)
class Density:
    """Spin densities n (bohr^-3), sigma = grad n_s . grad n_s' (bohr^-8) of the pairs uu, ud, dd, and tau = 1/2 sum |grad
    phi|^2 (hartree bohr^-3) per spin. A closed shell has one row in each: that of either channel. What a functional does not
    use may be None.
    """

    n: Float[Tensor, "spin grid"]
    sigma: Float[Tensor, "spinpair grid"] | None = None
    tau: Float[Tensor, "spin grid"] | None = None

    @property
    def closed(self) -> bool:
        """Whether both channels are one row."""
        return self.n.shape[0] == 1

    @property
    def total(self) -> Float[Tensor, "grid"]:
        """n, bohr^-3."""
        return 2 * self.n[0] if self.closed else self.n[0] + self.n[1]

    @property
    def gradient(self) -> Float[Tensor, "grid"]:
        """|grad n|^2 of the total density, bohr^-8."""
        return 4 * self.sigma[0] if self.closed else self.sigma[UU] + 2 * self.sigma[UD] + self.sigma[DD]

    @property
    def kinetic(self) -> Float[Tensor, "grid"]:
        """tau of both spins, hartree bohr^-3."""
        return 2 * self.tau[0] if self.closed else self.tau[0] + self.tau[1]

    @property
    def zeta(self) -> Float[Tensor, "grid"]:
        """(n_up - n_down) / n."""
        return torch.zeros_like(self.n[0]) if self.closed else (self.n[0] - self.n[1]) / self.total

    def spin_power(self, power: float) -> Float[Tensor, "grid"]:
        """[(1 + zeta)^p + (1 - zeta)^p] / 2; an empty channel adds 0."""
        if self.closed:
            return torch.ones_like(self.n[0])
        share = 2 * self.n / self.total
        filled = share > POLARISED
        return 0.5 * torch.where(filled, torch.where(filled, share, 1.0) ** power, 0.0).sum(0)

    def over_channels(self, unpolarised: Callable) -> Float[Tensor, "grid"]:
        """sum_s E[2 n_s] / 2, the exact spin scaling of exchange; an empty channel adds 0.

        unpolarised(n, sigma, tau) is an energy density of a closed shell by its total quantities, sigma and tau None where
        they are.                                                         Oliver & Perdew, Phys. Rev. A 20, 397 (1979)
        """
        rows = self.n[:1] if self.closed else self.n
        filled = rows > EMPTY
        def of(x, factor):
            return None if x is None else torch.where(filled, factor * x, 1.0)
        same_spin = None if self.sigma is None else self.sigma if self.closed else self.sigma[[UU, DD]]
        e = torch.where(filled, unpolarised(of(rows, 2), of(same_spin, 4), of(self.tau, 2)), 0.0)
        return e[0] if self.closed else 0.5 * e.sum(0)


def wigner_seitz(n: Float[Tensor, "*grid"]) -> Float[Tensor, "*grid"]:
    """r_s = (3 / 4 pi n)^(1/3), bohr."""
    return (3 / (4 * pi * n)) ** (1 / 3)


def reduced_gradient(n: Float[Tensor, "*grid"], sigma: Float[Tensor, "*grid"]) -> Float[Tensor, "*grid"]:
    """s^2 = |grad n|^2 / [4 (3 pi^2)^(2/3) n^(8/3)], no dimension. Never its root: that has no derivative at 0."""
    return sigma / (4 * (3 * pi * pi) ** (2 / 3)) * n ** (-8 / 3)


def uniform_kinetic(n: Float[Tensor, "*grid"]) -> Float[Tensor, "*grid"]:
    """tau of the uniform gas without spin, 3/10 (3 pi^2)^(2/3) n^(5/3), hartree bohr^-3."""
    return 0.3 * (3 * pi * pi) ** (2 / 3) * n ** (5 / 3)
