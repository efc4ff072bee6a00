"""Trust-region Newton steps from orbitals: `newton.newton` for one molecule, its inner solves in either precision.

Rotations X (virtual, occupied) of both spins lie end to end in one vector.
"""

import numpy as np

from nddo_ml.common.jit import jit
from nddo_ml.scf.kernels.dense import energy_of, gram, projector, solve_lower, transposed
from nddo_ml.scf.kernels.fock import TILE, copy, fock
from nddo_ml.scf.kernels.places import matrices, places, widest


@jit
def add_transposed(half, out):
    """out = half + half^T on and above the diagonal."""
    n = half.shape[0]
    for i0 in range(0, n, TILE):
        for j0 in range(i0, n, TILE):
            for i in range(i0, min(i0 + TILE, n)):
                for j in range(max(j0, i), min(j0 + TILE, n)):
                    out[i, j] = half[i, j] + half[j, i]


@jit
def orthonormal(Y, M):
    """Rows Y become orthonormal: L^-1 Y, L the Cholesky factor of 1 + M."""
    for i in range(M.shape[0]):
        M[i, i] += 1.0
    solve_lower(np.linalg.cholesky(M), Y)


@jit
def rotated(C, x, factor, occupied, out):
    """out: the orbitals C after the rotation factor x (rotations.rotate)."""
    spins, n = C.shape[0], C.shape[1]
    at = 0
    for s in range(spins):
        o = occupied[s]
        v = n - o
        if o * v == 0:
            copy(C[s], out[s])
            continue
        X, XT = np.empty((v, o)), np.empty((o, v))
        for a in range(v):
            for i in range(o):
                X[a, i] = x[at + a * o + i] * factor
        at += o * v
        transposed(X, XT)
        M_o, M_v = np.empty((o, o)), np.empty((v, v))
        gram(XT, M_o)
        gram(X, M_v)
        np.dot(XT, C[s, o:], out[s, :o])
        np.dot(X, C[s, :o], out[s, o:])
        for i in range(n):
            for j in range(n):
                out[s, i, j] = C[s, i, j] + out[s, i, j] if i < o else C[s, i, j] - out[s, i, j]
        orthonormal(out[s, :o], M_o)
        orthonormal(out[s, o:], M_v)


@jit
def polish(C):
    """Makes orbitals C that are orthonormal in single precision so in double: C + (E/2 + 3/8 E^2) C with E = 1 - C C^T, two
    steps of Newton and Schulz in one; what is small is multiplied in single precision.
    """
    n = C.shape[0]
    E, E4, C4, T = np.empty((n, n)), np.empty((n, n), np.float32), np.empty((n, n), np.float32), np.empty((n, n), np.float32)
    gram(C, E)
    for i in range(n):
        E[i, i] -= 1.0
        for j in range(n):
            E4[i, j], C4[i, j] = -E[i, j], C[i, j]
    np.dot(E4, E4, T)
    for i in range(n):
        for j in range(n):
            E4[i, j] = np.float32(0.5) * E4[i, j] + np.float32(0.375) * T[i, j]
    np.dot(E4, C4, T)
    for i in range(n):
        for j in range(n):
            C[i, j] += T[i, j]


@jit
def gradient(F, C, occupied, FC_o, r):
    """The largest element of the gradient r = C_v^T F C_o, and F C_o (as rows, of both spins)."""
    largest, total, at, row = 0.0, 0.0, 0, 0
    for s in range(C.shape[0]):
        o = occupied[s]
        v = C.shape[1] - o
        if o * v > 0:
            np.dot(C[s, :o], F[s], FC_o[row:row + o])
            R = r[at:at + o * v].reshape(v, o)
            np.dot(C[s, o:], FC_o[row:row + o].T, R)
            for a in range(v):
                for i in range(o):
                    largest = max(largest, abs(R[a, i]))
                    total += R[a, i]
        at, row = at + o * v, row + o
    return largest if np.isfinite(total) else np.nan


@jit
def levels(F, C, occupied, FC_o, F_oo, F_vv):
    """F within the occupied and within the virtual orbitals of each spin, end to end; FC_o as in `gradient`."""
    row = at_o = at_v = 0
    for s in range(C.shape[0]):
        o = occupied[s]
        v = C.shape[1] - o
        if o * v > 0:
            np.dot(FC_o[row:row + o], C[s, :o].T, F_oo[at_o:at_o + o * o].reshape(o, o))
            FC_v = np.dot(C[s, o:], F[s])
            np.dot(FC_v, C[s, o:].T, F_vv[at_v:at_v + v * v].reshape(v, v))
        row, at_o, at_v = row + o, at_o + o * o, at_v + v * v


