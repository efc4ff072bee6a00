"""The derivatives of the pair energies at a fixed density: by the positions, and by the parameters of the atoms where they are
asked for.

    E = sum_pairs <w, W> - Z_j <q_i, V_i> - Z_i <q_j, V_j> + <beta, H> + core-core

Each integral is a function of R and of the axis u: along the axis by dE/dR, across it by the turning of the frame.
"""

from math import sqrt

from nddo_ml.common.jit import bare, bare_inlined
from nddo_ml.integrals.kernels import cores as core_core
from nddo_ml.integrals.kernels import unfold
from nddo_ml.integrals.kernels.frames import along, to_frame, turn, turning
from nddo_ml.integrals.kernels.metals import pull_attraction, pull_repulsion
from nddo_ml.integrals.kernels.multipoles import component_weights, gathered, interactions, pulled, spread
from nddo_ml.integrals.kernels.overlaps import overlaps
from nddo_ml.integrals.kernels.pairs import HELIUM, METAL, factor_of, joined, pair_axis, without_helium


@bare_inlined
def packed_density(D, first, orbitals, q):
    """The packed density of an atom into q, off-diagonal elements counted twice; D (spin, orbital, orbital)."""
    scale, m = 2.0 / len(D), 0
    for a in range(orbitals):
        for b in range(a + 1):
            total = D[0, first + a, first + b]
            if len(D) == 2:
                total += D[1, first + a, first + b]
            q[m] = scale * total if a == b else 2.0 * scale * total
            m += 1


@bare_inlined
def repulsion_weights(D, at_i, at_j, shell_i, shell_j, q_i, q_j, W):
    """The derivative of the energy by each (ij|kl) of a pair into W (m_i, m_j): Coulomb less exchange."""
    x, scale = 0, 2.0 / len(D)
    for a in range(shell_i.orbitals):
        for b in range(a + 1):
            y = 0
            twice = scale if a == b else 2.0 * scale
            for c in range(shell_j.orbitals):
                for d in range(c + 1):
                    exchange = 0.0
                    for s in range(len(D)):
                        exchange += (D[s, at_i + a, at_j + c] * D[s, at_i + b, at_j + d]
                                     + D[s, at_i + b, at_j + c] * D[s, at_i + a, at_j + d])
                    W[x, y] = q_i[x] * q_j[y] - exchange * twice * (0.5 if c == d else 1.0)
                    y += 1
            x += 1


@bare_inlined
def pull_with_charge(kind, shell, charges, scratch, u, V, count):
    """For the weights V of the distributions of an atom whose partner is a charge in the direction u: the energy; derivatives
    by R and the features, in scratch.given, into scratch.pulled (`count` values), by u into scratch.by_axis."""
    interactions(kind, charges, scratch)
    local, weights, by_axis, first = scratch.local, scratch.weights, scratch.by_axis, charges.integrals[kind]
    by_axis[0] = by_axis[1] = by_axis[2] = 0.0
    if shell.orbitals == 1:
        weights[0] = V[0]
        pulled(kind, charges, scratch, count)
        return V[0] * local[0]
    components, energy = scratch.components, 0.0
    along(u, shell.components, scratch.harmonics, scratch.harmonic_slopes)
    for c in range(shell.size):
        components[c] = 0.0
    for x in range(shell.packed):
        for t in range(shell.at[x], shell.at[x + 1]):
            components[shell.of[t]] += shell.value[t] * V[x]
    for k in range(charges.integrals[kind + 1] - first):
        c = charges.row[first + k]
        weights[k] = components[c] * scratch.harmonics[c]
        energy += weights[k] * local[k]
        for a in range(3):
            by_axis[a] += components[c] * local[k] * scratch.harmonic_slopes[c, a]
    pulled(kind, charges, scratch, count)
    return energy


