"""The electron density on a grid, as a functional sees it: spin densities, products of their gradients, kinetic energies.

The spin axis has length 2, or length 1 for a closed shell, whose two channels are alike and are then evaluated once. Where a
spin channel is empty, a function of it is replaced by its limit, so that values and derivatives of all orders stay finite.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import pi
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from nddo_ml.errors import UnknownOption

EMPTY = 1e-15            # bohr^-3: below it a spin channel is empty
POLARISED = 1e-12        # of 1 - |zeta|: below it the density is fully polarised
DENSE = 1e-12            # bohr^-3: points of a lower total density do not count
UU, UD, DD = 0, 1, 2     # rows of sigma

Grid: TypeAlias = Float[Tensor, "*grid"]       # one number per point, whatever the shape of the grid


@dataclass(frozen=True)
class Density:
    """The density at the points of a grid. A closed shell has one row in each field: that of either spin channel."""

    n: Float[Tensor, "spin grid"]                           # spin densities, bohr^-3
    sigma: Float[Tensor, "spinpair grid"] | None = None     # grad n_s . grad n_s' of the pairs uu, ud, dd, bohr^-8; or not used
    tau: Float[Tensor, "spin grid"] | None = None           # 1/2 sum_i |grad phi_i|^2 of a spin, hartree bohr^-3; or not used

    @property
    def closed(self) -> bool:
        """Whether one row stands for both spin channels."""
        return self.n.shape[0] == 1

    @property
    def total(self) -> Float[Tensor, "grid"]:
        """n of both spins, bohr^-3."""
        return 2 * self.n[0] if self.closed else self.n[0] + self.n[1]

    @property
    def gradient(self) -> Float[Tensor, "grid"]:
        """|grad n|^2 of the total density, bohr^-8.

        Raises:
            UnknownOption: this density holds no gradients.
        """
        sigma = _given(self.sigma, "gradients", "gradient")
        return 4 * sigma[0] if self.closed else sigma[UU] + 2 * sigma[UD] + sigma[DD]

    @property
    def kinetic(self) -> Float[Tensor, "grid"]:
        """tau of both spins, hartree bohr^-3.

        Raises:
            UnknownOption: this density holds no kinetic energies.
        """
        tau = _given(self.tau, "kinetic energies", "kinetic")
        return 2 * tau[0] if self.closed else tau[0] + tau[1]

    @property
    def zeta(self) -> Float[Tensor, "grid"]:
        """The spin polarisation (n_up - n_down) / n, without dimension."""
        return torch.zeros_like(self.n[0]) if self.closed else (self.n[0] - self.n[1]) / self.total

    def spin_power(self, power: float) -> Float[Tensor, "grid"]:
        """[(1 + zeta)^p + (1 - zeta)^p] / 2; an empty channel adds 0."""
        if self.closed:
            return torch.ones_like(self.n[0])
        share = 2 * self.n / self.total
        filled = share > POLARISED
        return 0.5 * torch.where(filled, torch.where(filled, share, 1.0) ** power, 0.0).sum(0)

    def over_channels(self, unpolarised: Callable[[Grid, Grid | None, Grid | None], Grid]) -> Float[Tensor, "grid"]:
        """sum_s E[2 n_s] / 2, the exact spin scaling of exchange, hartree bohr^-3; an empty channel adds 0.

        unpolarised(n, sigma, tau) is the energy density of a closed shell by its total quantities; sigma or tau is None where
        this density holds none.                                            Oliver & Perdew, Phys. Rev. A 20, 397 (1979)
        """
        n = self.n[:1] if self.closed else self.n
        filled = n > EMPTY

        def doubled(quantity: Tensor | None, factor: int) -> Tensor | None:
            return None if quantity is None else torch.where(filled, factor * quantity, 1.0)

        same_spin = None if self.sigma is None else self.sigma if self.closed else self.sigma[[UU, DD]]
        e = unpolarised(torch.where(filled, 2 * n, 1.0), doubled(same_spin, 4), doubled(self.tau, 2))
        e = torch.where(filled, e, 0.0)
        return e[0] if self.closed else 0.5 * e.sum(0)


def _given(quantity: Tensor | None, what: str, switch: str) -> Tensor:
    if quantity is None:
        raise UnknownOption(f"This density holds no {what}: a functional that depends on them says so by {switch} = True in "
                            "its class.")
    return quantity


def wigner_seitz(n: Grid) -> Grid:
    """r_s = (3 / 4 pi n)^(1/3), bohr."""
    return (3 / (4 * pi * n)) ** (1 / 3)


def reduced_gradient(n: Grid, sigma: Grid) -> Grid:
    """s^2 = |grad n|^2 / [4 (3 pi^2)^(2/3) n^(8/3)], without dimension. Its root has no derivative at 0: never take it."""
    return sigma / (4 * (3 * pi * pi) ** (2 / 3)) * n ** (-8 / 3)


def uniform_kinetic(n: Grid) -> Grid:
    """tau of the uniform gas without spin, 3/10 (3 pi^2)^(2/3) n^(5/3), hartree bohr^-3."""
    return 0.3 * (3 * pi * pi) ** (2 / 3) * n ** (5 / 3)
