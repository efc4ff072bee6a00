"""The physics every Hamiltonian must obey: symmetry (S), limits (L) and quality (Q), with numbers, for every model.

What any method must pass is in nddo_ml.testing, what concerns the integrals alone in test_physics_integrals.py. Everything is
converged to 1e-10 eV. What a published method itself breaks is listed in physics_models.EXCEPTIONS, with the reason and the
number.
"""

import math

import pytest
import torch
from ase.data import covalent_radii
from support.differences import extrapolated
from support.physics_models import (
    BENZENE,
    CLOSED,
    ELECTRONIC,
    IONS,
    LEARNED,
    METHANE,
    MODELS,
    MOLECULES,
    batch,
    holds,
    model,
    molecule,
    run,
)

from nddo_ml import Molecules, SCFNotConverged
from nddo_ml.geometry.optimise import optimise
from nddo_ml.integrals.corrections import corrections
from nddo_ml.integrals.corrections.geometry import Composition
from nddo_ml.properties.response import dipole_derivatives, hessian, polarizability
from nddo_ml.properties.vibrations import normal_modes
from nddo_ml.scf.ladder import solve
from nddo_ml.scf.options import SCF
from nddo_ml.scf.problem import Problem
from nddo_ml.testing import check_batch, check_fock, check_forces, check_invariance, check_state

COULOMB = 332.0637     # kcal/mol angstrom e^-2
every = pytest.mark.parametrize("name", MODELS)
electronic = pytest.mark.parametrize("name", ELECTRONIC)
limits = pytest.mark.parametrize("name", [*ELECTRONIC, *LEARNED])
ALL = tuple(MOLECULES)


def per_molecule(values, molecules):
    """Sums over the atoms of each molecule."""
    return values.new_zeros(len(molecules), *values.shape[1:]).index_add(0, molecules.molecule, values)


def kcal(name):
    return model(name).method.constants.kcal_mol


def diatomics(pairs, distance, charge=0, multiplicity=1):
    """Pairs of atomic numbers along z."""
    x = torch.tensor([[0, 0, 0], [0, 0, distance]], dtype=torch.float64)
    return Molecules.batch([list(p) for p in pairs], [x] * len(pairs), charge, multiplicity)


# --- symmetry

@every
def test_S1_S2_S4_invariance(name):
    """Translation, rotation, reflection, another order of the atoms; forces and torques add up to zero."""
    check_invariance(model(name), batch(ALL))


@every
def test_S2_bonds_along_an_axis(name):
    """HCN and HCl exactly along +z, -z and x, and tilted by 1e-9 ... 1e-3 rad; second derivatives finite on the axis."""
    shapes = {"HCN": ([7, 6, 1], torch.tensor([0.0, 1.16, 2.23])), "HCl": ([17, 1], torch.tensor([0.0, 1.28]))}
    for numbers, z in shapes.values():
        directions = [[0, 0, 1.0], [0, 0, -1.0], [1.0, 0, 0]]
        directions += [[math.sin(t), 0, sign * math.cos(t)] for t in (1e-9, 1e-6, 1e-3) for sign in (1, -1)]
        u = torch.tensor(directions, dtype=torch.float64)
        u = u / u.norm(dim=1, keepdim=True)
        x = [z.double()[:, None] * v for v in u]
        r = run(name, Molecules.batch([numbers] * len(x), x), forces=True)
        holds("S2 energy", name, r.energy.max() - r.energy.min(), 1e-10, str(numbers))
        along = (r.forces.view(len(x), -1, 3) * u[:, None]).sum(-1)
        across = r.forces.view(len(x), -1, 3) - along[..., None] * u[:, None]
        holds("S2 force", name, (along - along[0]).abs().max(), 1e-7)
        holds("S2 force", name, across.abs().max(), 1e-7)
        assert torch.isfinite(hessian(model(name), Molecules.single(numbers, x[0]))[0]).all()


