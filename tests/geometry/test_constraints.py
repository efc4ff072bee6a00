"""Constraints of ASE's Atoms in the command: what is held stays, what is free comes to rest, and the output says so."""

import numpy as np
import pytest
import torch
from ase.build import molecule
from ase.constraints import (
    FixAtoms,
    FixBondLength,
    FixCartesian,
    FixCom,
    FixedLine,
    FixedPlane,
    FixInternals,
    Hookean,
)
from ase.io import read, write
from typer.testing import CliRunner

from nddo_ml import Hamiltonian, UnknownOption
from nddo_ml.cli.advice import warnings
from nddo_ml.cli.calculate import calculate
from nddo_ml.cli.main import app
from nddo_ml.cli.wanted import Wanted
from nddo_ml.geometry.constraints import described, fixed_directions, free_forces, is_linear
from nddo_ml.properties.vibrations import normal_modes

MASK = """4
Properties=species:S:1:pos:R:3:move_mask:L:1 pbc="F F F"
C 0.0 0.0 0.0 F
O 1.35 0.0 0.0 F
H -0.60 0.94 0.0 T
H -0.60 -0.94 0.0 T
"""


def quiet(what, fraction):
    """Progress that nobody watches."""


def methanol(*constraints):
    atoms = molecule("CH3OH")
    atoms.rattle(0.05, seed=1)
    atoms.set_constraint(list(constraints))
    return atoms


@pytest.mark.parametrize(("constraints", "count", "words"), [
    ([FixAtoms([0, 2])], 6, "2 of 6 atoms fixed"),
    ([FixCartesian(1, mask=(True, False, True))], 2, "1 of 6 atoms fixed along some axes"),
    ([FixAtoms([0]), FixCartesian([0, 3], mask=(True, False, False))], 4,
     "1 of 6 atoms fixed, 1 of 6 atoms fixed along some axes"),
    ([FixedPlane(2, (1, 1, 0))], 1, "FixedPlane"), ([FixedLine([2, 4], (1, 1, 0))], 4, "FixedLine"),
    ([FixCom(), FixAtoms([1])], 6, "1 of 6 atoms fixed, FixCom"), ([], 0, "")])
def test_directions_and_words(constraints, count, words):
    atoms = methanol(*constraints)
    d = fixed_directions(atoms)
    assert is_linear(atoms) and described(atoms) == words
    assert (0 if d is None else len(d)) == count
    if count:
        assert torch.allclose(d @ d.T, torch.eye(count, dtype=torch.float64), atol=1e-12)
        first = np.random.default_rng(0).normal(size=(6, 3))
        left, ours = first, first.ravel() - d.numpy().T @ (d.numpy() @ first.ravel())
        for _ in range(200):                                        # ASE goes through them one by one, again and again
            left = free_forces(atoms, left)
        np.testing.assert_allclose(left.ravel(), ours, atol=1e-9)


def test_the_mask_of_a_file_is_obeyed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "held.extxyz").write_text(MASK)
    found = CliRunner().invoke(app, ["run", "held.extxyz", "--opt"])
    assert found.exit_code == 0, found.output
    assert "2 of 4 atoms fixed" in found.output
    atoms = read(tmp_path / "held-opt.extxyz")
    np.testing.assert_allclose(atoms.positions[:2], [[0, 0, 0], [1.35, 0, 0]], atol=1e-8)
    assert atoms.get_distance(0, 2) != pytest.approx(1.1151, abs=1e-3)
    forces = read(tmp_path / "held-opt.extxyz").get_forces(apply_constraint=False)
    assert np.linalg.norm(forces[2:], axis=1).max() < 0.01 < 1 < np.linalg.norm(forces[0])


@pytest.mark.parametrize("constraint", [FixBondLength(0, 1), FixInternals(bonds=[[1.5, [0, 1]]]), Hookean(0, 1, 20.0, 1.3)])
def test_constraints_that_bend_are_followed_by_ase(constraint):
    atoms = methanol(constraint)
    found = calculate(atoms, Hamiltonian("AM1"), Wanted(optimisation=True, fmax=0.02), quiet)
    assert bool(found.optimisation.optimised.converged[0]) and not is_linear(atoms) and found.largest_force < 0.02
    free = calculate(methanol(), Hamiltonian("AM1"), Wanted(optimisation=True, fmax=0.02), quiet)
    bond = found.atoms.get_distance(0, 1)
    expected = {"FixBondLengths": atoms.get_distance(0, 1), "FixInternals": 1.5}.get(type(constraint).__name__)
    assert bond == pytest.approx(expected, abs=1e-6) if expected else bond < free.atoms.get_distance(0, 1) - 0.01
    assert float(found.result.energy[0]) > float(free.result.energy[0])
    with pytest.raises(UnknownOption, match=type(constraint).__name__[:7]):
        calculate(atoms, Hamiltonian("AM1"), Wanted(vibrations=True), quiet)


def test_frequencies_of_what_may_move():
    """Two fixed atoms leave 12 modes; held heavy atoms change a stretch of hydrogen by little, and nothing is an ideal gas."""
    wanted = Wanted(optimisation=True, vibrations=True, fmax=1e-3)
    found = calculate(methanol(FixAtoms([0, 1])), Hamiltonian("AM1"), wanted, quiet)
    s = found.spectroscopy
    assert len(s.vibrations.frequencies) == len(s.intensities) == 12 and s.thermochemistry is None
    assert s.vibrations.modes[:, :2].abs().max() < 1e-12
    assert any("2 of 6 atoms fixed" in w for w in warnings(found))
    whole = calculate(methanol(), Hamiltonian("AM1"), wanted, quiet)
    assert float(s.vibrations.frequencies[-1]) == pytest.approx(float(whole.spectroscopy.vibrations.frequencies[-1]), rel=0.05)
    assert whole.spectroscopy.thermochemistry is not None


def test_a_fixed_partner_counts_as_infinitely_heavy():
    """k of a diatomic: omega^2 = k/m with one end fixed, and along the other two axes nothing."""
    H = torch.zeros(6, 6, dtype=torch.float64)
    H[2, 2] = H[5, 5] = 30.0
    H[2, 5] = H[5, 2] = -30.0
    x, m = torch.tensor([[0, 0, 0], [0, 0, 1.0]], dtype=torch.float64), torch.tensor([35.0, 1.0], dtype=torch.float64)
    held = normal_modes(H, m, x, fixed=torch.eye(6, dtype=torch.float64)[:3])
    free = normal_modes(H, m, x)
    assert float(held.frequencies[-1] / free.frequencies[-1]) == pytest.approx((35 / 36) ** 0.5, rel=1e-9)
    assert held.frequencies[:2].abs().max() < 1e-6
    assert len(normal_modes(H, m, x, fixed=torch.eye(6, dtype=torch.float64)).frequencies) == 0


def test_free_forces_leave_the_given_ones_alone():
    forces = np.ones((6, 3))
    assert np.abs(free_forces(methanol(FixAtoms([0])), forces)[0]).max() == 0 and forces.min() == 1


def test_written_constraints_come_back(tmp_path):
    write(tmp_path / "a.extxyz", methanol(FixCartesian(1, mask=(True, False, True))))
    assert described(read(tmp_path / "a.extxyz")) == "1 of 6 atoms fixed along some axes"
