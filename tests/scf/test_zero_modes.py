"""Responses of degenerate states: the rotation that costs nothing is found, and no property depends on it."""

import numpy as np
import pytest
import torch
from ase import Atoms

from nddo_ml import NDDO, Hamiltonian, Molecules
from nddo_ml.interfaces.qcschema import compute
from nddo_ml.properties.response import (
    dipole_derivatives,
    hessian,
    polarizability,
    polarizability_derivatives,
)
from nddo_ml.scf import response
from nddo_ml.scf.zero_modes import free_axes, generators, zero_modes

RADICALS = {"CH": ([6, 1], 1.12, 2), "OH": ([8, 1], 0.97, 2), "NH": ([7, 1], 1.04, 1), "SH": ([16, 1], 1.34, 2)}


def turn(seed):
    q = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))[0]
    return q * np.sign(np.linalg.det(q))


def diatomic(name, R, stretch=0.0):
    numbers, d, multiplicity = RADICALS[name]
    return Molecules.single(numbers, np.array([[0, 0, 0], [0, 0, d + stretch]]) @ R.T, 0, multiplicity)


def state(model, molecules):
    result = model(molecules)
    found = result.states[0]
    return found.problem, found.solution, found.orbitals


@pytest.mark.parametrize(("method", "name", "modes"), [
    ("AM1", "CH", 1), ("PM6", "OH", 1), ("PM7", "SH", 1), ("AM1", "NH", 1), ("PM7", "C", 2), ("AM1", "N", 2), ("PM6", "H", 0),
    ("PM6", "V", 3)])
def test_the_rotation_that_costs_nothing_is_found(method, name, modes):
    """J X0 = 0 in an arbitrary orientation; d functions turn with p functions (V, S)."""
    atoms = {"C": (6, 3), "N": (7, 2), "H": (1, 2), "V": (23, 4)}
    molecules = diatomic(name, turn(3)) if name in RADICALS else Molecules.single([atoms[name][0]], [[0.3, 0, 0]], 0,
                                                                                  atoms[name][1])
    problem, solution, orbitals = state(Hamiltonian(method), molecules)
    ref = response.reference(problem, orbitals, solution)
    operator = response.response(ref.layout, ref.kernel, ref.spaces, ref.levels)
    X0 = zero_modes(generators(ref.layout, free_axes(molecules)), ref.spaces, operator)
    if modes == 0:
        assert X0 is None
        return
    norms = X0.flatten(2).norm(dim=-1)[0]
    assert int((norms > 0.5).sum()) == modes and norms.max() < 1 + 1e-9
    assert operator(X0).abs().max() < 1e-5                                 # the residual of the SCF


def test_bent_molecules_and_fields_have_none():
    water = Molecules.single([8, 1, 1], [[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]])
    assert free_axes(water) is None
    positions = [water.positions.numpy(), [[0, 0, 0], [0, 0, 1.1]], [[5.0, 0, 0]]]
    axes = free_axes(Molecules.batch([[8, 1, 1], [6, 1], [6]], positions, multiplicity=[1, 2, 3]))
    assert axes.abs().sum((1, 2)).tolist() == pytest.approx([0, 1, 3])
    model, oh = Hamiltonian("AM1"), diatomic("OH", np.eye(3))
    free = polarizability(model, oh)[0]
    problem, solution, orbitals = state(lambda m: model(m, field=torch.tensor([[1.0, 0, 0]], dtype=torch.float64)), oh)
    held = response.reference(problem, orbitals, solution, axes=free_axes(oh))
    assert held.costless is None and free.isfinite().all()                 # a field across the axis holds the density


