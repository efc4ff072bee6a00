"""Properties of a self-consistent density, and how they change with the parameters of the functional.

A property q of the density matrices P and orbital energies eps (a dipole, an orbital energy, a distance from another density)
changes with a parameter by
    dq/dtheta = tr[Z dF/dtheta],  Z = Q + P'[G],  G = dq/dP + K[Q]
where Q = C C' of the orbital whose energy it is, K the response of the Kohn-Sham matrix F to the density, and P'[G] the first
order change of the density in a field G (coupled-perturbed Kohn-Sham; it is its own adjoint). Since tr[Z F] is the derivative
of the energy along Z, all a training needs is the density on the grid and its change along Z.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from nddo_ml.errors import SCFNotConverged, UnknownOption
from nddo_ml.functional.base import Functional
from nddo_ml.functional.derivatives import density_of
from nddo_ml.functional.projectors import projected
from nddo_ml.functional.pyscf.densities import (
    Snapshot,
    SolvedSystem,
    exchange_matrices,
    fraction,
    grids_of,
    matters,
    on_grid,
    projections,
    variables,
)
from nddo_ml.functional.pyscf.host import PySCFGrids, PySCFMeanField, pyscf
from nddo_ml.functional.pyscf.nonlocal_part import SpinMatrices, overlaps, spin_densities
from nddo_ml.functional.reactions import Property
from nddo_ml.units import CODATA_2018

TOLERANCE, ACCEPTED = 1e-10, 1e-6      # of the coupled-perturbed equations: sought, and good enough
DEBYE = CODATA_2018.bohr * CODATA_2018.debye      # per e bohr
EV = CODATA_2018.hartree


@dataclass(frozen=True)
class Value:
    """A property at a density, and what it depends on."""

    value: float                        # debye, eV or bohr^-3
    by_density: SpinMatrices            # dq/dP
    orbital: SpinMatrices | None        # Q, where the property is an orbital energy


@dataclass(frozen=True)
class Variation:
    """A property at a self-consistent density, and that density's change along Z."""

    property: Property
    snapshot: Snapshot
    directions: Float[Tensor, "7 grid"]                             # change of the variables on the grid
    dD: Float[Tensor, "2 atom projector projector"] | None          # change of the projections
    exchange: float                                                 # derivative of the energy of exact exchange, hartree
    rest: float                                                     # the value without the part that torch evaluates
    value: float                                                    # debye, eV or bohr^-3


def property_of(functional: Functional, v: Variation) -> Float[Tensor, ""]:
    """The property of another functional (or an older self's successor), to first order in its difference; with gradients of
    parameters, exact where the density is that of the functional. Debye, eV or bohr^-3."""
    return v.rest + UNITS[v.property.kind] * along(functional, v)


def along(functional: Functional, v: Variation) -> Float[Tensor, ""]:
    """tr[Z V_xc] = dE_xc[P + x Z]/dx at x = 0, hartree."""
    s, own = v.snapshot, variables(functional)
    with torch.enable_grad():
        rows = s.rows[own].clone().requires_grad_()       # a copy: the derivative by it is asked for
        e = functional.energy_density(density_of(functional, rows, True))
        (slopes,) = torch.autograd.grad((s.weights * e).sum(), rows, create_graph=True)
        semilocal = (slopes * v.directions[own]).sum() + fraction(functional) * v.exchange
        if functional.nonlocal_part is None:
            return semilocal
        if v.dD is None:
            raise UnknownOption(f"The change of the density of {s.key} was kept without projections: the functional that made "
                                "it has no part of the density matrix.")
        D = projections(s).clone().requires_grad_()
        (slope,) = torch.autograd.grad(functional.nonlocal_part(D, s.numbers), D, create_graph=True)
        return semilocal + (slope * v.dD).sum()


