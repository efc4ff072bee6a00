"""What surrounds a molecule: point charges and a uniform field, at its electrons and its cores, with their derivatives; and the
populations of a density, which the field couples to."""

from math import sqrt

from nddo_ml.common.jit import bare
from nddo_ml.integrals.kernels import unfold
from nddo_ml.integrals.kernels.frames import along
from nddo_ml.integrals.kernels.gradients import packed_density
from nddo_ml.integrals.kernels.metals import equalise_attraction, pull_attraction
from nddo_ml.integrals.kernels.multipoles import gathered, interactions, pulled, spread
from nddo_ml.integrals.kernels.pairs import METAL


@bare
def charge_potential(start, end, x, sites, tables, batch, equalise, room, potential, energy):
    """Adds the potential of the point charges at the electrons of the atoms start to end to potential (atom, distribution), and
    their energy with the cores to energy (molecule), eV. Returns the smallest distance of an atom and a charge (angstrom).
    """
    constants, atoms, scratch = unfold.constants(tables), unfold.atoms(batch), unfold.scratch(room)
    charges, u, total, V = constants.charges, scratch.u, scratch.V_j, scratch.V
    closest = 1e30
    for A in range(start, end):
        shell, molecule = constants.shells[atoms.shell[A]], atoms.molecule[A]
        kind, first, at_core = charges.to_core[shell.place], charges.integrals[charges.to_core[shell.place]], 0.0
        for c in range(shell.size):
            total[c] = 0.0
        for s in range(sites.at[molecule], sites.at[molecule + 1]):
            dx, dy, dz = sites.x[s, 0] - x[A, 0], sites.x[s, 1] - x[A, 1], sites.x[s, 2] - x[A, 2]
            r = sqrt(dx * dx + dy * dy + dz * dz)
            closest = min(closest, r)
            u[0], u[1], u[2] = dx / r, dy / r, dz / r
            R, q = r / constants.bohr, sites.charge[s]
            c = atoms.rho_core[A] + sites.rho[s]
            at_core += q * constants.hartree / sqrt(R * R + c * c)
            if shell.orbitals == 0:
                continue
            count = gathered(kind, charges, atoms.features, A, -1, R, scratch)
            scratch.given[count - 1] = sites.rho[s]
            interactions(kind, charges, scratch)
            if shell.orbitals == 1:
                total[0] += q * scratch.local[0]
                continue
            along(u, shell.components, scratch.harmonics, scratch.harmonic_slopes)
            for k in range(charges.integrals[kind + 1] - first):
                c = charges.row[first + k]
                total[c] += q * scratch.local[k] * scratch.harmonics[c]
        energy[molecule] += atoms.core[A] * at_core
        for m in range(shell.packed):
            V[m] = 0.0
            for t in range(shell.at[m], shell.at[m + 1]):
                V[m] += shell.value[t] * total[shell.of[t]]
        if equalise and shell.orbitals == 9:
            equalise_attraction(atoms.special[A] & METAL, False, shell, V)
        for m in range(shell.packed):
            potential[A, m] -= V[m]
    return closest


