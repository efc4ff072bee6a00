"""The meta-GGA r2SCAN.  Furness, Kaplan, Ning, Perdew, Sun, J. Phys. Chem. Lett. 11, 8208 (2020); equations of its supplement.

alpha = (tau - tau_W) / (tau_unif + eta tau_W) tells single bonds (0) from the uniform gas (1) and overlapping shells (> 1).
"""

from dataclasses import dataclass
from math import pi

import torch
from jaxtyping import Float
from torch import Tensor

from nddo_ml.functional.base import Functional
from nddo_ml.functional.density import Density, Grid, reduced_gradient, uniform_kinetic, wigner_seitz
from nddo_ml.functional.forms.semilocal import BETA
from nddo_ml.functional.forms.uniform import GAMMA, pw92, slater, slope_of_pw92

ETA, DAMPING = 0.001, 0.361
K1, H0X, A1 = 0.065, 1.174, 4.9479
B1C, B2C, B3C = 0.0285764, 0.0889, 0.125541
SPIN, CHI = 2.363, 0.12802585262625815
MERGE = 2.5          # alpha at which the polynomial meets the exponential


@dataclass(frozen=True)
class Interpolation:
    """f(alpha), between one orbital and the uniform gas: 1 at 0, 0 at 1, below 0 for large alpha; eqs. S8 and S28."""

    coefficients: tuple[float, ...]     # of the polynomial between 0 and MERGE, from the power 0 on
    c1: float                           # exp[-c1 alpha / (1 - alpha)] below 0
    c2: float                           # -d exp[c2 / (1 - alpha)] above MERGE
    d: float

    def __call__(self, alpha: Grid) -> Grid:
        """f, without dimension."""
        low, high = alpha < 0, alpha > MERGE
        below, above = torch.where(low, alpha, 0.0), torch.where(high, alpha, 3.0)
        between = torch.where(low | high, 1.0, alpha)
        polynomial = torch.zeros_like(alpha)
        for c in reversed(self.coefficients):
            polynomial = c + between * polynomial
        return torch.where(low, torch.exp(-self.c1 * below / (1 - below)),
                           torch.where(high, -self.d * torch.exp(self.c2 / (1 - above)), polynomial))

    @property
    def slope(self) -> float:
        """sum_i i c_i: the derivative of the polynomial at alpha = 1."""
        return sum(i * c for i, c in enumerate(self.coefficients))


EXCHANGE = Interpolation((1.0, -0.667, -0.4445555, -0.663086601049, 1.451297044490, -0.887998041597, 0.234528941479,
                          -0.023185843322), 0.667, 0.8, 1.24)
CORRELATION = Interpolation((1.0, -0.64, -0.4352, -1.535685604549, 3.061560252175, -1.915710236206, 0.516884468372,
                             -0.051848879792), 0.64, 1.5, 0.7)


class R2SCAN(Functional):
    """r2SCAN, exchange and correlation."""

    gradient = True
    kinetic = True

    def exchange(self, n: Grid, sigma: Grid, tau: Grid) -> Grid:
        return slater(n) * enhancement_r2scan(reduced_gradient(n, sigma), iso_orbital(n, sigma, tau, 1.0))

    def correlation(self, d: Density) -> Float[Tensor, "grid"]:
        return d.total * correlation_r2scan(d)


def iso_orbital(n: Grid, sigma: Grid, tau: Grid, spin: Grid | float) -> Grid:
    """alpha = (tau - tau_W) / (tau_unif d_s + eta tau_W), tau_W = |grad n|^2 / 8 n, without dimension; spin is d_s, the factor
    of the polarisation."""
    weizsaecker = sigma / (8 * n)
    return (tau - weizsaecker) / (uniform_kinetic(n) * spin + ETA * weizsaecker)


def enhancement_r2scan(s2: Grid, alpha: Grid) -> Grid:
    """F_x(s^2, alpha) = [h1 + f (h0 - h1)] g, without dimension; eqs. S4 to S10."""
    second = -EXCHANGE.slope * (1 - H0X)
    x = ((20 / 27 + ETA * 5 / 3) * second * torch.exp(-(s2**2) / DAMPING**4) + 10 / 81) * s2
    h1 = 1 + K1 - K1 / (1 + x / K1)
    some = s2 > 1e-12            # exp(-a / sqrt(s)) and all its derivatives vanish below
    g = 1 - torch.where(some, torch.exp(-A1 * torch.where(some, s2, 1.0) ** -0.25), 0.0)
    return (h1 + EXCHANGE(alpha) * (H0X - h1)) * g


def single_orbital(r: Grid) -> tuple[Grid, Grid]:
    """Correlation energy per electron of the unpolarised gas in the limit alpha = 0, -b1 / (1 + b2 sqrt(r) + b3 r), hartree,
    and its derivative by r_s, hartree/bohr."""
    root = r.sqrt()
    below = 1 + B2C * root + B3C * r
    return -B1C / below, B1C * (B2C / (2 * root) + B3C) / below**2


def correlation_r2scan(d: Density) -> Float[Tensor, "grid"]:
    """Correlation energy per electron, hartree; eqs. S21 to S36."""
    n, r = d.total, wigner_seitz(d.total)
    s2 = reduced_gradient(n, d.gradient)
    alpha = iso_orbital(n, d.gradient, d.kinetic, d.spin_power(5 / 3))
    phi3 = d.spin_power(2 / 3) ** 3
    spin = (1 - SPIN * (d.spin_power(4 / 3) - 1)) * (1 - d.zeta**12)
    lda0, dlda0 = single_orbital(r)
    local = pw92(d)

    w0 = torch.expm1(-lda0 / B1C)
    e0 = (lda0 + B1C * torch.log1p(w0 * (1 - (1 + 4 * CHI * s2) ** -0.25))) * spin

    w1 = torch.expm1(-local / (GAMMA * phi3))
    beta = BETA * (1 + 0.1 * r) / (1 + 0.1778 * r)
    t2 = pi / 4 * (9 * pi / 4) ** (1 / 3) * s2 / (d.spin_power(2 / 3) ** 2 * r)
    y = beta / (GAMMA * w1) * t2
    difference = 20 * r * (dlda0 * spin - slope_of_pw92(d)) - 45 * ETA * (lda0 * spin - local)
    dy = CORRELATION.slope / (27 * GAMMA * d.spin_power(5 / 3) * phi3 * w1) * difference * s2 * torch.exp(-(s2**2) / DAMPING**4)
    e1 = local + GAMMA * phi3 * torch.log1p(w1 * (1 - (1 + 4 * (y - dy)) ** -0.25))
    return e1 + CORRELATION(alpha) * (e0 - e1)
