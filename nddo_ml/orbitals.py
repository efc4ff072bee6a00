"""Layout: where the orbitals, charge distributions and pairs of a batch lie.

The integrals see ragged lists (atoms grouped by their shells, pairs grouped by the shells of their two atoms); the
self-consistent field sees padded matrices, one per molecule. This file is the only place that knows both: it holds the
indices that read blocks out of matrices and the one that assembles a matrix from blocks. It depends on the species alone,
so it is made once per molecule and kept while the atoms move.

A *packed* layout treats atoms with only an s function as sp atoms with an empty p shell. That wastes arithmetic but leaves a
single pair class, which is faster below some hundred pairs. Ghost functions have weight 0 and never reach a matrix.
"""

from functools import cache

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from nddo_ml.common.struct import record
from nddo_ml.pairs import all_pairs

PACKED_BELOW = 300   # pairs; above, one kernel per pair class wins (docs/results/performance.md)
Counts = Int[np.ndarray, "atom"]
DISTRIBUTIONS = {0: 0, 1: 1, 4: 10, 9: 45}   # orbitals of an atom -> products of two of them


@cache
def packed_pairs(orbitals: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The (a >= b) orbital pairs of an atom in packed order, and the (orbitals, orbitals) table that finds them."""
    a, b = np.tril_indices(orbitals)
    table = np.zeros((orbitals, orbitals), dtype=np.int64)
    table[a, b] = table[b, a] = np.arange(len(a))
    return a, b, table


@record
class AtomGroup:
    """Atoms treated with the same number of orbitals."""

    orbitals: int
    atoms: Int[Tensor, "k"]
    packed: Int[Tensor, "k m"]      # where their packed density lies in the flattened matrices
    weight: Float[Tensor, "k m"]    # of its elements: 1 on the diagonal, 2 off it, 0 for ghosts
    molecule: Int[Tensor, "k"]      # owner of each atom


@record
class PairGroup:
    """Pairs of one class, the larger shell first."""

    shells: tuple[int, int]                     # orbitals of atoms i and j
    i: Int[Tensor, "group_pair"]
    j: Int[Tensor, "group_pair"]
    groups: tuple[int, int]                     # the atom groups of i and j
    row_i: Int[Tensor, "group_pair"]            # places of i and j there
    row_j: Int[Tensor, "group_pair"]
    block: Int[Tensor, "group_pair ab"]         # where the block of n_i n_j elements lies in the flattened matrices
    mask: Float[Tensor, "group_pair ab"] | None     # 0 for ghosts; None where there are none
    molecule: Int[Tensor, "group_pair"]         # owner of each pair


@record
class Layout:
    """Indices of a batch of molecules in padded matrices."""

    molecules: int
    size: int                                   # orbitals of the matrices
    n_ao: Int[Tensor, "atom"]                   # orbitals of each atom as they are
    treated: Int[Tensor, "atom"]                # and as the pair classes treat them
    molecule: Int[Tensor, "atom"]               # owner of each atom
    orbitals: Int[Tensor, "molecule"]           # of each molecule
    real: Float[Tensor, "molecule orbital"]     # 0: padding
    owner: Int[Tensor, "molecule orbital"]      # the atom of each orbital, -1: padding
    shell: Int[Tensor, "molecule orbital"]      # its place there
    atoms: tuple[AtomGroup, ...]
    pairs: tuple[PairGroup, ...]
    # of each matrix element (molecules size size): its place in the concatenated packed blocks of the atom groups, blocks of
    # the pair groups and a final zero
    source: Int[Tensor, "element"]


def first_orbitals(n_ao: Counts, molecule: Counts) -> Counts:
    """The first orbital of each atom in the matrix of its molecule; owners in non-decreasing order."""
    before = np.cumsum(n_ao) - n_ao
    return before - before[np.searchsorted(molecule, molecule)]


def one_centre_places(layout: Layout) -> tuple[Counts, Counts]:
    """Where the two-electron block of each atom begins in those of the groups (k, m, m) one after another, and how far it is
    from one of its rows to the next."""
    at, stride = np.zeros(len(layout.n_ao), dtype=np.int64), np.ones(len(layout.n_ao), dtype=np.int64)
    start = 0
    for group in layout.atoms:
        atoms, m = group.atoms.numpy(), DISTRIBUTIONS[group.orbitals]
        at[atoms], stride[atoms] = start + m * m * np.arange(len(atoms)), m
        start += m * m * len(atoms)
    return at, stride


def layout(n_ao: Counts, molecule: Counts, count: int, device: torch.device | None = None, treated: Counts | None = None
           ) -> Layout:
    """The layout of atoms with `n_ao` orbitals each, owned by `molecule` (non-decreasing, `count` molecules).

    treated: orbitals each atom is given in the pair classes; by default those of a packed layout where that is faster.
    """
    orbitals = np.bincount(molecule, weights=n_ao, minlength=count).astype(np.int64)
    size = int(orbitals.max(initial=1)) or 1
    before, offset = np.cumsum(n_ao) - n_ao, first_orbitals(n_ao, molecule)
    i, j = all_pairs(molecule)

    if treated is None:
        treated = np.where((n_ao == 1) & bool((n_ao == 4).any()), 4, n_ao) if len(i) < PACKED_BELOW else n_ao
    swap = treated[i] < treated[j]
    i, j = np.where(swap, j, i), np.where(swap, i, j)

    builder = _Source(count * size * size)
    start = molecule * size * size
    atom_groups, where = [], np.zeros((2, len(n_ao)), dtype=np.int64)
    for orbs in (1, 4, 9):
        atoms = np.flatnonzero(treated == orbs)
        if len(atoms) == 0:
            continue
        a, b, _ = packed_pairs(orbs)
        ghost = (a[None] >= n_ao[atoms][:, None])
        o = offset[atoms][:, None]
        lower, upper = (start[atoms][:, None] + (o + x) * size + o + y for x, y in ((a, b), (b, a)))
        builder.add(lower, upper, ~ghost)
        where[0, atoms], where[1, atoms] = len(atom_groups), np.arange(len(atoms))
        atom_groups.append(AtomGroup(orbs, _t(atoms, device), _t(np.where(ghost, start[atoms][:, None], lower), device),
                                     _t(np.where(ghost, 0.0, np.where(a == b, 1.0, 2.0)), device), _t(molecule[atoms], device)))
    pair_groups = []
    for n_i in (9, 4, 1, 0):
        for n_j in (9, 4, 1, 0):
            chosen = np.flatnonzero((treated[i] == n_i) & (treated[j] == n_j))
            if len(chosen) == 0:
                continue
            p, q = i[chosen], j[chosen]
            a, b = (x.ravel() for x in np.meshgrid(np.arange(n_i), np.arange(n_j), indexing="ij"))
            real = (a < n_ao[p][:, None]) & (b < n_ao[q][:, None])
            x, y = offset[p][:, None] + a, offset[q][:, None] + b
            forward, backward = (start[p][:, None] + r * size + c for r, c in ((x, y), (y, x)))
            builder.add(forward, backward, real)
            mask = None if real.all() else _t(real.astype(float), device)
            pair_groups.append(PairGroup((n_i, n_j), _t(p, device), _t(q, device), (int(where[0, p[0]]), int(where[0, q[0]])),
                                         _t(where[1, p], device), _t(where[1, q], device),
                                         _t(np.where(real, forward, start[p][:, None]), device), mask, _t(molecule[p], device)))
    real = np.arange(size)[None] < orbitals[:, None]
    owner, shell = np.full((2, count, size), -1, dtype=np.int64)
    owner[real] = np.repeat(np.arange(len(n_ao)), n_ao)
    shell[real] = np.arange(n_ao.sum()) - np.repeat(before, n_ao)
    return Layout(count, size, _t(n_ao, device), _t(treated, device), _t(molecule, device), _t(orbitals, device),
                  _t(real.astype(float), device), _t(owner, device), _t(shell, device), tuple(atom_groups), tuple(pair_groups),
                  _t(builder.finish(), device))


def matrices(layout: Layout, blocks: list[Tensor]) -> Float[Tensor, "molecule vector orbital orbital"]:
    """Symmetric matrices from blocks: (k, m, vector) for each atom group, then (pair, n_i n_j, vector) for each pair group."""
    vectors = blocks[0].shape[-1]
    values = torch.cat([b.reshape(-1, vectors) for b in blocks] + [blocks[0].new_zeros(1, vectors)])
    full = values.index_select(0, layout.source).view(layout.molecules, layout.size, layout.size, vectors)
    return full.movedim(-1, 1)


def flattened(matrix: Float[Tensor, "molecule vector orbital orbital"]) -> Float[Tensor, "element vector"]:
    """Matrices as one list of elements, vectors last: what the indices of the groups read from."""
    return matrix.movedim(1, -1).reshape(-1, matrix.shape[1])


def atom_densities(group: AtomGroup, flat: Float[Tensor, "element vector"], weight: Float[Tensor, "k m"] | None = None
                   ) -> Float[Tensor, "k m vector"]:
    """Packed one-centre density of each atom, off-diagonal elements counted twice; weight: the group's in the precision of
    `flat`."""
    k, m = group.packed.shape
    weight = group.weight if weight is None else weight
    return flat.index_select(0, group.packed.view(-1)).view(k, m, -1) * weight[:, :, None]


def pair_densities(group: PairGroup, flat: Float[Tensor, "element vector"],
                   mask: Float[Tensor, "group_pair ab"] | None = None) -> Float[Tensor, "group_pair ab vector"]:
    """Off-diagonal density blocks of each pair, n_i n_j elements in row order; mask: the group's in the precision of `flat`."""
    pairs, block = group.block.shape
    values = flat.index_select(0, group.block.view(-1)).view(pairs, block, -1)
    mask = group.mask if mask is None else mask
    return values if mask is None else values * mask[:, :, None]


class _Source:
    """Collects, block list by block list, which entry of the concatenation each matrix element comes from."""

    def __init__(self, elements: int) -> None:
        self.index, self.length = np.full(elements, -1, dtype=np.int64), 0

    def add(self, forward: np.ndarray, backward: np.ndarray, real: np.ndarray) -> None:
        position = self.length + np.arange(forward.size).reshape(forward.shape)
        self.index[forward[real]] = position[real]
        self.index[backward[real]] = position[real]
        self.length += forward.size

    def finish(self) -> np.ndarray:
        return np.where(self.index < 0, self.length, self.index)


def _t(array: np.ndarray, device: torch.device | None) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).to(device)
