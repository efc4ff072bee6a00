"""Products and factors of dense matrices that the self-consistent field needs, in either precision, all contiguous.

What BLAS does goes through np.dot into arrays that are there already. Symmetric products are made in blocks of rows, half of
them, and mirrored.
"""

import numpy as np

from nddo_ml.common.jit import jit
from nddo_ml.scf.kernels.fock import TILE, mirror

BLOCK = 256         # rows of a symmetric product that are made at once
PANEL = 48          # rows of a triangular system that are solved at once


@jit
def gram(A, out):
    """out = A A^T."""
    m = A.shape[0]
    if m <= BLOCK:
        np.dot(A, A.T, out)
        return
    buffer = np.empty(BLOCK * m, A.dtype)
    for i0 in range(0, m, BLOCK):
        i1 = min(i0 + BLOCK, m)
        rows = buffer[:(i1 - i0) * (m - i0)].reshape(i1 - i0, m - i0)
        np.dot(A[i0:i1], A[i0:].T, rows)
        for i in range(i0, i1):
            for j in range(i, m):
                out[i, j] = rows[i - i0, j - i0]
    mirror(out)


@jit
def transposed(A, out):
    """out = A^T."""
    m, n = A.shape
    for i0 in range(0, m, TILE):
        for j0 in range(0, n, TILE):
            for i in range(i0, min(i0 + TILE, m)):
                for j in range(j0, min(j0 + TILE, n)):
                    out[j, i] = A[i, j]


@jit
def solve_lower(L, Y):
    """Y becomes L^-1 Y, L a lower triangle."""
    m, n = Y.shape
    block = np.empty(min(PANEL, m) * m, Y.dtype)
    product = np.empty(min(PANEL, m) * n, Y.dtype)
    for i0 in range(0, m, PANEL):
        i1 = min(i0 + PANEL, m)
        if i0 > 0:
            left = block[:(i1 - i0) * i0].reshape(i1 - i0, i0)
            for i in range(i0, i1):
                for j in range(i0):
                    left[i - i0, j] = L[i, j]
            done = product[:(i1 - i0) * n].reshape(i1 - i0, n)
            np.dot(left, Y[:i0], done)
            for i in range(i0, i1):
                for j in range(n):
                    Y[i, j] -= done[i - i0, j]
        for i in range(i0, i1):
            for k in range(i0, i):
                t = L[i, k]
                for j in range(n):
                    Y[i, j] -= t * Y[k, j]
            t = 1 / L[i, i]
            for j in range(n):
                Y[i, j] *= t


@jit
def projector(C, D):
    """D = C^T C of orbitals C (rows); zero where there are none."""
    if C.shape[0] == 0:
        for i in range(D.shape[0]):
            for j in range(D.shape[0]):
                D[i, j] = 0
        return
    columns = np.empty((C.shape[1], C.shape[0]), C.dtype)
    transposed(C, columns)
    gram(columns, D)


@jit
def energy_of(D, F, h):
    """The electronic energy, eV: half of tr P (F + h) over both spins."""
    total = 0.0
    spins, n = D.shape[0], D.shape[1]
    for s in range(spins):
        for i in range(n):
            row = 0.0
            for j in range(n):
                row += D[s, i, j] * (F[s, i, j] + h[i, j])
            total += row
    return total / spins


@jit
def solve_small(A, count):
    """x with A x = 1 for the leading `count` rows and columns of A, by elimination with pivots; A is overwritten."""
    x = np.ones(count)
    for i in range(count):
        p = i
        for r in range(i + 1, count):
            if abs(A[r, i]) > abs(A[p, i]):
                p = r
        if p != i:
            for j in range(count):
                A[i, j], A[p, j] = A[p, j], A[i, j]
            x[i], x[p] = x[p], x[i]
        for r in range(i + 1, count):
            t = A[r, i] / A[i, i]
            for j in range(i, count):
                A[r, j] -= t * A[i, j]
            x[r] -= t * x[i]
    for i in range(count - 1, -1, -1):
        for j in range(i + 1, count):
            x[i] -= A[i, j] * x[j]
        x[i] /= A[i, i]
    return x
