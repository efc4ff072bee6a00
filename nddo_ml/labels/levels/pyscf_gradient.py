"""The same numbers from PySCF in less time: what its general code does more often than a label needs.

Nothing here changes the level; integrals, grids and thresholds are PySCF's.

* Orbitals on the grid are evaluated once and kept, not once per iteration.
* The first iterations run on a coarse grid; the fine one starts from its density.
* The gradient contracts derivative integrals with the density at once instead of making matrices of them. On the grid only
  occupied orbitals appear. For density fitting one kind of derivative is enough: moving all three centres changes nothing, so
  (mu nu|dP) = -(d mu nu|P) - (mu d nu|P).
"""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from copy import copy
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.linalg import LinAlgError, cholesky, eigh, solve_triangular

COARSE, COARSE_TOLERANCE = 0, 1e-4     # grid level of the first iterations, hartree to which they converge
STATIONARY = 3e-6                      # largest norm of the orbital gradient at the end: forces then within 2e-5 eV/angstrom
KEPT = 0.6                             # of the memory may hold orbitals on the grid
BLOCK = 40e6                           # bytes of a block of derivative integrals

PySCF = Any     # an object of PySCF: its classes mix in their methods at run time, which no annotation can say


@dataclass(frozen=True)
class Channel:
    """The occupied orbitals of one spin, or of both where they share theirs."""

    C: Float[np.ndarray, "orbital occupied"]
    electrons: int      # in each: two of a restricted solution, one otherwise


class Operator(NamedTuple):
    """A two-electron operator 1/r, or its long-range (omega > 0) or short-range (omega < 0) part, and what it contributes."""

    omega: float        # 1/bohr; 0: the whole of 1/r
    coulomb: bool       # whether to the Coulomb energy
    exchange: float     # weight of exact exchange


def nimble(mf: PySCF) -> PySCF:
    """The mean field, with its orbitals on the grid kept (a density functional), to be converged as far as forces need."""
    if hasattr(mf, "xc"):
        mf._numint = remembering(mf._numint, mf.max_memory)
    mf.conv_tol_grad = STATIONARY
    return mf


def coarse_density(mf: PySCF, dm0: np.ndarray | None = None) -> np.ndarray | None:
    """The density matrix of the mean field on a coarse grid, roughly converged from dm0; dm0 where that leads to nothing."""
    from pyscf import dft

    if not hasattr(mf, "xc") or mf.grids.level <= COARSE or mf.mol.natm == 1:
        return dm0
    rough = mf.copy()
    rough.grids = dft.Grids(mf.mol)
    rough.grids.level = COARSE
    rough.conv_tol, rough.conv_tol_grad, rough.conv_check = COARSE_TOLERANCE, None, False
    rough.kernel(dm0=dm0)
    return rough.make_rdm1() if rough.converged else dm0


def remembering(numint: PySCF, memory: int) -> PySCF:
    """PySCF's numerical integration with the orbitals on the last grid kept, where `memory` (MB) allows it."""
    class Remembering(type(numint)):
        _of: tuple = (None, None)           # grid and order of derivatives of the blocks that are kept
        _blocks: tuple = ()

        def block_loop(self, mol: PySCF, grids: PySCF, nao: int | None = None, deriv: int = 0, *rest: Any,
                       **more: Any) -> Iterator[tuple]:
            """PySCF's blocks of orbitals on the grid; further arguments are passed on to it."""
            if grids.coords is None:
                grids.build(with_non0tab=True)
            plain = super().block_loop(mol, grids, nao, deriv, *rest, **more)
            needed = (1, 4)[min(deriv, 1)] * len(grids.weights) * mol.nao * 8e-6
            if deriv > 1 or needed > KEPT * memory:
                yield from plain
                return
            if self._of[0] is not grids or self._of[1] != deriv:
                self._of, self._blocks = (None, None), ()       # the old ones go before the new ones come
                self._blocks = tuple((ao if len(weights) == len(grids.weights) else ao.copy(order="K"), mask, weights, points)
                                     for ao, mask, weights, points in plain)     # a single block is not overwritten
                self._of = grids, deriv
            yield from self._blocks

    remembers = copy(numint)             # whatever it carries, a functional in torch for one
    remembers.__class__ = Remembering
    return remembers


def gradient(mf: PySCF, grid_response: bool = False) -> Float[np.ndarray, "atom 3"]:
    """dE/dR of a converged mean field, hartree/bohr.

    PySCF's own where the mean field is not density fitted, or neither Hartree-Fock nor a GGA without VV10, and with
    grid_response, which adds the motion of the grid; else one-electron and overlap terms from PySCF, the others from here.
    """
    g = mf.nuc_grad_method()
    g.grid_response = grid_response
    if grid_response or not _covered(mf):
        return g.kernel()
    channels = occupied(mf)
    two = np.sum([fitted(mf, channels, operator) for operator in _operators(mf)], axis=0)
    if hasattr(mf, "xc"):
        two = two + exchange_correlation(mf, channels)
    shape = (3, mf.mol.nao, mf.mol.nao)
    g.get_veff = lambda mol=None, dm=None: np.zeros(shape if np.ndim(mf.mo_occ) == 1 else (2, *shape))
    g.extra_force = lambda atom, envs: two[atom]
    return g.kernel()


