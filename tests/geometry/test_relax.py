"""Optimisation with a Hamiltonian: one molecule, a batch, geometries that cannot be calculated, steps of the energy."""

from pathlib import Path

import pytest
import torch
from ase import Atoms
from ase.build import molecule
from ase.io import read

from nddo_ml import Hamiltonian, Molecules, PointCharges, relax
from nddo_ml.errors import InvalidMolecule, UnknownOption

DATA = Path(__file__).parents[1] / "data"
NAMES = ("H2O", "NH3", "CH3OH", "C2H4")


def batch(*more):
    atoms = [*(molecule(name) for name in NAMES), *more]
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


def test_atoms_that_would_meet_on_the_way_stop_nobody():
    """A start from which a first step would bring two hydrogen atoms to 0.04 angstrom, among others that never notice."""
    model, together = Hamiltonian("AM1"), batch(read(DATA / "collapsing_C2H6.xyz"))
    found, plain = relax(model, together, fmax=0.05), relax(model, batch(), fmax=0.05)
    assert found.converged.all()
    assert found.evaluations[:-1].tolist() == plain.evaluations.tolist()
    assert (found.energy[:-1] - plain.energy).abs().max() < 1e-6


def test_an_error_of_one_geometry_shortens_the_step_of_its_molecule_alone():
    """A model that refuses geometries with an N-H bond that has moved by 0.02 angstrom at once, as one with a bound on what it
    believes would."""
    model, together, calls = Hamiltonian("AM1"), batch(), []
    seen = [together.positions[together.molecule == 1]]

    def picky(molecules, **options):
        ammonia = molecules.numbers[molecules.molecule == molecules.molecule[(molecules.numbers == 7).nonzero()[:1, 0]]] \
            if bool((molecules.numbers == 7).any()) else []
        calls.append(len(molecules))
        if len(ammonia):
            here = molecules.positions[molecules.molecule == molecules.molecule[(molecules.numbers == 7).nonzero()[0, 0]]]
            if (here - seen[0]).norm(dim=-1).max() > 0.02:
                raise InvalidMolecule("too far")
            seen[0] = here
        return model(molecules, **options)
    found, plain = relax(picky, together, fmax=0.01), relax(model, together, fmax=0.01)
    assert found.converged.all() and (found.energy - plain.energy).abs().max() < 1e-4
    others = [0, 2, 3]
    assert found.evaluations[others].tolist() == plain.evaluations[others].tolist()
    assert int(found.evaluations[1]) > int(plain.evaluations[1]) and min(calls) == 1
    with pytest.raises(InvalidMolecule, match="too far"):                  # the input itself is refused
        seen[0] = seen[0] + 1.0
        relax(picky, together)


def test_every_member_keeps_its_own_point_charges():
    """The second molecule goes on when the first is done; its charges must still be its own."""
    model = Hamiltonian("AM1")
    water = molecule("H2O")
    at_rest = relax(model, Molecules.single(water.numbers, water.positions), fmax=1e-4).molecules.positions.numpy()
    together = Molecules.batch([water.numbers] * 2, [at_rest, at_rest])
    charges = PointCharges.batch([[], [at_rest[0] + [0, 0, 3.0]]], [[], [0.5]])
    found = relax(model, together, fmax=0.02, point_charges=charges)
    alone = relax(model, together.select([1]), fmax=0.02, point_charges=charges.select([1]))
    assert int(found.evaluations[0]) == 1 and 2 < int(found.evaluations[1]) < 40
    assert abs(float(found.energy[1] - alone.energy)) < 1e-5


def displaced(proton):
    """An ammonium formate pair whose protons must pass 1.15 angstrom on their way."""
    positions = [[0, 0, 0], [1.15, 0.55, 0], [-1.1, 0.6, 0], [0, -1.1, 0], [0, 2.6, 0], [0.85, proton, 0], [-0.85, 2.0, 0],
                 [0, 3.2, 0.82], [0, 3.2, -0.82]]
    return Atoms("COOHNHHHH", positions)


@pytest.mark.parametrize(("atoms", "energy"), [
    (read(DATA / "glycine_zwitterion.xyz"), -1075.672),     # where the search stopped at the step: -1075.105
    (displaced(1.95), -953.484)])                           # ASE's BFGS comes to the same minima in 46 and 75 steps
def test_a_proton_passes_the_end_of_its_hydrogen_bond(atoms, energy):
    """The H4 term ends where D-H passes 1.15 angstrom, a step of a tenth of an eV on the way of the proton."""
    found = relax(Hamiltonian("PM6-D3H4"), Molecules.single(atoms.numbers, atoms.positions), fmax=0.01)
    assert bool(found.converged) and 0.05 < float(found.step) < 0.2
    assert float(found.energy) < energy + 2e-3


@pytest.mark.parametrize("options", [{"fmax": -1.0}, {"fmax": 0.0}, {"fmax": float("nan")}, {"steps": 0}])
def test_an_optimisation_that_cannot_end_is_refused(options):
    water = Molecules.single([8, 1, 1], [[0.0, 0.0, 0.0], [0.0, 0.0, 0.96], [0.93, 0.0, -0.24]])
    with pytest.raises(UnknownOption, match="an optimisation needs"):
        relax(Hamiltonian("AM1"), water, **options)
