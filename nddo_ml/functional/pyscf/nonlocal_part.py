"""The part of the density matrix inside PySCF: projection integrals with their derivatives by the nuclei, and what it adds to
potential, kernel, forces and Hessian.

T of a projector and an orbital depends on the distance of their two centres alone; its expansion to second order in that
distance is all that forces and Hessians need, and torch differentiates the rest.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from nddo_ml.functional.projectors import NonlocalPart, projected
from nddo_ml.functional.pyscf.host import Mixin, PySCFMeanField, PySCFMolecule, pyscf

SpinMatrices = Float[np.ndarray, "2 orbital orbital"]       # one for either spin, closed shells too


def projector_molecule(part: NonlocalPart, mol: PySCFMolecule) -> PySCFMolecule:
    """A molecule of PySCF that carries only the projectors, on the same atoms."""
    gto = pyscf("gto")
    aux = mol.copy()
    symbols = {mol.atom_symbol(i) for i in range(mol.natm)}
    aux.basis = {symbol: [[l, [x, 1.0]] for l, x in part.projectors.shells] for symbol in symbols}
    aux.ecp, aux.verbose = {}, 0
    shells = {symbol: gto.format_basis({symbol: aux.basis[symbol]})[symbol] for symbol in symbols}
    aux._atm, aux._bas, aux._env = aux.make_env(mol._atom, shells, mol._env[:gto.PTR_ENV_START].copy())
    return aux


def overlaps(part: NonlocalPart, mol: PySCFMolecule, order: int = 0) -> list[Float[Tensor, "*xyz atom projector orbital"]]:
    """[<a|phi>, and up to `order` its derivatives by the position of the projector's atom], each with one axis xyz more than
    the one before; bohr to the power of minus the order."""
    gto = pyscf("gto")
    aux = projector_molecule(part, mol)
    integrals = []
    for k, name in enumerate(("int1e_ovlp", "int1e_ipovlp", "int1e_ipipovlp")[:order + 1]):
        T = (-1) ** k * gto.intor_cross(name, aux, mol)
        integrals.append(torch.from_numpy(np.ascontiguousarray(T)).reshape(*[3] * k, mol.natm, part.projectors.count, -1))
    return integrals


def atomic_numbers(mol: PySCFMolecule) -> Int[Tensor, "atom"]:
    """Atomic numbers; the full ones where there are pseudopotentials."""
    elements = pyscf("data.elements")
    return torch.tensor([elements.charge(mol.atom_symbol(i)) for i in range(mol.natm)])


def energy_and_potential(part: NonlocalPart, mol: PySCFMolecule, P: SpinMatrices) -> tuple[float, SpinMatrices]:
    """E (hartree) and dE/dP of the density matrices."""
    (T,) = overlaps(part, mol)
    with torch.enable_grad():
        D = projected(T, torch.from_numpy(np.ascontiguousarray(P))).requires_grad_()
        E = part(D, atomic_numbers(mol))
        (G,) = torch.autograd.grad(E, D)
    return float(E.detach()), _to_orbitals(T, G)


def _to_orbitals(T: Tensor, G: Tensor) -> SpinMatrices:
    """sum_A T' G T, symmetric."""
    V = torch.einsum("aki,sakj->sij", T, torch.einsum("sakl,alj->sakj", (G + G.mT) / 2, T))
    return ((V + V.mT) / 2).detach().numpy()


class NonlocalKernel:
    """d2E/dP2 at a density: its product with changes X of the density matrices P."""

    def __init__(self, part: NonlocalPart, mol: PySCFMolecule, P: SpinMatrices) -> None:
        (self.T,) = overlaps(part, mol)
        with torch.enable_grad():
            self.D = projected(self.T, torch.from_numpy(np.ascontiguousarray(P))).requires_grad_()
            (self.G,) = torch.autograd.grad(part(self.D, atomic_numbers(mol)), self.D, create_graph=True)

    def __call__(self, X: SpinMatrices) -> SpinMatrices:
        """The change of dE/dP, hartree."""
        if not self.G.requires_grad:
            return np.zeros_like(X)
        dD = projected(self.T, torch.from_numpy(np.ascontiguousarray(X)))
        (change,) = torch.autograd.grad(self.G, self.D, grad_outputs=(dD + dD.mT) / 2, retain_graph=True)
        return _to_orbitals(self.T, change)


def with_kernel(mf: PySCFMeanField, plain: Callable[[Any], Any], mo_coeff: Any = None, mo_occ: Any = None,
                singlet: bool | None = None, hermi: int = 0, **others: Any) -> Callable[[Any], Any]:
    """PySCF's response function `plain`, with the kernel of the part of the density matrix.

    Args:
        mf: the mean field, whose functional has that part.
        plain: from changes of the density matrix to those of the Kohn-Sham matrix.
        mo_coeff: orbitals; by default those of the mean field.
        mo_occ: their occupations.
        singlet: False for excitations of a closed shell to triplets; means nothing for unrestricted orbitals.
        hermi: the symmetry of the changes in PySCF's words; 2: antisymmetric, so that the density does not change.
        others: what else PySCF passes, of no concern here.
    """
    C, occupations = (mf.mo_coeff if mo_coeff is None else mo_coeff), (mf.mo_occ if mo_occ is None else mo_occ)
    kernel = NonlocalKernel(mf.functional.nonlocal_part, mf.mol, spin_densities(C, occupations))
    closed = np.ndim(occupations) == 1
    sign = -1 if closed and singlet is False else 1      # of the change of the other spin

    def response(X: Any) -> Any:
        v = plain(X)
        if hermi == 2:
            return v
        X = np.asarray(X)
        if closed:
            many = X.reshape(-1, *X.shape[-2:])
            extra = np.stack([kernel(np.stack([x, sign * x]) / 2)[0] for x in many]).reshape(X.shape)
        else:
            many = X.reshape(2, -1, *X.shape[-2:])
            extra = np.stack([kernel(many[:, k]) for k in range(many.shape[1])], 1).reshape(X.shape)
        return v + extra

    return response


def spin_densities(C: Any, occupations: Any) -> SpinMatrices:
    """Density matrices of both spins, of restricted or unrestricted orbitals (*spin, basis function, orbital)."""
    if np.ndim(occupations) == 1:
        half = (C * occupations) @ C.T / 2
        return np.stack([half, half])
    return np.stack([(c * n) @ c.T for c, n in zip(C, occupations, strict=True)])


def displaced_energy(part: NonlocalPart, mol: PySCFMolecule, order: int) -> Callable[[Tensor, Tensor], Float[Tensor, ""]]:
    """E(displacements (atom, xyz) in bohr, P), hartree, exact to `order` in the displacements."""
    integrals = overlaps(part, mol, order)
    numbers = atomic_numbers(mol)
    owner = torch.empty(mol.nao, dtype=torch.long)
    for atom, (_, _, begin, end) in enumerate(mol.aoslice_by_atom()):
        owner[begin:end] = atom

    def energy(moved: Float[Tensor, "atom 3"], P: Float[Tensor, "2 orbital orbital"]) -> Float[Tensor, ""]:
        u = moved[:, None] - moved[owner][None]                  # atom of the projector, orbital, xyz
        T = integrals[0] + torch.einsum("xaki,aix->aki", integrals[1], u)
        if order > 1:
            T = T + torch.einsum("xyaki,aix,aiy->aki", integrals[2], u, u) / 2
        return part(projected(T, P), numbers)

    return energy


def nuclear_gradient(part: NonlocalPart, mol: PySCFMolecule, P: SpinMatrices) -> Float[np.ndarray, "atom 3"]:
    """dE/dR at constant P, hartree/bohr."""
    return _slope(part, mol, P, 1)[0].detach().numpy()


def _slope(part: NonlocalPart, mol: PySCFMolecule, P: SpinMatrices, order: int) -> tuple[Tensor, Tensor, Tensor]:
    """(dE/dR with its graph, displacements, densities) at the nuclei as they are."""
    with torch.enable_grad():
        moved = torch.zeros(mol.natm, 3, dtype=torch.float64, requires_grad=True)
        densities = torch.from_numpy(P).requires_grad_()
        (slope,) = torch.autograd.grad(displaced_energy(part, mol, order)(moved, densities), moved, create_graph=True)
        return slope, moved, densities


def nuclear_hessian(part: NonlocalPart, mol: PySCFMolecule, P: SpinMatrices) -> Float[np.ndarray, "atom atom 3 3"]:
    """d2E/dR dR at constant P, hartree/bohr^2."""
    slope, moved, _ = _slope(part, mol, P, 2)
    rows = [torch.autograd.grad(x, moved, retain_graph=True)[0] for x in slope.reshape(-1)]
    return torch.stack(rows).reshape(mol.natm, 3, mol.natm, 3).permute(0, 2, 1, 3).numpy()


def potential_derivatives(part: NonlocalPart, mol: PySCFMolecule, P: SpinMatrices,
                          atoms: Sequence[int]) -> Float[np.ndarray, "2 atom 3 orbital orbital"]:
    """d(dE/dP)/dR of the listed atoms, hartree/bohr."""
    slope, _, densities = _slope(part, mol, P, 1)
    derivatives = torch.stack([torch.autograd.grad(slope[atom, x], densities, retain_graph=True)[0]
                               for atom in atoms for x in range(3)], 1)
    return ((derivatives + derivatives.mT) / 2).reshape(2, len(atoms), 3, mol.nao, mol.nao).numpy()


class TorchGradients(Mixin):
    """Stands in front of PySCF's gradients and adds the forces of the part of the density matrix."""

    def extra_force(self, atom_id: int, envs: dict[str, Any]) -> Any:
        """What PySCF adds to the gradient of an atom; envs: the variables of its loop over atoms."""
        if envs["k"] == 0:
            P = spin_densities(envs["mo_coeff"], envs["mo_occ"])
            self._of_projection = nuclear_gradient(self.base.functional.nonlocal_part, self.mol, P)
        return super().extra_force(atom_id, envs) + self._of_projection[atom_id]


class TorchHessian(Mixin):
    """Stands in front of PySCF's Hessians and adds the second derivatives of the part of the density matrix."""

    def partial_hess_elec(self, mo_energy: Any = None, mo_coeff: Any = None, mo_occ: Any = None, atmlst: Any = None,
                          *args: Any, **kwargs: Any) -> Any:
        """Second derivatives at constant orbitals."""
        mo_coeff = self.base.mo_coeff if mo_coeff is None else mo_coeff
        mo_occ = self.base.mo_occ if mo_occ is None else mo_occ
        plain = super().partial_hess_elec(mo_energy, mo_coeff, mo_occ, atmlst, *args, **kwargs)
        atoms = list(range(self.mol.natm) if atmlst is None else atmlst)
        part = nuclear_hessian(self.base.functional.nonlocal_part, self.mol, spin_densities(mo_coeff, mo_occ))
        return plain + part[np.ix_(atoms, atoms)]

    def make_h1(self, mo_coeff: Any, mo_occ: Any, chkfile: Any = None, atmlst: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Derivatives of the Kohn-Sham matrices by the positions of the atoms, at constant orbitals."""
        matrices = super().make_h1(mo_coeff, mo_occ, chkfile, atmlst, *args, **kwargs)
        atoms = list(range(self.mol.natm) if atmlst is None else atmlst)
        part = potential_derivatives(self.base.functional.nonlocal_part, self.mol, spin_densities(mo_coeff, mo_occ), atoms)
        channels = (matrices,) if np.ndim(mo_occ) == 1 else matrices
        for spin, h1 in enumerate(channels):
            for k, atom in enumerate(atoms):
                h1[atom] = h1[atom] + part[spin, k]
        return matrices
