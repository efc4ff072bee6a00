"""The walk: the example of its docstring is the Hamiltonian, and its parts can be exchanged."""

import inspect
from dataclasses import replace
from textwrap import dedent

import pytest
import torch

import nddo_ml
from nddo_ml import Hamiltonian, Molecules
from nddo_ml.common import compiling
from nddo_ml.hamiltonian import walk
from nddo_ml.hamiltonian.state import routes
from nddo_ml.scf.density import diagonalise
from nddo_ml.scf.options import SCF
from nddo_ml.scf.rungs import Rapid, Rung

RADICAL = ([6, 1, 1, 1], [[0.0, 0.0, 0.05], [1.08, 0.0, 0.0], [-0.54, 0.935, 0.0], [-0.54, -0.935, 0.0]])
PATIENT = Rung("patient", "DIIS of one's own, Newton", Rapid(steps=60), newton_steps=None)
SUM = 1e-12      # relative: the same numbers added in another order


def example() -> str:
    """The code in the docstring of the walk: the lines from the one that makes the molecules to the end."""
    text = inspect.getdoc(walk)
    assert text is not None
    return dedent(text[text.index("    method, molecules ="):])


def test_the_example_is_the_hamiltonian():
    names = {"nddo_ml": nddo_ml, "Molecules": Molecules, "walk": walk}
    with compiling.off():       # kernels add the same numbers in yet another order (test_compiled.py)
        exec(example(), names)
        result = Hamiltonian("PM6")(names["molecules"])
    assert set(names["parts"]) == set(result.energies)
    for name, energy in names["parts"].items():
        assert float(energy) == pytest.approx(float(result.energies[name]), rel=SUM), name
    assert torch.equal(names["density"][0], result.density(0))


def test_forces_are_derivatives_of_the_walk():
    """Of an open shell, with a ladder and a density builder of one's own; the commutator of 1e-9 eV leaves less in forces."""
    seen = []

    def build(F, real, occupations):
        seen.append(len(F))
        return diagonalise(F, real, occupations)

    method, scf = nddo_ml.method("PM6"), SCF(tolerance=1e-9, ladder=(PATIENT,), density=build)
    molecules = Molecules.single(*RADICAL, 0, 2)
    molecules = molecules.with_positions(molecules.positions.requires_grad_())
    topology = walk.topology(method, molecules)
    distances = walk.distances(topology, molecules.positions)
    integrals = walk.integrals(topology, molecules.positions, distances, walk.parameters(topology, walk.rows(method)))
    problem = walk.problem(topology, integrals, walk.electrons(topology, molecules))
    state = walk.state(topology, molecules, problem, scf)
    assert seen and routes(state) == [PATIENT.words]
    parts = walk.parts(topology, molecules.positions, distances, integrals, method.terms)
    energy = walk.energy(molecules, integrals, state)[0] + sum(parts.values())
    result = Hamiltonian("PM6")(Molecules.single(*RADICAL, 0, 2), forces=True, tolerance=1e-9)
    assert float(energy.detach()) == pytest.approx(float(result.energy), abs=1e-9)
    forces = -torch.autograd.grad(energy.sum(), molecules.positions)[0]
    assert torch.allclose(forces, result.forces, rtol=0, atol=1e-7)


@pytest.mark.parametrize("stability", (None, True), ids=("followed", "searched"))
def test_a_route_names_the_rungs_that_were_climbed(stability):
    """Of a ladder of one's own too: the first rung gives up at once, the second is Newton's method with time to work."""
    hasty = replace(PATIENT, words="a hasty one", climb=Rapid(steps=1), newton_steps=0)
    molecules = Molecules.single(*RADICAL, 0, 2)
    result = Hamiltonian("PM6")(molecules, ladder=(hasty, PATIENT), stability=stability)
    assert result.route[0].startswith(f"a hasty one; {PATIENT.words}")
    assert float(result.energy) == pytest.approx(float(Hamiltonian("PM6")(molecules).energy), abs=1e-8)


@pytest.mark.parametrize("door", ("problem", "assembled", "rows", "version"))
def test_what_inference_made_does_not_stay(door):
    """What a Hamiltonian keeps serves later calls on the tape, whichever door was used inside torch.inference_mode."""
    model = Hamiltonian("PM6")
    with torch.inference_mode():
        molecules = Molecules.single([8, 1, 1], [[0.0, 0.0, 0.1], [0.0, 0.8, -0.5], [0.0, -0.7, -0.5]])
        getattr(model, door)(*[molecules] if door in ("problem", "assembled") else [])
    molecules = Molecules.single([8, 1, 1], [[0.0, 0.0, 0.1], [0.0, 0.8, -0.5], [0.0, -0.7, -0.5]])
    moved = molecules.with_positions(molecules.positions.requires_grad_())
    here = torch.autograd.grad(model(moved, order=2).energy.sum(), moved.positions)[0]
    assert torch.equal(here, torch.autograd.grad(Hamiltonian("PM6")(moved, order=2).energy.sum(), moved.positions)[0])
