"""Exploring: trajectories that move as they should, and end where they become meaningless."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from ase import units
from ase.build import molecule as ase_molecule
from support.ensembles import member, named
from support.labels import structure

from nddo_ml import Molecules
from nddo_ml.active.config import Explore
from nddo_ml.active.explore import TrajectoryStart, collided, explored, judged
from nddo_ml.ensembles.ensemble import Ensemble


@pytest.fixture(scope="module")
def ensemble():
    return Ensemble([member(k, 0.01) for k in range(2)])


@torch.no_grad()
def test_dynamics_without_friction_keeps_the_energy(ensemble):
    """The driver's energy, not the mean's; velocities by central differences, whose error at 0.2 fs is a per cent or two."""
    settings = Explore((), steps=36, every=1, time_step=0.2, friction=0.0, stop=1e9)
    found = explored(ensemble, [TrajectoryStart(named("CH4"), 300.0)], settings, np.random.default_rng(0)).candidates
    x = np.stack([c.structure.positions for c in found])
    v = (x[2:] - x[:-2]) / (0.4 * units.fs)
    kinetic = 0.5 * (ase_molecule("CH4").get_masses()[:, None] * v**2).sum((1, 2))
    batch = Molecules.batch([c.structure.numbers for c in found[1:-1]], list(x[1:-1]))
    total = kinetic + ensemble.members[0](batch).energy.numpy()
    assert kinetic.std() > 0.02 and np.ptp(total) < 0.05 * np.ptp(kinetic)


def test_langevin_has_its_temperature(ensemble):
    """Free atoms: the mean velocity of a step has the variance (k T / m) (1 + exp(-friction dt)) / 2. 2,400 values, 120 of them
    independent: 13 % is one deviation; a wrong unit, mass or friction is farther off. Steps are correlated by
    (1 + exp(-friction dt)) / 2."""
    settings = Explore((), steps=20, every=1, time_step=0.5, friction=0.5, stop=1e9)
    atoms = [TrajectoryStart(structure([1], [[0, 0, 0]], multiplicity=2), 600.0)] * 40
    found = explored(ensemble, atoms, settings, np.random.default_rng(0))
    assert found.ends == Counter(finished=40) and len(found.candidates) == 800
    x = np.stack([[c.structure.positions[0] for c in found.candidates if c.trajectory == k] for k in range(40)])
    v = np.diff(x, axis=1) / (0.5 * units.fs)
    assert v.var() == pytest.approx(units.kB * 600 / 1.008 * (1 + np.exp(-0.25)) / 2, rel=0.15)
    assert (v[:, 1:] * v[:, :-1]).mean() / v.var() == pytest.approx((1 + np.exp(-0.25)) / 2, abs=0.02)


def test_exploration_is_repeated_by_its_seed(ensemble):
    settings = Explore((), steps=6, every=3)
    starts = [TrajectoryStart(named(), 300.0), TrajectoryStart(named(), 900.0)]
    runs = [explored(ensemble, starts, settings, np.random.default_rng(s)) for s in (1, 1, 2)]
    a, b, c = ([x.structure.id for x in r.candidates] for r in runs)
    assert a == b != c and len(a) == 4 and "active 900 K, step 6" in [x.structure.how for x in runs[0].candidates]


def test_trajectories_end_where_they_become_meaningless(ensemble):
    settings = Explore((), steps=40, every=2, stop=1e-6)
    found = explored(ensemble, [TrajectoryStart(named(), 300.0)] * 3, settings, np.random.default_rng(0))
    assert found.ends == Counter(uncertain=3) and len(found.candidates) == 3, "the last frame is still a candidate"
    settings = Explore((), steps=40, every=50, collision=0.8, stop=1e9)
    seen = []
    starts = [TrajectoryStart(named("CH4"), 9000.0), TrajectoryStart(named("H2O"), 1.0)]
    found = explored(ensemble, starts, settings, np.random.default_rng(0), 0, seen.append)
    assert found.ends["collision"] == 1 and found.ends["finished"] == 1 and not found.candidates
    assert seen[-1] == 1 and len(seen) == 40, "the other one went on alone"


def test_collisions():
    assert not collided(np.array([8, 1, 1]), named().positions, 0.6)
    assert collided(np.array([8, 1, 1]), 0.5 * named().positions, 0.6)
    assert not collided(np.array([8]), np.zeros((1, 3)), 0.6)


def test_structures_in_which_atoms_collide_are_not_judged(ensemble):
    squeezed = replace(named(), positions=0.6 * named().positions)
    found = judged(ensemble, [named(), squeezed, named("CH4")], 0.6)
    assert [c.structure.formula for c in found] == ["H2O", "CH4"] and all(c.uncertainty > 0 for c in found)
