"""Optimisation with a Hamiltonian: one molecule, a batch, a member that cannot be calculated."""

import torch
from ase.build import molecule

from nddo_ml import Hamiltonian, Molecules, relax

NAMES = ("H2O", "NH3", "CH3OH", "C2H4")


def batch():
    atoms = [molecule(name) for name in NAMES]
    return Molecules.batch([a.numbers for a in atoms], [a.positions for a in atoms])


def test_a_batch_reaches_the_minima_of_its_members():
    model, together = Hamiltonian("PM7"), batch()
    found = relax(model, together, fmax=2e-3)
    assert found.converged.all() and not found.failed.any()
    assert found.forces.norm(dim=1).max() <= 2e-3
    for k in range(len(NAMES)):
        alone = relax(model, together.select([k]), fmax=2e-3)
        assert abs(float(alone.energy[0] - found.energy[k])) < 1e-5      # both within fmax of the same minimum


def test_a_start_that_cannot_be_calculated_does_not_stop_the_others():
    model, together = Hamiltonian("AM1"), batch()
    found = relax(model, together, fmax=0.05, max_steps=2)                # nothing converges in two iterations
    assert found.failed.all() and torch.isnan(found.energy).all()
    assert torch.equal(found.molecules.positions, together.positions)
