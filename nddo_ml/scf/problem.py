"""The self-consistent field as a problem and its solution.

A `Problem` is all the solver needs to know: the integrals, off the tape, and how many levels are occupied. A `Solution` is the
fixed point D = density(fock(D)) of each molecule, or where the solver gave up. Both hold whole batches; `subset`, `selected`
and `replaced` take members out and put them back.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.utils import _pytree as pytree

from nddo_ml.common import compiling
from nddo_ml.common.struct import ordinary, record, tensor_map
from nddo_ml.integrals.blocks import Integrals
from nddo_ml.orbitals import Layout, layout
from nddo_ml.scf.density import Matrices, Orbitals, aufbau
from nddo_ml.scf.flat import FlatKernel
from nddo_ml.scf.fock import Kernel, kernel, one_electron
from nddo_ml.scf.records import Flat

FLOAT32_FROM = 60       # orbitals: from here on early iterations and inner solves run in float32
APART = 1.0e3           # eV by which levels of occupation 1 are lowered to be diagonalised apart from empty ones



@record
class Electrons:
    """Electrons of each spin in each molecule, and the number of spin channels they are calculated in."""

    alpha: Int[Tensor, "molecule"]
    beta: Int[Tensor, "molecule"]
    channels: int     # 1: both spins share their orbitals (closed shells, half-electron states); 2: each has its own


@record
class Problem:
    """What the solver of the self-consistent field needs."""

    layout: Layout
    blocks: Integrals | Callable[[], Integrals]             # eV, off the tape; or how to make them
    h: Float[Tensor, "molecule orbital orbital"]            # core Hamiltonian, eV
    occupations: Float[Tensor, "molecule spin level"]       # of the levels in ascending order; 1/2: half-electron states
    flat: Flat | None = None                                # the two-electron integrals once more, in flat arrays
    # electrons of each spin, if it is known that as many levels are full and all others empty
    filled: Int[np.ndarray, "molecule spin"] | None = None

    @cached_property
    def integrals(self) -> Integrals:
        """The integrals, eV, off the tape; made when they are first asked for."""
        return self.blocks if isinstance(self.blocks, Integrals) else self.blocks()

    def __reduce__(self) -> "tuple[type[Problem], tuple[object, ...]]":
        """A copy has its integrals: what makes them stays here."""
        return Problem, (self.layout, self.integrals, self.h, self.occupations, self.flat, self.filled)

    @cached_property
    def whole(self) -> bool:
        """Whether every level is full or empty: no half-electron states."""
        return self.filled is not None or not bool((self.occupations * (1 - self.occupations)).any())

    @property
    def electrons(self) -> Electrons:
        """The electrons of each molecule; of a half-electron state with as few unpaired ones as their number allows."""
        filled = self.occupations.sum(-1)
        if filled.shape[1] == 2:
            return Electrons(filled[:, 0].round().long(), filled[:, 1].round().long(), 2)
        total = (2 * filled[:, 0]).round().long()
        return Electrons((total + 1) // 2, total // 2, 1)


@record
class Solution:
    """Where the solver ended, for each molecule."""

    D: Float[Tensor, "molecule spin orbital orbital"]       # densities
    F: Float[Tensor, "molecule spin orbital orbital"]       # Fock matrices, eV
    energy: Float[Tensor, "molecule"]                       # electronic energy, eV
    converged: Bool[Tensor, "molecule"]
    residual: Float[Tensor, "molecule"]                     # largest element of the commutator, eV
    iterations: Int[Tensor, "molecule"]                     # in all
    rung: Int[Tensor, "molecule"]                           # of the ladder, from 0
    gap: Float[Tensor, "molecule"]                          # between occupied and empty levels, roughly, eV
    # orbitals as rows, occupied ones first, not canonical; None where they were not kept
    C: Float[Tensor, "molecule spin orbital orbital"] | None = None


@dataclass(frozen=True, eq=False)
class Prepared:
    """A problem with its two-electron integrals arranged for Fock builds."""

    problem: Problem
    exact: Kernel | FlatKernel      # float64
    rough: Kernel | FlatKernel      # in the precision of early iterations and inner solves: float32 for large molecules

    @property
    def is_rough(self) -> bool:
        """Whether `rough` differs from `exact`."""
        return self.rough is not self.exact


def problem(layout_: Layout, integrals: Integrals, electrons: Electrons) -> Problem:
    """The problem of these integrals, taken off the tape, and of so many electrons."""
    occupations = aufbau(electrons.alpha, electrons.beta, electrons.channels, layout_.size)
    detached = tensor_map(torch.Tensor.detach, integrals)
    bare = not layout_.atoms                                        # cores without orbitals alone
    h = occupations.new_zeros(layout_.molecules, layout_.size, layout_.size) if bare else one_electron(layout_, detached)
    return Problem(layout_, detached, h, occupations)


def kernel_of(problem: Problem, dtype: torch.dtype = torch.float64) -> Kernel | FlatKernel:
    """The two-electron integrals of a problem arranged for Fock builds in this precision, by kernels where they are ready."""
    if problem.flat is not None and compiling.serving():
        return FlatKernel(problem.flat, dtype)
    return kernel(problem.layout, problem.integrals, dtype)


def prepared(problem: Problem) -> Prepared:
    """The problem with its two-electron integrals arranged for Fock builds."""
    exact = kernel_of(problem)
    large = problem.layout.size >= FLOAT32_FROM
    return Prepared(problem, exact, kernel_of(problem, torch.float32) if large else exact)


def canonical(problem: Problem, D: Matrices, F: Matrices) -> Orbitals:
    """Canonical orbitals of a state with density D and Fock matrix F (eV), occupied before virtual.

    Spaces of different occupation are diagonalised apart, by lowering each level in proportion to its occupation, so that an
    excited state keeps the orbitals it occupies.
    """
    with ordinary(), torch.no_grad():          # a result keeps them
        padding = torch.diag_embed((1 - problem.layout.real) * 2 * APART)[:, None]
        eps, C = torch.linalg.eigh(F - APART * D + padding)
        return Orbitals(C, eps + APART * problem.occupations, problem.occupations)


def two_channels(problem: Problem, solution: Solution) -> tuple[Problem, Solution]:
    """A restricted problem and its solution with alpha and beta orbitals apart."""
    def double(matrices: Tensor) -> Tensor:
        return torch.cat([matrices, matrices], 1)

    filled = None if problem.filled is None else np.concatenate([problem.filled, problem.filled], 1)
    return (Problem(problem.layout, problem.blocks, problem.h, double(problem.occupations), problem.flat, filled),
            Solution(double(solution.D), double(solution.F), solution.energy, solution.converged, solution.residual,
                     solution.iterations, solution.rung, solution.gap))


def subset(problem: Problem, molecules: list[int]) -> Problem:
    """The problem of some of its molecules, in the order of the batch."""
    old, whole = problem.layout, problem.integrals
    keep = torch.zeros(old.molecules, dtype=torch.bool, device=problem.h.device)
    keep[molecules] = True
    atoms = keep[old.molecule]
    owner = (keep.long().cumsum(0) - 1)[old.molecule[atoms]]
    new = layout(old.n_ao[atoms].cpu().numpy(), owner.cpu().numpy(), len(molecules), problem.h.device,
                 old.treated[atoms].cpu().numpy())

    def pick(groups: tuple[Any, ...], blocks: list[Tensor]) -> list[Tensor]:
        kept = [block[keep[group.molecule]] for group, block in zip(groups, blocks, strict=True)]
        return [block for block in kept if len(block)]

    integrals = Integrals(pick(old.atoms, whole.h_atoms), pick(old.pairs, whole.h_pairs), pick(old.atoms, whole.one),
                          pick(old.pairs, whole.two), whole.core[keep])
    return Problem(new, integrals, one_electron(new, integrals), problem.occupations[keep][..., :new.size])


def selected(solution: Solution, molecules: list[int], size: int) -> Solution:
    """The solution of some of its molecules, in matrices of `size` orbitals."""
    index = torch.tensor(molecules, device=solution.energy.device)

    def pick(values: Tensor) -> Tensor:
        values = values.index_select(0, index)
        return values[..., :size, :size] if values.dim() == 4 else values

    return tensor_map(pick, solution)


def replaced(first: Solution, second: Solution, molecules: list[int]) -> Solution:
    """`first` with the given molecules replaced by `second`, whose matrices may be smaller; without the orbitals."""
    index = torch.tensor(molecules, device=first.energy.device)
    first, second = replace(first, C=None), replace(second, C=None)

    def put(wide: Tensor | None, narrow: Tensor | None) -> Tensor | None:
        if wide is None or narrow is None:
            return None
        values = wide[index].clone().zero_()
        values[tuple(slice(n) for n in narrow.shape)] = narrow
        return wide.index_copy(0, index, values)

    return pytree.tree_map(put, first, second)
