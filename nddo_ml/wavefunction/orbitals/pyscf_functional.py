"""The energy functional of PySCF at many geometries of a molecule: Hartree-Fock or any of its density functionals, hartree."""

from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from nddo_ml.common.extras import needed
from nddo_ml.elements import symbol
from nddo_ml.errors import InvalidMolecule


@dataclass(frozen=True)
class PySCFFunctional:
    """E(D) and F(D) by PySCF; fields: one mean field per geometry, X: S^-1/2 of each; made by `pyscf_functional`."""

    fields: list = field(repr=False)
    X: Float[Tensor, "molecule orbital orbital"] = field(repr=False)
    occupied: tuple[int, ...] = ()

    @property
    def molecules(self) -> int:
        """Geometries."""
        return len(self.fields)

    @property
    def size(self) -> int:
        """Orbitals of each."""
        return self.X.shape[-1]

    def evaluate(self, D: Float[Tensor, "molecule spin orbital orbital"]) -> tuple[Tensor, Tensor]:
        """(E, F) with D and F in the orthonormal basis."""
        P = self._atomic(D)
        energies, focks = [], []
        for mean_field, dm in zip(self.fields, P, strict=True):
            h = mean_field.get_hcore()
            veff = mean_field.get_veff(dm=dm)
            energies.append(mean_field.energy_tot(dm, h, veff))
            focks.append(np.asarray(h + veff).reshape(-1, self.size, self.size))
        F = torch.from_numpy(np.stack(focks))
        return torch.tensor(energies, dtype=F.dtype), self.X[:, None] @ F @ self.X[:, None]

    def solve(self, D: Float[Tensor, "molecule spin orbital orbital"] | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """(E, D, iterations) of PySCF's self-consistent field from the density D, by default its own guess."""
        starts = [None] * self.molecules if D is None else self._atomic(D)
        energies, densities, iterations = [], [], []
        S_half = torch.linalg.inv(self.X)
        for mean_field, dm, half in zip(self.fields, starts, S_half, strict=True):
            cycles = []
            mean_field.callback = lambda values, cycles=cycles: cycles.append(values["cycle"])
            energies.append(mean_field.kernel(dm0=dm))
            mean_field.callback = None
            P = torch.from_numpy(np.asarray(mean_field.make_rdm1())).reshape(-1, self.size, self.size)
            densities.append(half @ P @ half * (0.5 if len(P) == 1 else 1.0))
            iterations.append(len(cycles))
        return torch.tensor(energies, dtype=self.X.dtype), torch.stack(densities), torch.tensor(iterations)

    def _atomic(self, D):
        """Densities in atomic orbitals, as PySCF takes them."""
        P = (self.X[:, None] @ D @ self.X[:, None]).numpy()
        return list(2 * P[:, 0]) if P.shape[1] == 1 else list(P)


def pyscf_functional(numbers, positions: Float[Tensor, "molecule atom 3"], basis: str = "6-31g", functional: str = "hf",
                     charge: int = 0, multiplicity: int = 1, unrestricted: bool | None = None,
                     tolerance: float = 1e-10) -> PySCFFunctional:
    """The functional of PySCF at geometries in angstrom. unrestricted: None for open shells only.

    MissingExtra: PySCF is not installed. InvalidMolecule: it refuses the molecule.
    """
    needed("pyscf", "train", "The ab initio functional")
    from pyscf import dft, gto, scf

    apart = multiplicity > 1 if unrestricted is None else unrestricted
    if multiplicity > 1 and not apart:
        raise InvalidMolecule(f"Multiplicity {multiplicity} asks for unrestricted orbitals: unrestricted=True.")
    made, halves = [], []
    for xyz in torch.as_tensor(positions).tolist():
        atoms = [(symbol(z), x) for z, x in zip(numbers, xyz, strict=True)]
        try:
            molecule = gto.M(atom=atoms, basis=basis, charge=charge, spin=multiplicity - 1, verbose=0)
        except (RuntimeError, KeyError, ValueError) as error:
            raise InvalidMolecule(f"PySCF refuses the molecule: {error}") from error
        if functional.lower() == "hf":
            mean_field = (scf.UHF if apart else scf.RHF)(molecule)
        else:
            mean_field = (dft.UKS if apart else dft.RKS)(molecule, xc=functional)
            mean_field.grids.build()
        mean_field.conv_tol = tolerance
        eps, V = np.linalg.eigh(molecule.intor("int1e_ovlp"))
        halves.append(V / np.sqrt(eps) @ V.T)
        made.append(mean_field)
    occupied = molecule.nelec if apart else (molecule.nelectron // 2,)
    return PySCFFunctional(made, torch.from_numpy(np.stack(halves)), tuple(occupied))
