"""Energy and Fock matrix of an NDDO Hamiltonian: E(D) and F = dE/dD.

A state is a density matrix per spin channel, D (molecule, spin, orbital, orbital), with occupations between 0 and 1. One
channel means a restricted state, both spins alike; two mean unrestricted. The total density is P = (2/s) sum_spin D, s the
number of channels, and with it

    E  = tr P h + 1/2 tr P J(P) - 1/2 (2/s) sum_spin tr D K(D) + E_core,    F_spin = h + J(P) - K(D_spin)

Pople, Santry, Segal, J. Chem. Phys. 43, S129 (1965). Every quantity is a sum over atoms and pairs of atoms; both functions
below are written over the same blocks, and tests prove F = dE/dD.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from nddo_ml.common.struct import cached, record
from nddo_ml.integrals.blocks import Integrals
from nddo_ml.orbitals import Layout, atom_densities, flattened, matrices, packed_pairs, pair_densities
from nddo_ml.scf.flat import FlatKernel


@record
class Kernel:
    """Two-electron integrals arranged for repeated Fock builds, in one precision; eV. One entry per group of atoms or pairs."""

    coulomb_atoms: list[Tensor]         # (k, m, m), over packed distributions
    exchange_atoms: list[Tensor]        # (k, m, m), over packed distributions
    coulomb_pairs: list[Tensor]         # (pair, m_i, m_j), over packed distributions
    exchange_pairs: list[Tensor]        # (pair, n_i n_j, n_i n_j), as matrices over (i k), (j l)
    weights: list[Tensor]               # of the packed densities, as in the layout
    masks: list[Tensor | None]          # of the pair blocks, as in the layout

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the Fock builds."""
        return self.coulomb_atoms[0].dtype


@cached
def _exchange_atoms(orbitals: int) -> Tensor:
    """(m m, m m) map of packed (ij|kl) to the packed matrix K_(ik),(jl), acting on weighted packed densities."""
    a, b, table = packed_pairs(orbitals)
    m = len(a)
    index = np.stack([table[a[:, None], a[None]] * m + table[b[:, None], b[None]],
                      table[a[:, None], b[None]] * m + table[b[:, None], a[None]]])
    return torch.from_numpy(index.reshape(2, m * m))


@cached
def _exchange_pairs(n_i: int, n_j: int) -> Tensor:
    """Where (ij|kl) of a pair lies in its packed block, as a matrix over (i k) and (j l)."""
    table_i, table_j = packed_pairs(n_i)[2], packed_pairs(n_j)[2]
    m_j = n_j * (n_j + 1) // 2
    index = table_i[:, None, :, None] * m_j + table_j[None, :, None, :]
    return torch.from_numpy(index.reshape(-1).copy())


@cached
def _pair_products(n_i: int, n_j: int) -> tuple[list[Tensor], Tensor]:
    """The four places (i k), (j l), (j k), (i l) of every packed element (ij|kl) in a density block, and its multiplicity."""
    a, b, _ = packed_pairs(n_i)
    c, d, _ = packed_pairs(n_j)
    places = [(x[:, None] * n_j + y[None]).reshape(-1) for x, y in ((a, c), (b, d), (b, c), (a, d))]
    factor = np.where(a == b, 1.0, 2.0)[:, None] * np.where(c == d, 1.0, 2.0)[None] / 2
    return [torch.from_numpy(p) for p in places], torch.from_numpy(factor.reshape(-1))


def one_centre_exchange(one: Float[Tensor, "k m m"], orbitals: int) -> Float[Tensor, "k m m"]:
    """The exchange integrals of atoms over packed distributions: K_p = exchange @ p, p the weighted packed density."""
    k, m, _ = one.shape
    if m == 1:
        return one
    index = _exchange_atoms(orbitals).to(one.device)
    flat = one.reshape(k, m * m)
    return ((flat.index_select(1, index[0]) + flat.index_select(1, index[1])) / 2).view(k, m, m)


def kernel(layout: Layout, integrals: Integrals, dtype: torch.dtype | None = None) -> Kernel:
    """The two-electron integrals prepared for Fock builds in precision `dtype` (None: as they are)."""
    dtype = dtype or integrals.core.dtype
    one = [w.to(dtype) for w in integrals.one]
    two = [w.to(dtype) for w in integrals.two]
    exchange = []
    for group, w in zip(layout.pairs, two, strict=True):
        n_i, n_j = group.shells
        if n_j == 0:
            exchange.append(w.new_zeros(len(w), 0, 0))
        elif w.shape[1] == 1:
            exchange.append(w)
        else:
            index = _exchange_pairs(n_i, n_j).to(w.device)
            exchange.append(w.reshape(len(w), -1).index_select(1, index).view(len(w), n_i * n_j, n_i * n_j))
    atoms = [one_centre_exchange(w, g.orbitals) for w, g in zip(one, layout.atoms, strict=True)]
    masks = [None if g.mask is None else g.mask.to(dtype) for g in layout.pairs]
    return Kernel(one, atoms, two, exchange, [g.weight.to(dtype) for g in layout.atoms], masks)


