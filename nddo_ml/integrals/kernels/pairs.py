"""The integrals of pairs of atoms: repulsion, attraction by the cores, resonance, and the repulsion of the cores."""

from math import sqrt

from nddo_ml.common.jit import bare, bare_inlined
from nddo_ml.integrals.kernels import cores as core_core
from nddo_ml.integrals.kernels import unfold
from nddo_ml.integrals.kernels.frames import along, to_laboratory, turn
from nddo_ml.integrals.kernels.metals import equalise_attraction, equalise_repulsion
from nddo_ml.integrals.kernels.multipoles import gathered, interactions, packed_rows
from nddo_ml.integrals.kernels.overlaps import overlaps

HELIUM, METAL, OWN_CORE = 1, 2, 4       # what is special about an atom, as bits; METAL: it has d electrons


@bare_inlined
def pair_axis(x, i, j, u):
    """The distance of two atoms; the unit vector from i to j into u."""
    dx, dy, dz = x[j, 0] - x[i, 0], x[j, 1] - x[i, 1], x[j, 2] - x[i, 2]
    r = sqrt(dx * dx + dy * dy + dz * dz)
    u[0], u[1], u[2] = dx / r, dy / r, dz / r
    return r


@bare_inlined
def with_charge(kind, shell, charges, scratch, u, V):
    """Integrals over the packed distributions of an atom, whose partner is a charge in the direction u, into V; scratch.given
    holds R and the features."""
    interactions(kind, charges, scratch)
    local, harmonics, components = scratch.local, scratch.harmonics, scratch.components
    first = charges.integrals[kind]
    if shell.orbitals == 1:
        V[0] = local[0]
        return
    along(u, shell.components, harmonics, scratch.harmonic_slopes)
    for c in range(shell.size):
        components[c] = 0.0
    for k in range(charges.integrals[kind + 1] - first):
        c = charges.row[first + k]
        components[c] = local[k] * harmonics[c]
    for x in range(shell.packed):
        total = 0.0
        for t in range(shell.at[x], shell.at[x + 1]):
            total += shell.value[t] * components[shell.of[t]]
        V[x] = total


@bare_inlined
def repulsion(kind, shell_i, shell_j, charges, scratch, u, W):
    """(ij|kl) of a pair in the laboratory into W (m_i, m_j); scratch.given holds R and the features, scratch.E and
    scratch.quadrupole the frame of atoms that both have p functions."""
    if shell_j.orbitals == 1:
        with_charge(kind, shell_i, charges, scratch, u, scratch.V)
        for x in range(shell_i.packed):
            W[x, 0] = scratch.V[x]
        return
    interactions(kind, charges, scratch)
    M = scratch.M
    for p in range(shell_i.size):
        for q in range(shell_j.size):
            M[p, q] = 0.0
    first = charges.integrals[kind]
    for k in range(charges.integrals[kind + 1] - first):
        M[charges.row[first + k], charges.column[first + k]] = scratch.local[k]
    to_laboratory(M, shell_i.components, shell_j.components, scratch)
    packed_rows(M, (shell_i.at, shell_i.of, shell_i.value), (shell_j.at, shell_j.of, shell_j.value), W)


@bare_inlined
def core_attraction(i, j, shell, atoms, charges, R, u, helium, scratch, V):
    """(ij|core) of the distributions of atom i with the core of j in the direction u, for a unit charge, into V."""
    if shell.orbitals == 0:
        return
    kind = charges.to_core[shell.place]
    count = gathered(kind, charges, atoms.features, i, -1, R, scratch)
    scratch.given[count - 1] = atoms.rho_core[j]
    with_charge(kind, shell, charges, scratch, u, V)
    if helium and shell.orbitals == 4:
        for x in range(1, shell.packed):
            V[x] = 0.0


