"""What PySCF integrates a torch functional with: its own numerical integration, with every question about the functional
answered here instead of by libxc.

Both doors are closed: NumInt's methods and its `libxc`, for some parts of PySCF ask one and some the other, and an answer of
libxc to the name in `mf.xc` would silently be that of another functional (without exact exchange, for one).
"""

from functools import cache

import numpy as np
import torch

from nddo_ml.common.extras import needed
from nddo_ml.errors import UnknownOption
from nddo_ml.functional.base import Functional
from nddo_ml.functional.density import DENSE
from nddo_ml.functional.derivatives import derivatives

XC = "TORCH"        # what mf.xc says; libxc knows no such name


def kind(functional: Functional) -> str:
    """PySCF's word for what a functional depends on."""
    return "MGGA" if functional.kinetic else "GGA" if functional.gradient else "LDA"


def energies_and_derivatives(functional: Functional, rho: np.ndarray, polarised: bool, order: int) -> np.ndarray:
    """Energy per electron and derivatives up to `order` by the variables of derivatives.py, one below another
    (derivative, grid), of PySCF's densities (n, grad n, tau) with a leading axis for the spin where `polarised`."""
    rho = rho.reshape(2 if polarised else 1, -1, rho.shape[-1])
    rows = [rho[:, 0]]
    if functional.gradient:
        pairs = [(0, 0), (0, 1), (1, 1)] if polarised else [(0, 0)]
        rows.append([np.einsum("xg,xg->g", rho[i, 1:4], rho[j, 1:4]) for i, j in pairs])
    if functional.kinetic:
        rows.append(rho[:, -1])
    found = derivatives(functional, torch.from_numpy(np.concatenate(rows)), polarised, order)
    n = torch.from_numpy(rho[:, 0].sum(0))
    found[0] = found[0] / torch.where(n > DENSE, n, 1.0)
    return torch.cat(found).numpy()


class Answers:
    """Stands where PySCF expects the module libxc."""

    __name__, __version__, __reference__ = "nddo_ml.functional", "", "a functional in torch"

    def __init__(self, functional: Functional):
        self.functional = functional

    def xc_type(self, xc):
        return kind(self.functional)

    def is_gga(self, xc):
        return kind(self.functional) == "GGA"

    def is_meta_gga(self, xc):
        return kind(self.functional) == "MGGA"

    def needs_laplacian(self, xc):
        return False

    def is_hybrid_xc(self, xc):
        return self.functional.exact_exchange != 0

    def hybrid_coeff(self, xc, spin=0):
        return self.functional.exact_exchange

    def rsh_coeff(self, xc):
        return 0.0, self.functional.exact_exchange, 0.0

    def is_nlc(self, xc):
        return False

    def nlc_coeff(self, xc):
        return ()

    def xc_reference(self, xc):
        return [self.functional.label]

    def max_deriv_order(self, xc):
        return 3 if self.functional.nonlocal_part is None else 2

    def test_deriv_order(self, xc, order, raise_error=False):
        allowed = order <= self.max_deriv_order(xc)
        if raise_error and not allowed:
            raise UnknownOption(f"{self.functional.label} has a part of the density matrix, which has two derivatives here; "
                                f"{order} are asked for (forces of excited states). Leave that part out for them.")
        return allowed

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        raise UnknownOption(f"PySCF asks libxc for {name!r} here, and {self.functional.label} is none of its functionals: this "
                            "feature does not work with a functional in torch.")


@cache
def numint_class():
    """NumInt of PySCF with the functional in it. MissingExtra without PySCF."""
    numint = needed("pyscf.dft.numint", "train", "A functional in PySCF")

    class TorchNumInt(numint.NumInt):
        """Numerical integration of a torch functional; its non-local part, if it has one, is added to energy, potential
        and kernel."""

        def __init__(self, functional):
            super().__init__()
            self.functional = functional
            self.libxc = Answers(functional)

        def _asked(self, xc):
            if xc != XC:
                raise UnknownOption(f"mf.xc was changed to {xc!r} on a mean field that carries {self.functional.label}: make a "
                                    "new mean field for another functional.")

        def _xc_type(self, xc_code):
            self._asked(xc_code)
            return kind(self.functional)

        def hybrid_coeff(self, xc_code, spin=0):
            self._asked(xc_code)
            return self.functional.exact_exchange

        def rsh_coeff(self, xc_code):
            self._asked(xc_code)
            return self.libxc.rsh_coeff(xc_code)

        def nlc_coeff(self, xc_code):
            raise UnknownOption("VV10 is asked for: a functional in torch has none here. Leave mf.nlc as it was.")

        def eval_xc1(self, xc_code, rho, spin=0, deriv=1, omega=None):
            self._asked(xc_code)
            return energies_and_derivatives(self.functional, np.asarray(rho), spin > 0, deriv)

        def eval_xc(self, *args, **kwargs):
            return self.libxc.eval_xc

        def nr_rks(self, mol, grids, xc_code, dms, *args, **kwargs):
            found = super().nr_rks(mol, grids, xc_code, dms, *args, **kwargs)
            return self._with_nonlocal(mol, np.asarray(dms), found, 2)

        def nr_uks(self, mol, grids, xc_code, dms, *args, **kwargs):
            found = super().nr_uks(mol, grids, xc_code, dms, *args, **kwargs)
            return self._with_nonlocal(mol, np.asarray(dms), found, 3)

        def _with_nonlocal(self, mol, P, found, axes):
            """(electrons, energy, potential) with what the density matrix adds."""
            part = self.functional.nonlocal_part
            if part is None:
                return found
            if P.ndim != axes:
                raise UnknownOption(f"{self.functional.label} has a part of the density matrix and takes one density at a time "
                                    f"in numint: found an array {P.shape}.")
            electrons, energy, potential = found
            extra, V = of_density_matrix(part, mol, P)
            return electrons, energy + extra, potential + V

    return TorchNumInt


def of_density_matrix(part, mol, P: np.ndarray):
    """Energy (hartree) and potential of the non-local part; P of both spins together, or one for each."""
    channels = np.stack([P / 2, P / 2]) if P.ndim == 2 else P
    energy, V = part.energy_and_potential(mol, channels)
    return energy, V[0] if P.ndim == 2 else V
