"""Fixed-point steps with DIIS from a start density into the reach of Newton's method: `rungs.iterate` of the first rung, for one
molecule in one precision.
"""

import numpy as np

from nddo_ml.common.jit import inlined, jit
from nddo_ml.scf.kernels.dense import energy_of, projector, solve_small
from nddo_ml.scf.kernels.fock import TILE, copy, fock
from nddo_ml.scf.kernels.records import own


@inlined
def finite(F):
    """Whether all of F is finite."""
    total = F.dtype.type(0)
    for s in range(F.shape[0]):
        for i in range(F.shape[1]):
            for j in range(F.shape[2]):
                total += F[s, i, j] * 0
    return total == 0


@inlined
def commutators(F, D, product, error):
    """error = F D - D F of each spin, above the diagonal; its largest element. product: room for a matrix."""
    spins, n = F.shape[0], F.shape[1]
    largest = F.dtype.type(0)
    for s in range(spins):
        np.dot(F[s], D[s], product)
        for i0 in range(0, n, TILE):
            for j0 in range(i0, n, TILE):
                for i in range(i0, min(i0 + TILE, n)):
                    for j in range(max(j0, i + 1), min(j0 + TILE, n)):
                        t = product[i, j] - product[j, i]
                        error[s, i, j] = t
                        largest = max(largest, abs(t))
    return largest


@jit
def remember(kept, F, error, overlap, place, count):
    """Keeps F (lower triangle with diagonal) and its error (above it) at `place` of the history, and the products of errors."""
    spins, n = F.shape[0], F.shape[1]
    for s in range(spins):
        for i in range(n):
            for j in range(i + 1):
                kept[place, s, i, j] = F[s, i, j]
            for j in range(i + 1, n):
                kept[place, s, i, j] = error[s, i, j]
    for m in range(count):
        total = 0.0
        for s in range(spins):
            for i in range(n):
                row = 0.0
                for j in range(i + 1, n):
                    row += kept[m, s, i, j] * error[s, i, j]
                total += row
        overlap[place, m] = total
        overlap[m, place] = total


@jit
def combined(kept, overlap, count, ridge, F):
    """F of the history that minimises the norm of the combined commutator (accelerate.diis)."""
    scale = 0.0
    for m in range(count):
        scale = max(scale, overlap[m, m])
    scale = max(scale, 1e-300)
    small, total = np.empty((count, count)), 0.0
    for m in range(count):
        for k in range(count):
            small[m, k] = overlap[m, k] / scale
        small[m, m] += ridge
    c = solve_small(small, count)
    for m in range(count):
        total += c[m]
    spins, n = F.shape[0], F.shape[1]
    for s in range(spins):
        for i in range(n):
            for j in range(i + 1):
                F[s, i, j] = 0
            for m in range(count):
                t = F.dtype.type(c[m] / total)
                for j in range(i + 1):
                    F[s, i, j] += t * kept[m, s, i, j]


@inlined
def fixed_point(h, D, occupied, places, one, two, rules, C):
    """(iterations, what went wrong) from the density D, which is overwritten, to orbitals C in the reach of Newton's method.

    Wrong is infinite where the iterations are used up, nan where numbers are not finite, else 0.
    """
    spins, n, atoms = D.shape[0], D.shape[1], len(places.first)
    width = 1
    for A in range(atoms):
        width = max(width, places.n_ao[A] * (places.n_ao[A] + 1) // 2)
    q, J = np.empty((atoms, width), D.dtype), np.empty((atoms, width), D.dtype)
    F, error, product = np.empty_like(D), np.empty_like(D), np.empty((n, n), D.dtype)
    kept, overlap = np.empty((rules.history, spins, n, n), D.dtype), np.zeros((rules.history, rules.history))
    lowest, C_lowest = np.inf, np.empty_like(C)
    for k in range(rules.steps):
        fock(h, D, places, one, two, q, J, F)
        if not finite(F):
            return k + 1, np.nan
        if k > 0:
            largest = commutators(F, D, product, error)
            energy = energy_of(D, F, h)
            if energy < lowest:
                lowest = energy
                for s in range(spins):
                    copy(C[s], C_lowest[s])
            if largest < rules.switch:
                if energy > lowest + 1e-3 + np.finfo(D.dtype).eps * 10 * abs(energy):
                    for s in range(spins):
                        copy(C_lowest[s], C[s])
                return k + 1, 0.0
            place, count = (k - 1) % rules.history, min(k, rules.history)
            remember(kept, F, error, overlap, place, count)
            if k > 1:
                combined(kept, overlap, count, rules.ridge, F)
        for s in range(spins):
            copy(np.linalg.eigh(F[s])[1].T, C[s])
            projector(C[s, :occupied[s]], D[s])
    return rules.steps, np.inf


@jit
def fixed_points(chosen, ranges, places, h, one, two, occupied, rules, ends):
    """Fixed-point steps for each of the `chosen` molecules from its density in `ends`, in the precision of the integrals; orbitals,
    iterations and what went wrong go there too.
    """
    spins, kind = occupied.shape[1], one.dtype
    for k in chosen:
        n, m = ranges.orbitals[k], ranges.elements[k]
        if n == 0:
            continue
        at, size = m * spins, n * n
        D = ends.D[at:at + spins * size].reshape(spins, n, n).astype(kind)
        C = np.empty((spins, n, n), kind)
        used, wrong = fixed_point(h[m:m + size].reshape(n, n).astype(kind), D, occupied[k], own(places, ranges, k), one, two,
                                  rules, C)
        for s in range(spins):
            copy(C[s], ends.C[at + s * size:at + (s + 1) * size].reshape(n, n))
        ends.iterations[k], ends.residual[k] = used, wrong
