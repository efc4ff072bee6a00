"""The Fock matrix of one molecule from flat arrays of integrals: F = h + J(P) - K(D) (scf/fock.py has the equations).

Every atom has its first orbital, its number of orbitals n (1, 4 or 9) and the place of its one-centre block; every pair its two
atoms, the one with more orbitals first, and the place of its block. A block is a matrix over the m = n (n + 1)/2 packed
distributions of either atom: its element (x, y) lies at place + x row_stride + y. Densities are read in their upper triangles;
Fock matrices are written there and mirrored at the end. Both precisions, one or two spin channels.

Here and in all kernels a loop that adds up stores nothing else: machine code would add in another order where it finds that
arrays might overlap in memory, and equal calls would differ in the last digit.
"""

import numpy as np

from nddo_ml.common.jit import inlined, jit

TILE = 32       # rows and columns of a matrix that are handled at once, so that both sides of its diagonal stay in the cache


@inlined
def packed(a, b):
    """Where the product of two orbitals lies among the packed distributions (orbitals.packed_pairs)."""
    return a * (a + 1) // 2 + b if a >= b else b * (b + 1) // 2 + a


@jit
def exchange_4(w, at, stride, n_a, d, k):
    """k(a, b) = sum over c, e of (ac|be) d(c, e), where b and e are the four orbitals of an sp atom."""
    for a in range(n_a):
        for b in range(4):
            k[a, b] = 0
    x = at
    for a in range(n_a):
        a0, a1, a2, a3 = d[a, 0], d[a, 1], d[a, 2], d[a, 3]
        k0, k1, k2, k3 = k[a, 0], k[a, 1], k[a, 2], k[a, 3]
        for c in range(a):
            w0, w1, w2, w3, w4 = w[x], w[x + 1], w[x + 2], w[x + 3], w[x + 4]
            w5, w6, w7, w8, w9 = w[x + 5], w[x + 6], w[x + 7], w[x + 8], w[x + 9]
            c0, c1, c2, c3 = d[c, 0], d[c, 1], d[c, 2], d[c, 3]
            k0 += w0 * c0 + w1 * c1 + w3 * c2 + w6 * c3
            k1 += w1 * c0 + w2 * c1 + w4 * c2 + w7 * c3
            k2 += w3 * c0 + w4 * c1 + w5 * c2 + w8 * c3
            k3 += w6 * c0 + w7 * c1 + w8 * c2 + w9 * c3
            k[c, 0] += w0 * a0 + w1 * a1 + w3 * a2 + w6 * a3
            k[c, 1] += w1 * a0 + w2 * a1 + w4 * a2 + w7 * a3
            k[c, 2] += w3 * a0 + w4 * a1 + w5 * a2 + w8 * a3
            k[c, 3] += w6 * a0 + w7 * a1 + w8 * a2 + w9 * a3
            x += stride
        k[a, 0] = k0 + w[x] * a0 + w[x + 1] * a1 + w[x + 3] * a2 + w[x + 6] * a3
        k[a, 1] = k1 + w[x + 1] * a0 + w[x + 2] * a1 + w[x + 4] * a2 + w[x + 7] * a3
        k[a, 2] = k2 + w[x + 3] * a0 + w[x + 4] * a1 + w[x + 5] * a2 + w[x + 8] * a3
        k[a, 3] = k3 + w[x + 6] * a0 + w[x + 7] * a1 + w[x + 8] * a2 + w[x + 9] * a3
        x += stride


@jit
def exchange_41(w, at, stride, D, F, start, step):
    """The exchange of an sp atom with an s atom, whose densities lie at start, start + step, ...; taken from F, in the same
    places.
    """
    w0, w1, w2, w3, w4 = w[at], w[at + stride], w[at + 2 * stride], w[at + 3 * stride], w[at + 4 * stride]
    at += 5 * stride
    w5, w6, w7, w8, w9 = w[at], w[at + stride], w[at + 2 * stride], w[at + 3 * stride], w[at + 4 * stride]
    d0, d1, d2, d3 = D[start], D[start + step], D[start + 2 * step], D[start + 3 * step]
    F[start] -= w0 * d0 + w1 * d1 + w3 * d2 + w6 * d3
    F[start + step] -= w1 * d0 + w2 * d1 + w4 * d2 + w7 * d3
    F[start + 2 * step] -= w3 * d0 + w4 * d1 + w5 * d2 + w8 * d3
    F[start + 3 * step] -= w6 * d0 + w7 * d1 + w8 * d2 + w9 * d3


@jit
def exchange_9(w, at, stride, n_a, d, k, square):
    """The same where b and e are the nine orbitals of an spd atom. square (9 9): room for a row of the integrals, unpacked."""
    for a in range(n_a):
        for b in range(9):
            k[a, b] = 0
    row = at
    for a in range(n_a):
        for c in range(a + 1):
            y = row
            for b in range(9):
                for e in range(b + 1):
                    square[b, e] = w[y]
                    square[e, b] = w[y]
                    y += 1
            for e in range(9):
                t = d[c, e]
                for b in range(9):
                    k[a, b] += square[e, b] * t
            if a != c:
                for e in range(9):
                    t = d[a, e]
                    for b in range(9):
                        k[c, b] += square[e, b] * t
            row += stride


