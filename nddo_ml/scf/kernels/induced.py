"""The two-electron part of the Fock matrix for densities that stand alone: what the response operators of torch ask for."""

import numpy as np

from nddo_ml.common.jit import jit
from nddo_ml.scf.kernels.fock import fock
from nddo_ml.scf.kernels.places import matrices, places, widest


@jit
def induced(folded, vectors, spins, D, one, two, G):
    """G = J(P) - K(D), eV, of so many symmetric densities D of each molecule: matrices (vector, spin, orbital, orbital) of one
    molecule after the other, flat, in the precision of the integrals."""
    for k in range(folded[0]):
        n, at = matrices(folded, k)
        if n == 0:
            continue
        own, size = places(folded, k), spins * n * n
        width = widest(own)
        q, J = np.empty((len(own.first), width), one.dtype), np.empty((len(own.first), width), one.dtype)
        h = np.zeros((n, n), one.dtype)
        for v in range(vectors):
            start = at * spins * vectors + v * size
            fock(h, D[start:start + size].reshape(spins, n, n), own, one, two, q, J, G[start:start + size].reshape(spins, n, n))
