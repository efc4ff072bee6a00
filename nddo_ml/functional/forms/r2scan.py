"""The meta-GGA r2SCAN.  Furness, Kaplan, Ning, Perdew, Sun, J. Phys. Chem. Lett. 11, 8208 (2020); equations of its supplement.

alpha = (tau - tau_W) / (tau_unif + eta tau_W) tells single bonds (0) from the uniform gas (1) and overlapping shells (> 1).
"""

from math import pi

import torch

from nddo_ml.functional.base import Functional
from nddo_ml.functional.density import Density, reduced_gradient, uniform_kinetic, wigner_seitz
from nddo_ml.functional.forms.semilocal import BETA
from nddo_ml.functional.forms.uniform import CURVATURE, GAMMA, PW92, pw92, slater, spin_interpolation

ETA, DAMPING = 0.001, 0.361
K1, H0X, A1 = 0.065, 1.174, 4.9479
EXCHANGE = ((1, -0.667, -0.4445555, -0.663086601049, 1.451297044490, -0.887998041597, 0.234528941479, -0.023185843322),
            0.667, 0.8, 1.24)
CORRELATION = ((1, -0.64, -0.4352, -1.535685604549, 3.061560252175, -1.915710236206, 0.516884468372, -0.051848879792),
               0.64, 1.5, 0.7)
B1C, B2C, B3C = 0.0285764, 0.0889, 0.125541
SPIN, CHI = 2.363, 0.12802585262625815
MERGE = 2.5          # alpha at which the polynomial meets the exponential


def slope(row):
    """Sum of i c_i: minus the derivative of the interpolation at alpha = 1."""
    return sum(i * c for i, c in enumerate(row[0]))


class R2SCAN(Functional):
    """r2SCAN, exchange and correlation."""

    gradient = True
    kinetic = True

    def exchange(self, n, sigma, tau):
        return slater(n) * enhancement_r2scan(reduced_gradient(n, sigma), iso_orbital(n, sigma, tau, 1.0))

    def correlation(self, d):
        return d.total * correlation_r2scan(d)


def iso_orbital(n, sigma, tau, spin):
    """alpha = (tau - tau_W) / (tau_unif d_s + eta tau_W), tau_W = |grad n|^2 / 8 n; spin: d_s of the polarisation."""
    weizsaecker = sigma / (8 * n)
    return (tau - weizsaecker) / (uniform_kinetic(n) * spin + ETA * weizsaecker)


def interpolation(alpha, coefficients, c1, c2, d):
    """f(alpha): 1 at 0, 0 at 1, below 0 for large alpha; eqs. S8 and S28."""
    low, high = alpha < 0, alpha > MERGE
    below, between, above = (torch.where(low, alpha, 0.0), torch.where(low | high, 1.0, alpha), torch.where(high, alpha, 3.0))
    polynomial = torch.zeros_like(alpha)
    for c in reversed(coefficients):
        polynomial = c + between * polynomial
    return torch.where(low, torch.exp(-c1 * below / (1 - below)),
                       torch.where(high, -d * torch.exp(c2 / (1 - above)), polynomial))


def enhancement_r2scan(p, alpha):
    """F_x(s^2, alpha) = [h1 + f (h0 - h1)] g; eqs. S4 to S10."""
    second = -slope(EXCHANGE) * (1 - H0X)
    x = ((20 / 27 + ETA * 5 / 3) * second * torch.exp(-(p**2) / DAMPING**4) + 10 / 81) * p
    h1 = 1 + K1 - K1 / (1 + x / K1)
    some = p > 1e-12             # exp(-a / sqrt(s)) and all its derivatives vanish below
    g = 1 - torch.where(some, torch.exp(-A1 * torch.where(some, p, 1.0) ** -0.25), 0.0)
    return (h1 + interpolation(alpha, *EXCHANGE) * (H0X - h1)) * g


def single_orbital(r):
    """Correlation energy per electron of the unpolarised gas of the limit alpha = 0, -b1 / (1 + b2 sqrt(r) + b3 r), and its
    derivative by r_s."""
    root = r.sqrt()
    below = 1 + B2C * root + B3C * r
    return -B1C / below, B1C * (B2C / (2 * root) + B3C) / below**2


def slope_of_pw92(d: Density):
    """d eps / d r_s of pw92 at constant polarisation, written by the derivative of its formula."""
    r = wigner_seitz(d.total)
    para, ferro, stiffness = (_slope(r, *row) for row in (PW92 if not d.closed else PW92[:1] * 3))
    if d.closed:
        return para
    f, z4 = spin_interpolation(d), d.zeta**4
    return para + z4 * f * (ferro - para) - stiffness * f * (1 - z4) / CURVATURE


def _slope(r, A, a1, b1, b2, b3, b4):
    root = r.sqrt()
    Q = 2 * A * root * (b1 + root * (b2 + root * (b3 + root * b4)))
    dQ = A * (b1 / root + 2 * b2 + 3 * b3 * root + 4 * b4 * r)
    return -2 * A * a1 * torch.log1p(1 / Q) + 2 * A * (1 + a1 * r) * dQ / (Q * (Q + 1))


def correlation_r2scan(d: Density):
    """Correlation energy per electron, eqs. S21 to S36, hartree."""
    n, r = d.total, wigner_seitz(d.total)
    p = reduced_gradient(n, d.gradient)
    alpha = iso_orbital(n, d.gradient, d.kinetic, d.spin_power(5 / 3))
    phi3 = d.spin_power(2 / 3) ** 3
    spin = (1 - SPIN * (d.spin_power(4 / 3) - 1)) * (1 - d.zeta**12)
    lda0, dlda0 = single_orbital(r)
    local = pw92(d)

    w0 = torch.expm1(-lda0 / B1C)
    e0 = (lda0 + B1C * torch.log1p(w0 * (1 - (1 + 4 * CHI * p) ** -0.25))) * spin

    w1 = torch.expm1(-local / (GAMMA * phi3))
    beta = BETA * (1 + 0.1 * r) / (1 + 0.1778 * r)
    t2 = pi / 4 * (9 * pi / 4) ** (1 / 3) * p / (d.spin_power(2 / 3) ** 2 * r)
    y = beta / (GAMMA * w1) * t2
    difference = 20 * r * (dlda0 * spin - slope_of_pw92(d)) - 45 * ETA * (lda0 * spin - local)
    dy = slope(CORRELATION) / (27 * GAMMA * d.spin_power(5 / 3) * phi3 * w1) * difference * p * torch.exp(-(p**2) / DAMPING**4)
    e1 = local + GAMMA * phi3 * torch.log1p(w1 * (1 - (1 + 4 * (y - dy)) ** -0.25))
    return e1 + interpolation(alpha, *CORRELATION) * (e0 - e1)