@jit
def potentials(w, at, stride, m_a, m_b, q_a, q_b, J_a, J_b):
    """Adds to J_a and J_b the potentials that the charge distributions of two atoms exert on each other."""
    for x in range(m_a):
        row, q, v = at + x * stride, q_a[x], w[at] * 0
        if m_b == 10:
            for y in range(10):
                v += w[row + y] * q_b[y]
            for y in range(10):
                J_b[y] += w[row + y] * q
        else:
            for y in range(m_b):
                v += w[row + y] * q_b[y]
            for y in range(m_b):
                J_b[y] += w[row + y] * q
        J_a[x] += v


@jit
def copy(A, out):
    """out = A, of two axes and any two precisions."""
    for i in range(A.shape[0]):
        for j in range(A.shape[1]):
            out[i, j] = A[i, j]


@jit
def mirror(F):
    """Copies the upper triangle of F to the lower one."""
    n = F.shape[0]
    for i0 in range(0, n, TILE):
        for j0 in range(i0, n, TILE):
            for i in range(i0, min(i0 + TILE, n)):
                for j in range(max(j0, i + 1), min(j0 + TILE, n)):
                    F[j, i] = F[i, j]


@jit
def fock(h, D, places, one, two, q, J, F):
    """F (spin n n) = h + J(P) - K(D), eV. D is read on and above the diagonal; q, J: room for the packed densities of the atoms
    and their potentials.
    """
    spins, n, first, n_ao = D.shape[0], D.shape[1], places.first, places.n_ao
    zero, atoms = D.dtype.type(0), len(places.first)
    D_flat, F_flat = D.reshape(spins * n * n), F.reshape(spins * n * n)
    d, k, square = np.empty((9, 9), D.dtype), np.empty((9, 9), D.dtype), np.empty((9, 9), D.dtype)
    for s in range(spins):
        for a in range(n):
            for b in range(a, n):
                F[s, a, b] = h[a, b]
    for A in range(atoms):
        o, n_a, m = first[A], n_ao[A], 0
        for a in range(n_a):
            for b in range(a + 1):
                v = D[0, o + b, o + a]
                if spins == 2:
                    v += D[1, o + b, o + a]
                q[A, m] = v * ((1 if a == b else 2) * (3 - spins))
                m += 1
        at, stride = places.one_at[A], places.one_stride[A]
        for x in range(m):
            v = zero
            for y in range(m):
                v += one[at + x * stride + y] * q[A, y]
            J[A, x] = v
    for p in range(-atoms, len(places.pair_i)):                 # an atom exchanges with itself as with another one
        if p < 0:
            A = B = p + atoms
            at, stride, w = places.one_at[A], places.one_stride[A], one
        else:
            A, B = places.pair_i[p], places.pair_j[p]
            at, stride, w = places.two_at[p], places.two_stride[p], two
        n_a, n_b, a0, b0 = n_ao[A], n_ao[B], first[A], first[B]
        if n_b == 0:
            continue
        start, step_a, step_b = (a0 * n + b0, n, 1) if a0 <= b0 else (b0 * n + a0, 1, n)
        if n_b == 1:
            m, v, q_b = n_a * (n_a + 1) // 2, zero, q[B, 0]
            if p >= 0:
                for x in range(m):
                    v += w[at + stride * x] * q[A, x]
                for x in range(m):
                    J[A, x] += w[at + stride * x] * q_b
                J[B, 0] += v
            for _ in range(spins):
                if n_a == 4:
                    exchange_41(w, at, stride, D_flat, F_flat, start, step_a)
                else:
                    for a in range(n_a):
                        v = zero
                        for c in range(n_a):
                            v += w[at + stride * packed(a, c)] * D_flat[start + c * step_a]
                        F_flat[start + a * step_a] -= v
                start += n * n
            continue
        if p >= 0:
            potentials(w, at, stride, n_a * (n_a + 1) // 2, n_b * (n_b + 1) // 2, q[A], q[B], J[A], J[B])
        for _ in range(spins):
            for a in range(n_a):
                for b in range(n_b):
                    d[a, b] = D_flat[start + a * step_a + b * step_b]
            if p < 0:
                for a in range(n_a):
                    for b in range(a):
                        d[a, b] = d[b, a]
            if n_b == 4:
                exchange_4(w, at, stride, n_a, d, k)
            else:
                exchange_9(w, at, stride, n_a, d, k, square)
            for a in range(n_a):
                for b in range(0 if p >= 0 else a, n_b):
                    F_flat[start + a * step_a + b * step_b] -= k[a, b]
            start += n * n
    for s in range(spins):
        for A in range(atoms):
            o, m = first[A], 0
            for a in range(n_ao[A]):
                for b in range(a + 1):
                    F[s, o + b, o + a] += J[A, m]
                    m += 1
        mirror(F[s])