def exchange_correlation(mf: PySCF, channels: Sequence[Channel]) -> Float[np.ndarray, "atom 3"]:
    """dE_xc/dR of a GGA on a fixed grid, hartree/bohr.

    dE/dR_A = -2 sum_g sum_(mu in A) [v dphi_mu (D phi)_mu + sum_y v_y (d d_y phi_mu (D phi)_mu + dphi_mu (D d_y phi)_mu)]
    v, v_y: derivatives of the energy density by rho and its gradient, times the weight; D phi = C (C^T phi).
    """
    ni, mol = mf._numint, mf.mol
    per_orbital = np.zeros((3, mol.nao))
    second = ((4, 5, 6), (5, 7, 8), (6, 8, 9))      # of the components of deriv=2: xx xy xz yy yz zz
    for ao, _, weight, _ in ni.block_loop(mol, mf.grids, mol.nao, 2, mf.max_memory):
        phi = np.swapaxes(ao, 1, 2)
        psi = [ch.C.T @ phi[:4] for ch in channels]
        rho = np.array([_density(p, ch.electrons) for p, ch in zip(psi, channels, strict=True)])
        v = weight * ni.eval_xc_eff(mf.xc, rho if len(rho) == 2 else rho[0], deriv=1, xctype="GGA",
                                    spin=len(rho) - 1)[1].reshape(rho.shape)
        for ch, p, w in zip(channels, psi, v, strict=True):
            D_phi = ch.electrons * ch.C @ p[0]
            D_v = ch.electrons * ch.C @ np.einsum("kg,kig->ig", w, p)
            vectors = w[1:, None] * D_phi
            for x in range(3):
                per_orbital[x] += np.einsum("mg,mg->m", phi[1 + x], D_v)
                for y in range(3):
                    per_orbital[x] += np.einsum("mg,mg->m", phi[second[x][y]], vectors[y])
    return -2 * _per_atom(per_orbital, mol)


def fitted(mf: PySCF, channels: Sequence[Channel], operator: Operator) -> Float[np.ndarray, "atom 3"]:
    """dE/dR of the density fitted Coulomb and exchange energies (-exchange/2 K) of an operator, hartree/bohr.

    dE = sum Gamma_mu,nu,P d(mu nu|P) - 1/2 sum gamma_PQ d(P|Q)
    Gamma = d_P D - exchange sum_ij C_mu,i C_nu,j Y_ij,P, gamma = d d^T - exchange sum_ij Y_ij Y_ij^T,
    d = (P|Q)^-1 (Q|mu nu) D, Y_ij = (P|Q)^-1 (Q|ij)
    """
    omega, coulomb, exchange = operator
    with mf.with_df.range_coulomb(omega) if omega else nullcontext(mf.with_df) as df:
        mol, auxmol = df.mol, df.auxmol or mf.with_df.auxmol
        Y = _fitted_orbitals(df, auxmol, channels)
        d = np.sum([ch.electrons * np.einsum("pii->p", y) for ch, y in zip(channels, Y, strict=True)], axis=0)
        d = d * (1.0 if coulomb else 0.0)
        D = np.sum([ch.electrons * ch.C @ ch.C.T for ch in channels], axis=0)
        YY = np.sum([ch.electrons * (f := y.reshape(len(y), -1)) @ f.T for ch, y in zip(channels, Y, strict=True)], axis=0)
        gamma = np.outer(d, d) - exchange * YY
        # (P|Q): each centre once, the second by symmetry; d/dR = -(dP|Q)
        aux = np.einsum("xpq,pq->xp", auxmol.intor("int2c2e_ip1"), gamma)
        orbital = np.zeros((3, mol.nao))
        for p0, p1, block in _derivatives(mol, auxmol):
            Gamma = d[p0:p1, None, None] * D if coulomb else 0.0
            for ch, y in zip(channels, Y, strict=True):
                half = y[p0:p1] @ ch.C.T
                Gamma = Gamma - (exchange * ch.electrons) * (ch.C @ half)
            T = np.einsum("xpnm,pnm->xpm", block, Gamma)
            orbital -= 2 * T.sum(1)
            aux[:, p0:p1] += 2 * T.sum(2)
        return _per_atom(orbital, mol) + _per_atom(aux, auxmol)