@jit
def pivots(F_oo, F_vv, occupied, n, smallest, M):
    """The smallest difference of an empty and an occupied level, eV; M: the preconditioner of the inner solves."""
    gap, at, at_o, at_v = np.inf, 0, 0, 0
    for s in range(len(occupied)):
        o = occupied[s]
        v = n - o
        for a in range(v):
            for i in range(o):
                difference = F_vv[at_v + a * v + a] - F_oo[at_o + i * o + i]
                gap = min(gap, float(difference))
                M[at + a * o + i] = max(abs(difference), M.dtype.type(smallest))
        at, at_o, at_v = at + o * v, at_o + o * o, at_v + v * v
    return gap


@jit
def inner_solve(r, F, C, occupied, FC_o, places, one, two, radius, loose, inner, smallest, x_out, left_out):
    """The smallest difference of an empty and an occupied level, eV; x with J x = -r, J the response operator (rotations.py),
    to the relative tolerance `loose` and no longer than `radius`, and the residual -r - J x (newton.conjugate_gradients).

    All arrays but the last two have the precision of the solve. FC_o: F C_o as rows, of both spins.
    """
    kind, N, spins, n, atoms = r.dtype.type, len(r), C.shape[0], C.shape[1], len(places.first)
    oo = vv = 0
    for s in range(spins):
        oo += occupied[s] * occupied[s]
        vv += (n - occupied[s]) * (n - occupied[s])
    F_oo, F_vv, M = np.empty(oo, r.dtype), np.empty(vv, r.dtype), np.empty(N, r.dtype)
    levels(F, C, occupied, FC_o, F_oo, F_vv)
    gap = pivots(F_oo, F_vv, occupied, n, smallest, M)
    width = widest(places)
    q, J = np.empty((atoms, width), r.dtype), np.empty((atoms, width), r.dtype)
    x, left, p, Jp = np.zeros(N, r.dtype), np.empty(N, r.dtype), np.empty(N, r.dtype), np.empty(N, r.dtype)
    half, dD, G, h = np.empty((n, n), r.dtype), np.empty_like(C), np.empty_like(C), np.zeros((n, n), r.dtype)
    tiny = float(np.finfo(r.dtype).tiny)
    bb = rz = 0.0
    for t in range(N):
        left[t] = -r[t]
        p[t] = left[t] / M[t]
    for t in range(N):
        bb += left[t] * left[t]
        rz += left[t] * p[t]
    goal = loose * loose * bb
    for _ in range(inner if rz > 0 else 0):
        at = 0
        for s in range(spins):
            o = occupied[s]
            v = n - o
            X = p[at:at + o * v].reshape(v, o)
            at += o * v
            if o * v > 0 and o <= v:
                np.dot(C[s, :o].T, np.dot(X.T, C[s, o:]), half)
            elif o * v > 0:
                np.dot(C[s, o:].T, np.dot(X, C[s, :o]), half)
            else:
                copy(h, half)
            add_transposed(half, dD[s])
        fock(h, dD, places, one, two, q, J, G)
        at = at_o = at_v = 0
        for s in range(spins):
            o = occupied[s]
            v = n - o
            if o * v > 0:
                X, Y = p[at:at + o * v].reshape(v, o), Jp[at:at + o * v].reshape(v, o)
                if o <= v:
                    W = np.dot(C[s, o:], np.dot(C[s, :o], G[s]).T)
                else:
                    W = np.dot(np.dot(C[s, o:], G[s]), C[s, :o].T)
                np.dot(X, F_oo[at_o:at_o + o * o].reshape(o, o), Y)
                for a in range(v):
                    for i in range(o):
                        W[a, i] -= Y[a, i]
                np.dot(F_vv[at_v:at_v + v * v].reshape(v, v), X, Y)
                for a in range(v):
                    for i in range(o):
                        Y[a, i] += W[a, i]
            at, at_o, at_v = at + o * v, at_o + o * o, at_v + v * v
        curvature = length = 0.0
        for t in range(N):
            curvature += p[t] * Jp[t]
        ended = curvature <= 0
        alpha = 0.0 if ended else rz / curvature
        for t in range(N):
            w = x[t] + alpha * p[t]
            length += w * w
        if ended or length > radius * radius:
            ended = True
            xp = pp = xx = 0.0
            for t in range(N):
                xp += x[t] * p[t]
                pp += p[t] * p[t]
                xx += x[t] * x[t]
            pp = max(pp, tiny)
            alpha = (-xp + np.sqrt(xp * xp + pp * max(radius * radius - xx, 0.0))) / pp
        step, rr = kind(alpha), 0.0
        for t in range(N):
            x[t] += step * p[t]
            left[t] -= step * Jp[t]
        for t in range(N):
            rr += left[t] * left[t]
        if ended or not rr > goal:
            break
        before, rz = max(rz, tiny), 0.0
        for t in range(N):
            rz += left[t] * (left[t] / M[t])
        beta = kind(rz / before)
        for t in range(N):
            p[t] = left[t] / M[t] + beta * p[t]
    for t in range(N):
        x_out[t] = x[t]
        left_out[t] = left[t]
    return gap