@every
def test_S6_Q3_state(name):
    """Hermitian, idempotent, self-consistent; charges and unpaired electrons add up."""
    check_state(model(name), batch(ALL))


@every
def test_S6_fock_is_the_derivative_of_the_energy(name):
    check_fock(model(name), batch(ALL))


@electronic
def test_S7_degenerate_levels(name):
    result = run(name, molecule(BENZENE))
    eps, f = result.orbital_energies()[0], result.occupations()[0]
    homo = eps[f > 0][-2:]
    holds("S7 e1g", name, homo[1] - homo[0], 1e-8)
    t2 = run(name, molecule(METHANE)).orbital_energies()[0, 1:4]
    holds("S7 t2", name, t2.max() - t2.min(), 1e-8)


@every
def test_S7_forces_keep_the_point_group(name):
    for entry in (METHANE, BENZENE):
        r = run(name, molecule(entry), forces=True)
        x = molecule(entry).positions
        radial = (r.forces * x).sum(1)[:, None] * x / x.square().sum(1, keepdim=True).clamp(min=1e-12)
        assert torch.isfinite(r.forces).all()
        holds("S7 radial", name, (r.forces - radial).abs().max(), 1e-7)


@electronic
def test_S8_unrestricted_is_restricted_for_closed_shells(name):
    here = batch(CLOSED)
    a, b = run(name, here), run(name, here, unrestricted=True)
    holds("S8 energy", name, (a.energy - b.energy).abs().max(), 1e-9)
    holds("S8 s2", name, b.s2.abs().max(), 1e-8)


@electronic
def test_S8_spins_exchanged(name):
    """-M_S gives the energy of +M_S, with the spin densities exchanged."""
    result = run(name, batch(("hydroxymethyl", "oxygen")))
    for state in result.states:
        p, s = state.problem, state.solution
        flipped = solve(Problem(p.layout, p.integrals, p.h, p.occupations.flip(1)), (s.D * 0.9).flip(1), SCF(tolerance=1e-10))
        holds("S8 flipped", name, (flipped.energy - s.energy).abs().max(), 1e-9)
        holds("S8 densities", name, (flipped.D.flip(1) - s.D).abs().max(), 1e-6)


@every
def test_S9_batch_is_single(name):
    check_batch(model(name), batch(ALL))


@pytest.mark.gpu
@every
def test_S9_device(name):
    here = batch(ALL)
    a, b = (MODELS[name]().to(d)(here.to(d), forces=True, tolerance=1e-10) for d in ("cpu", "cuda"))
    holds("S9 device", name, (a.energy - b.energy.cpu()).abs().max(), 1e-9)
    holds("S9 device", name, (a.forces - b.forces.cpu()).abs().max(), 1e-7)


# --- limits

def apart(first, second, distances, axis=(0.0, 0.0, 1.0)):
    """Dimers of two entries, the second shifted along the axis."""
    (n, x, q, m), (n2, x2, q2, _) = (MOLECULES[e] if isinstance(e, str) else e for e in (first, second))
    x, x2, u = (torch.tensor(t, dtype=torch.float64) for t in (x, x2, axis))
    u = u / u.norm()
    return Molecules.batch([n + n2] * len(distances), [torch.cat([x, x2 + d * u]) for d in distances], q + q2, m)


def interaction(name, first, second, distances, **options):
    """Interaction energies, kcal/mol."""
    energies = [run(name, molecule(e), **options).energy[0] for e in (first, second)]
    return (run(name, apart(first, second, distances, **({"axis": options.pop("axis")} if "axis" in options else {})),
                **options).energy - sum(energies)).detach() * kcal(name)


@limits
def test_L6_ion_ion(name):
    """E R -> 332.0637 q1 q2: the Klopman factor itself is 1 - (rho_A + rho_B)^2/2R^2, 6e-5 at 100 angstrom, so that this
    known term is taken out from two distances.
    """
    ion = (MOLECULES["ammonium"][0], (METHANE[1]), 1, 1)
    near, far = interaction(name, ion, ion, [100.0, 200.0])
    ideal = model(name).method.constants.coulomb * kcal(name)      # 332.0637 with CODATA constants
    holds("L6 constant", name, ideal - COULOMB, 0.03 if name == "MNDO/d" else 1e-3)
    holds("L6 ions", name, (4 * 200 * far - 100 * near) / 3 - ideal, 1e-3)


