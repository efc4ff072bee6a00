"""The frame of a pair: its axes, the rotation of vectors and quadrupoles, and how both answer when the axis turns.

The frame is that of `integrals.frame`: third axis along u, a Householder reflection. Matrices of components (or orbitals) fall
into blocks of angular momentum 0, 1, 2; each block is turned by itself.
"""

import numpy as np

from nddo_ml.common.jit import bare_inlined
from nddo_ml.integrals.frame import D_TENSORS

TENSORS = np.ascontiguousarray(D_TENSORS)


@bare_inlined
def turn(u, E, quadrupole):
    """E (3, 3): axes of the frame along u, rows e_x, e_y, e_z = u.  quadrupole (5, 5): d functions of the laboratory (rows) by
    those of the frame (columns); left alone where it has no rows.
    """
    s = np.copysign(1.0, u[2])
    v0, v1, v2 = u[0], u[1], u[2] + s
    v = (v0, v1, v2)
    for a in range(3):
        for b in range(3):
            E[a, b] = v[a] * v[b] / v2 - (s if a == b else 0.0)
    if len(quadrupole) == 0:
        return
    k = 2.0 * TENSORS[0, 0, 0] / 3.0 * 2.0
    half = 0.5 * k
    for m in range(5):
        xx = yy = zz = xy = xz = yz = 0.0
        for A in range(3):
            for B in range(3):
                t = TENSORS[m, A, B]
                if t != 0.0:
                    xx += E[A, 0] * t * E[B, 0]
                    yy += E[A, 1] * t * E[B, 1]
                    zz += E[A, 2] * t * E[B, 2]
                    xy += E[A, 0] * t * E[B, 1]
                    xz += E[A, 0] * t * E[B, 2]
                    yz += E[A, 1] * t * E[B, 2]
        quadrupole[0, m] = half * (xx - yy)      # 2/3 Tr(T_a X)
        quadrupole[1, m] = k * xz
        quadrupole[2, m] = (2.0 * zz - xx - yy) / 3.0
        quadrupole[3, m] = k * yz
        quadrupole[4, m] = k * xy


@bare_inlined
def along(u, momenta, values, slopes):
    """Harmonics of an atom's components along u into `values`, and into `slopes` (component, 3) their derivatives by u; momenta:
    the angular momentum of each kind of component."""
    place = 0
    for l in momenta:
        if l == 0:
            values[place] = 1.0
            slopes[place, 0] = slopes[place, 1] = slopes[place, 2] = 0.0
            place += 1
        elif l == 1:
            for a in range(3):
                values[place + a] = u[a]
                for b in range(3):
                    slopes[place + a, b] = 1.0 if a == b else 0.0
            place += 3
        else:
            for m in range(5):
                total = 0.0
                for a in range(3):
                    half = 0.0
                    for b in range(3):
                        half += TENSORS[m, a, b] * u[b]
                    slopes[place + m, a] = 2.0 * half
                    total += u[a] * half
                values[place + m] = total
            place += 5


@bare_inlined
def to_laboratory(M, momenta_i, momenta_j, E, quadrupole, row):
    """M <- R_i M R_j^T in place: a matrix of components of two atoms, or of their orbitals, from the frame of the pair to the
    laboratory. row: scratch of 5 values."""
    columns = 0
    for l in momenta_j:
        columns += 2 * l + 1
    rows = 0
    for l in momenta_i:
        if l == 1:
            for c in range(columns):
                for a in range(3):
                    row[a] = E[0, a] * M[rows, c] + E[1, a] * M[rows + 1, c] + E[2, a] * M[rows + 2, c]
                for a in range(3):
                    M[rows + a, c] = row[a]
        elif l == 2:
            for c in range(columns):
                for a in range(5):
                    total = 0.0
                    for A in range(5):
                        total += quadrupole[a, A] * M[rows + A, c]
                    row[a] = total
                for a in range(5):
                    M[rows + a, c] = row[a]
        rows += 2 * l + 1
    place = 0
    for l in momenta_j:
        if l == 1:
            for r in range(rows):
                for a in range(3):
                    row[a] = E[0, a] * M[r, place] + E[1, a] * M[r, place + 1] + E[2, a] * M[r, place + 2]
                for a in range(3):
                    M[r, place + a] = row[a]
        elif l == 2:
            for r in range(rows):
                for a in range(5):
                    total = 0.0
                    for A in range(5):
                        total += quadrupole[a, A] * M[r, place + A]
                    row[a] = total
                for a in range(5):
                    M[r, place + a] = row[a]
        place += 2 * l + 1


@bare_inlined
def to_frame(M, momenta_i, momenta_j, E, quadrupole, row):
    """M <- R_i^T M R_j in place, the adjoint of `to_laboratory`."""
    columns = 0
    for l in momenta_j:
        columns += 2 * l + 1
    rows = 0
    for l in momenta_i:
        if l == 1:
            for c in range(columns):
                for A in range(3):
                    row[A] = E[A, 0] * M[rows, c] + E[A, 1] * M[rows + 1, c] + E[A, 2] * M[rows + 2, c]
                for A in range(3):
                    M[rows + A, c] = row[A]
        elif l == 2:
            for c in range(columns):
                for A in range(5):
                    total = 0.0
                    for a in range(5):
                        total += quadrupole[a, A] * M[rows + a, c]
                    row[A] = total
                for A in range(5):
                    M[rows + A, c] = row[A]
        rows += 2 * l + 1
    place = 0
    for l in momenta_j:
        if l == 1:
            for r in range(rows):
                for A in range(3):
                    row[A] = E[A, 0] * M[r, place] + E[A, 1] * M[r, place + 1] + E[A, 2] * M[r, place + 2]
                for A in range(3):
                    M[r, place + A] = row[A]
        elif l == 2:
            for r in range(rows):
                for A in range(5):
                    total = 0.0
                    for a in range(5):
                        total += quadrupole[a, A] * M[r, place + a]
                    row[A] = total
                for A in range(5):
                    M[r, place + A] = row[A]
        place += 2 * l + 1


@bare_inlined
def turning(M, p, c, generator_i, generator_j):
    """What the weight of element (p, c) of a matrix of components becomes when the axis turns towards e_x and towards e_y of the
    frame: M (row, column) are the weights, generators as in `tables.Generator`."""
    at, of, value = generator_i.at, generator_i.of, generator_i.value
    x = y = 0.0
    for t in range(at[0, p], at[0, p + 1]):
        x += value[t] * M[of[t], c]
    for t in range(at[1, p], at[1, p + 1]):
        y += value[t] * M[of[t], c]
    at, of, value = generator_j.at, generator_j.of, generator_j.value
    for t in range(at[0, c], at[0, c + 1]):
        x += value[t] * M[p, of[t]]
    for t in range(at[1, c], at[1, c + 1]):
        y += value[t] * M[p, of[t]]
    return x, y