@bare_inlined
def pull_repulsion_block(kind, shell_i, shell_j, charges, scratch, u, W, count):
    """For the weights W of (ij|kl): the energy; derivatives by R and the features into scratch.pulled, by a turn of the axis
    towards e_x and e_y into scratch.by_turn, or by u into scratch.by_axis where j has an s function alone."""
    by_turn, by_axis = scratch.by_turn, scratch.by_axis
    by_turn[0] = by_turn[1] = by_axis[0] = by_axis[1] = by_axis[2] = 0.0
    if shell_j.orbitals == 1:
        for x in range(shell_i.packed):
            scratch.V[x] = W[x, 0]
        return pull_with_charge(kind, shell_i, charges, scratch, u, scratch.V, count)
    interactions(kind, charges, scratch)
    M, energy, first = scratch.M, 0.0, charges.integrals[kind]
    component_weights(W, (shell_i.at, shell_i.of, shell_i.value), (shell_j.at, shell_j.of, shell_j.value), M,
                      shell_i.size, shell_j.size)
    to_frame(M, shell_i.components, shell_j.components, scratch)
    for k in range(charges.integrals[kind + 1] - first):
        p, c, value = charges.row[first + k], charges.column[first + k], scratch.local[k]
        scratch.weights[k] = M[p, c]
        energy += M[p, c] * value
        x, y = turning(M, p, c, shell_i.turning_components, shell_j.turning_components)
        by_turn[0] += x * value
        by_turn[1] += y * value
    pulled(kind, charges, scratch, count)
    return energy


@bare_inlined
def pull_core_attraction(i, j, shell, atoms, charges, R, u, scratch, V, adjoint, scale):
    """`pairs.core_attraction` for the weights V: the energy, and its derivative by R; that by u is in scratch.by_axis. The
    derivatives by the features are added to the adjoint, times `scale`."""
    if shell.orbitals == 0:
        scratch.by_axis[0] = scratch.by_axis[1] = scratch.by_axis[2] = 0.0
        return 0.0, 0.0
    if atoms.special[i] & HELIUM and shell.orbitals == 4:
        for x in range(1, shell.packed):
            V[x] = 0.0
    kind = charges.to_core[shell.place]
    count = gathered(kind, charges, atoms.features, i, -1, R, scratch)
    scratch.given[count - 1] = atoms.rho_core[j]
    energy = pull_with_charge(kind, shell, charges, scratch, u, V, count)
    if len(adjoint.features):
        spread(kind, charges, scratch, i, -1, scale, adjoint.features)
        adjoint.features[j, charges.rho_core] += scale * scratch.pulled[count - 1]
    return energy, scratch.pulled[0]


@bare_inlined
def pull_resonance(k, i, j, shell_i, shell_j, D, u, atoms, pairs, constants, scaling, scratch, adjoint):
    """The derivatives of the resonance energy of pair k: returns that by R (bohr) and by the fade; by a turn of the axis and by
    u they are added to scratch.by_turn and scratch.by_axis."""
    slater, kind, H = constants.slater, pairs.slater[k], scratch.H
    at_i, at_j, scale = atoms.first[i], atoms.first[j], 4.0 / len(D)
    for a in range(shell_i.orbitals):
        for b in range(shell_j.orbitals):
            total = D[0, at_i + a, at_j + b]
            if len(D) == 2:
                total += D[1, at_i + a, at_j + b]
            H[a, b] = scale * total
    alone = shell_j.orbitals == 1
    if alone:
        along(u, shell_i.momenta, scratch.orbital_harmonics, scratch.harmonic_slopes)
    else:
        to_frame(H, shell_i.momenta, shell_j.momenta, scratch)
    order = pairs.order[k]
    fade = scaling.fade[order, 0] if len(scaling.fade) else 1.0
    by_R = by_fade = 0.0
    for o in range(slater.integrals[kind], slater.integrals[kind + 1]):
        a, b = slater.functions[o, 0], slater.functions[o, 1]
        integral = scratch.overlap[o - slater.integrals[kind]]
        beta = 0.5 * (atoms.beta[i, a] + atoms.beta[j, b])
        weight = 0.0                                # of beta S fade
        for m in range(2 * a + 1 if alone else 2):
            if alone:
                p, q = a * a + m, 0
                element = H[p, 0] * scratch.orbital_harmonics[p]
            else:
                p, q = slater.places[o, 2 * m], slater.places[o, 2 * m + 1]
                if p < 0:
                    continue
                element = H[p, q]
            factor = factor_of(scaling, order, p if not alone else a * a + (2 if a else 0), q)
            weight += element * factor
            value = beta * integral[0] * fade
            if len(adjoint.factors):
                place = p if not alone else a * a + (2 if a else 0)
                adjoint.factors[scaling.factors_at[order] + place * scaling.factor_strides[order, 0]
                                + q * scaling.factor_strides[order, 1]] += element * value
            value *= factor
            if alone:
                for axis in range(3):
                    scratch.by_axis[axis] += H[p, 0] * value * scratch.harmonic_slopes[p, axis]
            else:
                x, y = turning(H, p, q, shell_i.turning_orbitals, shell_j.turning_orbitals)
                scratch.by_turn[0] += x * value
                scratch.by_turn[1] += y * value
        by_R += weight * beta * fade * integral[1]
        by_fade += weight * beta * integral[0]
        if len(adjoint.zeta):
            adjoint.zeta[i, a] += weight * beta * fade * integral[2]
            adjoint.zeta[j, b] += weight * beta * fade * integral[3]
            half = 0.5 * weight * fade * integral[0]
            adjoint.beta[i, a] += half
            adjoint.beta[j, b] += half
    return by_R, by_fade