@pytest.mark.parametrize(("method", "name"), [("AM1", "CH"), ("PM6", "OH"), ("PM7", "NH")])
def test_nothing_depends_on_orientation(method, name):
    """Hessian, dipole derivatives, and the invariants of the derivative of the polarizability along the bond, which Raman
    activities are made of; they were off by per cents, or by 1e9."""
    model, found = Hamiltonian(method), []
    for R in (np.eye(3), turn(0)):
        m, K = diatomic(name, R), np.kron(np.eye(2), R)
        H, D = K.T @ hessian(model, m)[0].numpy() @ K, K.T @ dipole_derivatives(model, m)[0].numpy() @ R
        alpha = R.T @ np.einsum("i,iab->ab", K[:, 5], polarizability_derivatives(model, m)[0].numpy()) @ R
        # a state may point anywhere about the axis: what its dipole has across the bond is compared by its length
        across = np.linalg.norm(D[5, :2])
        found.append(np.concatenate([H.ravel(), [across, D[5, 2], alpha[2, 2], np.trace(alpha), (alpha**2).sum()]]))
    assert np.ptp(found, axis=0).max() < 1e-5 * np.abs(found[0][-3:]).max()


def test_the_derivative_of_the_polarizability_is_that_of_a_state_that_does_not_turn():
    model, h = Hamiltonian("AM1"), 1e-3
    start = model(diatomic("OH", np.eye(3)))
    a, b = (polarizability(model, diatomic("OH", np.eye(3), s), guess=start)[0] for s in (-h, h))
    exact = polarizability_derivatives(model, diatomic("OH", np.eye(3)), guess=start)[0][5]
    assert (exact - (b - a) / (2 * h)).abs().max() < 1e-5 * exact.abs().max()


def test_a_batch_holds_them_beside_others():
    model = Hamiltonian("AM1")
    ch, water = diatomic("CH", turn(1)), Molecules.single([8, 1, 1], [[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]])
    both = Molecules.batch([[6, 1], [8, 1, 1]], [ch.positions.numpy(), water.positions.numpy()], multiplicity=[2, 1])
    together = polarizability_derivatives(model, both, unrestricted=True)
    for found, single in zip(together, (ch, water), strict=True):
        alone = polarizability_derivatives(model, single, unrestricted=True)[0]
        # the pi orbital may point elsewhere: what does not depend on that is the trace along the bond
        bond = (single.positions[1] - single.positions[0]).repeat(len(single.numbers))
        a, b = (torch.einsum("i,iab->ab", bond, x).trace() for x in (found, alone))
        assert abs(float(a - b)) < 1e-6


@pytest.mark.parametrize(("method", "symbol", "multiplicity"),
                         [("PM7", "C", 3), ("AM1", "N", 2), ("AM1", "P", 2), ("PM6", "O", 3)])
def test_atoms_have_hessians_through_every_door(method, symbol, multiplicity):
    atoms = Atoms(symbol, info={"multiplicity": multiplicity})
    assert np.array_equal(NDDO(method).get_hessian(atoms), np.zeros((3, 3)))
    found = compute({"driver": "hessian", "model": {"method": method}, "molecule": {
        "symbols": [symbol], "geometry": [0, 0, 0], "molecular_multiplicity": multiplicity}})
    assert found["success"] and found["return_result"] == [0.0] * 9
    single = Molecules.single(atoms.numbers, atoms.positions, 0, multiplicity)
    assert polarizability_derivatives(Hamiltonian(method), single)[0].abs().max() < 1e-9


def test_an_atom_beside_a_charge_is_held_by_it():
    """Its Hessian is that of the potential of the charge; differences of forces say the same."""
    atom, charges, h = Atoms("C", info={"multiplicity": 3}), ([[0, 0, 3.0]], [0.8]), 1e-4
    found = NDDO("PM6", point_charges=charges).get_hessian(atom)
    rows = []
    for axis in range(3):
        forces = []
        for sign in (1, -1):
            moved = atom.copy()
            moved.positions[0, axis] += sign * h
            moved.calc = NDDO("PM6", point_charges=charges)
            forces.append(moved.get_forces()[0])
        rows.append((forces[1] - forces[0]) / (2 * h))
    assert np.abs(found).max() > 1e-3 and np.abs(found - np.array(rows)).max() < 1e-4
