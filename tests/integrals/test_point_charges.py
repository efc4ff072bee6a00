"""External point charges: forces, balance, limits, batches, refusals.

The charges `around` lie 4.5 to 6.5 angstrom from the molecules of physics_models.py, without symmetry.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from support.physics_models import METHANE, MOLECULES, batch, model, molecule, rotation, run
from support.point_charges import around, extrapolated, weights

from nddo_ml import Hamiltonian, InvalidMolecule, Molecules, PointCharges
from nddo_ml.elements import SPARKLE, dipole_masses
from nddo_ml.integrals import external as module
from nddo_ml.integrals.external import PlacedAtoms, external, potential
from nddo_ml.integrals.two_centre import two_centre
from nddo_ml.properties.response import hessian

CASES = (("AM1", "water"), ("PM6", "thiol"), ("PM7", "thiol"), ("MNDO/d", "thiol"), ("PM6", "formate"),
         ("PM3", "hydroxymethyl"))
TIGHT = 1e-10


def placed(made, here):
    """Atoms of an assembly as a charge sees them."""
    topology = made.topology
    return PlacedAtoms(topology.layout, topology.elements, made.parameters.atoms, here.positions, None)


def energy(name, here, charges, **options):
    return run(name, here, point_charges=charges, **options).energy.detach()[0]


def interaction(name, here, charges, **options):
    """Energy with the charges less energy without."""
    return energy(name, here, charges, **options) - energy(name, here, None, **options)


# --- forces

@pytest.mark.parametrize(("name", "which"), CASES)
def test_forces_on_atoms_and_charges(name, which):
    """Against differences of the energy along one direction, for atoms and charges, 1e-6 eV/A; sp, d, PM7, ion, radical."""
    here = molecule(which)
    charges = around(here)
    result = run(name, here, point_charges=charges, forces=True)
    v, w = weights(here.positions, 1), weights(charges.positions, 2)

    def moved(s):
        return energy(name, here.with_positions(here.positions + s * v), charges)

    def shaken(s):
        return energy(name, here, charges.with_positions(charges.positions + s * w))

    assert float((result.forces.detach() * v).sum() + extrapolated(moved, 2e-3)) == pytest.approx(0, abs=1e-6)
    assert float((result.point_charge_forces.detach() * w).sum() + extrapolated(shaken, 2e-3)) == pytest.approx(0, abs=1e-6)
    assert float(result.point_charge_forces.detach().abs().max()) > 0.01


@pytest.mark.parametrize(("name", "which"), CASES)
def test_no_net_force_or_torque(name, which):
    """Q10: forces on atoms and charges add up to nothing, 1e-8 eV/A; so do their torques, 1e-7 eV."""
    here = molecule(which)
    charges = around(here)
    result = run(name, here, point_charges=charges, forces=True)
    x = torch.cat((here.positions, charges.positions))
    f = torch.cat((result.forces, result.point_charge_forces)).detach()
    assert float(f.sum(0).abs().max()) < 1e-8
    assert float(torch.linalg.cross(x, f).sum(0).abs().max()) < 1e-7


def test_rotation_of_everything():
    here = molecule("thiol")
    charges, Q = around(here), rotation(5)
    result = run("PM6", here, point_charges=charges, forces=True)
    turned = run("PM6", here.with_positions(here.positions @ Q.T),
                 point_charges=charges.with_positions(charges.positions @ Q.T), forces=True)
    assert float((result.energy - turned.energy).detach().abs()) < 1e-9
    torch.testing.assert_close(result.point_charge_forces @ Q.T, turned.point_charge_forces, rtol=0, atol=1e-7)


@pytest.mark.parametrize("tilt", [0.0, 1e-9, 1e-4])
def test_charge_on_an_axis(tilt):
    """A charge straight above an atom, or nearly: the frame has no pole."""
    here = Molecules.single([6, 8], [[0, 0, 0], [0, 0, 1.13]])
    charges = PointCharges.single([[tilt, 0, 4.0]], [0.7])
    result = run("PM6", here, point_charges=charges, forces=True)
    slope = extrapolated(lambda s: energy("PM6", here, PointCharges.single([[tilt, 0, 4.0 + s]], [0.7])), 2e-3)
    assert float(result.point_charge_forces.detach()[0, 2] + slope) == pytest.approx(0, abs=1e-6)
    assert float(result.point_charge_forces.detach()[0, :2].norm()) < max(1e-8, tilt)


# --- limits

@pytest.mark.parametrize("name", ["AM1", "PM6", "PM7", "MNDO/d"])
def test_far_charge_feels_charge_and_dipole(name):
    """q e^2 [Q/R + mu.u/R^2], Q and mu those of the molecule alone: the even and the odd part under u -> -u, the next
    multipoles and the polarisation being smaller by (size/R)^2."""
    R, q, u = 1000.0, 1.0, torch.tensor([0.48, -0.6, 0.64], dtype=torch.float64)
    for which, total in (("thiol", 0), ("ammonium", 1), ("formate", -1)):
        here = molecule(which)
        bare = run(name, here)
        centre = _centre_of_mass(here)
        there, back = (float(interaction(name, here, PointCharges.single((centre + side * R * u)[None], [q])))
                       for side in (1, -1))
        k = bare.constants.coulomb
        assert (there + back) / 2 == pytest.approx(k * q * total / R, rel=1e-5, abs=1e-8), which
        assert (there - back) / 2 == pytest.approx(k * q * float(bare.dipole.detach()[0] @ u) / R**2, rel=1e-3, abs=1e-9), which


def _centre_of_mass(here):
    m = dipole_masses(here.numbers)
    return (m[:, None] * here.positions).sum(0) / m.sum()


@pytest.mark.parametrize(("name", "which"), CASES)
def test_two_opposite_distant_charges_are_a_uniform_field(name, which):
    """Energy, dipole and forces; the rest of their field is of second order in size/distance."""
    here, far = molecule(which), 3000.0
    here = here.with_positions(here.positions - here.positions.mean(0))
    u = torch.tensor([0.48, -0.6, 0.64], dtype=torch.float64)
    strength = 0.2                                        # V/angstrom
    q = strength * far**2 / (2 * model(name).method.constants.coulomb)
    pair = PointCharges.single(torch.stack((-far * u, far * u)), [q, -q])
    got, uniform = (run(name, here, forces=True, **option)
                    for option in ({"point_charges": pair}, {"field": strength * u[None]}))
    for quantity in ("energy", "dipole", "forces", "charges"):
        torch.testing.assert_close(getattr(got, quantity), getattr(uniform, quantity), rtol=0, atol=3e-6)
    bare = run(name, here)
    assert float((uniform.dipole - bare.dipole).detach().norm()) > 1e-3


def test_hydrogen_atom_feels_nothing():
    """A neutral atom with an s function only neither polarises nor interacts, at any distance (L4)."""
    here = Molecules.single([1], [[0.1, 0.2, 0.3]], 0, 2)
    for name in ("AM1", "PM6", "PM7"):
        for R in (0.5, 1.0, 3.0, 20.0):
            charge = PointCharges.single([[0.1, 0.2, 0.3 + R]], [1.0])
            assert float(interaction(name, here, charge)) == pytest.approx(0, abs=1e-10)


def test_metals_of_pm7_have_one_monopole():
    """The d electrons of a metal feel a charge like its s electrons do on average; without that they would not by far."""
    m = Hamiltonian("PM7")
    here = Molecules.single([26], [[0.0, 0.0, 0.0]], 0, 5)
    made = m.assembled(here)
    charges = PointCharges.single([[0.9, -1.2, 2.0]], [1.0])
    V, with_rho0 = [], []
    for equalise in (True, False):
        block = external(placed(made, here), charges, m.method.constants, equalise)[0][0][0]
        full = torch.zeros(9, 9, dtype=torch.float64)
        full[tuple(torch.tril_indices(9, 9))] = block
        V.append(float(full.diagonal()[4:].mean()))
        with_rho0.append(float(full[0, 0]))
    assert V[0] == pytest.approx(with_rho0[0], abs=1e-12)
    assert abs(V[1] - with_rho0[1]) > 1e-3


def test_like_the_core_of_an_atom():
    """A charge with the additive term of a core attracts electrons as that core does (integrals/two_centre.py); sp and spd."""
    m = Hamiltonian("PM6")
    for numbers in ([16, 7], [8, 6]):
        here = Molecules.single(numbers, [[0.1, 0.2, 0.3], [1.4, -0.8, 1.1]])
        made = m.assembled(here)
        topology, sides, between = made.topology, made.parameters.sides[0], made.distances
        group, species = topology.layout.pairs[0], replace(topology.pair_species[0], separate_core=True)
        i, j = int(group.i[0]), int(group.j[0])
        V = two_centre(species, between.R, between.u, sides, topology.recipe).attraction_i
        core = PointCharges.single(here.positions[[j]], [float(sides[1].core[0])], float(sides[1].rho_core[0]))
        got, _ = potential(group.shells[0], torch.tensor([i]), placed(made, here), core, m.method.constants)
        torch.testing.assert_close(-got, V, rtol=0, atol=1e-12)


def test_sparkle_and_charge():
    """Next to a sparkle, or next to a charge with its core charge and additive term: the same electrons."""
    m = Hamiltonian("AM1")
    water, metal = MOLECULES["water"], [0.4, 0.1, 2.6]
    both = Molecules.single([*water[0], 63 + SPARKLE], [*water[1], metal], 3)
    with_sparkle = m(both, tolerance=TIGHT)
    p = m.assembled(both).parameters
    charge = PointCharges.single([metal], [3.0], float(p.atoms.rho_core[-1]))
    with_charge = m(molecule("water"), point_charges=charge, tolerance=TIGHT)
    assert float(with_charge.energies["electronic"]) == pytest.approx(float(with_sparkle.energies["electronic"]), abs=1e-8)


def test_very_near_charge():
    """At 1.0 and 0.1 A from an atom everything is finite and the forces balance; the additive terms of the atom soften it."""
    for name, which in CASES[:4]:
        here = molecule(which)
        for distance in (1.0, 0.1):
            site = here.positions[0] + distance * torch.tensor([0.0, -0.6, 0.8], dtype=torch.float64)
            result = run(name, here, point_charges=PointCharges.single(site[None], [0.4]), forces=True)
            f = torch.cat((result.forces, result.point_charge_forces)).detach()
            assert bool(torch.isfinite(f).all()) and float(f.abs().max()) < 50
            assert float(f.sum(0).abs().max()) < 1e-8


def test_screening_weakens_a_charge():
    """rho softens the potential at short range and leaves it at long range."""
    here = molecule("ammonium")

    def at(R, rho):
        return float(interaction("AM1", here, PointCharges.single([[0, 0, R]], [1e-4], rho)))

    assert 0 < at(2.0, 2.0) < 0.95 * at(2.0, 0.0)
    assert at(300.0, 2.0) == pytest.approx(at(300.0, 0.0), rel=1e-4)


def test_charges_do_not_feel_each_other():
    """Two halves at one spot are the whole."""
    here = molecule("water")
    x = [[0.3, 0.2, 3.1]]
    assert float(energy("AM1", here, PointCharges.single(x, [0.8]))) == pytest.approx(
        float(energy("AM1", here, PointCharges.single(x + x, [0.3, 0.5]))), abs=1e-10)


# --- derivatives

def test_derivative_by_a_charge_is_the_potential():
    """dE/dq = the electrostatic potential of the polarised molecule there, from the density and the bare integrals."""
    m, here = model("PM6"), molecule("thiol")
    charges = around(here)
    q = charges.charges.clone().requires_grad_()
    result = m(here, point_charges=PointCharges(charges.positions, q, charges.molecule, charges.rho), tolerance=TIGHT)
    slope, = torch.autograd.grad(result.energy.sum(), q)
    made = m.assembled(here)
    P = 2 * result.density(0)[0]
    lay, expected = made.topology.layout, []
    for k in range(len(charges)):
        unit = PointCharges.single(charges.positions[[k]], [1.0])
        V, E = external(placed(made, here), unit, m.method.constants)
        flat = P.flatten()
        electrons = sum((V_g * flat[g.packed] * g.weight).sum() for V_g, g in zip(V, lay.atoms, strict=True))
        expected.append(electrons + E[0])
    torch.testing.assert_close(slope, torch.stack(expected), rtol=0, atol=1e-9)


# --- batches and layouts

def several():
    """Five molecules, with 4, 0, 7, 1 and 2 charges."""
    names = ("formamide water", "water", "thiol", METHANE, "hydroxymethyl")
    here = batch(names)
    sets = [around(molecule(n), c, seed=k) if c else None for k, (n, c) in enumerate(zip(names, (4, 0, 7, 1, 2), strict=True))]
    none = PointCharges.single([], [])
    sets = [none if s is None else s for s in sets]
    charges = PointCharges.batch([s.positions for s in sets], [s.charges for s in sets],
                                 [s.rho + 0.1 * k for k, s in enumerate(sets)])
    return names, here, charges


def test_batch_is_its_members():
    """Several buckets, a molecule without charges among them; the order of the input is kept."""
    names, here, charges = several()
    result = run("PM6", here, point_charges=charges, forces=True)
    assert charges.sizes(5) == [4, 0, 7, 1, 2]
    for k, name in enumerate(names):
        own = charges.select([k])
        single = run("PM6", molecule(name), point_charges=own if len(own) else None, forces=True)
        assert float(result.energy[k] - single.energy[0]) == pytest.approx(0, abs=1e-9)
        torch.testing.assert_close(result.forces[here.molecule == k], single.forces, rtol=0, atol=1e-7)
        if len(own):
            torch.testing.assert_close(result.point_charge_forces[charges.molecule == k], single.point_charge_forces, rtol=0,
                                       atol=1e-7)
        else:
            assert single.point_charge_forces is None


def test_no_gradient_across_molecules():
    names, here, charges = several()
    x = charges.positions.clone().requires_grad_()
    E = run("PM6", here, point_charges=charges.with_positions(x)).energy
    for k in range(len(names)):
        g, = torch.autograd.grad(E[k], x, retain_graph=True)
        assert float(g[charges.molecule != k].abs().max()) == 0
        assert k == 1 or float(g[charges.molecule == k].abs().max()) > 0


def test_unconverged_member():
    """One that cannot converge within the limit is NaN, its charges' forces too, the others are not."""
    _, here, charges = several()
    result = model("PM6")(here, point_charges=charges, forces=True, max_steps=7, tolerance=1e-7)
    assert 0 < int(result.converged.sum()) < 5
    bad = ~result.converged[charges.molecule]
    missing = torch.isnan(result.point_charge_forces).all(1)
    assert bool((missing == bad).all()) and bool(bad.any()) and not bool(bad.all())