@bare
def charge_gradient(start, end, x, densities, sites, tables, batch, equalise, room, gradient, on_sites, adjoint):
    """The derivatives of the energy of the atoms start to end with the point charges: by the positions of the atoms added to
    gradient (atom, 3), of the charges to on_sites (site, 3), eV/angstrom, by the features of the atoms to the adjoint."""
    constants, atoms, scratch = unfold.constants(tables), unfold.atoms(batch), unfold.scratch(room)
    charges, u, V, weights = constants.charges, scratch.u, scratch.weights_i, scratch.components
    for A in range(start, end):
        shell, molecule = constants.shells[atoms.shell[A]], atoms.molecule[A]
        kind, first = charges.to_core[shell.place], charges.integrals[charges.to_core[shell.place]]
        packed_density(densities[molecule], atoms.first[A], shell.orbitals, V)
        if equalise and shell.orbitals == 9:
            pull_attraction(atoms.special[A] & METAL, False, shell, V)
        for c in range(shell.size):
            weights[c] = 0.0
        for m in range(shell.packed):
            for t in range(shell.at[m], shell.at[m + 1]):
                weights[shell.of[t]] -= shell.value[t] * V[m]
        for s in range(sites.at[molecule], sites.at[molecule + 1]):
            dx, dy, dz = sites.x[s, 0] - x[A, 0], sites.x[s, 1] - x[A, 1], sites.x[s, 2] - x[A, 2]
            r = sqrt(dx * dx + dy * dy + dz * dz)
            u[0], u[1], u[2] = dx / r, dy / r, dz / r
            R, q = r / constants.bohr, sites.charge[s]
            c = atoms.rho_core[A] + sites.rho[s]
            g = constants.hartree / sqrt(R * R + c * c)
            cube = q * atoms.core[A] * g / (R * R + c * c)
            by_R, across = -cube * R, (0.0, 0.0, 0.0)
            if len(adjoint.features):
                adjoint.features[A, charges.rho_core] -= cube * c
                adjoint.core[A] += q * g
            if shell.orbitals:
                count = gathered(kind, charges, atoms.features, A, -1, R, scratch)
                scratch.given[count - 1] = sites.rho[s]
                interactions(kind, charges, scratch)
                v0 = v1 = v2 = 0.0
                if shell.orbitals == 1:
                    scratch.weights[0] = q * weights[0]
                else:
                    along(u, shell.components, scratch.harmonics, scratch.harmonic_slopes)
                    for k in range(charges.integrals[kind + 1] - first):
                        c = charges.row[first + k]
                        scratch.weights[k] = q * weights[c] * scratch.harmonics[c]
                        value = q * weights[c] * scratch.local[k]
                        v0 += value * scratch.harmonic_slopes[c, 0]
                        v1 += value * scratch.harmonic_slopes[c, 1]
                        v2 += value * scratch.harmonic_slopes[c, 2]
                pulled(kind, charges, scratch, count)
                by_R += scratch.pulled[0]
                across = (v0, v1, v2)
                if len(adjoint.features):
                    spread(kind, charges, scratch, A, -1, 1.0, adjoint.features)
            inward = across[0] * u[0] + across[1] * u[1] + across[2] * u[2]
            for axis in range(3):
                slope = by_R / constants.bohr * u[axis] + (across[axis] - inward * u[axis]) / r
                on_sites[s, axis] += slope
                gradient[A, axis] -= slope


@bare
def field_potential(x, field, tables, batch, potential, energy):
    """Adds what a uniform field (molecule, 3), V/angstrom, does: to the electrons of each atom in potential (atom,
    distribution), to the cores in energy (molecule), eV."""
    atoms, constants = unfold.atoms(batch), unfold.constants(tables)
    hybrids = constants.hybrids
    for A in range(len(atoms.n_ao)):
        F = field[atoms.molecule[A]]
        shift = F[0] * x[A, 0] + F[1] * x[A, 1] + F[2] * x[A, 2]
        energy[atoms.molecule[A]] -= atoms.core[A] * shift
        for a in range(atoms.n_ao[A]):
            potential[A, a * (a + 3) // 2] += shift
        for t in range(hybrids.count[atoms.shell[A]]):
            moment = constants.bohr * atoms.features[A, hybrids.moment[t]] * hybrids.value[t]
            potential[A, hybrids.distribution[t]] += moment * F[hybrids.axis[t]]


@bare
def populations(x, densities, tables, batch, q, charges, dipole, spin, s2):
    """Fills charges (atom), dipole (molecule, 3; e angstrom about the origin) and spin populations (atom), and adds n_beta - tr
    D_alpha D_beta to s2 (molecule); densities (molecule, spin, orbital, orbital); q: scratch."""
    atoms, constants = unfold.atoms(batch), unfold.constants(tables)
    hybrids, open_shell = constants.hybrids, densities.shape[1] == 2
    for A in range(len(atoms.n_ao)):
        first, molecule, orbitals = atoms.first[A], atoms.molecule[A], atoms.n_ao[A]
        D = densities[molecule]
        packed_density(D, first, orbitals, q)
        charges[A], spin[A] = atoms.core[A], 0.0
        for a in range(orbitals):
            charges[A] -= q[a * (a + 3) // 2]
            if open_shell:
                spin[A] += D[0, first + a, first + a] - D[1, first + a, first + a]
                s2[molecule] += D[1, first + a, first + a]
        for axis in range(3):
            dipole[molecule, axis] += charges[A] * x[A, axis]
        for t in range(hybrids.count[atoms.shell[A]]):
            moment = constants.bohr * atoms.features[A, hybrids.moment[t]] * hybrids.value[t]
            dipole[molecule, hybrids.axis[t]] -= moment * q[hybrids.distribution[t]]
    if open_shell:
        for molecule in range(len(densities)):
            total = 0.0
            for a in range(densities.shape[2]):
                for b in range(densities.shape[2]):
                    total += densities[molecule, 0, a, b] * densities[molecule, 1, a, b]
            s2[molecule] -= total
