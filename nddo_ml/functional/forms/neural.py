"""Small networks that correct a published functional without leaving its exact constraints.

Exchange: with u = F_x^parent / 1.804 the corrected factor is 1.804 u e^d / (1 + u (e^d - 1)), which lies between 0 and the
local Lieb-Oxford bound whatever d. Correlation: the parent's times e^d, which keeps its sign and its zeros. Both d are a
network times w, and w vanishes in the uniform gas. Networks of zero leave the parent to the last bit. Spin scaling, spin
symmetry and size consistency come with the energy density.
"""

from dataclasses import dataclass
from math import pi
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nddo_ml.errors import UnknownOption
from nddo_ml.functional.base import Functional
from nddo_ml.functional.density import Density, Grid, reduced_gradient, wigner_seitz
from nddo_ml.functional.forms.r2scan import R2SCAN, iso_orbital
from nddo_ml.functional.forms.semilocal import PBE
from nddo_ml.functional.forms.uniform import slater

LIEB_OXFORD = 1.804      # largest F_x of a closed shell     Perdew, Burke & Ernzerhof, Phys. Rev. Lett. 77, 3865 (1996)
LARGEST = 1.5            # |d|: what a network may change is at most this power of e


class Perceptron(nn.Module):
    """A number between -LARGEST and LARGEST from features between -1 and 1, by two hidden layers with tanh; 0 at the start."""

    def __init__(self, features: int, width: int, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        linear = [nn.Linear(inputs, outputs, dtype=torch.float64)
                  for inputs, outputs in ((features, width), (width, width), (width, 1))]
        with torch.no_grad():
            for layer in linear:
                bound = 1.5 / layer.in_features**0.5
                layer.weight.copy_(bound * (2 * torch.rand(layer.weight.shape, generator=generator, dtype=torch.float64) - 1))
                layer.bias.zero_()
            linear[-1].weight.zero_()
        self.layers = nn.ModuleList(linear)

    def forward(self, x: Float[Tensor, "*grid feature"]) -> Grid:
        """d of the features of each point."""
        *hidden, last = self.layers
        for layer in hidden:
            x = torch.tanh(layer(x))
        return LARGEST * torch.tanh(last(x)[..., 0] / LARGEST)


class NeuralFunctional(Functional):
    """What NeuralGGA and NeuralMetaGGA share: a parent, a network for its exchange and one for its correlation.

    Args:
        parent: the functional that is corrected.
        width: of the hidden layers.
        seed: of the weights at the start.
        correlation: whether the correlation is corrected too.
        exact_exchange: fraction in place of the parent's; the semilocal exchange makes up the rest.
        learned_fraction: whether that fraction is a parameter.

    Raises:
        UnknownOption: the fraction is not one from 0 to below 1.
    """

    gradient = True
    mixing: Tensor      # the fraction of exact exchange; a parameter where it is learned

    def __init__(self, parent: Functional, width: int = 16, seed: int = 0, correlation: bool = True,
                 exact_exchange: float | None = None, learned_fraction: bool = False) -> None:
        super().__init__()
        fraction = parent.exact_exchange if exact_exchange is None else exact_exchange
        if not 0 <= fraction < 1:
            raise UnknownOption(f"exact_exchange = {fraction}: a fraction from 0 to below 1.")
        extra = 1 if self.kinetic else 0
        self.parent = parent
        self.exchange_network = Perceptron(2 + extra, width, 2 * seed)
        self.correlation_network = Perceptron(4 + extra, width, 2 * seed + 1) if correlation else None
        mixing = torch.tensor(float(fraction), dtype=torch.float64)
        if learned_fraction:
            self.mixing = nn.Parameter(mixing)
        else:
            self.register_buffer("mixing", mixing)
        self.config: dict[str, Any] = {
            "kind": type(self).__name__, "parent": type(parent).__name__, "width": width, "correlation": correlation,
            "exact_exchange": fraction, "learned_fraction": learned_fraction}

    @property
    def exact_exchange(self) -> float:
        """Fraction of exact exchange; that of the present moment where it is learned."""
        return float(self.mixing.detach())      # PySCF wants a number

    def exchange(self, n: Grid, sigma: Grid, tau: Grid | None) -> Grid:
        s2 = reduced_gradient(n, sigma)
        point = PointVariables(s2, None if tau is None or not self.kinetic else iso_orbital(n, sigma, tau, 1.0))
        d = point.uniformity * self.exchange_network(torch.stack(point.features, -1))
        bound = (1 - self.parent.exact_exchange) * LIEB_OXFORD * slater(n)
        parent = self.parent.exchange(n, sigma, tau)
        growth = torch.expm1(d)
        share = (1 - self.mixing) / (1 - self.parent.exact_exchange)
        return share * parent * (1 + growth) / (1 + parent / bound * growth)

    def correlation(self, d: Density) -> Float[Tensor, "grid"]:
        parent = self.parent.correlation(d)
        if self.correlation_network is None:
            return parent
        n = d.total
        s2, r = reduced_gradient(n, d.gradient), wigner_seitz(n)
        point = PointVariables(s2, iso_orbital(n, d.gradient, d.kinetic, d.spin_power(5 / 3)) if self.kinetic else None)
        features = [*point.features, r / (1 + r) * 2 - 1, d.zeta**2]
        return parent * torch.exp(point.uniformity * self.correlation_network(torch.stack(features, -1)))


class NeuralGGA(NeuralFunctional):
    """A corrected GGA of s for exchange, and of r_s, s and zeta^2 for correlation. Parent: PBE, or PBE0."""

    def __init__(self, parent: Functional | None = None, width: int = 16, seed: int = 0, correlation: bool = True,
                 exact_exchange: float | None = None, learned_fraction: bool = False) -> None:
        super().__init__(PBE() if parent is None else parent, width, seed, correlation, exact_exchange, learned_fraction)


class NeuralMetaGGA(NeuralFunctional):
    """A corrected meta-GGA: alpha = (tau - tau_W) / tau_unif (regularised as in r2SCAN) beside the variables of NeuralGGA.
    Parent: R2SCAN."""

    kinetic = True

    def __init__(self, parent: Functional | None = None, width: int = 16, seed: int = 0, correlation: bool = True,
                 exact_exchange: float | None = None, learned_fraction: bool = False) -> None:
        super().__init__(R2SCAN() if parent is None else parent, width, seed, correlation, exact_exchange, learned_fraction)


@dataclass(frozen=True)
class PointVariables:
    """The variables without dimension of a point of the grid, and what the networks are given of them."""

    s2: Grid                # s^2, the square of the reduced gradient
    alpha: Grid | None      # the iso-orbital indicator; None without kinetic energies

    @property
    def features(self) -> list[Grid]:
        """Numbers between -1 and 1: s^2 on two scales, and alpha."""
        s2, alpha = self.s2, self.alpha
        return [s2 / (0.3 + s2) * 2 - 1, s2 / (4 + s2) * 2 - 1] + ([] if alpha is None else [2 / pi * torch.arctan(alpha - 1)])

    @property
    def uniformity(self) -> Grid:
        """w = y / (1 + y), y = s^2 + (alpha - 1)^2: zero in the uniform gas alone."""
        y = self.s2 if self.alpha is None else self.s2 + (self.alpha - 1) ** 2
        return y / (1 + y)
