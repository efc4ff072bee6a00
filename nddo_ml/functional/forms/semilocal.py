"""Published functionals in torch: worked examples, and the parents of learned ones. LDA, PBE and the global hybrid PBE0."""

from math import pi

import torch
from jaxtyping import Float
from torch import Tensor

from nddo_ml.functional.base import Functional
from nddo_ml.functional.density import Density, Grid, reduced_gradient
from nddo_ml.functional.forms.uniform import GAMMA, pw92, slater, vwn5

KAPPA, MU, BETA = 0.8040, 0.06672455060314922 * pi**2 / 3, 0.06672455060314922


class LDA(Functional):
    """The local density approximation: Slater's exchange, correlation of Vosko, Wilk and Nusair (VWN5)."""

    def exchange(self, n: Grid, sigma: Grid | None, tau: Grid | None) -> Grid:
        return slater(n)

    def correlation(self, d: Density) -> Float[Tensor, "grid"]:
        return d.total * vwn5(d)


class PBE(Functional):
    """The generalised gradient approximation of Perdew, Burke and Ernzerhof, Phys. Rev. Lett. 77, 3865 (1996)."""

    gradient = True

    def exchange(self, n: Grid, sigma: Grid, tau: Grid | None) -> Grid:
        return slater(n) * enhancement_pbe(reduced_gradient(n, sigma))

    def correlation(self, d: Density) -> Float[Tensor, "grid"]:
        return d.total * correlation_pbe(d)


class PBE0(PBE):
    """PBE with a quarter of exact exchange.                          Adamo & Barone, J. Chem. Phys. 110, 6158 (1999)"""

    exact_exchange = 0.25

    def exchange(self, n: Grid, sigma: Grid, tau: Grid | None) -> Grid:
        return (1 - self.exact_exchange) * super().exchange(n, sigma, tau)


def enhancement_pbe(s2: Grid) -> Grid:
    """F_x = 1 + kappa - kappa / (1 + mu s^2 / kappa), without dimension; eq. 14."""
    return 1 + KAPPA - KAPPA / (1 + MU / KAPPA * s2)


def correlation_pbe(d: Density) -> Float[Tensor, "grid"]:
    """Correlation energy per electron, hartree; eqs. 3, 7 and 8."""
    local, phi3 = pw92(d), d.spin_power(2 / 3) ** 3
    t2 = reduced_wave(d)
    A = BETA / GAMMA / torch.expm1(-local / (GAMMA * phi3))
    At2 = A * t2
    return local + GAMMA * phi3 * torch.log1p(BETA / GAMMA * t2 * (1 + At2) / (1 + At2 * (1 + At2)))


def reduced_wave(d: Density) -> Float[Tensor, "grid"]:
    """t^2 = |grad n|^2 / (2 phi k_s n)^2 with k_s^2 = 4 k_F / pi, without dimension."""
    return pi / (16 * (3 * pi * pi) ** (1 / 3)) * d.gradient * d.total ** (-7 / 3) / d.spin_power(2 / 3) ** 2