def test_no_charges_at_all():
    here = molecule("water")
    result = run("AM1", here, point_charges=PointCharges.single([], []), forces=True)
    assert float(result.energy.detach()) == float(run("AM1", here).energy.detach())
    assert result.point_charge_forces.shape == (0, 3)


def test_packed_layout_is_only_a_layout(monkeypatch):
    """The same with hydrogens as sp atoms with an empty p shell and without."""
    _, here, charges = several()
    result = [model_of(monkeypatch, below)(here, point_charges=charges, forces=True, tolerance=TIGHT) for below in (0, 10**6)]
    torch.testing.assert_close(result[0].energy, result[1].energy, rtol=0, atol=1e-9)
    torch.testing.assert_close(result[0].point_charge_forces, result[1].point_charge_forces, rtol=0, atol=1e-7)


def model_of(monkeypatch, below):
    monkeypatch.setattr("nddo_ml.orbitals.PACKED_BELOW", below)
    return Hamiltonian("PM6")


@pytest.mark.parametrize("order", [1, 2])
def test_parts_are_the_whole(monkeypatch, order):
    """Pairs evaluated in parts, each again for its derivatives: energies, forces and gradients of a force loss."""
    _, here, charges = several()
    m = Hamiltonian("PM6").requires_grad_(True)
    result = []
    for chunk in (10**6, 17):
        monkeypatch.setattr(module, "CHUNK", chunk)
        r = m(here, point_charges=charges, forces=True, order=order, tolerance=TIGHT)
        loss = r.energy.sum() if order == 1 else (r.point_charge_forces * weights(charges.positions)).sum()
        result.append((r.energy, r.point_charge_forces, torch.autograd.grad(loss, m.g_ss)[0]))
    for whole, parts in zip(*result, strict=True):
        torch.testing.assert_close(parts, whole, rtol=1e-9, atol=1e-9)