def variation(functional: Functional, wanted: Property, snapshot: Snapshot, solved: SolvedSystem,
              reference: SpinMatrices | None = None) -> Variation:
    """A property of a solved system of the functional, whose snapshot there is; reference: density matrices for a `density`.

    Raises:
        SCFNotConverged: the coupled-perturbed equations do not converge.
    """
    mf = solved.mean_field
    P = spin_densities(mf.mo_coeff, mf.mo_occ)
    at = property_value(wanted.kind, mf, reference)
    G = at.by_density if at.orbital is None else at.by_density + kernel(mf)(at.orbital)
    Z = linear_response(mf, G)
    if at.orbital is not None:
        Z = Z + at.orbital
    part = functional.nonlocal_part
    dD = None if part is None else projected(overlaps(part, mf.mol)[0], torch.from_numpy(Z))
    exchange = -float(np.einsum("sij,sji->", Z, exchange_matrices(mf, P))) if snapshot.exchange else 0.0
    made = Variation(wanted, snapshot, changes(mf, P, Z, grids_of(mf, solved.level)), dD, exchange, 0.0, at.value)
    return replace(made, rest=at.value - UNITS[wanted.kind] * float(along(functional, made).detach()))


def changes(mf: PySCFMeanField, P: SpinMatrices, Z: SpinMatrices, grids: PySCFGrids) -> Float[Tensor, "7 grid"]:
    """First-order changes of the variables on the grid along Z: sigma is quadratic, so half the difference of P + Z and P - Z
    is exact."""
    kept = matters(*on_grid(mf, P, grids))
    (plus, _), (minus, _) = (on_grid(mf, P + sign * Z, grids) for sign in (1, -1))
    return torch.from_numpy((plus - minus)[:, kept] / 2)


def kernel(mf: PySCFMeanField) -> Callable[[SpinMatrices], SpinMatrices]:
    """K: change of the Kohn-Sham matrices by that of symmetric density matrices."""
    response = mf.gen_response(hermi=1)
    if np.ndim(mf.mo_occ) == 2:
        return lambda X: np.asarray(response(X))
    return lambda X: np.stack([response(X.sum(0))] * 2)


def linear_response(mf: PySCFMeanField, G: SpinMatrices) -> SpinMatrices:
    """First-order change of the density matrices in a symmetric field G (hartree), coupled-perturbed.

    (eps_a - eps_i) U_ai + (C_a' K[dP] C_i) = -C_a' G C_i, dP = sum_ai f_i U_ai (C_a C_i' + C_i C_a').

    Raises:
        UnknownOption: orbitals are partly occupied.
        SCFNotConverged: the equations do not converge.
    """
    blocks = _blocks(mf)
    K, sizes = kernel(mf), [gap.size for *_, gap in blocks]

    def to_orbitals(M: SpinMatrices) -> np.ndarray:
        return np.concatenate([(V.T @ m @ O / gap).ravel() for (V, O, gap), m in zip(blocks, M, strict=True)])

    def to_density(U: np.ndarray) -> SpinMatrices:
        matrices = []
        for (V, O, gap), u in zip(blocks, np.split(U, np.cumsum(sizes)[:-1]), strict=True):
            half = V @ u.reshape(gap.shape) @ O.T
            matrices.append(half + half.T)
        return np.stack(matrices)

    def coupled(X: np.ndarray) -> np.ndarray:
        return np.stack([to_orbitals(K(to_density(x))) for x in np.atleast_2d(X)])

    start = -to_orbitals(G)
    size = np.abs(start).max(initial=0.0)
    if size == 0:
        return np.zeros_like(G)
    krylov = pyscf("lib", "Coupled-perturbed equations").krylov
    U = krylov(coupled, start[None] / size, tol=TOLERANCE, max_cycle=60, verbose=0).reshape(-1)
    residual = np.abs(U + coupled(U)[0] - start / size).max()
    if not residual < ACCEPTED:
        raise SCFNotConverged(f"The coupled-perturbed equations of {mf.mol.elements} did not converge (residual {residual:.1e} "
                              "of their right side): the SCF may be unstable.")
    return size * to_density(U)


def _blocks(mf: PySCFMeanField) -> Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """(empty orbitals, occupied orbitals, differences of their energies) of either spin."""
    if np.ndim(mf.mo_occ) == 1:
        channels = [(mf.mo_coeff, mf.mo_energy, mf.mo_occ / 2)] * 2
    else:
        channels = list(zip(mf.mo_coeff, mf.mo_energy, mf.mo_occ, strict=True))
    if any(((f > 0) & (f < 1)).any() for _, _, f in channels):
        raise UnknownOption("The response of fractional electrons is not available: ask for energies only.")
    return [(C[:, f == 0], C[:, f > 0], eps[f == 0][:, None] - eps[f > 0][None]) for C, eps, f in channels]


