"""Forces of many trajectories at once: each as if it were alone, from the density it had before."""

from dataclasses import replace

import numpy as np
import pytest
from ase.build import molecule

from nddo_ml import Hamiltonian, Molecules
from nddo_ml.dynamics.langevin import at_rest
from nddo_ml.dynamics.many_molecules import evaluated


@pytest.fixture(scope="module")
def model():
    return Hamiltonian("AM1")


@pytest.fixture
def running():
    atoms = [molecule(name) for name in ("H2O", "CH4", "NH3")]
    return {k: at_rest(a.numbers, a.positions, 300.0) for k, a in zip((0, 3, 7), atoms, strict=True)}


def test_forces_are_those_of_each_molecule_alone(model, running):
    said = evaluated(model, running)
    assert list(said.forces) == [0, 3, 7] == said.names
    for name, trajectory in running.items():
        alone = model(Molecules.single(trajectory.numbers, trajectory.positions), forces=True, tolerance=1e-8)
        np.testing.assert_allclose(said.forces[name], alone.forces.numpy(), atol=2e-4)


def test_later_steps_start_from_the_last_densities_whoever_has_ended(model, running):
    first = evaluated(model, running)
    moved = {k: replace(t, positions=t.positions * 1.001) for k, t in running.items()}
    cold = evaluated(model, moved)
    for kept in ([0, 3, 7], [3, 7]):
        warm = evaluated(model, {k: moved[k] for k in kept}, first)
        assert int(warm.result.iterations.sum()) < int(cold.result.iterations[[0, 1, 2][-len(kept):]].sum())
        for k in kept:
            np.testing.assert_allclose(warm.forces[k], cold.forces[k], atol=2e-3)


def test_where_an_scf_fails_forces_are_not_numbers(model, running):
    def hurried(molecules, **options):
        return model(molecules, max_steps=1, **options)

    assert all(np.isnan(f).all() for f in evaluated(hurried, running).forces.values())
