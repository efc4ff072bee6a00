"""The molecules of a batch, one after another: fixed-point steps and Newton's method for each, results into flat arrays."""

from typing import NamedTuple

import numpy as np

from nddo_ml.common.jit import jit
from nddo_ml.scf.kernels.fixed_point import fixed_point
from nddo_ml.scf.kernels.fock import Places
from nddo_ml.scf.kernels.newton import newton, polished


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


@jit
def molecules(chosen, ranges, places, h, one, two, one4, two4, single_from, occupied, rules, from_orbitals, ends):
    """The self-consistent field of the `chosen` molecules, into `ends`.

    single_from: orbitals from which on early iterations and inner solves run in single precision, for which one4 and two4 are
    needed.
    """
    spins = occupied.shape[1]
    for k in chosen:
        n = ranges.orbitals[k]
        if n == 0:
            continue
        a, b, p, e, m = ranges.atoms[k], ranges.atoms[k + 1], ranges.pairs[k], ranges.pairs[k + 1], ranges.elements[k]
        own = Places(places.first[a:b], places.n_ao[a:b], places.one_at[a:b], places.one_stride[a:b],
                     places.pair_i[p:e], places.pair_j[p:e], places.two_at[p:e], places.two_stride[p:e])
        start, size = m * spins, n * n
        D = ends.D[start:start + spins * size].reshape(spins, n, n)
        F = ends.F[start:start + spins * size].reshape(spins, n, n)
        C = ends.C[start:start + spins * size].reshape(spins, n, n)
        h_k, single = h[m:m + size].reshape(n, n), n >= single_from
        used, wrong = 0, 0.0
        if not from_orbitals and single:
            C4 = np.empty(C.shape, np.float32)
            used, wrong = fixed_point(h_k.astype(np.float32), D.astype(np.float32), occupied[k], own, one4, two4, rules, C4)
            if wrong == 0:
                polished(C4, C)
        elif not from_orbitals:
            used, wrong = fixed_point(h_k, D, occupied[k], own, one, two, rules, C)
        ends.iterations[k], ends.residual[k] = used, wrong
        if wrong == 0:
            limit = rules.steps - used
            ended = newton(h_k, C, occupied[k], own, one, two, one4, two4, single, rules, limit, D, F)
            ends.energy[k], ends.residual[k], ends.gap[k] = ended[0], ended[1], ended[2]
            ends.iterations[k] = used + ended[3]
