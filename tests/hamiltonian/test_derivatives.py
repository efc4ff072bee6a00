"""Derivatives through the self-consistent field: of energies, forces, dipoles and charges, by positions and by parameters.

All are compared with differences of converged calculations (two step lengths, extrapolated), and once with a field that is
unrolled. What `order` promises (docs/derivatives.md) is tested order by order.
"""

import gc
import gzip

import pytest
import torch
from ase.data import atomic_numbers
from support.differences import close, extrapolated, weights
from support.physics_models import BENZENE, LEARNED, METHANE, MODELS, MOLECULES, batch, molecule, rotation, run
from support.reference import DATA
from support.reference_theory import xyz

from nddo_ml import Hamiltonian, InvalidMolecule, Molecules
from nddo_ml.hamiltonian import walk
from nddo_ml.scf import response
from nddo_ml.scf.density import Orbitals
from nddo_ml.scf.fock import electronic_energy, fock, kernel, one_electron

every = pytest.mark.parametrize("name", MODELS)
PARAMETERS = ("U_ss", "U_pp", "beta_s", "beta_p", "zeta_s", "zeta_p", "g_ss", "g_sp", "g_pp", "g_p2", "h_sp")
WITH_D = ("U_dd", "beta_d", "zeta_d", "zsn", "zpn", "zdn", "F0SD")
ELEMENTS = {"PM6": "thiol", "AM1": "water", "MNDO/d": "thiol"}
QUANTITIES = ("energy", "forces", "dipole", "charges")


def loss(result, quantity):
    """A scalar of one quantity with no symmetry."""
    value = getattr(result, quantity)
    return (value * weights(value.detach())).sum()


def calculate(model, here, **options):
    return model(here, **({"tolerance": 1e-10, "forces": True, "order": 2} | options))


# --- by positions

@pytest.mark.parametrize("which", ["thiol", "formate", "hydroxymethyl"])
@pytest.mark.parametrize("quantity", QUANTITIES)
def test_gradients_by_positions(quantity, which):
    """Directional derivatives of every quantity, relative 1e-6."""
    model, here = Hamiltonian("PM6"), molecule(which)
    x = here.positions.clone().requires_grad_()
    v = weights(x.detach(), 1)
    grad, = torch.autograd.grad(loss(calculate(model, here.with_positions(x)), quantity), x)

    def f(s):
        return loss(calculate(model, here.with_positions(here.positions + s * v)), quantity).detach()

    close((grad * v).sum(), extrapolated(f, 1e-3), 1e-6)


@pytest.mark.parametrize("which", ["thiol", "ammonium", "hydroxymethyl", "oxygen"])
def test_second_derivatives_of_energy(which):
    """Hessian times a vector against differences of forces; d-orbitals, ions, radicals."""
    model, here = Hamiltonian("PM6"), molecule(which)
    x = here.positions.clone().requires_grad_()
    v = weights(x.detach(), 2)
    energy = model(here.with_positions(x), order=2, tolerance=1e-10).energy.sum()
    g, = torch.autograd.grad(energy, x, create_graph=True)
    Hv, = torch.autograd.grad(g, x, v)
    difference = extrapolated(lambda s: -run("PM6", here.with_positions(here.positions + s * v), forces=True).forces, 1e-3)
    close(Hv, difference, 1e-6)


@pytest.mark.parametrize("which", ["water", "formate", "hydroxymethyl"])
def test_third_derivatives_of_energy(which):
    """Second differences of forces along a direction; exact at order 3."""
    model, here = Hamiltonian("PM6"), molecule(which)
    x = here.positions.clone().requires_grad_()
    v = weights(x.detach(), 3)
    g, = torch.autograd.grad(model(here.with_positions(x), order=3, tolerance=1e-10).energy.sum(), x, create_graph=True)
    Hv, = torch.autograd.grad(g, x, v, create_graph=True)
    vHv, = torch.autograd.grad((Hv * v).sum(), x)

    def curve(s):
        y = (here.positions + s * v).requires_grad_()
        g, = torch.autograd.grad(model(here.with_positions(y), order=2, tolerance=1e-10).energy.sum(), y, create_graph=True)
        return torch.autograd.grad(g, y, v)[0]

    close(vHv, extrapolated(curve, 1e-3), 1e-6)