@bare
def pair_gradient(start, end, x, densities, tables, batch, join, fade, factors, room, two, gamma, gamma_weights, gradient,
                  adjoint):
    """Adds dE/dx (eV/angstrom) of the pairs start to end to gradient (atom, 3), and the derivatives by the parameters of the
    atoms to the adjoint, where it has rows. densities (molecule, spin, orbital, orbital); two, gamma: integrals as
    `pairs.pair_integrals` gave them; gamma_weights: derivative of further energies by them, none where it is empty.
    """
    constants, atoms, pairs, cores = unfold.constants(tables), unfold.atoms(batch), unfold.pairs(batch), unfold.cores(batch)
    scaling, scratch = unfold.scaling(batch, join, fade, factors), unfold.scratch(room)
    charges, u, W, V, V_j = constants.charges, scratch.u, scratch.W, scratch.weights_i, scratch.weights_j
    q_i, q_j, opposite, across = scratch.q_i, scratch.q_j, scratch.opposite, scratch.across
    for k in range(start, end):
        i, j, kind, order = pairs.i[k], pairs.j[k], pairs.kind[k], pairs.order[k]
        D = densities[atoms.molecule[i]]
        r = pair_axis(x, i, j, u)
        R = r / constants.bohr
        shell_i, shell_j = constants.shells[pairs.shell_i[k]], constants.shells[pairs.shell_j[k]]
        if shell_j.orbitals > 1:
            turn(u, scratch)
        weight, limit = joined(order, r, scaling)
        weight_slope, limit_slope = 0.0, 0.0
        if len(scaling.join):
            weight_slope = scaling.join[order, 1]
            limit_slope = -weight_slope * scaling.coulomb / r - limit / r
        by_r, by_gamma = 0.0, 0.0
        across[0] = across[1] = across[2] = 0.0
        if len(cores.charge):
            _, by_gamma, by_r = core_core.repulsion(order, r, gamma[order], cores)
        if len(gamma_weights):
            by_gamma += gamma_weights[order]
        at_i, at_j = atoms.first[i], atoms.first[j]
        packed_density(D, at_i, shell_i.orbitals, q_i)
        packed_density(D, at_j, shell_j.orbitals, q_j)
        block = W[:shell_i.packed, :shell_j.packed]
        if shell_j.orbitals:
            repulsion_weights(D, at_i, at_j, shell_i, shell_j, q_i, q_j, block)
        if pairs.own_core[k]:
            for m in range(shell_i.packed):
                V[m] = -atoms.core[j] * q_i[m]
            for m in range(shell_j.packed):
                V_j[m] = -atoms.core[i] * q_j[m]
            metal_i, metal_j = atoms.special[i] & METAL, atoms.special[j] & METAL
            if len(scaling.join) and shell_i.orbitals == 9 and (metal_i or metal_j):
                pull_repulsion(metal_i, metal_j, shell_i, shell_j, block)
                pull_attraction(metal_i, shell_j.orbitals >= 4, shell_i, V)
                pull_attraction(metal_j, shell_i.orbitals >= 4, shell_j, V_j)
            trace_i = trace_j = 0.0
            for a in range(shell_i.orbitals):
                trace_i += V[a * (a + 3) // 2]
            for a in range(shell_j.orbitals):
                trace_j += V_j[a * (a + 3) // 2]
            by_r += limit_slope * (trace_i + trace_j)
            c = atoms.rho_core[i] + atoms.rho_core[j]
            g = constants.hartree / sqrt(R * R + c * c)
            cube = g / (R * R + c * c)
            by_r += by_gamma * (weight_slope * g + limit_slope - weight * cube * R / constants.bohr)
            if len(adjoint.features):
                adjoint.features[i, charges.rho_core] -= by_gamma * weight * cube * c
                adjoint.features[j, charges.rho_core] -= by_gamma * weight * cube * c
            opposite[0], opposite[1], opposite[2] = -u[0], -u[1], -u[2]
            energy_i, slope = pull_core_attraction(i, j, shell_i, atoms, charges, R, u, scratch, V, adjoint, weight)
            by_r += weight * slope / constants.bohr + weight_slope * energy_i
            for axis in range(3):
                across[axis] += weight * scratch.by_axis[axis]
            energy_j, slope = pull_core_attraction(j, i, shell_j, atoms, charges, R, opposite, scratch, V_j, adjoint, weight)
            by_r += weight * slope / constants.bohr + weight_slope * energy_j
            for axis in range(3):
                across[axis] -= weight * scratch.by_axis[axis]
            if len(adjoint.core) and atoms.core[j] != 0.0:
                adjoint.core[j] += (weight * energy_i + limit * trace_i) / atoms.core[j]
            if len(adjoint.core) and atoms.core[i] != 0.0:
                adjoint.core[i] += (weight * energy_j + limit * trace_j) / atoms.core[i]
        else:
            if len(adjoint.core):
                place = pairs.two_at[k]
                for m in range(shell_i.packed):
                    adjoint.core[j] -= q_i[m] * two[place + m * shell_j.packed]
                for m in range(shell_j.packed):
                    adjoint.core[i] -= q_j[m] * two[place + m]
            for m in range(shell_i.packed):
                block[m, 0] -= atoms.core[j] * q_i[m]
            for m in range(shell_j.packed):
                block[0, m] -= atoms.core[i] * q_j[m]
            block[0, 0] += by_gamma
        turned_x = turned_y = 0.0
        if shell_j.orbitals:
            if len(scaling.join):
                unit = 0.0
                for a in range(shell_i.orbitals):
                    for b in range(shell_j.orbitals):
                        unit += block[a * (a + 3) // 2, b * (b + 3) // 2]
                by_r += limit_slope * unit
            without_helium(atoms, j, shell_i, shell_j, block)
            count = gathered(kind, charges, atoms.features, i, j, R, scratch)
            energy = pull_repulsion_block(kind, shell_i, shell_j, charges, scratch, u, block, count)
            by_r += weight * scratch.pulled[0] / constants.bohr + weight_slope * energy
            turned_x, turned_y = weight * scratch.by_turn[0], weight * scratch.by_turn[1]
            for axis in range(3):
                across[axis] += weight * scratch.by_axis[axis]
            if len(adjoint.features):
                spread(kind, charges, scratch, i, j, weight, adjoint.features)
            if overlaps(pairs.slater[k], R, atoms.zeta, i, j, constants.slater, scratch):
                scratch.by_turn[0] = scratch.by_turn[1] = 0.0
                scratch.by_axis[0] = scratch.by_axis[1] = scratch.by_axis[2] = 0.0
                slope, by_fade = pull_resonance(k, i, j, shell_i, shell_j, D, u, atoms, pairs, constants, scaling, scratch,
                                                adjoint)
                by_r += slope / constants.bohr
                if len(scaling.fade):
                    by_r += scaling.fade[order, 1] * by_fade
                turned_x += scratch.by_turn[0]
                turned_y += scratch.by_turn[1]
                for axis in range(3):
                    across[axis] += scratch.by_axis[axis]
        inward = across[0] * u[0] + across[1] * u[1] + across[2] * u[2]
        for axis in range(3):
            slope = by_r * u[axis] + (across[axis] - inward * u[axis]) / r
            if shell_j.orbitals > 1:
                slope += (turned_x * scratch.E[0, axis] + turned_y * scratch.E[1, axis]) / r
            gradient[j, axis] += slope
            gradient[i, axis] -= slope