WATER = ([8, 1, 1], [[0.0, 0.0, 0.0], [0.7548, 0.0, 0.5951], [-0.7548, 0.0, 0.5951]], 0, 1)


@limits
def test_L6_dipole_dipole(name):
    """Two waters head to tail: E R^3 = -332.06 [2 mu^2 + (sum q rho0)^2], in AM1 -100.3 kcal/mol angstrom^3.

    The second term is that of the Klopman factors of the net charges, as in L2; quadrupoles and octupoles are taken out of
    20 and 40 angstrom.
    """
    m = model(name)
    one = run(name, molecule(WATER))
    rho = m.rows().atoms.rho0[m.method.rows(torch.tensor(WATER[0]))] * m.method.constants.bohr
    ideal = -COULOMB * (2 * one.dipole[0, 2]**2 + (one.charges * rho).sum()**2)
    distances = torch.tensor([20.0, 40.0, 100.0, 1000.0], dtype=torch.float64)
    C3 = interaction(name, WATER, WATER, distances.tolist()) * distances**3
    holds("L6 dipoles", name, (C3[2:] - ideal).abs().max(), 0.5)
    holds("L6 dipoles", name, (4 * C3[1] - C3[0]) / 3 - ideal, 0.5)
    if name == "AM1":
        assert abs(float(C3[-1]) + 100.3) < 0.5


@every
def test_L7_dispersion(name):
    """Slope of log|E_disp| of two atoms of carbon from 15 to 30 angstrom."""
    m, found = model(name).method, model(name).terms
    if not any("dispersion" in c for c in found):
        pytest.skip("has no dispersion")
    here = diatomics([(6, 6)], 16.0)
    positions = torch.stack([torch.tensor([[0, 0, 0], [0, 0, d]], dtype=torch.float64) for d in (16.0, 30.0)])
    pair = Composition.of(here, torch.tensor([0]), torch.tensor([1]))
    E = torch.stack([corrections(found, pair, x, constants=m.constants)["dispersion"][0] for x in positions])
    slope = torch.log(E[1] / E[0]) / math.log(30.0 / 16.0) if bool((E != 0).all()) else math.inf
    holds("L7", name, slope + 6, 0.02)


WALL_ELEMENTS = (1, 6, 7, 8, 9, 15, 16, 17, 35, 53)


@pytest.mark.slow
@limits
def test_L9_repulsive_wall_of_the_total_energy(name):
    """dE/dR < 0 from 0.2 angstrom to 0.6 of the covalent distance for every pair of elements."""
    bad = []
    for fraction in (0.0, 0.25, 0.5, 0.75, 0.99):
        known = [z for z in WALL_ELEMENTS if name not in LEARNED or z in model(name).network.species]
        pairs = [(a, b) for k, a in enumerate(known) for b in known[k:]]
        distance = [0.2 + fraction * max(0.0, 0.6 * (covalent_radii[a] + covalent_radii[b]) - 0.2) for a, b in pairs]
        x = [torch.tensor([[0, 0, 0], [0, 0, d]], dtype=torch.float64) for d in distance]
        m = model(name).method
        cores = [int(m.elements.core[m.rows(torch.tensor(p))].sum()) for p in pairs]
        r = model(name)(Molecules.batch([list(p) for p in pairs], x, 0, [1 + c % 2 for c in cores]), forces=True)
        slope = -r.forces.view(-1, 2, 3)[:, 1, 2]
        bad += [(*p, round(d, 3), s) for p, d, s in zip(pairs, distance, slope.tolist(), strict=True) if not s < 0]
    holds("L9", name, len(bad), 0, str(bad[:12]))


