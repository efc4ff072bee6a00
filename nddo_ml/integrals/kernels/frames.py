"""The frame of a pair: its axes, the rotation of vectors and quadrupoles, and how both answer when the axis turns.

The frame is that of `integrals.frame`: third axis along u, a Householder reflection. Matrices of components (or orbitals) fall
into blocks of angular momentum 0, 1, 2; each block is turned by itself.
"""

import numpy as np

from nddo_ml.common.jit import bare_inlined
from nddo_ml.integrals.frame import D_TENSORS

TENSORS = np.ascontiguousarray(D_TENSORS)


@bare_inlined
def turn(u, scratch):
    """The frame along u: scratch.E its axes as rows e_x, e_y, e_z = u, scratch.vectors its transpose; scratch.quadrupole the d
    functions of the laboratory (rows) by those of the frame (columns), scratch.quadrupole_back its transpose.
    """
    E, back, D, D_back = scratch.E, scratch.vectors, scratch.quadrupole, scratch.quadrupole_back
    s = 1.0 if u[2] > 0.0 or (u[2] == 0.0 and 1.0 / u[2] > 0.0) else -1.0
    v0, v1, v2 = u[0], u[1], u[2] + s
    E[0, 0], E[0, 1], E[0, 2] = v0 * v0 / v2 - s, v0 * v1 / v2, v0
    E[1, 0], E[1, 1], E[1, 2] = v1 * v0 / v2, v1 * v1 / v2 - s, v1
    E[2, 0], E[2, 1], E[2, 2] = v0, v1, u[2]
    for a in range(3):
        for b in range(3):
            back[a, b] = E[b, a]
    k = 4.0 / 3.0 * TENSORS[0, 0, 0]
    half = 0.5 * k
    for m in range(5):
        xx = yy = zz = xy = xz = yz = 0.0
        for A in range(3):
            # row A of T_m E
            x = TENSORS[m, A, 0] * E[0, 0] + TENSORS[m, A, 1] * E[1, 0] + TENSORS[m, A, 2] * E[2, 0]
            y = TENSORS[m, A, 0] * E[0, 1] + TENSORS[m, A, 1] * E[1, 1] + TENSORS[m, A, 2] * E[2, 1]
            z = TENSORS[m, A, 0] * E[0, 2] + TENSORS[m, A, 1] * E[1, 2] + TENSORS[m, A, 2] * E[2, 2]
            xx += E[A, 0] * x
            yy += E[A, 1] * y
            zz += E[A, 2] * z
            xy += E[A, 0] * y
            xz += E[A, 0] * z
            yz += E[A, 1] * z
        D[0, m] = half * (xx - yy)      # 2/3 Tr(T_a X)
        D[1, m] = k * xz
        D[2, m] = (2.0 * zz - xx - yy) / 3.0
        D[3, m] = k * yz
        D[4, m] = k * xy
        for a in range(5):
            D_back[m, a] = D[a, m]


@bare_inlined
def along(u, momenta, values, slopes):
    """Harmonics of an atom's components along u into `values`, and into `slopes` (component, 3) their derivatives by u;
    momenta: the angular momentum of each kind of component."""
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
def turn_rows(M, start, l, columns, R, row):
    """Rows start to start + 2 l of M (l = 1 or 2) become R times them, in place; R (2 l + 1, 2 l + 1), row: scratch."""
    size = 2 * l + 1
    for a in range(size):
        for c in range(columns):
            row[a, c] = R[a, 0] * M[start, c]
        for A in range(1, size):
            for c in range(columns):
                row[a, c] += R[a, A] * M[start + A, c]
    for a in range(size):
        for c in range(columns):
            M[start + a, c] = row[a, c]


@bare_inlined
def turn_columns(M, start, l, rows, R, row):
    """Columns start to start + 2 l of M become themselves times R^T, in place."""
    size = 2 * l + 1
    for r in range(rows):
        for a in range(size):
            total = 0.0
            for A in range(size):
                total += R[a, A] * M[r, start + A]
            row[0, a] = total
        for a in range(size):
            M[r, start + a] = row[0, a]


@bare_inlined
def both_sides(M, momenta_i, momenta_j, vectors, quadrupoles, row):
    """M <- R_i M R_j^T in place, R made of the blocks `vectors` for l = 1 and `quadrupoles` for l = 2."""
    columns = 0
    for l in momenta_j:
        columns += 2 * l + 1
    rows = 0
    for l in momenta_i:
        if l:
            turn_rows(M, rows, l, columns, vectors if l == 1 else quadrupoles, row)
        rows += 2 * l + 1
    place = 0
    for l in momenta_j:
        if l:
            turn_columns(M, place, l, rows, vectors if l == 1 else quadrupoles, row)
        place += 2 * l + 1


@bare_inlined
def to_laboratory(M, momenta_i, momenta_j, scratch):
    """M <- R_i M R_j^T in place: a matrix of components of two atoms, or of their orbitals, from the frame of the pair (`turn`)
    to the laboratory."""
    both_sides(M, momenta_i, momenta_j, scratch.vectors, scratch.quadrupole, scratch.row)


@bare_inlined
def to_frame(M, momenta_i, momenta_j, scratch):
    """M <- R_i^T M R_j in place, the adjoint of `to_laboratory`."""
    both_sides(M, momenta_i, momenta_j, scratch.E, scratch.quadrupole_back, scratch.row)


@bare_inlined
def turning(M, p, c, generator_i, generator_j):
    """What the weight of element (p, c) of a matrix of components becomes when the axis turns towards e_x and towards e_y of
    the frame: M (row, column) are the weights, generators as in `records.Turning`."""
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