def test_gradcheck_and_gradgradcheck():
    """PyTorch's own checks, all coordinates of distorted water at once."""
    model, here = Hamiltonian("AM1"), molecule("water")

    def energy(x):
        return model(here.with_positions(x), order=3, tolerance=1e-11).energy

    x = here.positions.clone().requires_grad_()
    assert torch.autograd.gradcheck(energy, x, eps=1e-4, atol=1e-6)
    assert torch.autograd.gradgradcheck(energy, x, eps=1e-4, atol=1e-5)


# --- by parameters

def with_parameter(method, name, row, shift):
    model = Hamiltonian(method)
    with torch.no_grad():
        getattr(model, name)[row] += shift
    return model


@pytest.mark.parametrize("method", ELEMENTS)
@pytest.mark.parametrize("quantity", QUANTITIES)
def test_gradients_by_parameters(quantity, method):
    """Of every quantity by every parameter of one element in one sweep, relative 1e-6 (Q13)."""
    here = molecule(ELEMENTS[method])
    model = Hamiltonian(method).requires_grad_(True)
    z = 8 if ELEMENTS[method] == "water" else 16
    row = int(model.method.rows(torch.tensor([z]))[0])
    names = [n for n in PARAMETERS + WITH_D if float(getattr(model, n)[row].detach()) != 0.0]
    grads = torch.autograd.grad(loss(calculate(model, here), quantity), [getattr(model, n) for n in names], allow_unused=True)
    direction = {n: 0.01 * abs(float(getattr(model, n)[row].detach())) for n in names}

    def f(s):
        other = Hamiltonian(method)
        with torch.no_grad():
            for n, d in direction.items():
                getattr(other, n)[row] += s * d
        return loss(calculate(other, here), quantity).detach()

    total = sum(float(g[row]) * direction[n] for n, g in zip(names, grads, strict=True))
    close(torch.tensor(total, dtype=torch.float64), extrapolated(f, 0.05), 1e-6)


@pytest.mark.parametrize("name", ["U_ss", "beta_s", "zeta_s", "g_ss", "h_sp", "alpha_AB", "x_AB"])
def test_energy_by_each_parameter(name):
    """One parameter at a time."""
    here = molecule("water")
    model = Hamiltonian("PM6").requires_grad_(True)
    rows = model.method.rows(torch.tensor([8, 1]))
    place = int(model.pair_index[rows[0], rows[1]]) if name.endswith("AB") else int(rows[0])
    grad, = torch.autograd.grad(model(here, tolerance=1e-10).energy.sum(), getattr(model, name))
    f = extrapolated(lambda s: with_parameter("PM6", name, place, s)(here, tolerance=1e-10).energy[0].detach(), 1e-3)
    close(grad[place], f, 1e-6)


def test_alpha_of_one_atom():
    model = Hamiltonian("AM1").requires_grad_(True)
    row = int(model.method.rows(torch.tensor([8]))[0])
    grad, = torch.autograd.grad(calculate(model, molecule("water")).forces.square().sum(), model.alpha)

    def f(s):
        return calculate(with_parameter("AM1", "alpha", row, s), molecule("water")).forces.square().sum().detach()

    close(grad[row], extrapolated(f, 1e-3), 1e-6)


def test_directional_second_derivative_by_parameters():
    """gradgradcheck along one direction of parameters: d2E/ds2 at order 2."""
    here = molecule("water")

    def grad(s, create=False):
        model = Hamiltonian("AM1").requires_grad_(True)
        with torch.no_grad():
            model.beta_p += s
            model.g_ss += 0.3 * s
        energy = model(here, order=2, tolerance=1e-10).energy.sum()
        g = torch.autograd.grad(energy, [model.beta_p, model.g_ss], create_graph=create)
        return model, g[0].sum() + 0.3 * g[1].sum()

    model, first = grad(0.0, True)
    g = torch.autograd.grad(first, [model.beta_p, model.g_ss])
    close(g[0].sum() + 0.3 * g[1].sum(), extrapolated(lambda s: grad(s)[1].detach(), 1e-2), 1e-6)


# --- implicit against unrolled

