"""Exact conditions as a table: which of them a functional obeys on densities drawn over the range of molecules.

Exchange is that of the semilocal part: of a hybrid with a fraction a of exact exchange, 1 - a of the whole.
"""

from dataclasses import dataclass
from math import pi

import torch
from torch import Tensor

from nddo_ml.functional.base import Functional
from nddo_ml.functional.density import EMPTY, Density, Grid, uniform_kinetic
from nddo_ml.functional.derivatives import derivatives
from nddo_ml.functional.forms.neural import LIEB_OXFORD
from nddo_ml.functional.forms.uniform import pw92, slater

POINTS, FEW = 4000, 300         # the third derivatives are dear
FITS = 1e-3          # hartree per electron: published parametrisations of the uniform gas differ by up to 8e-4


@dataclass(frozen=True)
class Check:
    """One exact condition, and whether a functional obeys it."""

    name: str               # what is asked, with the unit of a violation that has one
    holds: bool             # whether the largest violation lies within the tolerance
    worst: float            # the largest violation
    tolerance: float        # up to which the condition counts as obeyed
    source: str             # who found the condition


def constraints(functional: Functional, seed: int = 0) -> list[Check]:
    """Every condition with its largest violation over random densities (n from 1e-4 to 1e2 bohr^-3, s up to 6, alpha up to 10,
    all polarisations); seed: of those densities."""
    with torch.no_grad():
        checks = [check(functional, samples(functional, seed)) for check in POINTWISE]
    return [*checks, _finite(functional)]


def samples(functional: Functional, seed: int) -> Density:
    """Random spin densities with gradients and tau that some orbitals have (tau_s >= tau_W,s)."""
    g = torch.Generator().manual_seed(seed)

    def uniform(low: float, high: float, *sizes: int) -> Tensor:
        return low + (high - low) * torch.rand(*sizes, generator=g, dtype=torch.float64)

    n = 10 ** uniform(-4.0, 2.0, 1, POINTS) * uniform(0.0, 1.0, 2, POINTS).clamp(min=1e-3)
    direction = uniform(-1.0, 1.0, 2, 3, POINTS)
    direction = direction / direction.norm(dim=1, keepdim=True)
    s = uniform(0.0, 6.0, 2, POINTS)
    gradients = direction * (s * 2 * (6 * pi * pi) ** (1 / 3) * n ** (4 / 3))[:, None]
    tau = (gradients**2).sum(1) / (8 * n) + uniform(0.0, 10.0, 2, POINTS) * uniform_kinetic(2 * n) / 2
    sigma = torch.stack([(gradients[i] * gradients[j]).sum(0) for i, j in ((0, 0), (0, 1), (1, 1))])
    return Density(n, sigma if functional.gradient else None, tau if functional.kinetic else None)


def _check(name: str, worst: Tensor | float, tolerance: float, source: str) -> Check:
    worst = float(worst)
    return Check(name, worst <= tolerance, worst, tolerance, source)


def _unpolarised(d: Density) -> tuple[Grid, Grid | None, Grid | None]:
    """Arguments of `exchange` of the up channel alone, doubled: those of a closed shell."""
    return 2 * d.n[0], None if d.sigma is None else 4 * d.sigma[0], None if d.tau is None else 2 * d.tau[0]


def _without_gradient(d: Density) -> Density:
    tau = None if d.tau is None else uniform_kinetic(2 * d.n) / 2
    return Density(d.n, None if d.sigma is None else torch.zeros_like(d.sigma), tau)


def _uniform_exchange(functional: Functional, d: Density) -> Check:
    n, sigma, tau = _unpolarised(_without_gradient(d))
    expected = (1 - functional.exact_exchange) * slater(n)
    return _check("uniform gas: exchange", (functional.exchange(n, sigma, tau) / expected - 1).abs().max(), 1e-12,
                  "Dirac, Proc. Camb. Philos. Soc. 26, 376 (1930)")


def _uniform_correlation(functional: Functional, d: Density) -> Check:
    d = _without_gradient(d)
    return _check("uniform gas: correlation (hartree per electron)",
                  (functional.correlation(d) / d.total - pw92(d)).abs().max(), FITS,
                  "Perdew & Wang, Phys. Rev. B 45, 13244 (1992)")