def _fitted_orbitals(df: PySCF, auxmol: PySCF, channels: Sequence[Channel]) -> list[np.ndarray]:
    """Y_ij,P of each channel (aux, occupied, occupied), from the integrals the SCF has used."""
    from pyscf import lib

    half: list[list[np.ndarray]] = [[] for _ in channels]
    for packed in df.loop():
        whole = lib.unpack_tril(packed)
        for k, ch in enumerate(channels):
            half[k].append(ch.C.T @ (whole @ ch.C))
    metric = auxmol.intor("int2c2e", hermi=1)
    try:
        L = cholesky(metric, lower=True)
    except LinAlgError:
        L = None
    Y = []
    for parts in half:
        b = np.concatenate(parts)
        flat = b.reshape(len(b), -1)
        y = solve_triangular(L, flat, lower=True, trans=1) if L is not None else _independent(metric) @ flat
        Y.append(y.reshape(len(metric), *b.shape[1:]))
    return Y


def _independent(metric: Float[np.ndarray, "aux aux"]) -> Float[np.ndarray, "aux independent"]:
    """V w^-1/2 of a metric that is singular to working precision, without the dependent functions, as PySCF leaves them out."""
    from pyscf.df.incore import LINEAR_DEP_THR

    w, V = eigh(metric)
    return V[:, w > LINEAR_DEP_THR] / np.sqrt(w[w > LINEAR_DEP_THR])


def _derivatives(mol: PySCF, auxmol: PySCF) -> Iterator[tuple[int, int, Float[np.ndarray, "3 aux orbital orbital"]]]:
    """(first, last, (d mu nu|P) as (xyz, P, nu, mu)) of the auxiliary functions, block by block."""
    from pyscf.gto.moleintor import getints, make_cintopt

    both, name = mol + auxmol, mol._add_suffix("int3c2e_ip1")
    both.omega = mol.omega
    optimiser = make_cintopt(both._atm, both._bas, both._env, name)
    places, width = auxmol.ao_loc, max(BLOCK / (24 * mol.nao**2), 1)
    first = 0
    while first < auxmol.nbas:
        last = max(int(np.searchsorted(places, places[first] + width, side="right")) - 1, first + 1)
        shells = (0, mol.nbas, 0, mol.nbas, mol.nbas + first, mol.nbas + last)
        block = getints(name, both._atm, both._bas, both._env, shells, aosym="s1", cintopt=optimiser)
        yield int(places[first]), int(places[last]), block.transpose(0, 3, 2, 1)
        first = last


def _operators(mf: PySCF) -> list[Operator]:
    """The operators that the energy is made of, as PySCF splits them."""
    if not hasattr(mf, "xc"):
        return [Operator(0.0, True, 1.0)]
    omega, long, short = mf._numint.rsh_and_hybrid_coeff(mf.xc, spin=mf.mol.spin)
    if omega == 0:
        return [Operator(0.0, True, short)]
    if long == 0:
        return [Operator(0.0, True, 0.0), Operator(-omega, False, short)]
    if short == 0:
        return [Operator(0.0, True, 0.0), Operator(omega, False, long)]
    return [Operator(0.0, True, short), Operator(omega, False, long - short)]


def occupied(mf: PySCF) -> list[Channel]:
    """The occupied orbitals of a converged mean field."""
    if np.ndim(mf.mo_occ) == 1:
        return [Channel(np.ascontiguousarray(mf.mo_coeff[:, mf.mo_occ > 0]), 2)]
    return [Channel(np.ascontiguousarray(C[:, f > 0]), 1) for C, f in zip(mf.mo_coeff, mf.mo_occ, strict=True)]


def _density(psi: Float[np.ndarray, "4 occupied grid"], electrons: int) -> Float[np.ndarray, "4 grid"]:
    """rho and its gradient from orbitals on the grid and their derivatives (1, d/dx, d/dy, d/dz)."""
    rho = electrons * np.einsum("ig,kig->kg", psi[0], psi)
    rho[1:] *= 2
    return rho


def _per_atom(values: Float[np.ndarray, "3 orbital"], mol: PySCF) -> Float[np.ndarray, "atom 3"]:
    """Values of basis functions summed over those of each atom."""
    return np.array([values[:, a:b].sum(1) for a, b in mol.aoslice_by_atom()[:, 2:]])


def _covered(mf: PySCF) -> bool:
    """Whether the terms below are all there are: Hartree-Fock or a GGA without VV10, density fitted."""
    from pyscf.df.df_jk import _DFHF

    density_fitted = issubclass(type(mf), _DFHF)
    if not density_fitted or not hasattr(mf, "xc"):
        return density_fitted
    functional = getattr(mf, "functional", None)       # in torch; a part of the density matrix has forces of its own
    return (not mf.do_nlc() and mf._numint._xc_type(mf.xc) == "GGA"
            and getattr(functional, "nonlocal_part", None) is None)