@electronic
def test_L10_free_atom(name):
    """The hydrogen atom is exactly its U_ss; a lone atom does not notice another one far away."""
    m = model(name)
    H = run(name, Molecules.single([1], [[0.0, 0.0, 0.0]], 0, 2))
    row = m.method.rows(torch.tensor([1]))
    holds("L10 H", name, H.energy[0] - m.U_ss[row][0], 1e-12)
    holds("L10 heat", name, H.heat_of_formation[0] - m.method.elements.EHEAT[row][0], 1e-9)


@limits
def test_L11_size_consistency(name):
    """E(n A) - n E(A) < n 1e-7 kcal/mol at 1000 angstrom, for methane and for a mixed cluster."""
    n, x, _, _ = METHANE
    x = torch.tensor(x, dtype=torch.float64)
    shifts = 1000.0 * torch.tensor([[0, 0, 0], [1, 0, 0], [0.5, 0.9, 0]], dtype=torch.float64)
    three = run(name, Molecules.single(n * 3, torch.cat([x + s for s in shifts])))
    holds("L11", name, (three.energy - 3 * run(name, molecule(METHANE)).energy) * kcal(name), 3e-7)
    both = run(name, apart("thiol", METHANE, [1000.0]))
    holds("L11 mixed", name, (both.energy - sum(run(name, molecule(e)).energy for e in ("thiol", METHANE))) * kcal(name), 2e-7)


@limits
def test_L12_dissociation(name):
    """Integer charges of separated fragments at 15 angstrom; two hydrogen and two fluorine atoms from H2 and F2."""
    r = run(name, apart("ammonium", WATER, [15.0]))
    holds("L12 leakage", name, r.charges[:5].sum() - 1, 1e-6)
    for z in (1, 9):
        far = run(name, diatomics([(z, z)], 100.0), unrestricted=True)
        atom = run(name, Molecules.single([z], [[0.0, 0.0, 0.0]], 0, 2))
        holds("L12 homolytic", name, far.energy - 2 * atom.energy, 1e-6, str(z))


# --- quality

@every
def test_Q4_forces_are_derivatives(name):
    check_forces(model(name), batch(ALL))


@every
def test_Q4_closed_loop(name):
    """Work around a closed loop; the trapezoidal rule converges exponentially on it."""
    here = molecule("formamide water")
    a, b = torch.randn(2, *here.positions.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(8)) * 0.02
    t = torch.arange(24, dtype=torch.float64) * (2 * torch.pi / 24)
    x = here.positions + t.cos()[:, None, None] * a + t.sin()[:, None, None] * b
    dx = -t.sin()[:, None, None] * a + t.cos()[:, None, None] * b
    r = run(name, Molecules.batch([here.numbers] * 24, list(x)), forces=True)
    holds("Q4 loop", name, (r.forces.view(24, -1, 3) * dx).sum() * (2 * torch.pi / 24), 1e-6)


def second_order(name, build, distance):
    """Energy, slope and curvature of build(R) at a distance."""
    R = torch.tensor(distance, dtype=torch.float64, requires_grad=True)
    E = run(name, build(R), order=2).energy.sum()
    slope, = torch.autograd.grad(E, R, create_graph=True)
    curve, = torch.autograd.grad(slope, R)
    return torch.stack([E.detach(), slope.detach(), curve])


def stretched(numbers, partners):
    """R -> molecule: the first atom at the origin, the second at R, others in place."""
    def build(R):
        zero = torch.zeros((), dtype=torch.float64)
        x = [torch.zeros(3, dtype=torch.float64), torch.stack([0.3 * R, zero, 0.91**0.5 * R])]
        return Molecules.single(numbers, torch.cat([torch.stack(x), torch.tensor(partners, dtype=torch.float64).view(-1, 3)]))
    return build