def test_hessian_in_parts(monkeypatch):
    """The Hessian differentiates many directions at once, through parts that are evaluated again."""
    here = molecule("water")
    charges = around(here)
    whole = hessian(model("AM1"), here, point_charges=charges)[0]
    monkeypatch.setattr(module, "CHUNK", 4)
    torch.testing.assert_close(hessian(model("AM1"), here, point_charges=charges)[0], whole, rtol=0, atol=1e-8)


def test_one_centre_block_is_axial():
    """A block is symmetric under rotation about the line to the charge: functions of different m are not mixed."""
    m, here = model("PM6"), Molecules.single([16], [[0.0, 0.0, 0.0]], 0, 3)
    made = m.assembled(here)
    V = external(placed(made, here), PointCharges.single([[0, 0, 2.5]], [1.0]), m.method.constants)
    full = torch.zeros(9, 9, dtype=torch.float64)
    full[tuple(torch.tril_indices(9, 9))] = V[0][0][0]
    full = full + full.T - torch.diag(full.diagonal())
    m_of = torch.tensor([0, 1, -1, 0, 2, 1, 0, -1, -2])              # s, x, y, z, x2-y2, xz, z2, yz, xy
    assert float(full[m_of[:, None] != m_of].abs().max()) < 1e-14
    assert float(full[0, 3].abs()) > 0.1


