"""Fixed-point steps with DIIS from a start density into the reach of Newton's method: `rungs.iterate` of the first rung, for
one molecule after another in one precision.
"""

import numpy as np

from nddo_ml.common.jit import jit
from nddo_ml.scf.kernels.dense import energy_of, projector, solve_small
from nddo_ml.scf.kernels.fock import TILE, copy, fock
from nddo_ml.scf.kernels.places import matrices, places, widest


@jit
def finite(F):
    """Whether all of F is finite, in its lower triangle."""
    total = F.dtype.type(0)
    for s in range(F.shape[0]):
        for i in range(F.shape[1]):
            for j in range(i + 1):
                total += F[s, i, j] * 0
    return total == 0


@jit
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


@jit
def fixed_points(chosen, folded, h, one, two, occupied, rules, ends):
    """Fixed-point steps for each of the `chosen` molecules from its density in `ends`, in the precision of the integrals.
    Orbitals and iterations go there, and as residual what went wrong: infinite where the iterations are used up, nan where
    numbers are not finite, else 0.
    """
    spins, kind = occupied.shape[1], one.dtype
    for k in chosen:
        n, at = matrices(folded, k)
        own, size = places(folded, k), n * n
        if n == 0:
            continue
        h_k = h[at:at + size].reshape(n, n).astype(kind)
        at, width = at * spins, widest(own)
        D = ends.D[at:at + spins * size].reshape(spins, n, n).astype(kind)
        C, C_lowest, F, error = np.empty_like(D), np.empty_like(D), np.empty_like(D), np.empty_like(D)
        q, J, product = np.empty((len(own.first), width), kind), np.empty((len(own.first), width), kind), np.empty((n, n), kind)
        kept, overlap = np.empty((rules.history, spins, n, n), kind), np.zeros((rules.history, rules.history))
        wrong, used, lowest = np.inf, rules.steps, np.inf
        for step in range(rules.steps):
            fock(h_k, D, own, one, two, q, J, F)
            if not finite(F):
                wrong, used = np.nan, step + 1
                break
            if step > 0:
                largest, energy = commutators(F, D, product, error), energy_of(D, F, h_k)
                if energy < lowest:
                    lowest = energy
                    for s in range(spins):
                        copy(C[s], C_lowest[s])
                if largest < rules.switch:
                    if energy > lowest + 1e-3 + np.finfo(kind).eps * 10 * abs(energy):
                        for s in range(spins):
                            copy(C_lowest[s], C[s])
                    wrong, used = 0.0, step + 1
                    break
                count = min(step, rules.history)
                remember(kept, F, error, overlap, (step - 1) % rules.history, count)
                if step > 1:
                    combined(kept, overlap, count, rules.ridge, F)
                    if not finite(F):
                        wrong, used = np.nan, step + 1
                        break
            for s in range(spins):
                copy(np.linalg.eigh(F[s])[1].T, C[s])
                projector(C[s, :occupied[k, s]], D[s])
        for s in range(spins):
            copy(C[s], ends.C[at + s * size:at + (s + 1) * size].reshape(n, n))
        ends.iterations[k], ends.residual[k] = used, wrong
