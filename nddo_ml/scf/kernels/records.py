"""What the kernels are given: places, ranges and rules, and where they write to."""

from typing import NamedTuple

import numpy as np

from nddo_ml.common.jit import jit


class Places(NamedTuple):
    """Where the orbitals and integrals of the atoms of a molecule lie, and those of its pairs."""

    first: np.ndarray           # first orbital of each atom
    n_ao: np.ndarray            # its orbitals
    one_at: np.ndarray          # where its block begins in the one-centre integrals
    one_stride: np.ndarray      # from row to row there
    pair_i: np.ndarray          # atom with more orbitals of each pair
    pair_j: np.ndarray          # the other one
    two_at: np.ndarray          # where its block begins in the two-centre integrals
    two_stride: np.ndarray      # from row to row there


class Ranges(NamedTuple):
    """Which atoms, pairs and matrix elements are those of molecule k: from entry k to entry k + 1; and its orbitals."""

    atoms: np.ndarray
    pairs: np.ndarray
    elements: np.ndarray        # of one matrix; with several spins a molecule's matrices follow each other
    orbitals: np.ndarray        # of each molecule


class Ends(NamedTuple):
    """Where every molecule ended: matrices end to end, one number per molecule."""

    D: np.ndarray
    F: np.ndarray
    C: np.ndarray               # orbitals as rows, occupied ones first; holds those to start from
    energy: np.ndarray
    residual: np.ndarray        # infinite: stuck; nan: not finite
    gap: np.ndarray
    iterations: np.ndarray


class Rules(NamedTuple):
    """The constants that decide, from rungs.py, accelerate.py and newton.py."""

    tolerance: float            # of the commutator of a converged state, eV
    steps: int                  # iterations at most, of both kinds together
    switch: float               # eV
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


@jit
def own(places, ranges, k):
    """The places of molecule k."""
    a, b, p, e = ranges.atoms[k], ranges.atoms[k + 1], ranges.pairs[k], ranges.pairs[k + 1]
    return Places(places.first[a:b], places.n_ao[a:b], places.one_at[a:b], places.one_stride[a:b],
                  places.pair_i[p:e], places.pair_j[p:e], places.two_at[p:e], places.two_stride[p:e])