@bare_inlined
def resonance_block(k, i, j, shells, atoms, pairs, constants, scaling, scratch, u, H):
    """The resonance integrals of pair k in the frame (atoms that both have p functions) or in the laboratory (an s function
    at j) into H (n_i, n_j), from scratch.overlap."""
    shell_i, shell_j = shells
    slater, kind = constants.slater, pairs.slater[k]
    fade = scaling.fade[pairs.order[k], 0] if len(scaling.fade) else 1.0
    for a in range(shell_i.orbitals):
        for b in range(shell_j.orbitals):
            H[a, b] = 0.0
    for o in range(slater.integrals[kind], slater.integrals[kind + 1]):
        a, b = slater.functions[o, 0], slater.functions[o, 1]
        value = 0.5 * (atoms.beta[i, a] + atoms.beta[j, b]) * scratch.overlap[o - slater.integrals[kind], 0] * fade
        if shell_j.orbitals == 1:
            factor = factor_of(scaling, pairs.order[k], a * a + (2 if a else 0), 0)
            for m in range(2 * a + 1):
                H[a * a + m, 0] = value * factor * scratch.orbital_harmonics[a * a + m]
            continue
        for m in range(2):
            p, q = slater.places[o, 2 * m], slater.places[o, 2 * m + 1]
            if p >= 0:
                H[p, q] = value * factor_of(scaling, pairs.order[k], p, q)


@bare_inlined
def factor_of(scaling, k, p, q):
    """The factor of the resonance integral of local orbitals p of i and q of j of pair k."""
    if len(scaling.factors) == 0:
        return 1.0
    return scaling.factors[scaling.factors_at[k] + p * scaling.factor_strides[k, 0] + q * scaling.factor_strides[k, 1]]


@bare_inlined
def joined(k, r, scaling):
    """The weight of the multipole integrals of pair k, and the point-charge limit that is added, eV; 1 and 0 without a join."""
    if len(scaling.join) == 0:
        return 1.0, 0.0
    weight = scaling.join[k, 0]
    return weight, (1.0 - weight) * scaling.coulomb / r