ETHYNE = stretched([6, 6, 1, 1], [[-0.3, 0.2, -0.98], [0.75, 0.1, 2.1]])
PAIR = stretched([16, 8, 1, 1, 1, 1], [[-0.9, 0.9, 0.1], [0.9, 0.8, 0.2], [2.4, 0.7, 7.0], [1.7, -0.6, 6.9]])
CUTOFFS = {"triple bond ends": (ETHYNE, 1.33), "triple bond full": (ETHYNE, 1.21), "join": (PAIR, 7.0), "overlap": (PAIR, 15.0),
           "network": (PAIR, 5.0)}


@every
@pytest.mark.parametrize("cutoff", CUTOFFS)
def test_Q5_smooth_across_cutoffs(name, cutoff):
    """Jumps of energy, force and second derivative between both sides of a cutoff."""
    build, r_c = CUTOFFS[cutoff]
    h = 1e-10
    below, above = second_order(name, build, r_c - h), second_order(name, build, r_c + h)
    E, F, H = above - below
    mean = (above + below) / 2
    holds(f"Q5 energy {cutoff}", name, E - 2 * h * mean[1], 1e-10)
    holds(f"Q5 force {cutoff}", name, F - 2 * h * mean[2], 1e-8)
    holds(f"Q5 curvature {cutoff}", name, H, 1e-5)


@pytest.mark.slow
@every
def test_Q6_energy_is_conserved(name):
    """Drift of the total energy of water at 300 K over 1 ps with steps of 0.5 fs, meV per atom and ps."""
    import numpy as np
    from ase import Atoms, units
    from ase.md.velocitydistribution import MaxwellBoltzmannDistribution, Stationary
    from ase.md.verlet import VelocityVerlet

    from nddo_ml import NDDO
    numbers, positions, _, _ = WATER
    atoms = Atoms(numbers, positions, calculator=NDDO(model(name)))
    MaxwellBoltzmannDistribution(atoms, temperature_K=300, rng=np.random.default_rng(1))
    Stationary(atoms)
    dynamics, energies = VelocityVerlet(atoms, 0.5 * units.fs), []
    dynamics.attach(lambda: energies.append(atoms.get_total_energy()))
    dynamics.run(2000)
    time = np.arange(len(energies)) * 0.5e-3
    holds("Q6", name, 1000 * np.polyfit(time, energies, 1)[0] / len(atoms), 0.05)


@every
def test_Q7_translations_and_rotations(name):
    """Acoustic sum of the Hessian, and what is left of the rigid motions at a minimum of HCN and water."""
    start = Molecules.batch([[7, 6, 1], [8, 1, 1]], [[[0, 0, 0], [0, 0, 1.16], [0, 0, 2.23]], WATER[1]])

    def energy_forces(m):
        r = run(name, m, forces=True)
        return r.energy.detach(), r.forces.detach()

    found = optimise(energy_forces, start, fmax=1e-6).molecules
    for k, (H, limit) in enumerate(zip(hessian(model(name), found, tolerance=1e-10), (5.0, 1.0), strict=True)):
        n = H.shape[0] // 3
        holds("Q7 acoustic", name, H.view(3 * n, n, 3).sum(1).abs().max(), 1e-6)
        one = found.select([k])
        masses = torch.tensor([14.0067, 12.011, 1.008] if k == 0 else [15.999, 1.008, 1.008], dtype=torch.float64)
        modes = normal_modes(H, masses, one.positions)
        holds("Q7 zero modes", name, modes.residual.abs().max(), limit)
        assert modes.imaginary == 0


def field_dipole(name, molecules, **options):
    """-dE/dF, e angstrom."""
    F = torch.zeros(len(molecules), 3, dtype=torch.float64, requires_grad=True)
    return -torch.autograd.grad(run(name, molecules, field=F, **options).energy.sum(), F)[0]


