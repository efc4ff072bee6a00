"""PM7's equal averages of atoms with d electrons: the mean of (ii|kk) over two shells becomes (ss|ss), that of V_ii V_ss.

All of it is linear in the integrals, so that its adjoints carry the derivatives.
"""

from nddo_ml.common.jit import bare_inlined


@bare_inlined
def _diagonal(a):
    """The packed place of the distribution of orbital a with itself."""
    return a * (a + 3) // 2


@bare_inlined
def _equal(l, k, metal_i, metal_j, shells_i, shells_j):
    """Whether the mean over shell l of atom i and shell k of atom j is made equal; see repulsion.equalised."""
    if l == 2 and metal_i:
        return k == 0 or (k == 1 and shells_j > 1) or (k == 2 and metal_j)
    return k == 2 and metal_j != 0 and (l == 0 or (l == 1 and shells_i > 1))


@bare_inlined
def equalise_repulsion(metal_i, metal_j, shell_i, shell_j, W):
    """`repulsion.equalised` in place."""
    target = W[0, 0]
    for l in range(len(shell_i.momenta)):
        for k in range(len(shell_j.momenta)):
            if _equal(l, k, metal_i, metal_j, len(shell_i.momenta), len(shell_j.momenta)):
                mean = 0.0
                for a in range(l * l, (l + 1) * (l + 1)):
                    for b in range(k * k, (k + 1) * (k + 1)):
                        mean += W[_diagonal(a), _diagonal(b)]
                change = target - mean / ((2 * l + 1) * (2 * k + 1))
                for a in range(l * l, (l + 1) * (l + 1)):
                    for b in range(k * k, (k + 1) * (k + 1)):
                        W[_diagonal(a), _diagonal(b)] += change


@bare_inlined
def pull_repulsion(metal_i, metal_j, shell_i, shell_j, W):
    """The adjoint of `equalise_repulsion`: W holds the weights of the equalised integrals, and then those of the others."""
    to_first = 0.0
    for l in range(len(shell_i.momenta)):
        for k in range(len(shell_j.momenta)):
            if _equal(l, k, metal_i, metal_j, len(shell_i.momenta), len(shell_j.momenta)):
                total = 0.0
                for a in range(l * l, (l + 1) * (l + 1)):
                    for b in range(k * k, (k + 1) * (k + 1)):
                        total += W[_diagonal(a), _diagonal(b)]
                to_first += total
                part = total / ((2 * l + 1) * (2 * k + 1))
                for a in range(l * l, (l + 1) * (l + 1)):
                    for b in range(k * k, (k + 1) * (k + 1)):
                        W[_diagonal(a), _diagonal(b)] -= part
    W[0, 0] += to_first


@bare_inlined
def equalise_attraction(metal, partner_has_p, shell, V):
    """`attraction.equalised_attraction` in place."""
    if not metal:
        return
    target = V[0]
    for l in range(1 if partner_has_p else 2, len(shell.momenta)):
        mean = 0.0
        for a in range(l * l, (l + 1) * (l + 1)):
            mean += V[_diagonal(a)]
        change = target - mean / (2 * l + 1)
        for a in range(l * l, (l + 1) * (l + 1)):
            V[_diagonal(a)] += change


@bare_inlined
def pull_attraction(metal, partner_has_p, shell, V):
    """The adjoint of `equalise_attraction`, in place."""
    if not metal:
        return
    to_first = 0.0
    for l in range(1 if partner_has_p else 2, len(shell.momenta)):
        total = 0.0
        for a in range(l * l, (l + 1) * (l + 1)):
            total += V[_diagonal(a)]
        to_first += total
        for a in range(l * l, (l + 1) * (l + 1)):
            V[_diagonal(a)] -= total / (2 * l + 1)
    V[0] += to_first