def test_implicit_is_unrolled():
    """Energy, charge and their second derivatives from a damped fixed point that is differentiated step by step."""
    model, here = Hamiltonian("AM1"), molecule("water")
    state = run("AM1", here).states[0]
    lay, made = state.problem.layout, model.assembled(here)
    topology, parameters = made.topology, made.parameters
    occupied = int(state.orbitals.f[0, 0].sum())

    def unrolled(x):
        ints = walk.integrals(topology, x, walk.distances(topology, x), parameters)
        k, h, D = kernel(lay, ints), one_electron(lay, ints), state.solution.D
        for _ in range(60):
            C = torch.linalg.eigh(fock(lay, k, h, D))[1]
            new = C[..., :occupied] @ C[..., :occupied].mT
            D = 0.3 * D + 0.7 * new
        return electronic_energy(lay, ints, D)[0] + ints.core[0], 6.0 - 2 * D[0, 0, :4, :4].trace()

    x = here.positions.clone().requires_grad_()
    E, q = unrolled(x)
    result = model(here.with_positions(x), order=2, tolerance=1e-11)
    own = [result.energies["electronic"][0] + result.energies["core_core"][0], result.charges[0]]
    for a, b in zip((E, q), own, strict=True):
        close(a.detach(), b.detach(), 1e-9)
        close(torch.autograd.grad(a, x, retain_graph=True)[0], torch.autograd.grad(b, x, retain_graph=True)[0], 1e-7)
    v = weights(x.detach(), 4)
    second = []
    for energy in (E, own[0]):
        g, = torch.autograd.grad(energy, x, create_graph=True)
        second.append(torch.autograd.grad(g, x, v)[0])
    close(*second, 1e-6)


# --- open shells

@pytest.mark.parametrize("which", ["hydroxymethyl", "oxygen"])
@pytest.mark.parametrize("method", ["AM1", "PM6"])
def test_half_electron_forces(method, which):
    """Exact although the energy is not stationary in the open orbitals; second derivatives are refused."""
    here = molecule(which)
    r = run(method, here, forces=True, unrestricted=False)
    v = weights(here.positions, 6)
    slope = extrapolated(lambda s: run(method, here.with_positions(here.positions + s * v), unrestricted=False).energy[0], 2e-3)
    assert abs(float(slope + (r.forces * v).sum())) < 1e-6
    with pytest.raises(InvalidMolecule):
        run(method, here, unrestricted=False, order=2)


def test_half_electron_parameters():
    here = molecule("hydroxymethyl")
    model = Hamiltonian("AM1").requires_grad_(True)
    row = int(model.method.rows(torch.tensor([6]))[0])
    grad, = torch.autograd.grad(model(here, unrestricted=False, tolerance=1e-10).energy.sum(), model.U_pp)

    def f(s):
        return with_parameter("AM1", "U_pp", row, s)(here, unrestricted=False, tolerance=1e-10).energy[0].detach()

    close(grad[row], extrapolated(f, 1e-2), 1e-6)


# --- forces of every method; along one direction: test_physics.py, Q4

@pytest.mark.slow
@every
@pytest.mark.parametrize("which", MOLECULES)
def test_every_force_is_a_difference(name, which):
    here = molecule(which)
    r, n = run(name, here, forces=True), here.positions.numel()

    def energies(s):
        x = here.positions + s * torch.eye(n, dtype=torch.float64).view(n, -1, 3)
        entry = MOLECULES[which]
        return run(name, Molecules.batch([entry[0]] * n, list(x), entry[2], entry[3])).energy

    assert float((extrapolated(energies, 2e-3) + r.forces.flatten()).detach().abs().max()) < 1e-6


CORRECTED = ("C2H2", "trimethylamine", "silanol", "N_methylacetamide", "acetic_acid_water", "formamide_dimer", "water_ammonia",
             "PCl3")
HALOGEN = (["C", "Br", "H", "H", "H", "O", "H", "H"],
           [[0.0, 0, 0], [1.93, 0, 0], [-0.35, 1.02, 0], [-0.35, -0.5, 0.9], [-0.35, -0.52, -0.88], [4.95, 0.2, 0.1],
            [5.5, 0.9, 0.5], [5.4, -0.6, 0.4]])