@electronic
def test_Q8_dipole(name):
    """mu = -dE/dF; of a neutral molecule free of the origin, of an ion it moves with it; its slopes add up to the charge."""
    here = batch(ALL)
    d = torch.tensor([3.0, -2.0, 5.0], dtype=torch.float64)
    mu, shifted = field_dipole(name, here), field_dipole(name, here.with_positions(here.positions + d))
    holds("Q8 origin", name, (shifted - mu - here.charge[:, None] * d).abs().max(), 1e-10)
    neutral = (here.charge == 0).nonzero()[:, 0]
    debye = model(name).method.constants.debye
    holds("Q8 field", name, (run(name, here).dipole - mu)[neutral].abs().max() * debye, 1e-6)
    for slopes, charge in zip(dipole_derivatives(model(name), here, tolerance=1e-10), here.charge, strict=True):
        total = slopes.view(-1, 3, 3).sum(0)
        holds("Q8 slopes", name, (total - charge * torch.eye(3)).abs().max(), 1e-6)


@electronic
def test_Q8_dipole_of_ions_is_about_the_centre_of_mass(name):
    from nddo_ml.elements import dipole_masses
    here = batch(IONS)
    w = dipole_masses(here.numbers)
    centre = per_molecule(w[:, None] * here.positions, here) / per_molecule(w, here)[:, None]
    difference = field_dipole(name, here) - here.charge[:, None] * centre - run(name, here).dipole
    holds("Q8 ions", name, difference.abs().max() * model(name).method.constants.debye, 1e-6)


@electronic
def test_Q9_polarizability(name):
    here = batch(ALL)
    alpha = polarizability(model(name), here, tolerance=1e-10)
    holds("Q9 symmetric", name, (alpha - alpha.mT).abs().max(), 1e-8)
    coulomb = model(name).method.constants.coulomb
    v = torch.tensor([0.6, -0.3, 0.74], dtype=torch.float64)

    def dipole(s):
        return run(name, here, field=(s * v).expand(len(here), 3)).dipole

    holds("Q9 differences", name, (extrapolated(dipole, 0.02) * coulomb - alpha @ v).abs().max(), 1e-4)


@electronic
def test_Q11_variational(name):
    """The energy of a density off by dD is above by O(dD^2)."""
    from nddo_ml.scf.fock import electronic_energy
    state = run(name, molecule("thiol")).states[0]
    lay, ints = state.problem.layout, state.problem.integrals
    C, f = state.orbitals.C[0, 0], state.orbitals.f[0, 0]
    A = torch.randn(C.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    energies, steps = [], torch.tensor([1e-2, 3e-3, 1e-3], dtype=torch.float64)
    for s in steps:
        Y = C @ torch.linalg.matrix_exp(s * (A - A.T))
        energies.append(electronic_energy(lay, ints, ((Y * f) @ Y.T)[None, None])[0] - state.solution.energy[0] + 0.0)
    rise = torch.stack(energies) - (electronic_energy(lay, ints, state.solution.D)[0] - state.solution.energy[0])
    assert bool((rise > 0).all())
    slopes = torch.log(rise[:-1] / rise[1:]) / torch.log(steps[:-1] / steps[1:])
    holds("Q11", name, (slopes - 2).abs().max(), 0.1)


@electronic
def test_Q11_no_silent_failure(name):
    """An SCF that stops early raises for one molecule, and is NaN and flagged in a batch, whose other members do not care."""
    with pytest.raises(SCFNotConverged):
        model(name)(molecule("thiol"), max_steps=2)
    r = model(name)(batch(("thiol", "water")), forces=True, max_steps=2)
    assert not r.converged.any() and torch.isnan(r.energy).all() and torch.isnan(r.heat_of_formation).all()
    assert torch.isnan(r.forces).all(), "forces of a failed molecule must not look like numbers"


@pytest.mark.slow
@electronic
def test_start_does_not_matter(name):
    """Another start density changes nothing but the number of iterations."""
    here = molecule("formamide water")
    a = run(name, here)
    b = run(name, here, guess=run(name, here.with_positions(here.positions + 0.05 * torch.randn(9, 3, dtype=torch.float64))))
    holds("Q11 start", name, a.energy - b.energy, 1e-9)
