"""A functional: an energy per volume, written once in torch. Potentials and kernels are its derivatives (derivatives.py).

A functional of your own overrides `exchange` and `correlation`, or `energy_density` as a whole; nothing else.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nddo_ml.functional.density import Density, Grid
from nddo_ml.functional.projectors import NonlocalPart


class Functional(nn.Module):
    """An exchange-correlation functional E_xc = integral of e(n, sigma, tau) + `exact_exchange` times exact exchange.

    Its parameters are float64. To run it inside PySCF, see `nddo_ml.functional.attach`.
    """

    gradient = False                                # whether e depends on sigma, the products of density gradients
    kinetic = False                                 # whether e depends on tau, the kinetic energy densities
    exact_exchange = 0.0                            # fraction of Hartree-Fock exchange
    name: str = ""                                  # what its file calls it
    nonlocal_part: NonlocalPart | None              # a part of the density matrix, whose energy is added

    def __init__(self) -> None:
        super().__init__()
        self.nonlocal_part = None

    @property
    def label(self) -> str:
        """What the functional is called in messages and tables: the name in its file, or that of its class."""
        return self.name or type(self).__name__

    def exchange(self, n: Grid, sigma: Grid | None, tau: Grid | None) -> Grid:
        """Exchange energy density of a closed shell by its total quantities, hartree bohr^-3; spin scaling makes the rest."""
        raise NotImplementedError(f"{type(self).__name__} must define exchange, or energy_density as a whole.")

    def correlation(self, d: Density) -> Float[Tensor, "grid"]:
        """Correlation energy density, hartree bohr^-3."""
        return torch.zeros_like(d.n[0])

    def energy_density(self, d: Density) -> Float[Tensor, "grid"]:
        """e = sum_s e_x(2 n_s, 4 sigma_ss, 2 tau_s) / 2 + e_c, hartree bohr^-3, without exact exchange."""
        return d.over_channels(self.exchange) + self.correlation(d)

    def forward(self, d: Density) -> Float[Tensor, "grid"]:
        """The energy density, hartree bohr^-3."""
        return self.energy_density(d)
