"""Overlaps of Slater functions in the frame of a pair, with their derivatives by the distance and both exponents.

    S = (zeta_a/z)^(n_a+1/2) (zeta_b/z)^(n_b+1/2) sum_j (R z)^j sum_q X_q W_jq,    X_q = A_q B_q,  z = zeta_a + zeta_b
    A_q = exp[-R/2 zeta_a (1 + nu_q)],   B_q = exp[-R/2 zeta_b (1 - nu_q)]

W are the constants of `overlap.polynomials` at the Gauss-Legendre nodes nu_q.
"""

from math import exp, sqrt

from nddo_ml.common.jit import bare_inlined


@bare_inlined
def quadrature(R, low, high, powers, slater):
    """Which of the quadratures is enough for exponents between `low` and `high` (1/bohr) at distance R (bohr); see
    overlap.POINTS."""
    b, ratio = 0.5 * R * (high - low), (high / low - 1.0) * powers
    for k in range(len(slater.nodes_at) - 2):
        if b <= slater.rules[k, 0] - slater.rules[k, 1] * powers or ratio <= slater.rules[k, 2]:
            return k
    return len(slater.nodes_at) - 2


@bare_inlined
def halves(c, sign, start, count, nodes, values):
    """exp[c (1 + sign nu)], c < 0, at the nodes nu, which lie symmetrically about zero: two of them share an exponential, the
    larger one."""
    twice = exp(2.0 * c)
    for q in range(count // 2):                 # the first half is negative
        large = exp(c * (1.0 + nodes[start + q]))
        small = twice / large if large > 0.0 else 0.0
        values[q if sign > 0.0 else count - 1 - q], values[count - 1 - q if sign > 0.0 else q] = large, small


@bare_inlined
def whole_power(x, n):
    """x to a whole power."""
    result = 1.0
    for _ in range(n):
        result *= x
    return result


@bare_inlined
def overlaps(kind, R, zeta, i, j, slater, scratch):
    """Overlaps of the Slater functions of atoms i and j, a pair of the class `kind`, R in bohr, into the columns of
    scratch.overlap: S, dS/dR, dS/dzeta_i, dS/dzeta_j of each integral. zeta (atom, shell) in 1/bohr. False: all are below
    1e-13.
    """
    shells_i, shells_j, result = slater.shells[kind, 0], slater.shells[kind, 1], scratch.overlap
    low = high = zeta[i, 0]
    for a in range(shells_i):
        low, high = min(low, zeta[i, a]), max(high, zeta[i, a])
    for b in range(shells_j):
        low, high = min(low, zeta[j, b]), max(high, zeta[j, b])
    if R >= slater.limit or R * low >= slater.negligible[kind]:
        return False
    rule = quadrature(R, low, high, slater.powers[kind], slater)
    start, count = slater.nodes_at[rule], slater.nodes_at[rule + 1] - slater.nodes_at[rule]
    A, B, X = scratch.A, scratch.B, scratch.X
    for a in range(shells_i):
        halves(-0.5 * R * zeta[i, a], 1.0, start, count, slater.nodes, A[a])
    for b in range(shells_j):
        halves(-0.5 * R * zeta[j, b], -1.0, start, count, slater.nodes, B[b])
    place = slater.weights_at[kind, rule]
    before_a = before_b = -1
    for o in range(slater.integrals[kind], slater.integrals[kind + 1]):
        a, b, n_a, n_b = slater.functions[o, 0], slater.functions[o, 1], slater.functions[o, 2], slater.functions[o, 3]
        zeta_a, zeta_b = zeta[i, a], zeta[j, b]
        z = zeta_a + zeta_b
        if a != before_a or b != before_b:
            for q in range(count):
                X[q] = A[a, q] * B[b, q]
            before_a, before_b = a, b
        x, power = R * z, 1.0
        S = S_x = S_a = S_b = 0.0          # S_x: times R z its derivative; S_a, S_b: of the exponentials by R zeta
        for k in range(n_a + n_b + 1):
            v = w = 0.0
            for q in range(count):
                t = X[q] * slater.weights[place + q]
                v += t
                w += t * slater.nodes[start + q]
            place += count
            S += power * v
            S_x += k * power * v
            S_a -= 0.5 * power * (v + w)
            S_b -= 0.5 * power * (v - w)
            power *= x
        front = sqrt(zeta_a * zeta_b) / z * whole_power(zeta_a / z, n_a) * whole_power(zeta_b / z, n_b)
        total, o = n_a + n_b + 1.0, o - slater.integrals[kind]
        result[o, 0] = front * S
        result[o, 1] = front * (S_x / R + zeta_a * S_a + zeta_b * S_b)
        result[o, 2] = front * (S * ((n_a + 0.5) / zeta_a - total / z) + S_x / z + R * S_a)
        result[o, 3] = front * (S * ((n_b + 0.5) / zeta_b - total / z) + S_x / z + R * S_b)
    return True
