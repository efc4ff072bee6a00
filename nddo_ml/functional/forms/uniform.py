"""The uniform electron gas: Slater's exchange and two parametrisations of its correlation, the parents of everything else.

Energies per electron in hartree, r_s in bohr.
"""

from math import log, pi

import torch
from jaxtyping import Float
from torch import Tensor

from nddo_ml.functional.density import Density, wigner_seitz

SLATER = -0.75 * (3 / pi) ** (1 / 3)
GAMMA = (1 - log(2)) / pi**2
# A, alpha_1, beta_1 .. beta_4 of the paramagnetic gas, the ferromagnetic gas and minus the spin stiffness; A with one digit
# more than in the paper, as in the authors' PBE code and in libxc ("pw_mod").
PW92 = ((0.0310907, 0.21370, 7.5957, 3.5876, 1.6382, 0.49294), (0.01554535, 0.20548, 14.1189, 6.1977, 3.3662, 0.62517),
        (0.0168869, 0.11125, 10.357, 3.6231, 0.88026, 0.49671))
# A, b, c, x_0 of the same three
VWN5 = ((0.0310907, 3.72744, 12.9352, -0.10498), (0.01554535, 7.06042, 18.0578, -0.32500),
        (-1 / (6 * pi**2), 1.13107, 13.0045, -0.0047584))
CURVATURE = 8 / (9 * (2 ** (4 / 3) - 2))     # f''(0)


def slater(n: Float[Tensor, "*grid"]) -> Float[Tensor, "*grid"]:
    """Exchange energy density of the unpolarised gas, -3/4 (3/pi)^(1/3) n^(4/3), hartree bohr^-3."""
    return SLATER * n ** (4 / 3)


def spin_interpolation(d: Density) -> Float[Tensor, "grid"]:
    """f(zeta) = [(1 + zeta)^(4/3) + (1 - zeta)^(4/3) - 2] / (2^(4/3) - 2)."""
    return 2 * (d.spin_power(4 / 3) - 1) / (2 ** (4 / 3) - 2)


def pw92(d: Density) -> Float[Tensor, "grid"]:
    """Correlation energy per electron by Perdew and Wang, Phys. Rev. B 45, 13244 (1992), eqs. 8 to 10."""
    r = wigner_seitz(d.total)
    if d.closed:
        return _pw92(r, *PW92[0])
    f, z4 = spin_interpolation(d), d.zeta**4
    para, ferro, stiffness = (_pw92(r, *row) for row in PW92)
    return para + z4 * f * (ferro - para) - stiffness * f * (1 - z4) / CURVATURE


def _pw92(r, A, a1, b1, b2, b3, b4):
    root = r.sqrt()
    return -2 * A * (1 + a1 * r) * torch.log1p(1 / (2 * A * (root * (b1 + root * (b2 + root * (b3 + root * b4))))))


def vwn5(d: Density) -> Float[Tensor, "grid"]:
    """Correlation energy per electron by Vosko, Wilk and Nusair, Can. J. Phys. 58, 1200 (1980), eq. 4.4 (their fit to
    Ceperley and Alder, "VWN5")."""
    x = wigner_seitz(d.total).sqrt()
    if d.closed:
        return _vwn(x, *VWN5[0])
    f, z4 = spin_interpolation(d), d.zeta**4
    para, ferro, stiffness = (_vwn(x, *row) for row in VWN5)
    return para + z4 * f * (ferro - para) + stiffness * f * (1 - z4) / CURVATURE


def _vwn(x, A, b, c, x0):
    Q = (4 * c - b * b) ** 0.5
    X, X0 = x * x + b * x + c, x0 * x0 + b * x0 + c
    angle = torch.arctan(Q / (2 * x + b))
    return A * (torch.log(x * x / X) + 2 * b / Q * angle
                - b * x0 / X0 * (torch.log((x - x0) ** 2 / X) + 2 * (b + 2 * x0) / Q * angle))