@bare_inlined
def join_blocks(weight, limit, shell_i, shell_j, W):
    """W <- weight W + limit for the distributions i = j, k = l, in place."""
    for x in range(shell_i.packed):
        for y in range(shell_j.packed):
            W[x, y] *= weight
    for a in range(shell_i.orbitals):
        for b in range(shell_j.orbitals):
            W[a * (a + 3) // 2, b * (b + 3) // 2] += limit


@bare_inlined
def join_attraction(weight, limit, shell, V):
    """V <- weight V + limit for the distributions i = j, in place."""
    for x in range(shell.packed):
        V[x] *= weight
    for a in range(shell.orbitals):
        V[a * (a + 3) // 2] += limit


@bare_inlined
def without_helium(atoms, j, shell_i, shell_j, W):
    """Helium is an s-only atom in all integrals with a d function: zeros in W, in place."""
    if atoms.special[j] & HELIUM and shell_i.orbitals == 9 and shell_j.orbitals == 4:
        for x in range(10, shell_i.packed):
            for y in range(1, shell_j.packed):
                W[x, y] = 0.0


@bare
def pair_integrals(start, end, x, tables, batch, join, fade, factors, room, h, two, gamma, potential, energy):
    """The integrals of the pairs start to end: resonance blocks into h (molecule, orbital, orbital), repulsion into `two`,
    the interaction of unit cores into gamma (pair of the topology), the attraction by the cores added to potential (atom,
    distribution), the repulsion of the cores added to energy (molecule). tables, batch: folded records; join, fade, factors: of
    records.Scaling. Returns the smallest distance (angstrom) of all.
    """
    constants, atoms, pairs, cores = unfold.constants(tables), unfold.atoms(batch), unfold.pairs(batch), unfold.cores(batch)
    scaling, scratch = unfold.scaling(batch, join, fade, factors), unfold.scratch(room)
    charges, u, V = constants.charges, scratch.u, scratch.V
    closest = 1e30
    for k in range(start, end):
        i, j, kind = pairs.i[k], pairs.j[k], pairs.kind[k]
        r = pair_axis(x, i, j, u)
        closest = min(closest, r)
        R = r / constants.bohr
        shell_i, shell_j = constants.shells[pairs.shell_i[k]], constants.shells[pairs.shell_j[k]]
        W = two[pairs.two_at[k]:pairs.two_at[k] + shell_i.packed * shell_j.packed].reshape((shell_i.packed, shell_j.packed))
        if shell_j.orbitals > 1:
            turn(u, scratch)
        weight, limit = joined(pairs.order[k], r, scaling)
        if shell_j.orbitals:
            gathered(kind, charges, atoms.features, i, j, R, scratch)
            repulsion(kind, shell_i, shell_j, charges, scratch, u, W)
        if pairs.own_core[k]:
            without_helium(atoms, j, shell_i, shell_j, W)
            c = atoms.rho_core[i] + atoms.rho_core[j]
            g = constants.hartree / sqrt(R * R + c * c)
            V_j = scratch.V_j
            core_attraction(i, j, shell_i, atoms, charges, R, u, atoms.special[i] & HELIUM, scratch, V)
            opposite = scratch.opposite
            opposite[0], opposite[1], opposite[2] = -u[0], -u[1], -u[2]
            core_attraction(j, i, shell_j, atoms, charges, R, opposite, atoms.special[j] & HELIUM, scratch, V_j)
            if len(scaling.join):
                join_blocks(weight, limit, shell_i, shell_j, W)
                join_attraction(weight, limit, shell_i, V)
                join_attraction(weight, limit, shell_j, V_j)
                g = g * weight + limit
                metal_i, metal_j = atoms.special[i] & METAL, atoms.special[j] & METAL
                if shell_i.orbitals == 9 and (metal_i or metal_j):
                    equalise_repulsion(metal_i, metal_j, shell_i, shell_j, W)
                    equalise_attraction(metal_i, shell_j.orbitals >= 4, shell_i, V)
                    equalise_attraction(metal_j, shell_i.orbitals >= 4, shell_j, V_j)
            for m in range(shell_i.packed):
                potential[i, m] -= atoms.core[j] * V[m]
            for m in range(shell_j.packed):
                potential[j, m] -= atoms.core[i] * V_j[m]
        else:
            if len(scaling.join):
                join_blocks(weight, limit, shell_i, shell_j, W)
            g = W[0, 0]
            for m in range(shell_i.packed):
                potential[i, m] -= atoms.core[j] * W[m, 0]
            for m in range(shell_j.packed):
                potential[j, m] -= atoms.core[i] * W[0, m]
        gamma[pairs.order[k]] = g
        molecule = atoms.molecule[i]
        if len(cores.charge):
            energy[molecule] += core_core.repulsion(pairs.order[k], r, g, cores)[0]
        if shell_j.orbitals == 0 or not overlaps(pairs.slater[k], R, atoms.zeta, i, j, constants.slater, scratch):
            continue
        H = scratch.H
        if shell_j.orbitals == 1:
            along(u, shell_i.momenta, scratch.orbital_harmonics, scratch.harmonic_slopes)
        resonance_block(k, i, j, (shell_i, shell_j), atoms, pairs, constants, scaling, scratch, u, H)
        if shell_j.orbitals > 1:
            to_laboratory(H, shell_i.momenta, shell_j.momenta, scratch)
        at_i, at_j = atoms.first[i], atoms.first[j]
        for a in range(shell_i.orbitals):
            for b in range(shell_j.orbitals):
                h[molecule, at_i + a, at_j + b] = H[a, b]
                h[molecule, at_j + b, at_i + a] = H[a, b]
    return closest


@bare
def one_centre_blocks(batch, potential, h):
    """The blocks of the atoms in h: U of the free atoms and the potential (atom, distribution) of everything around them."""
    atoms = unfold.atoms(batch)
    for A in range(len(atoms.n_ao)):
        first, molecule, place, m = atoms.first[A], atoms.molecule[A], atoms.U_at[A], 0
        for a in range(atoms.n_ao[A]):
            for b in range(a + 1):
                value = atoms.U[place + m] + potential[A, m]
                h[molecule, first + a, first + b] = value
                h[molecule, first + b, first + a] = value
                m += 1
