"""Langevin dynamics of atoms in a harmonic well and of free atoms, whose distributions are known."""

from dataclasses import replace

import numpy as np
import pytest
from ase import units

from nddo_ml.dynamics.langevin import Langevin, at_rest, thermal_velocities

STIFFNESS = 5.0        # eV/angstrom^2
TEMPERATURE = 600.0    # K


def forces(trajectory):
    """Of a harmonic well around the origin."""
    return -STIFFNESS * trajectory.positions


def propagated(trajectory, langevin, steps, rng):
    """The trajectory after each step in the well."""
    passed = []
    for _ in range(steps):
        moved = langevin.moved(trajectory, forces(trajectory), rng)
        trajectory = langevin.kicked(moved, forces(moved))
        passed.append(trajectory)
    return passed


def energy(trajectory):
    return trajectory.kinetic_energy + 0.5 * STIFFNESS * (trajectory.positions**2).sum()


@pytest.fixture
def carbon():
    return at_rest(np.array([6]), np.array([[0.1, 0.0, -0.05]]), TEMPERATURE)


def test_without_friction_it_is_velocity_verlet(carbon):
    """The energy oscillates and does not drift; its error falls with the square of the time step."""
    rng = np.random.default_rng(0)
    ranges = []
    for step in (1.0, 0.5):
        passed = propagated(carbon, Langevin(step, 0.0), int(400 / step), rng)
        energies = np.array([energy(t) for t in passed])
        ranges.append(np.ptp(energies))
        assert abs(energies[-50:].mean() - energies[:50].mean()) < np.ptp(energies)
    assert ranges[0] / ranges[1] == pytest.approx(4, rel=0.1)


def test_without_friction_it_runs_backwards(carbon):
    langevin, rng = Langevin(0.7, 0.0), np.random.default_rng(0)
    end = propagated(carbon, langevin, 50, rng)[-1]
    back = propagated(replace(end, velocities=-end.velocities), langevin, 50, rng)[-1]
    np.testing.assert_allclose(back.positions, carbon.positions, atol=1e-12)


def test_a_bath_has_its_temperature_and_its_distribution():
    """BAOAB samples positions in a harmonic well exactly, <x^2> = kT/k, whatever the time step. 3,000 atoms far apart in time:
    9,000 values, 1.5 % is one deviation of a variance."""
    atoms = at_rest(np.full(3000, 6), np.zeros((3000, 3)), TEMPERATURE)
    passed = propagated(atoms, Langevin(4.0, 0.05), 60, np.random.default_rng(1))
    assert passed[-1].positions.var() == pytest.approx(units.kB * TEMPERATURE / STIFFNESS, rel=0.06)
    kinetic = passed[-1].kinetic_energy / 4500
    assert kinetic == pytest.approx(units.kB * TEMPERATURE, rel=0.1), "exact only as the time step goes to zero"


def test_velocities_are_those_of_maxwell_and_boltzmann():
    atoms = thermal_velocities(at_rest(np.repeat([1, 8], 2000), np.zeros((4000, 3)), 300.0), np.random.default_rng(0))
    for part, mass in ((atoms.velocities[:2000], 1.008), (atoms.velocities[2000:], 15.999)):
        assert part.var() == pytest.approx(units.kB * 300 / mass, rel=0.06)


def test_a_step_of_the_bath_alone():
    """Free atoms: velocities of successive steps are correlated by exp(-friction dt)."""
    rng = np.random.default_rng(0)
    before = thermal_velocities(at_rest(np.full(3000, 7), np.zeros((3000, 3)), 300.0), rng)
    none = np.zeros((3000, 3))
    langevin = Langevin(2.0, 0.3)
    after = langevin.kicked(langevin.moved(before, none, rng), none)
    correlation = (before.velocities * after.velocities).mean() / before.velocities.var()
    assert correlation == pytest.approx(np.exp(-0.6), abs=0.04)
    assert after.velocities.var() == pytest.approx(before.velocities.var(), rel=0.05)


def test_what_it_starts_from_is_left_alone(carbon):
    positions = carbon.positions.copy()
    propagated(carbon, Langevin(1.0, 0.1), 3, np.random.default_rng(0))
    np.testing.assert_array_equal(carbon.positions, positions)
