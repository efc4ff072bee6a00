"""What the kernels of the self-consistent field are handed: a plan as one array, the rules that decide, and where they write.

Every array costs a quarter of a microsecond to hand over, so the indices of a plan are folded into one: numbers of molecules,
atoms and pairs, then the fields of `Indices` one after another. The kernels find them again in the same order
(kernels/places.py).
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

Array = NDArray[np.float64]
Whole = NDArray[np.int64]


class Indices(NamedTuple):
    """Where the atoms, pairs and matrices of molecules lie in flat arrays."""

    atoms: Whole            # (molecule + 1): where the atoms of a molecule begin
    pairs: Whole            # (molecule + 1): and its pairs
    elements: Whole         # (molecule + 1): and the elements of one of its matrices; those of two spins follow each other
    orbitals: Whole         # (molecule)
    first: Whole            # (atom): first orbital, counted from that of its molecule
    n_ao: Whole             # (atom): orbitals
    one_at: Whole           # (atom): where its block begins in the one-centre integrals
    one_stride: Whole       # (atom): from row to row there
    pair_i: Whole           # (pair): the atom with more orbitals, counted from the first atom of its molecule
    pair_j: Whole           # (pair): the other one
    two_at: Whole           # (pair): where its block begins in the two-centre integrals
    two_stride: Whole       # (pair): from row to row there


class Places(NamedTuple):
    """The fields of atoms and pairs for one molecule."""

    first: Whole
    n_ao: Whole
    one_at: Whole
    one_stride: Whole
    pair_i: Whole
    pair_j: Whole
    two_at: Whole
    two_stride: Whole


class Rules(NamedTuple):
    """The constants that decide (rungs.py, accelerate.py, newton.py)."""

    tolerance: float            # of the commutator of a converged state, eV
    steps: int                  # iterations at most, of both kinds together
    switch: float               # commutator from which on Newton's method takes over, eV
    ridge: float
    history: int
    radius: float
    largest_radius: float
    shortenings: int
    near: float                 # eV
    coarse: float
    finest: float
    last_fraction: float
    inner: int
    smallest_pivot: float       # eV


class Ends(NamedTuple):
    """Where molecules begin and end: matrices end to end, and numbers of each."""

    D: Array                # densities
    F: Array                # Fock matrices, eV
    C: Array                # orbitals as rows, occupied ones first
    energy: Array           # electronic, eV
    residual: Array         # largest element of the gradient, eV; infinite: used up or stuck; nan: not finite
    gap: Array              # between occupied and empty levels, roughly, eV
    iterations: Array


@dataclass(frozen=True, eq=False)
class Plan:
    """Where the matrices and integrals of a batch lie."""

    indices: Whole                              # folded
    orbitals: Int[np.ndarray, "molecule"]
    size: int                                   # orbitals of the padded matrices
    inside: Int[np.ndarray, "element"] | None   # places of the matrix elements among the padded ones; None: nothing is padded


@dataclass(frozen=True, eq=False)
class Flat:
    """The two-electron integrals of a batch in flat arrays, eV."""

    plan: Plan
    one: Float[np.ndarray, "place_one"]     # one-centre blocks, where the plan places them
    two: Float[np.ndarray, "place_two"]     # two-centre blocks


def folded(indices: Indices) -> Whole:
    """The indices in one array."""
    counts = len(indices.orbitals), len(indices.first), len(indices.pair_i)
    return np.concatenate([counts, *indices]).astype(np.int64)


def ends(molecules: int, elements: int) -> tuple[Ends, Array, Array]:
    """Room for so many molecules whose matrices have so many elements, as it is and as the two arrays that it consists of: the
    matrices, and the numbers."""
    matrices, numbers = np.empty((3, elements)), np.zeros((4, molecules))
    numbers[2] = np.inf
    return Ends(*matrices, *numbers), matrices, numbers
