"""A functional: an energy per volume, written once in torch. Potentials and kernels are its derivatives (derivatives.py).

A functional of your own overrides `exchange` and `correlation`, or `energy_density` as a whole; nothing else.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nddo_ml.functional.density import Density


class Functional(nn.Module):
    """An exchange-correlation functional E_xc = integral of e(n, sigma, tau) + `exact_exchange` times exact exchange.

    gradient, kinetic: whether e depends on sigma and tau. exact_exchange: fraction of Hartree-Fock exchange. nonlocal_part: a
    module of the density matrix (projection.Projected), or None. Parameters are float64.
    """

    gradient = False
    kinetic = False
    exact_exchange = 0.0

    def __init__(self):
        super().__init__()
        self.nonlocal_part: nn.Module | None = None

    @property
    def label(self) -> str:
        """What the functional is called in messages and tables."""
        return getattr(self, "name", None) or type(self).__name__

    def exchange(self, n: Float[Tensor, "*grid"], sigma: Float[Tensor, "*grid"] | None,
                 tau: Float[Tensor, "*grid"] | None) -> Float[Tensor, "*grid"]:
        """Exchange energy density of a closed shell by its total quantities, hartree bohr^-3; spin scaling makes the rest."""
        raise NotImplementedError(f"{type(self).__name__} must define exchange, or energy_density as a whole.")

    def correlation(self, d: Density) -> Float[Tensor, "grid"]:
        """Correlation energy density, hartree bohr^-3."""
        return torch.zeros_like(d.n[0])

    def energy_density(self, d: Density) -> Float[Tensor, "grid"]:
        """e = sum_s e_x(2 n_s, 4 sigma_ss, 2 tau_s) / 2 + e_c, hartree bohr^-3, without exact exchange."""
        return d.over_channels(self.exchange) + self.correlation(d)

    def forward(self, d: Density) -> Float[Tensor, "grid"]:
        """energy_density."""
        return self.energy_density(d)

    def attach(self, mf):
        """A copy of a PySCF mean field (RKS, UKS) with this functional in it; see pyscf_attach.attach."""
        from nddo_ml.functional.pyscf.attach import attach

        return attach(mf, self)
