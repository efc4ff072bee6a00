"""A PySCF mean field that carries a torch functional: gradients, Hessians, TDDFT, newton() and stability() stay PySCF's own.

The object keeps its class and gains one in front of it, as PySCF does for density fitting. Where the functional has a part of
the density matrix, that class adds its forces, its kernel and its second derivatives.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from nddo_ml.errors import UnknownOption
from nddo_ml.functional.base import Functional
from nddo_ml.functional.pyscf.host import Mixin, PySCFMeanField, PySCFMethod, pyscf
from nddo_ml.functional.pyscf.ladder import ladder
from nddo_ml.functional.pyscf.nonlocal_part import TorchGradients, TorchHessian, with_kernel
from nddo_ml.functional.pyscf.numint import XC, numint_class

FITTED_FOR = {True: "PBE0", False: "PBE"}       # hybrid or not: whose auxiliary basis PySCF is asked for


def attach(mf: PySCFMeanField, functional: Functional) -> PySCFMeanField:
    """A copy of a mean field of PySCF (RKS or UKS, density fitted or not) with this functional in place of its own.

    Densities and orbitals of `mf` are not taken over. Everything PySCF derives from the object uses the functional and its
    derivatives: nuc_grad_method, Hessian, TDA, TDDFT and their gradients, newton, stability, density_fit.

    Raises:
        UnknownOption: mf is another kind of mean field (periodic, relativistic, ROKS, Hartree-Fock, ...), or the parameters
            are not float64.
        MissingExtra: PySCF is not installed.
    """
    pyscf("dft")
    check_host(mf)
    check_functional(functional)
    new = in_front(mf.copy())
    new._numint = numint_class()(functional)
    new.xc, new.nlc = XC, 0
    new.grids = mf.grids.copy()
    new.converged, new.mo_coeff, new.mo_energy, new.mo_occ, new.e_tot = False, None, None, None, 0
    if functional.exact_exchange and _fitted_without_exchange(new):
        new = new.density_fit()
    return new


def in_front(mf: PySCFMeanField) -> PySCFMeanField:
    """The same object with TorchKohnSham before all its other classes: one that comes later, as density fitting does, would
    make gradients and Hessians of its own."""
    lib = pyscf("lib")
    if isinstance(mf, TorchKohnSham):
        mf = lib.view(mf, lib.drop_class(type(mf), TorchKohnSham))
    return lib.set_class(mf, (TorchKohnSham, type(mf)))


def _fitted_without_exchange(mf: PySCFMeanField) -> bool:
    """Whether PySCF chose an auxiliary basis for Coulomb alone, as it does for functionals without exact exchange."""
    addons = pyscf("df.addons")
    fitted, basis = getattr(mf, "with_df", None), mf.mol.basis
    if fitted is None or not isinstance(basis, str):
        return False
    coulomb, exchange = (addons.predefined_auxbasis(mf.mol, basis, FITTED_FOR[hybrid]) for hybrid in (False, True))
    return fitted.auxbasis is None or fitted.auxbasis == coulomb != exchange


def check_functional(functional: Functional) -> None:
    """Refuse what cannot run.

    Raises:
        UnknownOption: it is no functional, or in another precision than float64.
    """
    if not isinstance(functional, Functional):
        raise UnknownOption(f"{type(functional).__name__} is no nddo_ml.functional.Functional.")
    wrong = [name for name, weight in functional.named_parameters() if weight.dtype != torch.float64]
    if wrong:
        raise UnknownOption(f"{functional.label} holds {wrong[0]} in another precision: functionals run in float64; call "
                            "functional.double().")


def check_host(mf: PySCFMeanField) -> None:
    """Refuse mean fields that a functional would not work in.

    Raises:
        UnknownOption: it is no molecular, non-relativistic RKS or UKS, or asks for more than the functional.
    """
    dft = pyscf("dft")
    kind = f"{type(mf).__module__}.{type(mf).__name__}"
    hosts = (dft.rks.RKS, dft.uks.UKS, dft.rks_symm.SymAdaptedRKS, dft.uks_symm.SymAdaptedUKS)
    if not isinstance(mf, hosts) or hasattr(mf, "cell"):
        why = "it is periodic" if hasattr(mf, "cell") or "pbc" in kind else "only those two are"
        raise UnknownOption(f"A functional in torch runs in pyscf.dft.RKS and UKS of molecules; found {kind}: {why}. Make the "
                            "mean field with dft.RKS(mol) or dft.UKS(mol).")
    if getattr(mf, "with_x2c", None) is not None:
        raise UnknownOption(f"{kind} is relativistic (X2C): the functionals are not; use dft.RKS(mol) or dft.UKS(mol).")
    if getattr(mf, "U_idx", None) is not None:
        raise UnknownOption(f"{kind} carries a Hubbard correction, which would add to the functional: use dft.RKS or UKS.")
    nlc = getattr(mf, "nlc", None)
    if nlc not in ("", 0, None, False):
        raise UnknownOption(f"mf.nlc = {nlc!r} asks for VV10 beside the functional, which is not supported: leave it empty.")
    omega = getattr(mf, "omega", None)
    if omega:
        raise UnknownOption(f"mf.omega = {omega} asks for range separation, which a functional in torch does not have.")


class TorchKohnSham(Mixin):
    """Stands in front of the class of a mean field: Kohn-Sham with the functional `self._numint.functional`."""

    __name_mixin__ = "Torch"          # of the names of classes

    @property
    def functional(self) -> Functional:
        """The functional at work."""
        return self._numint.functional

    def ladder(self, start: Any = None) -> float:
        """The energy, hartree, of an SCF that may need more than DIIS: level shift and damping, then second-order steps.

        start: density matrices to begin with.

        Raises:
            SCFNotConverged: none of them did it.
        """
        ladder(self, start)
        return self.e_tot

    def undo_torch(self) -> None:
        """Refused: what functional would be left is not known."""
        raise UnknownOption("A mean field cannot lose its functional: make a new one.")

    def density_fit(self, auxbasis: Any = None, with_df: Any = None, only_dfj: bool = False) -> PySCFMeanField:
        """With density fitting; the auxiliary basis is that which PySCF takes for functionals of this kind."""
        likewise = FITTED_FOR[self.functional.exact_exchange != 0]
        if auxbasis is None and with_df is None and isinstance(self.mol.basis, str):
            auxbasis = pyscf("df.addons").predefined_auxbasis(self.mol, self.mol.basis, likewise)
        if auxbasis is None and with_df is None:
            auxbasis = pyscf("df").make_auxbasis(self.mol, xc=likewise)
        return in_front(super().density_fit(auxbasis, with_df, only_dfj))

    def to_gks(self, xc: Any = None) -> None:
        """Refused: there is no form for spinors."""
        raise UnknownOption(f"{self.functional.label} has no form for spinors: stay with RKS or UKS.")

    def to_hf(self) -> None:
        """Refused."""
        raise UnknownOption(f"A mean field of {self.functional.label} does not become Hartree-Fock: make scf.RHF(mol).")

    def x2c(self) -> None:
        """Refused: the functionals are not relativistic."""
        raise UnknownOption(f"{self.functional.label} is not relativistic: no X2C.")

    x2c1e = sfx2c1e = x2c

    def to_uks(self, xc: Any = None) -> PySCFMeanField:
        """Unrestricted, with the same orbitals for both spins where it was restricted."""
        return self._converted(pyscf("dft").UKS, self.to_uhf_orbitals, xc)

    def to_rks(self, xc: Any = None) -> PySCFMeanField:
        """Restricted, not yet solved: orbitals of UKS have no one restricted form."""
        return self._converted(pyscf("dft").RKS, lambda new: new, xc)

    def _converted(self, cls: Any, orbitals: Callable[[PySCFMeanField], PySCFMeanField], xc: Any) -> PySCFMeanField:
        if xc not in (None, XC):
            raise UnknownOption(f"to_uks(xc={xc!r}): the functional of this mean field is {self.functional.label}.")
        new = attach(cls(self.mol), self.functional)
        if getattr(self, "with_df", None) is not None:
            new = new.density_fit(with_df=self.with_df)
        new.grids, new.conv_tol, new.max_cycle = self.grids, self.conv_tol, self.max_cycle
        return orbitals(new)

    def to_uhf_orbitals(self, new: PySCFMeanField) -> PySCFMeanField:
        """`new` with these orbitals for both spins."""
        if self.mo_coeff is not None and np.ndim(self.mo_occ) == 1:
            new.mo_coeff, new.mo_energy = np.array([self.mo_coeff] * 2), np.array([self.mo_energy] * 2)
            new.mo_occ = np.array([self.mo_occ > 0, self.mo_occ > 1], dtype=float)
            new.e_tot, new.converged = self.e_tot, self.converged
        return new

    def gen_response(self, mo_coeff: Any = None, mo_occ: Any = None, *args: Any, **kwargs: Any) -> Callable[[Any], Any]:
        """From changes of the density matrix to those of the Kohn-Sham matrix; arguments as PySCF has them."""
        plain = super().gen_response(mo_coeff, mo_occ, *args, **kwargs)
        if self.functional.nonlocal_part is None:
            return plain
        return with_kernel(self, plain, mo_coeff, mo_occ, *args, **kwargs)

    def nuc_grad_method(self) -> PySCFMethod:
        """PySCF's gradients."""
        return self._differentiated(super().nuc_grad_method(), TorchGradients)

    Gradients = nuc_grad_method

    def Hessian(self) -> PySCFMethod:
        """PySCF's Hessians."""
        return self._differentiated(super().Hessian(), TorchHessian)

    def _differentiated(self, method: PySCFMethod, addition: type) -> PySCFMethod:
        if self.functional.nonlocal_part is None:
            return method
        return pyscf("lib").set_class(method, (addition, method.__class__))
