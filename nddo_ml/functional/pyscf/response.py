"""Properties of a self-consistent density, and how they change with the parameters of the functional.

A property q of the density matrices P and orbital energies eps (a dipole, an orbital energy, a distance from another density)
changes with a parameter by
    dq/dtheta = tr[Z dF/dtheta],  Z = Q + P'[G],  G = dq/dP + K[Q]
where Q = C C' of the orbital whose energy it is, K the response of the Kohn-Sham matrix F to the density, and P'[G] the first
order change of the density in a field G (coupled-perturbed Kohn-Sham; it is its own adjoint). Since tr[Z F] is the derivative
of the energy along Z, all a training needs is the density on the grid and its change along Z.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch

from nddo_ml.common.extras import needed
from nddo_ml.errors import SCFNotConverged, UnknownOption
from nddo_ml.functional.base import Functional
from nddo_ml.functional.derivatives import density_of
from nddo_ml.functional.forms.projection import projected
from nddo_ml.functional.pyscf.densities import (
    Level,
    Snapshot,
    exchange_matrices,
    fraction,
    grids_of,
    matters,
    on_grid,
    variables,
)
from nddo_ml.functional.pyscf.nonlocal_part import overlaps, spin_densities
from nddo_ml.functional.training.thermochemistry import Property
from nddo_ml.units import CODATA_2018

TOLERANCE, ACCEPTED = 1e-10, 1e-6      # of the coupled-perturbed equations: sought, and good enough
DEBYE = CODATA_2018.bohr * CODATA_2018.debye      # per e bohr
EV = CODATA_2018.hartree


@dataclass(frozen=True)
class Variation:
    """A property at a self-consistent density, and that density's change along Z: rows (7, grid) and weights, projections,
    derivative of the energy of exact exchange; rest: value without the part that torch evaluates."""

    property: Property
    snapshot: Snapshot
    directions: torch.Tensor
    dD: torch.Tensor | None
    exchange: float
    rest: float
    value: float


def property_of(functional: Functional, v: Variation) -> torch.Tensor:
    """The property of another functional (or an older self's successor), to first order in its difference; with gradients of
    parameters, exact where the density is that of the functional."""
    return v.rest + UNITS[v.property.kind] * along(functional, v)


def along(functional: Functional, v: Variation) -> torch.Tensor:
    """tr[Z V_xc] = dE_xc[P + x Z]/dx at x = 0, hartree."""
    s, own = v.snapshot, variables(functional)
    with torch.enable_grad():
        rows = s.rows[own].clone().requires_grad_()
        e = functional.energy_density(density_of(functional, rows, True))
        (slopes,) = torch.autograd.grad((s.weights * e).sum(), rows, create_graph=True)
        found = (slopes * v.directions[own]).sum() + fraction(functional) * v.exchange
        if functional.nonlocal_part is None:
            return found
        D = s.D.clone().requires_grad_()
        (slope,) = torch.autograd.grad(functional.nonlocal_part(D, s.numbers), D, create_graph=True)
        return found + (slope * v.dD).sum()


def variation(functional: Functional, wanted: Property, snapshot: Snapshot, level: Level, mf,
              reference: np.ndarray | None = None) -> Variation:
    """Of a converged mean field of the functional, whose snapshot there is. reference: density matrices for a `density`.
    SCFNotConverged: the coupled-perturbed equations do not converge."""
    P = spin_densities(mf.mo_coeff, mf.mo_occ)
    value, G, Q = WHAT[wanted.kind](mf, P, reference)
    if Q is not None:
        G = G + kernel(mf)(Q)
    Z = linear_response(mf, G)
    if Q is not None:
        Z = Z + Q
    part = functional.nonlocal_part
    dD = None if part is None else projected(overlaps(part, mf.mol)[0], torch.from_numpy(Z))
    exchange = -float(np.einsum("sij,sji->", Z, exchange_matrices(mf, P))) if snapshot.exchange else 0.0
    made = Variation(wanted, snapshot, changes(mf, P, Z, grids_of(mf, level)), dD, exchange, 0.0, value)
    return replace(made, rest=value - UNITS[wanted.kind] * float(along(functional, made).detach()))


def changes(mf, P, Z, grids) -> torch.Tensor:
    """First-order changes of the variables on the grid along Z: sigma is quadratic, so half the difference of P + Z and P - Z
    is exact."""
    kept = matters(*on_grid(mf, P, grids))
    (plus, _), (minus, _) = (on_grid(mf, P + sign * Z, grids) for sign in (1, -1))
    return torch.from_numpy((plus - minus)[:, kept] / 2)


def kernel(mf):
    """K: change of the Kohn-Sham matrices (2, orbital, orbital) by that of symmetric density matrices."""
    response = mf.gen_response(hermi=1)
    if np.ndim(mf.mo_occ) == 2:
        return lambda X: np.asarray(response(X))
    return lambda X: np.stack([response(X.sum(0))] * 2)


def linear_response(mf, G: np.ndarray) -> np.ndarray:
    """First-order change of the density matrices (2, orbital, orbital) in a symmetric field G, coupled-perturbed.

    (eps_a - eps_i) U_ai + (C_a' K[dP] C_i) = -C_a' G C_i, dP = sum_ai f_i U_ai (C_a C_i' + C_i C_a').
    """
    lib = needed("pyscf.lib", "train", "Coupled-perturbed equations")
    closed = np.ndim(mf.mo_occ) == 1
    channels = [(mf.mo_coeff, mf.mo_energy, mf.mo_occ / 2)] * 2 if closed else list(
        zip(mf.mo_coeff, mf.mo_energy, mf.mo_occ, strict=True))
    if any(((f > 0) & (f < 1)).any() for _, _, f in channels):
        raise UnknownOption("The response of fractional electrons is not available: ask for energies only.")
    blocks = [(C[:, f == 0], C[:, f > 0], eps[f == 0][:, None] - eps[f > 0][None]) for C, eps, f in channels]
    K, sizes = kernel(mf), [gap.size for *_, gap in blocks]

    def to_orbitals(M):
        return np.concatenate([(V.T @ m @ O / gap).ravel() for (V, O, gap), m in zip(blocks, M, strict=True)])

    def to_density(U):
        found = []
        for (V, O, gap), u in zip(blocks, np.split(U, np.cumsum(sizes)[:-1]), strict=True):
            half = V @ u.reshape(gap.shape) @ O.T
            found.append(half + half.T)
        return np.stack(found)

    def coupled(X):
        return np.stack([to_orbitals(K(to_density(x))) for x in np.atleast_2d(X)])

    start = -to_orbitals(G)
    size = np.abs(start).max(initial=0.0)
    if size == 0:
        return np.zeros_like(G)
    U = lib.krylov(coupled, start[None] / size, tol=TOLERANCE, max_cycle=60, verbose=0).reshape(-1)
    residual = np.abs(U + coupled(U)[0] - start / size).max()
    if not residual < ACCEPTED:
        raise SCFNotConverged(f"The coupled-perturbed equations of {mf.mol.elements} did not converge (residual {residual:.1e} "
                              "of their right side): the SCF may be unstable.")
    return size * to_density(U)


def _dipole(mf, P, reference):
    """(|mu|, d|mu|/dP, None), debye."""
    r = mf.mol.intor_symmetric("int1e_r", comp=3)
    nuclei = np.einsum("a,ax->x", mf.mol.atom_charges(), mf.mol.atom_coords())
    mu = nuclei - np.einsum("xij,sji->x", r, P)
    length = np.linalg.norm(mu)
    G = -np.einsum("x,xij->ij", mu / max(length, 1e-12), r) * DEBYE
    return float(length) * DEBYE, np.stack([G, G]), None


def _orbital(mf, P, reference):
    """(eps, 0, C C'), of the highest occupied orbital; eV."""
    closed = np.ndim(mf.mo_occ) == 1
    C, eps, f = (np.array([x, x]) if closed else np.asarray(x) for x in (mf.mo_coeff, mf.mo_energy, mf.mo_occ))
    spin, k = np.unravel_index(np.argmax(np.where(f > 0, eps, -np.inf)), eps.shape)
    Q = np.zeros_like(P)
    Q[spin] = np.outer(C[spin][:, k], C[spin][:, k])
    return float(eps[spin, k]) * EV, np.zeros_like(P), np.stack([Q.sum(0) / 2] * 2) if closed else Q


def _density(mf, P, reference):
    """(integral of (n - n_ref)^2 / N, its derivative by P, None), bohr^-3."""
    ni, mol, total = mf._numint, mf.mol, P.sum(0) - reference.sum(0)
    value, G = 0.0, np.zeros_like(total)
    for ao, mask, weight, _ in ni.block_loop(mol, mf.grids, mol.nao, 0, max_memory=500):
        difference = ni.eval_rho(mol, ao, total, mask, "LDA", hermi=1)
        value += (weight * difference**2).sum()
        G += (ao * (2 * weight * difference)[:, None]).T @ ao
    electrons = mol.nelectron
    return float(value) / electrons, np.stack([G / electrons] * 2), None


WHAT = {"dipole": _dipole, "orbital": _orbital, "density": _density}
# of the derivative by the Kohn-Sham matrix; the others carry theirs in G
UNITS = {"dipole": 1.0, "orbital": EV, "density": 1.0}


def reference_density(mf, theory: str) -> np.ndarray:
    """Density matrices (2, orbital, orbital) of a wave function in the basis of a mean field: hf, mp2 or ccsd.

    UnknownOption: another one. SCFNotConverged.
    """
    from pyscf import cc, mp, scf

    methods = {"hf": None, "mp2": mp.MP2, "ccsd": cc.CCSD}
    if theory not in methods:
        raise UnknownOption(f"There is no density of {theory!r}; available: {', '.join(methods)}.")
    hf = (scf.UHF if mf.mol.spin else scf.RHF)(mf.mol).run()
    found, method = np.asarray(hf.make_rdm1()), hf
    if methods[theory] is not None and mf.mol.nelectron > 1:
        method = methods[theory](hf).run()
        found = np.asarray(method.make_rdm1(ao_repr=True))
    if not np.all(getattr(method, "converged", True)):
        raise SCFNotConverged(f"{theory} of {mf.mol.elements} did not converge: it has no density to compare with.")
    return np.stack([found / 2] * 2) if found.ndim == 2 else found