@pytest.mark.parametrize("name", [name for name in MODELS if name not in LEARNED])     # with silicon and bromine
def test_forces_with_every_correction(name):
    """Distorted molecules in which each correction is at work."""
    stored = xyz(gzip.decompress((DATA / "reference_geometries.xyz.gz").read_bytes()).decode())
    entries = [stored[k] for k in CORRECTED] + [HALOGEN]
    if name == "RM1":
        entries = [e for e in entries if "Si" not in e[0]]
    here = Molecules.batch([[atomic_numbers[s] for s in e[0]] for e in entries], [e[1] for e in entries])
    here = here.with_positions(here.positions + 0.02 * weights(here.positions, 20))
    r, v = run(name, here, forces=True), weights(here.positions, 21)
    for term, value in r.energies.items():
        assert bool((value != 0).any()), f"{term} is not tested"
    length = torch.zeros(len(here), dtype=torch.float64).index_add(0, here.molecule, v.square().sum(1)).sqrt()
    v = v / length[here.molecule][:, None]
    slope = extrapolated(lambda s: run(name, here.with_positions(here.positions + s * v)).energy, 2e-3)
    own = torch.zeros_like(length).index_add(0, here.molecule, (r.forces * v).sum(1))
    assert (slope + own).abs().max() < 1e-6


METALS = {"PM6": ([26, 17, 17], [[0.0, 0.0, 0.0], [2.1, 0.3, 0.1], [-1.9, 0.6, 0.4]], 0, 5),
          "PM7": ([30, 8, 1, 1], [[0.0, 0.0, 0.0], [1.9, 0.2, 0.1], [2.4, 1.0, 0.3], [-1.5, 0.2, 0.1]], 0, 1),
          "MNDO/d": ([48, 17, 17], [[0.0, 0.0, 0.0], [2.3, 0.3, 0.1], [-2.2, 0.5, 0.4]], 0, 1)}


@pytest.mark.parametrize("name", METALS)
def test_forces_of_metals(name):
    entry = METALS[name]
    here, v = molecule(entry), weights(torch.zeros(len(entry[0]), 3), 8)
    r = run(name, here, forces=True)
    slope = extrapolated(lambda s: run(name, here.with_positions(here.positions + s * v), guess=r).energy[0], 2e-3)
    assert abs(float((slope + (r.forces * v).sum()).detach())) < 1e-5     # a larger third derivative


# --- batches, degeneracy, gauge

def test_gradients_of_a_batch():
    """Second derivatives of a padded, mixed batch equal those of its members; across molecules they are exactly zero."""
    model, names = Hamiltonian("PM6"), ("water", "thiol", "hydroxymethyl", "formate")
    here = batch(names)
    x = here.positions.clone().requires_grad_()
    v = weights(x.detach(), 9)
    r = model(here.with_positions(x), order=2, tolerance=1e-10)
    g, = torch.autograd.grad(r.energy.sum(), x, create_graph=True)
    together, = torch.autograd.grad(g, x, v, retain_graph=True)
    start = 0
    for k, which in enumerate(names):
        part = slice(start, start := start + len(MOLECULES[which][0]))
        one, y = molecule(which), molecule(which).positions.requires_grad_()
        g1, = torch.autograd.grad(model(one.with_positions(y), order=2, tolerance=1e-10).energy.sum(), y, create_graph=True)
        alone, = torch.autograd.grad(g1, y, v[part])
        close(together[part], alone, 1e-7)
        across, = torch.autograd.grad(r.energy[k], x, retain_graph=True)
        outside = torch.ones(len(x), dtype=torch.bool)
        outside[part] = False
        assert bool((across[outside] == 0).all())


@pytest.mark.parametrize("entry", [METHANE, BENZENE], ids=["methane", "benzene"])
@pytest.mark.parametrize("order", [2, 3])
def test_degenerate_levels_are_harmless(entry, order):
    """Charges, dipoles and forces of CH4 and C6H6 have finite and right gradients."""
    model, here = Hamiltonian("PM6"), molecule(entry)
    x = here.positions.clone().requires_grad_()
    v = weights(x.detach(), 10)
    v = v / v.norm()
    for quantity in ("dipole", "charges", "forces"):
        grad, = torch.autograd.grad(loss(calculate(model, here.with_positions(x), order=order), quantity), x)
        assert torch.isfinite(grad).all()

        def f(s, quantity=quantity):
            return loss(calculate(model, here.with_positions(here.positions + s * v)), quantity).detach()

        close((grad * v).sum(), extrapolated(f, 2e-3), 1e-6, 1e-7)