def two_electron(layout: Layout, kernel: Kernel | FlatKernel, D: Float[Tensor, "molecule vector spin orbital orbital"]
                 ) -> Float[Tensor, "molecule vector spin orbital orbital"]:
    """J(P) - K(D) of each spin channel for symmetric densities D, several vectors at once; shape of D. Linear in D."""
    if isinstance(kernel, FlatKernel):
        return kernel.two_electron(D)
    molecules, vectors, spins = D.shape[:3]
    flat = flattened(D.reshape(molecules, vectors * spins, layout.size, layout.size))
    P = (2.0 / spins) * flat.view(-1, vectors, spins).sum(-1) if spins > 1 else 2.0 * flat
    charges = [atom_densities(g, P, weight) for g, weight in zip(layout.atoms, kernel.weights, strict=True)]
    coulomb = [torch.bmm(w, q) for w, q in zip(kernel.coulomb_atoms, charges, strict=True)]
    blocks = []
    for group, w, x, mask in zip(layout.pairs, kernel.coulomb_pairs, kernel.exchange_pairs, kernel.masks, strict=True):
        if group.shells[1] == 0:
            blocks.append(flat.new_zeros(0, vectors * spins))
            continue
        a, b = group.groups
        to_i = torch.bmm(w, charges[b].index_select(0, group.row_j))
        to_j = torch.bmm(w.mT, charges[a].index_select(0, group.row_i))
        coulomb[a] = coulomb[a].index_add(0, group.row_i, to_i)
        coulomb[b] = coulomb[b].index_add(0, group.row_j, to_j)
        blocks.append(-torch.bmm(x, pair_densities(group, flat, mask)))
    atoms = []
    for group, J, x, weight in zip(layout.atoms, coulomb, kernel.exchange_atoms, kernel.weights, strict=True):
        J = J[..., None].expand(*J.shape, spins).reshape(*J.shape[:2], -1) if spins > 1 else J
        own = charges[len(atoms)] * 0.5 if spins == 1 else atom_densities(group, flat, weight)
        atoms.append(torch.baddbmm(J, x, own, alpha=-1))
    return matrices(layout, atoms + blocks).view(D.shape)


def one_electron(layout: Layout, integrals: Integrals) -> Float[Tensor, "molecule orbital orbital"]:
    """The core Hamiltonian h of each molecule."""
    return matrices(layout, [b[..., None] for b in integrals.h_atoms + integrals.h_pairs])[:, 0]


def fock(layout: Layout, kernel: Kernel | FlatKernel, h: Float[Tensor, "molecule orbital orbital"],
         D: Float[Tensor, "molecule spin orbital orbital"]) -> Float[Tensor, "molecule spin orbital orbital"]:
    """F = h + J(P) - K(D) of each spin channel, eV."""
    return h[:, None] + two_electron(layout, kernel, D[:, None])[:, 0]


def electronic_energy(layout: Layout, integrals: Integrals, D: Float[Tensor, "molecule spin orbital orbital"]
                      ) -> Float[Tensor, "molecule"]:
    """The electronic energy of each molecule (eV) as a contraction of every integral with its density: differentiable in
    the integrals and in D, without building a matrix."""
    spins = D.shape[1]
    flat = flattened(D)
    energy = one_centre_energy(layout, integrals.h_atoms, integrals.one, D)
    P = (2.0 / spins) * flat.sum(-1, keepdim=True)
    charges = [atom_densities(g, P)[..., 0] for g in layout.atoms]
    for group, h, w in zip(layout.pairs, integrals.h_pairs, integrals.two, strict=True):
        if group.shells[1] == 0:
            continue
        own = pair_densities(group, flat)
        a, b = group.groups
        weights = charges[a].index_select(0, group.row_i)[:, :, None] * charges[b].index_select(0, group.row_j)[:, None, :]
        weights = weights.flatten(1) - exchange_weights(group.shells, own) * (2.0 / spins)
        pair = (weights * w.flatten(1)).sum(1) + (4.0 / spins) * (own.sum(-1) * h).sum(1)
        energy = energy.index_add(0, group.molecule, pair)
    return energy


def one_centre_energy(layout: Layout, h: Sequence[Tensor], one: Sequence[Tensor],
                      D: Float[Tensor, "molecule spin orbital orbital"]) -> Float[Tensor, "molecule"]:
    """The part of the electronic energy of each molecule (eV) in the blocks of its atoms: h over packed distributions (k, m)
    and the Coulomb integrals (k, m, m) of each group of atoms."""
    spins = D.shape[1]
    flat = flattened(D)
    P = (2.0 / spins) * flat.sum(-1, keepdim=True)
    energy = D.new_zeros(layout.molecules)
    for group, block, w in zip(layout.atoms, h, one, strict=True):
        p, own = atom_densities(group, P)[..., 0], atom_densities(group, flat)
        coulomb = (p * (block + 0.5 * torch.bmm(w, p[..., None])[..., 0])).sum(1)
        exchange = (own * torch.bmm(one_centre_exchange(w, group.orbitals), own)).sum((1, 2)) / spins
        energy = energy.index_add(0, group.molecule, coulomb - exchange)
    return energy


def exchange_weights(shells: tuple[int, int], D: Float[Tensor, "pair ab spin"]) -> Float[Tensor, "pair mm"]:
    """sum_spin of D_ik D_jl gathered on packed (ij|kl): <w, weights> = sum over i j k l and spin of D_ik D_jl (ij|kl)."""
    if shells == (1, 1):
        return (D * D).sum(-1)
    places, factor = _pair_products(*shells)
    ik, jl, jk, il = (D.index_select(1, p.to(D.device)) for p in places)
    return (ik * jl + jk * il).sum(-1) * factor.to(D.device)