def _spin_scaling(functional: Functional, d: Density) -> Check:
    parts = functional.energy_density(d) - functional.correlation(d)
    expected = d.over_channels(functional.exchange)
    return _check("spin scaling of exchange", ((parts - expected) / expected).abs().max(), 1e-9,
                  "Oliver & Perdew, Phys. Rev. A 20, 397 (1979)")


def _coordinate_scaling(functional: Functional, d: Density) -> Check:
    n, sigma, tau = _unpolarised(d)
    k = 1.7
    scaled = functional.exchange(k**3 * n, None if sigma is None else k**8 * sigma, None if tau is None else k**5 * tau)
    expected = k**4 * functional.exchange(n, sigma, tau)
    return _check("uniform coordinate scaling of exchange", (scaled / expected - 1).abs().max(), 1e-9,
                  "Levy & Perdew, Phys. Rev. A 32, 2010 (1985)")


def _lieb_oxford(functional: Functional, d: Density) -> Check:
    n, sigma, tau = _unpolarised(d)
    factor = functional.exchange(n, sigma, tau) / ((1 - functional.exact_exchange) * slater(n))
    return _check("local Lieb-Oxford bound, F_x <= 1.804", (factor - LIEB_OXFORD).max().clamp(min=0), 1e-12,
                  "Perdew, Burke & Ernzerhof, Phys. Rev. Lett. 77, 3865 (1996)")


def _negative_exchange(functional: Functional, d: Density) -> Check:
    n, sigma, tau = _unpolarised(d)
    return _check("exchange is not positive", (functional.exchange(n, sigma, tau) / n).max().clamp(min=0), 1e-14,
                  "its definition")


def _negative_correlation(functional: Functional, d: Density) -> Check:
    worst = (functional.correlation(d) / d.total).max().clamp(min=0)
    return _check("correlation is not positive (hartree per electron)", worst, 1e-14, "its definition")


def _one_electron(functional: Functional, d: Density) -> Check:
    """Fully polarised, tau = tau_W."""
    zero = torch.zeros_like(d.n[0])
    sigma = None if d.sigma is None else torch.stack([d.sigma[0], zero, zero])
    slopes = zero if d.sigma is None else d.sigma[0]
    tau = None if d.tau is None else torch.stack([slopes / (8 * d.n[0]), zero])
    one = Density(torch.stack([d.n[0], zero]), sigma, tau)
    return _check("no correlation of one electron (hartree)", (functional.correlation(one) / d.n[0]).abs().max(), 1e-12,
                  "Perdew & Zunger, Phys. Rev. B 23, 5048 (1981)")


def _spin_symmetry(functional: Functional, d: Density) -> Check:
    other = Density(d.n[[1, 0]], None if d.sigma is None else d.sigma[[2, 1, 0]], None if d.tau is None else d.tau[[1, 0]])
    e = functional.energy_density(d)
    return _check("spin symmetry", ((functional.energy_density(other) - e) / e).abs().max(), 1e-10, "no magnetic field")


def _size_consistency(functional: Functional, d: Density) -> Check:
    """The energy of a point does not know the others."""
    half = POINTS // 2
    alone = Density(d.n[:, :half], None if d.sigma is None else d.sigma[:, :half], None if d.tau is None else d.tau[:, :half])
    e = functional.energy_density(d)[:half]
    return _check("size consistency of the energy density", ((functional.energy_density(alone) - e) / e).abs().max(), 1e-10,
                  "Pople, Binkley & Seeger, Int. J. Quantum Chem. S10, 1 (1976)")


def _finite(functional: Functional) -> Check:
    """Derivatives to third order where a channel is empty, and where there is no gradient."""
    d = _without_gradient(samples(functional, 1))
    n = torch.stack([d.n[0], torch.zeros_like(d.n[0])])
    variables = [n] + ([] if d.sigma is None else [d.sigma]) + ([] if d.tau is None else [d.tau * (n > EMPTY)])
    levels = derivatives(functional, torch.cat(variables)[:, :FEW], True, 3)
    bad = sum(int((~torch.isfinite(level)).sum()) for level in levels)
    return _check("derivatives to third order are finite (values that are not)", float(bad), 0.0,
                  "an empty channel, no gradient")


POINTWISE = (_uniform_exchange, _uniform_correlation, _spin_scaling, _coordinate_scaling, _lieb_oxford, _negative_exchange,
             _negative_correlation, _one_electron, _spin_symmetry, _size_consistency)