@pytest.mark.parametrize("which", ["thiol", "hydroxymethyl"])
def test_gauge_of_the_orbitals(which):
    """Random phases, and rotations within the occupied and the virtual space, change no derivative (Q14)."""
    model, here = Hamiltonian("PM6"), molecule(which)
    state = run("PM6", here).states[0]
    orbitals = state.orbitals
    made = model.assembled(here)
    x = here.positions.clone().requires_grad_()
    ints = walk.integrals(made.topology, x, walk.distances(made.topology, x), made.parameters)
    v = weights(x.detach(), 11)

    def second(C):
        rotated = Orbitals(C, orbitals.eps, orbitals.f)
        ref = response.reference(state.problem, rotated, state.solution)
        E, D = response.energy(ref, ints, 2)
        g, = torch.autograd.grad(E.sum(), x, create_graph=True)
        density = (D * weights(D.detach(), 12)).sum()
        return torch.cat([torch.autograd.grad(f, x, w, retain_graph=True)[0] for f, w in ((g, v), (density, None))])

    mixed = orbitals.C.clone()
    for spin in range(mixed.shape[1]):
        for space in (orbitals.f[0, spin] > 0, orbitals.f[0, spin] == 0):
            n = int(space.sum())
            U, _ = torch.linalg.qr(weights(torch.zeros(n, n), 13))
            mixed[0, spin][:, space] = orbitals.C[0, spin][:, space] @ U
    phases = orbitals.C * weights(orbitals.C[..., :1, :], 14).sign()
    base = second(orbitals.C)
    close(second(phases), base, 1e-9)
    close(second(mixed), base, 1e-9)


@pytest.mark.parametrize("name", ["AM1", "PM6-D3H4"])
def test_derivatives_rotate(name):
    """A gradient of a force loss turns with the molecule."""
    model, here, Q = Hamiltonian(name), molecule("formamide water"), rotation(4)
    target = weights(here.positions, 15)

    def grad(positions, target):
        x = positions.clone().requires_grad_()
        return torch.autograd.grad((calculate(model, here.with_positions(x)).forces * target).sum(), x)[0]

    close(grad(here.positions @ Q.T, target @ Q.T), grad(here.positions, target) @ Q.T, 1e-8)


# --- memory

def tensors():
    gc.collect()
    return sum(issubclass(type(o), torch.Tensor) for o in gc.get_objects())   # isinstance wakes lazy ones


@pytest.mark.parametrize("options", [{"forces": True}, {"order": 2, "forces": True}, {}], ids=["forces", "order 2", "energy"])
def test_no_tensors_pile_up(options):
    """As many tensors after 50 calls at changing positions as after the first few."""
    model, here = Hamiltonian("PM6"), molecule("water")
    counts = []
    for k in range(50):
        r = model(here.with_positions(here.positions + 1e-4 * k), **options)
        if options.get("order") == 2:
            x = here.positions.clone().requires_grad_()
            torch.autograd.grad(calculate(model, here.with_positions(x)).forces.square().sum(), x)
        del r
        if k in (5, 49):
            counts.append(tensors())
    assert counts[1] <= counts[0], counts


def test_nothing_on_a_tape_that_nobody_asked_for():
    """Without gradients anywhere in the input, the results carry none: a kept result does not keep its integrals."""
    r = Hamiltonian("AM1")(molecule("water"), forces=True)
    asked = [name for name in ("energy", "forces", "charges", "dipole", "heat_of_formation") if getattr(r, name).requires_grad]
    assert not asked, asked


def test_gap_is_differentiable():
    """Q13 for a loss on the gap, by a parameter of the method."""
    model = Hamiltonian("AM1").requires_grad_(True)
    gradient, = torch.autograd.grad(model(molecule("water"), order=2).gap(), model.beta_p)
    row = int(gradient.abs().argmax())
    values, step = [], 1e-4
    for sign in (1, -1):
        moved = Hamiltonian("AM1")
        with torch.no_grad():
            moved.beta_p[row] += sign * step
        values.append(float(moved(molecule("water"), tolerance=1e-10).gap()))
    assert abs(float(gradient[row]) - (values[0] - values[1]) / (2 * step)) < 1e-6 * abs(float(gradient[row]))