def property_value(kind: str, mf: PySCFMeanField, reference: SpinMatrices | None = None) -> Value:
    """A property of a solved mean field and what it depends on; reference: density matrices for a `density`.

    Raises:
        UnknownOption: a density without a reference.
    """
    P = spin_densities(mf.mo_coeff, mf.mo_occ)
    if kind == "dipole":
        return _dipole(mf, P)
    if kind == "orbital":
        return _orbital(mf, P)
    if reference is None:
        raise UnknownOption("The distance of a density needs one to compare with: give reference = density matrices.")
    return _density(mf, P, reference)


def _dipole(mf: PySCFMeanField, P: SpinMatrices) -> Value:
    """|mu|, debye."""
    r = mf.mol.intor_symmetric("int1e_r", comp=3)
    nuclei = np.einsum("a,ax->x", mf.mol.atom_charges(), mf.mol.atom_coords())
    mu = nuclei - np.einsum("xij,sji->x", r, P)
    length = np.linalg.norm(mu)
    G = -np.einsum("x,xij->ij", mu / max(length, 1e-12), r) * DEBYE
    return Value(float(length) * DEBYE, np.stack([G, G]), None)


def _orbital(mf: PySCFMeanField, P: SpinMatrices) -> Value:
    """eps of the highest occupied orbital, eV."""
    closed = np.ndim(mf.mo_occ) == 1
    C, eps, f = (np.array([x, x]) if closed else np.asarray(x) for x in (mf.mo_coeff, mf.mo_energy, mf.mo_occ))
    spin, k = np.unravel_index(np.argmax(np.where(f > 0, eps, -np.inf)), eps.shape)
    Q = np.zeros_like(P)
    Q[spin] = np.outer(C[spin][:, k], C[spin][:, k])
    return Value(float(eps[spin, k]) * EV, np.zeros_like(P), np.stack([Q.sum(0) / 2] * 2) if closed else Q)


def _density(mf: PySCFMeanField, P: SpinMatrices, reference: SpinMatrices) -> Value:
    """Integral of (n - n_ref)^2 / N, bohr^-3."""
    ni, mol, total = mf._numint, mf.mol, P.sum(0) - reference.sum(0)
    value, G = 0.0, np.zeros_like(total)
    for ao, mask, weight, _ in ni.block_loop(mol, mf.grids, mol.nao, 0, max_memory=500):
        difference = ni.eval_rho(mol, ao, total, mask, "LDA", hermi=1)
        value += (weight * difference**2).sum()
        G += (ao * (2 * weight * difference)[:, None]).T @ ao
    electrons = mol.nelectron
    return Value(float(value) / electrons, np.stack([G / electrons] * 2), None)


# of the derivative by the Kohn-Sham matrix; the others carry theirs in G
UNITS = {"dipole": 1.0, "orbital": EV, "density": 1.0}


def reference_density(mf: PySCFMeanField, theory: str) -> SpinMatrices:
    """Density matrices of a wave function in the basis of a mean field: hf, mp2 or ccsd.

    Raises:
        UnknownOption: another theory.
        SCFNotConverged: the wave function does not converge.
    """
    cc, mp, scf = (pyscf(module) for module in ("cc", "mp", "scf"))
    methods = {"hf": None, "mp2": mp.MP2, "ccsd": cc.CCSD}
    if theory not in methods:
        raise UnknownOption(f"There is no density of {theory!r}; available: {', '.join(methods)}.")
    hf = (scf.UHF if mf.mol.spin else scf.RHF)(mf.mol).run()
    P, solved = np.asarray(hf.make_rdm1()), hf
    correlated = methods[theory]
    if correlated is not None and mf.mol.nelectron > 1:
        solved = correlated(hf).run()
        P = np.asarray(solved.make_rdm1(ao_repr=True))
    if not np.all(getattr(solved, "converged", True)):
        raise SCFNotConverged(f"{theory} of {mf.mol.elements} did not converge: it has no density to compare with.")
    return np.stack([P / 2] * 2) if P.ndim == 2 else P
