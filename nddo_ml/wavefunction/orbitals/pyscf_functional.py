"""The energy functional of PySCF at many geometries of a molecule: Hartree-Fock or any of its density functionals, hartree."""

from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from nddo_ml.common.extras import needed
from nddo_ml.elements import symbol
from nddo_ml.errors import InvalidMolecule
from nddo_ml.molecules import Molecules
from nddo_ml.wavefunction.orbitals.energy_functionals import Densities, shared_composition


@dataclass(frozen=True)
class PySCFFunctional:
    """The energy functional of PySCF, hartree; made by `pyscf_functional`."""

    fields: list = field(repr=False)                                     # PySCF's mean field of each geometry
    X: Float[Tensor, "molecule orbital orbital"] = field(repr=False)     # S^-1/2: from the orthonormal to the atomic basis
    occupied: tuple[int, ...] = ()                                       # orbitals of each spin channel

    @property
    def molecules(self) -> int:
        """How many geometries there are."""
        return len(self.fields)

    @property
    def size(self) -> int:
        """Orbitals of each molecule."""
        return self.X.shape[-1]

    def evaluate(self, D: Densities) -> tuple[Float[Tensor, "molecule"], Densities]:
        """(E, F) of the densities D, D and F in the orthonormal basis."""
        energies, focks = [], []
        for mean_field, dm in zip(self.fields, self._atomic(D), strict=True):
            h = mean_field.get_hcore()
            veff = mean_field.get_veff(dm=dm)
            energies.append(mean_field.energy_tot(dm, h, veff))
            focks.append(np.asarray(h + veff).reshape(-1, self.size, self.size))
        F = torch.from_numpy(np.stack(focks))
        return torch.tensor(energies, dtype=F.dtype), self.X[:, None] @ F @ self.X[:, None]

    def solve(self, D: Densities | None = None) -> tuple[Float[Tensor, "molecule"], Densities, Int[Tensor, "molecule"]]:
        """(E, D, iterations) of PySCF's self-consistent field from the densities D, or from its own guess."""
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
        """The densities in atomic orbitals, one array per molecule, as PySCF takes them."""
        P = (self.X[:, None] @ D @ self.X[:, None]).numpy()
        return list(2 * P[:, 0]) if P.shape[1] == 1 else list(P)


def pyscf_functional(molecules: Molecules, basis: str = "6-31g", functional: str = "hf", unrestricted: bool | None = None,
                     tolerance: float = 1e-10) -> PySCFFunctional:
    """The energy functional of PySCF at molecules of one composition, charge and spin; unrestricted None: for open shells only.

    functional: "hf" or a density functional that PySCF knows. tolerance: of the energy of the self-consistent field, hartree.

    Raises:
        MissingExtra: PySCF is not installed.
        InvalidMolecule: the molecules differ, PySCF refuses one, or a restricted open shell is asked for.
    """
    needed("pyscf", "train", "The ab initio functional")
    from pyscf import gto

    numbers, charge, multiplicity = shared_composition(molecules)
    both_spins = multiplicity > 1 if unrestricted is None else unrestricted
    if multiplicity > 1 and not both_spins:
        raise InvalidMolecule(f"Multiplicity {multiplicity} asks for unrestricted orbitals: unrestricted=True.")
    fields, halves = [], []
    for positions in molecules.positions.reshape(len(molecules), -1, 3).tolist():
        atoms = [(symbol(z), x) for z, x in zip(numbers, positions, strict=True)]
        try:
            molecule = gto.M(atom=atoms, basis=basis, charge=charge, spin=multiplicity - 1, verbose=0)
        except (RuntimeError, KeyError, ValueError) as error:
            raise InvalidMolecule(f"PySCF refuses the molecule: {error}") from error
        fields.append(_mean_field(molecule, functional, both_spins, tolerance))
        eps, V = np.linalg.eigh(molecule.intor("int1e_ovlp"))
        halves.append(V / np.sqrt(eps) @ V.T)
    occupied = fields[0].mol.nelec if both_spins else (fields[0].mol.nelectron // 2,)
    return PySCFFunctional(fields, torch.from_numpy(np.stack(halves)), tuple(occupied))


def _mean_field(molecule, functional, both_spins, tolerance):
    """PySCF's object for the self-consistent field of a molecule."""
    from pyscf import dft, scf

    if functional.lower() == "hf":
        mean_field = (scf.UHF if both_spins else scf.RHF)(molecule)
    else:
        mean_field = (dft.UKS if both_spins else dft.RKS)(molecule, xc=functional)
        mean_field.grids.build()
    mean_field.conv_tol = tolerance
    return mean_field
