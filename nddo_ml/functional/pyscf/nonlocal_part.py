"""The part of the density matrix inside PySCF: projection integrals with their derivatives by the nuclei, and what it adds to
potential, kernel, forces and Hessian.

T of a projector and an orbital depends on the distance of their two centres alone; its expansion to second order in that
distance is all that forces and Hessians need, and torch differentiates the rest.
"""

from functools import cache

import numpy as np
import torch

from nddo_ml.functional.forms.projection import Projected, projected


def projector_molecule(part: Projected, mol):
    """A molecule of PySCF that carries only the projectors, on the same atoms."""
    from pyscf import gto

    aux = mol.copy()
    symbols = {mol.atom_symbol(i) for i in range(mol.natm)}
    aux.basis = {symbol: [[l, [x, 1.0]] for l, x in part.projectors.shells] for symbol in symbols}
    aux.ecp, aux.verbose = {}, 0
    shells = {symbol: gto.format_basis({symbol: aux.basis[symbol]})[symbol] for symbol in symbols}
    aux._atm, aux._bas, aux._env = aux.make_env(mol._atom, shells, mol._env[:gto.PTR_ENV_START].copy())
    return aux


def overlaps(part: Projected, mol, order: int = 0) -> list[torch.Tensor]:
    """<a|phi> (atom, row, orbital), and up to `order` its derivatives by the position of the projector's atom, with leading
    axes 3."""
    from pyscf import gto

    aux = projector_molecule(part, mol)
    found = []
    for k, name in enumerate(("int1e_ovlp", "int1e_ipovlp", "int1e_ipipovlp")[:order + 1]):
        T = (-1) ** k * gto.intor_cross(name, aux, mol)
        found.append(torch.from_numpy(np.ascontiguousarray(T)).reshape(*[3] * k, mol.natm, part.projectors.rows, -1))
    return found


def elements(mol) -> torch.Tensor:
    """Atomic numbers; the full ones where there are pseudopotentials."""
    from pyscf.data import elements as table

    return torch.tensor([table.charge(mol.atom_symbol(i)) for i in range(mol.natm)])


def energy_and_potential(part: Projected, mol, P: np.ndarray):
    """E (hartree) and dE/dP (2, orbital, orbital)."""
    (T,) = overlaps(part, mol)
    with torch.enable_grad():
        D = projected(T, torch.from_numpy(np.ascontiguousarray(P))).requires_grad_()
        E = part(D, elements(mol))
        (G,) = torch.autograd.grad(E, D)
    return float(E.detach()), _to_orbitals(T, G)


def _to_orbitals(T, G):
    """sum_A T' G T, symmetric."""
    V = torch.einsum("aki,sakj->sij", T, torch.einsum("sakl,alj->sakj", (G + G.mT) / 2, T))
    return ((V + V.mT) / 2).detach().numpy()


class Kernel:
    """d2E/dP2 at a density: its product with changes X (2, orbital, orbital) of P."""

    def __init__(self, part: Projected, mol, P: np.ndarray):
        (self.T,) = overlaps(part, mol)
        with torch.enable_grad():
            self.D = projected(self.T, torch.from_numpy(np.ascontiguousarray(P))).requires_grad_()
            (self.G,) = torch.autograd.grad(part(self.D, elements(mol)), self.D, create_graph=True)

    def __call__(self, X: np.ndarray) -> np.ndarray:
        if not self.G.requires_grad:
            return np.zeros_like(X)
        dD = projected(self.T, torch.from_numpy(np.ascontiguousarray(X)))
        (change,) = torch.autograd.grad(self.G, self.D, grad_outputs=(dD + dD.mT) / 2, retain_graph=True)
        return _to_orbitals(self.T, change)


def with_kernel(mf, plain, mo_coeff=None, mo_occ=None, singlet=None, hermi=0, **others):
    """PySCF's response function `plain`, with the kernel of the part of the density matrix. X antisymmetric (hermi = 2) does
    not change a density."""
    C, occupations = (mf.mo_coeff if mo_coeff is None else mo_coeff), (mf.mo_occ if mo_occ is None else mo_occ)
    kernel = Kernel(mf.functional.nonlocal_part, mf.mol, spin_densities(C, occupations))
    closed = np.ndim(occupations) == 1
    sign = -1 if closed and singlet is False else 1      # of the change of the other spin

    def response(X):
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


def spin_densities(C, occupations) -> np.ndarray:
    """(2, orbital, orbital), of restricted or unrestricted orbitals."""
    if np.ndim(occupations) == 1:
        half = (C * occupations) @ C.T / 2
        return np.stack([half, half])
    return np.stack([(c * n) @ c.T for c, n in zip(C, occupations, strict=True)])


