"""Core-core repulsion of a pair and its derivatives: the energies of `integrals.nuclear` with both slopes."""

from math import exp

from nddo_ml.common.jit import bare_inlined
from nddo_ml.integrals.nuclear import DAMPING, LARGEST_EXPONENT, LARGEST_WALL

EXPONENTIAL, DAMPED = 0, 1      # forms


@bare_inlined
def repulsion(k, r, gamma, cores):
    """Energy of pair k (eV), and its derivatives by gamma and by r: r in angstrom, gamma in eV. cores: see `records.Cores`."""
    charge, row = cores.charge[k], cores.values[k]
    if cores.form == EXPONENTIAL:
        s = slope = 0.0
        for t in range(2):
            alpha, coefficient = row[t], row[2 + t]
            if coefficient != 0.0:
                e = coefficient * exp(-alpha * r)
                d = -alpha * e
                if row[4 + t] != 0.0:
                    d, e = d * r + e, e * r
                s += e
                slope += d
        energy, by_gamma, by_r = gamma * (charge + s), charge + s, gamma * slope
    else:
        r2 = r * r
        r6 = r2 * r2 * r2
        if row[2] != 0.0:
            distance, d = r2, 2.0 * r
        else:
            distance, d = r + DAMPING * r6, 1.0 + 6.0 * DAMPING * r6 / r
        first = 2.0 * row[1] * exp(-row[0] * distance)
        second = row[3] * exp(-r * (row[4] + row[5] * r)) if row[3] != 0.0 else 0.0
        s, slope = first + second, -row[0] * d * first - (row[4] + 2.0 * row[5] * r) * second
        wall = row[6] / (r6 * r6)
        wall_slope = -12.0 * wall / r
        if wall > LARGEST_WALL:
            wall, wall_slope = LARGEST_WALL, 0.0
        energy, by_gamma = charge * gamma * (1.0 + s) + wall, charge * (1.0 + s)
        by_r = charge * gamma * slope + wall_slope
    g = g_slope = 0.0
    for t in range(cores.gaussians_at[k], cores.gaussians_at[k + 1]):
        x = r - cores.gaussians[t, 2]
        exponent = cores.gaussians[t, 1] * x * x
        if exponent <= LARGEST_EXPONENT:
            e = cores.gaussians[t, 0] * exp(-exponent)
            g += e
            g_slope -= 2.0 * cores.gaussians[t, 1] * x * e
    return energy + charge / r * g, by_gamma, by_r + charge / r * (g_slope - g / r)
