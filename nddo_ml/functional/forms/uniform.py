"""The uniform electron gas: Slater's exchange and two parametrisations of its correlation, the parents of everything else.

Energies are per electron in hartree, r_s in bohr.
"""

from dataclasses import dataclass
from math import log, pi

import torch
from jaxtyping import Float
from torch import Tensor

from nddo_ml.functional.density import Density, Grid, wigner_seitz

SLATER = -0.75 * (3 / pi) ** (1 / 3)
GAMMA = (1 - log(2)) / pi**2
CURVATURE = 8 / (9 * (2 ** (4 / 3) - 2))     # f''(0)


@dataclass(frozen=True)
class PerdewWang:
    """-2 A (1 + alpha r) ln[1 + 1 / (2 A (beta_1 r^1/2 + beta_2 r + beta_3 r^3/2 + beta_4 r^2))] of r = r_s.

    Perdew & Wang, Phys. Rev. B 45, 13244 (1992), eq. 10
    """

    A: float                                    # hartree
    alpha: float                                # bohr^-1
    beta: tuple[float, float, float, float]     # bohr^-1/2, bohr^-1, bohr^-3/2, bohr^-2

    def __call__(self, r: Grid) -> Grid:
        """The formula, hartree."""
        A, (b1, b2, b3, b4), root = self.A, self.beta, r.sqrt()
        return -2 * A * (1 + self.alpha * r) * torch.log1p(1 / (2 * A * (root * (b1 + root * (b2 + root * (b3 + root * b4))))))

    def slope(self, r: Grid) -> Grid:
        """Its derivative by r_s, hartree/bohr."""
        A, alpha, (b1, b2, b3, b4), root = self.A, self.alpha, self.beta, r.sqrt()
        Q = 2 * A * root * (b1 + root * (b2 + root * (b3 + root * b4)))
        dQ = A * (b1 / root + 2 * b2 + 3 * b3 * root + 4 * b4 * r)
        return -2 * A * alpha * torch.log1p(1 / Q) + 2 * A * (1 + alpha * r) * dQ / (Q * (Q + 1))


@dataclass(frozen=True)
class VoskoWilkNusair:
    """A fit to Ceperley and Alder's energies.           Vosko, Wilk & Nusair, Can. J. Phys. 58, 1200 (1980), eq. 4.4"""

    A: float        # hartree
    b: float        # bohr^1/2
    c: float        # bohr
    x0: float       # bohr^1/2

    def __call__(self, x: Grid) -> Grid:
        """The formula, hartree, by x = r_s^1/2."""
        A, b, c, x0 = self.A, self.b, self.c, self.x0
        Q = (4 * c - b * b) ** 0.5
        X, X0 = x * x + b * x + c, x0 * x0 + b * x0 + c
        angle = torch.arctan(Q / (2 * x + b))
        return A * (torch.log(x * x / X) + 2 * b / Q * angle
                    - b * x0 / X0 * (torch.log((x - x0) ** 2 / X) + 2 * (b + 2 * x0) / Q * angle))


# The paramagnetic gas, the ferromagnetic gas and minus the spin stiffness; A with one digit more than in the paper, as in the
# authors' PBE code and in libxc ("pw_mod").
PW92 = (PerdewWang(0.0310907, 0.21370, (7.5957, 3.5876, 1.6382, 0.49294)),
        PerdewWang(0.01554535, 0.20548, (14.1189, 6.1977, 3.3662, 0.62517)),
        PerdewWang(0.0168869, 0.11125, (10.357, 3.6231, 0.88026, 0.49671)))
# The paramagnetic gas, the ferromagnetic gas and the spin stiffness.
VWN5 = (VoskoWilkNusair(0.0310907, 3.72744, 12.9352, -0.10498), VoskoWilkNusair(0.01554535, 7.06042, 18.0578, -0.32500),
        VoskoWilkNusair(-1 / (6 * pi**2), 1.13107, 13.0045, -0.0047584))


def slater(n: Grid) -> Grid:
    """Exchange energy density of the unpolarised gas, -3/4 (3/pi)^(1/3) n^(4/3), hartree bohr^-3."""
    return SLATER * n ** (4 / 3)


def pw92(d: Density) -> Float[Tensor, "grid"]:
    """Correlation energy per electron, hartree.         Perdew & Wang, Phys. Rev. B 45, 13244 (1992), eqs. 8 to 10"""
    r = wigner_seitz(d.total)
    if d.closed:
        return PW92[0](r)
    para, ferro, minus_stiffness = (parameters(r) for parameters in PW92)
    return between_polarisations(d, para, ferro, -minus_stiffness)


def slope_of_pw92(d: Density) -> Float[Tensor, "grid"]:
    """d pw92 / d r_s at constant polarisation, hartree/bohr."""
    r = wigner_seitz(d.total)
    if d.closed:
        return PW92[0].slope(r)
    para, ferro, minus_stiffness = (parameters.slope(r) for parameters in PW92)
    return between_polarisations(d, para, ferro, -minus_stiffness)


def vwn5(d: Density) -> Float[Tensor, "grid"]:
    """Correlation energy per electron, hartree, of the fit "VWN5".  Vosko, Wilk & Nusair, Can. J. Phys. 58, 1200 (1980)"""
    x = wigner_seitz(d.total).sqrt()
    if d.closed:
        return VWN5[0](x)
    para, ferro, stiffness = (parameters(x) for parameters in VWN5)
    return between_polarisations(d, para, ferro, stiffness)


def between_polarisations(d: Density, para: Grid, ferro: Grid, stiffness: Grid) -> Float[Tensor, "grid"]:
    """eps_0 + zeta^4 f (eps_1 - eps_0) + stiffness f (1 - zeta^4) / f''(0), from the gases of polarisation 0 and 1.

    f(zeta) = [(1 + zeta)^(4/3) + (1 - zeta)^(4/3) - 2] / (2^(4/3) - 2)
    """
    f, z4 = 2 * (d.spin_power(4 / 3) - 1) / (2 ** (4 / 3) - 2), d.zeta**4
    return para + z4 * f * (ferro - para) + stiffness * f * (1 - z4) / CURVATURE
