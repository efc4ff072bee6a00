"""What PySCF integrates a torch functional with: its own numerical integration, with every question about the functional
answered here instead of by libxc.

Both doors are closed: NumInt's methods and its `libxc`, for some parts of PySCF ask one and some the other, and an answer of
libxc to the name in `mf.xc` would silently be that of another functional (without exact exchange, for one).
"""

from functools import cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from nddo_ml.errors import UnknownOption
from nddo_ml.functional.base import Functional
from nddo_ml.functional.density import DENSE
from nddo_ml.functional.derivatives import derivatives
from nddo_ml.functional.projectors import NonlocalPart
from nddo_ml.functional.pyscf.host import PySCFGrids, PySCFMolecule, pyscf
from nddo_ml.functional.pyscf.nonlocal_part import energy_and_potential

XC = "TORCH"        # what mf.xc says; libxc knows no such name


def rung_of(functional: Functional) -> str:
    """PySCF's word for what a functional depends on: "LDA", "GGA" or "MGGA"."""
    return "MGGA" if functional.kinetic else "GGA" if functional.gradient else "LDA"


def energies_and_derivatives(functional: Functional, rho: Float[np.ndarray, "*spin_and_variable grid"], polarised: bool,
                             order: int) -> Float[np.ndarray, "derivative grid"]:
    """Energy per electron (hartree) and derivatives up to `order` by the variables of derivatives.py, one below another.

    rho: PySCF's densities (n, grad n, tau), with a leading axis for the spin where `polarised`; n alone may lack its axis.
    """
    rho = rho.reshape(2 if polarised else 1, -1, rho.shape[-1])
    rows = [rho[:, 0]]
    if functional.gradient:
        pairs = [(0, 0), (0, 1), (1, 1)] if polarised else [(0, 0)]
        rows.append(np.stack([np.einsum("xg,xg->g", rho[i, 1:4], rho[j, 1:4]) for i, j in pairs]))
    if functional.kinetic:
        rows.append(rho[:, -1])
    e, *higher = derivatives(functional, torch.from_numpy(np.concatenate(rows)), polarised, order)
    n = torch.from_numpy(rho[:, 0].sum(0))
    return torch.cat([e / torch.where(n > DENSE, n, 1.0), *higher]).numpy()


class TorchLibxc:
    """Stands where PySCF expects the module libxc, and answers for one functional; `xc` is always XC."""

    __name__, __version__, __reference__ = "nddo_ml.functional", "", "a functional in torch"

    def __init__(self, functional: Functional) -> None:
        self.functional = functional

    def xc_type(self, xc: Any) -> str:
        """PySCF's word for what the functional depends on."""
        return rung_of(self.functional)

    def is_gga(self, xc: Any) -> bool:
        """Whether it depends on the gradient, and on no kinetic energy."""
        return rung_of(self.functional) == "GGA"

    def is_meta_gga(self, xc: Any) -> bool:
        """Whether it depends on the kinetic energy density."""
        return rung_of(self.functional) == "MGGA"

    def needs_laplacian(self, xc: Any) -> bool:
        """Never."""
        return False

    def is_hybrid_xc(self, xc: Any) -> bool:
        """Whether it has a fraction of exact exchange."""
        return self.functional.exact_exchange != 0

    def hybrid_coeff(self, xc: Any, spin: int = 0) -> float:
        """The fraction of exact exchange."""
        return self.functional.exact_exchange

    def rsh_coeff(self, xc: Any) -> tuple[float, float, float]:
        """(omega, long-range, short-range minus long-range fraction) of a range separation, which there is none."""
        return 0.0, self.functional.exact_exchange, 0.0

    def is_nlc(self, xc: Any) -> bool:
        """Whether it has VV10: never."""
        return False

    def nlc_coeff(self, xc: Any) -> tuple[()]:
        """Parameters of VV10: none."""
        return ()

    def xc_reference(self, xc: Any) -> list[str]:
        """What it is called, for PySCF's log."""
        return [self.functional.label]

    def max_deriv_order(self, xc: Any) -> int:
        """How often it can be differentiated."""
        return 3 if self.functional.nonlocal_part is None else 2

    def test_deriv_order(self, xc: Any, order: int, raise_error: bool = False) -> bool:
        """Whether it can be differentiated so often.

        Raises:
            UnknownOption: it cannot, and `raise_error` asks for an error.
        """
        allowed = order <= self.max_deriv_order(xc)
        if raise_error and not allowed:
            raise UnknownOption(f"{self.functional.label} has a part of the density matrix, which has two derivatives here; "
                                f"{order} are asked for (forces of excited states). Leave that part out for them.")
        return allowed

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise UnknownOption(f"PySCF asks libxc for {name!r} here, and {self.functional.label} is none of its functionals: this "
                            "feature does not work with a functional in torch.")