def displaced_energy(part: Projected, mol, order: int):
    """E(displacements (atom, 3) in bohr, P), exact to `order` in the displacements."""
    integrals = overlaps(part, mol, order)
    numbers = elements(mol)
    owner = torch.empty(mol.nao, dtype=torch.long)
    for atom, (_, _, begin, end) in enumerate(mol.aoslice_by_atom()):
        owner[begin:end] = atom

    def energy(moved, P):
        u = moved[:, None] - moved[owner][None]                  # atom of the projector, orbital, xyz
        T = integrals[0] + torch.einsum("xaki,aix->aki", integrals[1], u)
        if order > 1:
            T = T + torch.einsum("xyaki,aix,aiy->aki", integrals[2], u, u) / 2
        return part(projected(T, P), numbers)

    return energy


def nuclear_gradient(part: Projected, mol, P: np.ndarray) -> np.ndarray:
    """dE/dR at constant P, (atom, 3), hartree/bohr."""
    return _slope(part, mol, P, 1)[0].detach().numpy()


def _slope(part, mol, P, order):
    """(dE/dR with its graph, displacements, densities) at the nuclei as they are."""
    with torch.enable_grad():
        moved = torch.zeros(mol.natm, 3, dtype=torch.float64, requires_grad=True)
        P = torch.from_numpy(P).requires_grad_()
        return torch.autograd.grad(displaced_energy(part, mol, order)(moved, P), moved, create_graph=True)[0], moved, P


def nuclear_hessian(part: Projected, mol, P: np.ndarray) -> np.ndarray:
    """d2E/dR dR at constant P, (atom, atom, 3, 3)."""
    slope, moved, _ = _slope(part, mol, P, 2)
    rows = [torch.autograd.grad(x, moved, retain_graph=True)[0] for x in slope.reshape(-1)]
    return torch.stack(rows).reshape(mol.natm, 3, mol.natm, 3).permute(0, 2, 1, 3).numpy()


def potential_derivatives(part: Projected, mol, P: np.ndarray, atoms) -> np.ndarray:
    """d(dE/dP)/dR, (2, atom, 3, orbital, orbital), of the listed atoms."""
    slope, _, P = _slope(part, mol, P, 1)
    found = torch.stack([torch.autograd.grad(slope[atom, x], P, retain_graph=True)[0] for atom in atoms for x in range(3)], 1)
    return ((found + found.mT) / 2).reshape(2, len(atoms), 3, mol.nao, mol.nao).numpy()


@cache
def gradients():
    """The class put in front of PySCF's gradients."""
    class TorchGradients:
        def extra_force(self, atom_id, envs):
            if envs["k"] == 0:
                P = spin_densities(envs["mo_coeff"], envs["mo_occ"])
                self._of_projection = nuclear_gradient(self.base.functional.nonlocal_part, self.mol, P)
            return super().extra_force(atom_id, envs) + self._of_projection[atom_id]

    return TorchGradients


@cache
def hessian():
    """The class put in front of PySCF's Hessians."""
    class TorchHessian:
        def partial_hess_elec(self, mo_energy=None, mo_coeff=None, mo_occ=None, atmlst=None, *args, **kwargs):
            mo_coeff = self.base.mo_coeff if mo_coeff is None else mo_coeff
            mo_occ = self.base.mo_occ if mo_occ is None else mo_occ
            found = super().partial_hess_elec(mo_energy, mo_coeff, mo_occ, atmlst, *args, **kwargs)
            atoms = list(range(self.mol.natm) if atmlst is None else atmlst)
            part = nuclear_hessian(self.base.functional.nonlocal_part, self.mol, spin_densities(mo_coeff, mo_occ))
            return found + part[np.ix_(atoms, atoms)]

        def make_h1(self, mo_coeff, mo_occ, chkfile=None, atmlst=None, *args, **kwargs):
            found = super().make_h1(mo_coeff, mo_occ, chkfile, atmlst, *args, **kwargs)
            atoms = list(range(self.mol.natm) if atmlst is None else atmlst)
            part = potential_derivatives(self.base.functional.nonlocal_part, self.mol, spin_densities(mo_coeff, mo_occ), atoms)
            channels = (found,) if np.ndim(mo_occ) == 1 else found
            for spin, h1 in enumerate(channels):
                for k, atom in enumerate(atoms):
                    h1[atom] = h1[atom] + part[spin, k]
            return found

    return TorchHessian