@jit
def newtons(chosen, folded, h, one, two, one_r, two_r, rough, occupied, rules, ends):
    """Newton's method for each of the `chosen` molecules from its orbitals in `ends`, where it leaves what it finds.

    one_r, two_r: the integrals in the precision of the inner solves. rough: the orbitals come from single precision.
    """
    spins, kind = occupied.shape[1], one_r.dtype
    for k in chosen:
        n, at = matrices(folded, k)
        if n == 0 or not ends.residual[k] == 0:
            continue
        own, size, filled = places(folded, k), n * n, occupied[k]
        h_k = h[at:at + size].reshape(n, n)
        at, limit, width = at * spins, rules.steps - ends.iterations[k], widest(own)
        D = ends.D[at:at + spins * size].reshape(spins, n, n)
        F = ends.F[at:at + spins * size].reshape(spins, n, n)
        C = ends.C[at:at + spins * size].reshape(spins, n, n)
        N = rows = 0
        for s in range(spins):
            if rough:
                polish(C[s])
            N += filled[s] * (n - filled[s])
            rows += filled[s]
        q, J = np.empty((len(own.first), width)), np.empty((len(own.first), width))
        r, x, left, FC_o, trial = np.empty(N), np.empty(N), np.empty(N), np.empty((rows, n)), C.copy()
        c, radius, length, model, gap, energy, residual = 4.0 / spins, rules.radius, 0.0, 0.0, np.inf, np.inf, np.inf
        steps, shortened, factor = -1, 0, 1.0
        while True:
            for s in range(spins):
                projector(trial[s, :filled[s]], D[s])
            fock(h_k, D, own, one, two, q, J, F)
            new = energy_of(D, F, h_k)
            if new > energy + 1e-11 * abs(energy) + 1e-9:
                if shortened == rules.shortenings:
                    energy, residual, steps = new, np.inf, steps + 1
                    break
                shortened, factor = shortened + 1, 0.25 * factor
            else:
                if factor < 1:
                    radius = max(length * factor, 1e-3)
                elif new - energy < 0.75 * model and length > 0.9 * radius:
                    radius = min(2 * radius, rules.largest_radius)
                energy, steps, shortened, factor = new, steps + 1, 0, 1.0
                for s in range(spins):
                    copy(trial[s], C[s])
                residual = gradient(F, C, filled, FC_o, r)
                if not np.isfinite(energy + residual):
                    residual = np.nan
                    break
                done = residual <= rules.tolerance or steps >= limit
                if N == 0 or (done and steps > 0):
                    break
                last = min(max(rules.last_fraction * rules.tolerance / max(residual, 1e-30), rules.finest), rules.coarse)
                loose = rules.coarse if residual > rules.near else last
                gap = inner_solve(r.astype(kind), F.astype(kind), C.astype(kind), filled, FC_o.astype(kind), own, one_r, two_r,
                                  radius, loose, 0 if done else rules.inner, rules.smallest_pivot, x, left)
                if done:                # without a step only the gap was wanted
                    break
                model = length = 0.0
                for t in range(N):
                    model += 0.5 * x[t] * (-r[t] - left[t]) + x[t] * r[t]
                    length += x[t] * x[t]
                model, length = c * model, np.sqrt(length)
                if not np.isfinite(length):
                    residual = np.nan
                    break
            rotated(C, x, factor, filled, trial)
        ends.energy[k], ends.residual[k], ends.gap[k] = energy, residual, gap
        ends.iterations[k] += steps