@cache
def numint_class() -> Any:
    """The class of PySCF's numerical integration with a functional in torch; it is made of one.

    Raises:
        MissingExtra: PySCF is not installed.
    """
    numint = pyscf("dft.numint")

    class TorchNumInt(numint.NumInt):
        """Numerical integration of a torch functional; its non-local part, if it has one, is added to energy, potential
        and kernel. The methods are those of PySCF."""

        def __init__(self, functional: Functional) -> None:
            super().__init__()
            self.functional = functional
            self.libxc = TorchLibxc(functional)

        def _asked(self, xc: Any) -> None:
            if xc != XC:
                raise UnknownOption(f"mf.xc was changed to {xc!r} on a mean field that carries {self.functional.label}: make a "
                                    "new mean field for another functional.")

        def _xc_type(self, xc_code: Any) -> str:
            self._asked(xc_code)
            return rung_of(self.functional)

        def hybrid_coeff(self, xc_code: Any, spin: int = 0) -> float:
            self._asked(xc_code)
            return self.functional.exact_exchange

        def rsh_coeff(self, xc_code: Any) -> tuple[float, float, float]:
            self._asked(xc_code)
            return self.libxc.rsh_coeff(xc_code)

        def nlc_coeff(self, xc_code: Any) -> Any:
            raise UnknownOption("VV10 is asked for: a functional in torch has none here. Leave mf.nlc as it was.")

        def eval_xc1(self, xc_code: Any, rho: Any, spin: int = 0, deriv: int = 1, omega: Any = None) -> Any:
            self._asked(xc_code)
            return energies_and_derivatives(self.functional, np.asarray(rho), spin > 0, deriv)

        def eval_xc(self, *args: Any, **kwargs: Any) -> Any:
            return self.libxc.eval_xc

        def nr_rks(self, mol: PySCFMolecule, grids: PySCFGrids, xc_code: Any, dms: Any, *args: Any, **kwargs: Any) -> Any:
            plain = super().nr_rks(mol, grids, xc_code, dms, *args, **kwargs)
            return self._with_nonlocal(mol, np.asarray(dms), plain, 2)

        def nr_uks(self, mol: PySCFMolecule, grids: PySCFGrids, xc_code: Any, dms: Any, *args: Any, **kwargs: Any) -> Any:
            plain = super().nr_uks(mol, grids, xc_code, dms, *args, **kwargs)
            return self._with_nonlocal(mol, np.asarray(dms), plain, 3)

        def _with_nonlocal(self, mol: PySCFMolecule, P: np.ndarray, plain: Any, axes: int) -> Any:
            """(electrons, energy, potential) with what the density matrix adds; axes: how many one density has."""
            part = self.functional.nonlocal_part
            if part is None:
                return plain
            if P.ndim != axes:
                raise UnknownOption(f"{self.functional.label} has a part of the density matrix and takes one density at a time "
                                    f"in numint: found an array {P.shape}.")
            electrons, energy, potential = plain
            extra, V = of_density_matrix(part, mol, P)
            return electrons, energy + extra, potential + V

    return TorchNumInt


def of_density_matrix(part: NonlocalPart, mol: PySCFMolecule, P: Float[np.ndarray, "*spin orbital orbital"],
                      ) -> tuple[float, Float[np.ndarray, "*spin orbital orbital"]]:
    """Energy (hartree) and potential of the non-local part; P of both spins together, or one for each."""
    channels = np.stack([P / 2, P / 2]) if P.ndim == 2 else P
    energy, V = energy_and_potential(part, mol, channels)
    return energy, V[0] if P.ndim == 2 else V