# --- refusals

@pytest.mark.parametrize(("make", "words"), [
    (lambda: PointCharges.single([[0, 0, 3.0]], [1.0, 2.0]), "expected"),
    (lambda: PointCharges.single([[0, 0, "x"]], [1.0]), "no array of numbers"),
    (lambda: PointCharges.single([[0, 0, 3.0]], [1.0], rho=[[0.1, 0.2]]), "rho"),
    (lambda: PointCharges.batch([[[0, 0, 3.0]]], []), "one entry of each per molecule"),
    (lambda: PointCharges.batch([], []), "No molecules"),
    (lambda: PointCharges.batch([[], []], [[], []], rho=[[]]), "1 entries for 2"),
])
def test_constructors_refuse(make, words, wrong_types):
    with pytest.raises(InvalidMolecule, match=words):
        make()


@pytest.mark.parametrize(("charges", "words"), [
    (PointCharges.single([[0, 0, np.nan]], [1.0]), "finite"),
    (PointCharges.single([[0, 0, 3.0]], [np.inf]), "finite"),
    (PointCharges.single([[0, 0, 1e9]], [1.0]), "finite"),
    (PointCharges.single([[0, 0, 3.0]], [1.0], -0.5), "rho not negative"),
    (PointCharges.batch([[], [[0, 0, 3.0]]], [[], [1.0]]), "there are 1 molecules"),
    (([[0, 0, 3.0]], [1.0]), "expected nddo_ml.PointCharges"),
    (PointCharges(torch.zeros(1, 3), torch.ones(1), torch.zeros(1, dtype=torch.long), torch.zeros(1)), "float64"),
    (PointCharges.single([[0.013, -0.021, 0.12]], [1.0]), r"Point charge 0 .* from atom 0 \(counting from 0\)"),
])
def test_hamiltonian_refuses(charges, words, wrong_types):
    with pytest.raises(InvalidMolecule, match=words):
        model("AM1")(molecule("water"), point_charges=charges)


def test_names_the_member_of_a_batch():
    here = batch(["water", "formamide water"])
    sets = PointCharges.batch([[[0, 0, 4.0]], [[9.0, 0, 0], here.positions[5].tolist()]], [[1.0], [1.0, 1.0]])
    with pytest.raises(InvalidMolecule, match=r"Point charge 1 .* atom 2 of molecule 1"):
        model("AM1")(here, point_charges=sets)
