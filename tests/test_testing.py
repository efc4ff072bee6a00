"""The contract that is shipped for methods of one's own: every kind of broken method is caught by the check that is for it."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nddo_ml import Hamiltonian, InvalidMolecule, MissingParameter, Molecules, testing
from nddo_ml.integrals.nuclear import exponential
from nddo_ml.methods import method

AM1 = method("AM1")
WATERS = Molecules.batch([[8, 1, 1], [8, 1, 1], [6, 8, 1, 1, 1]],
                         [[[0.013, -0.021, 0.117], [0.031, 0.763, -0.472], [-0.042, -0.741, -0.489]],
                          [[0.0, 0.1, 0.0], [0.97, 0.0, 0.0], [-0.2, 0.9, 0.1]],
                          [[0.0, 0.0, 0.02], [1.34, 0.05, -0.04], [-0.55, 0.93, 0.12], [-0.60, -0.91, 0.19],
                           [1.71, -0.82, 0.21]]],
                         multiplicity=[1, 1, 2])


def of_form(added):
    """AM1 with something more in its core-core repulsion: added(r) for each pair."""
    def energy(rules, r, gamma, P_i, P_j, pair):
        return exponential(rules, r, gamma, P_i, P_j, pair) + added(r, P_i, P_j)

    return Hamiltonian(replace(AM1, name="broken", core_core=replace(AM1.core_core, energy=energy), corrected=False))


def with_solution(change):
    """AM1 that reports another solution of its equations: change(solution)."""
    model = Hamiltonian(AM1)

    def calculate(molecules, **options):
        result = model(molecules, **options)
        return replace(result, states=[replace(state, solution=change(state.solution)) for state in result.states])

    return calculate


def with_result(change):
    """AM1 that reports another result: change(result, molecules)."""
    model = Hamiltonian(AM1)
    return lambda molecules, **options: change(model(molecules, **options), molecules)


def in_a_field(molecules, **options):
    """A method with a direction of its own."""
    field = torch.tensor([[0.0, 0.0, 1e-3]], dtype=torch.float64).expand(len(molecules), 3)
    return Hamiltonian(AM1)(molecules, field=field, **options)


def mixed_up(result, molecules):
    """The energy of a molecule, and a little of that of all."""
    return replace(result, energy=result.energy + 1e-6 * molecules.positions.square().sum())


BROKEN = {
    "a term that is off the tape": (testing.check_forces, of_form(lambda r, P_i, P_j: torch.exp(-r.detach())),
                                    r"^Forces are no derivative of the energy: by \d\.\d\de-0\d eV/angstrom, .* for molecule"),
    "forces of another sign": (testing.check_forces, with_result(
        lambda r, _: r if r.forces is None else replace(r, forces=-r.forces)), "Forces are no derivative"),
    "no forces": (testing.check_forces, with_result(lambda r, _: replace(r, forces=None)), "No forces are returned"),
    "a direction in space": (testing.check_invariance, in_a_field, "The energy changes on a rotation"),
    "a place in space": (testing.check_invariance, with_result(
        lambda r, m: replace(r, energy=r.energy + 1e-6 * m.positions[:1, 0])), "The energy changes on a translation"),
    "a hand": (testing.check_invariance, with_result(lambda r, m: replace(r, energy=r.energy + 1e-6 * torch.linalg.det(
        m.positions[1:4] - m.positions[0]))), "The energy changes on a reflection"),
    "the first atom of a pair": (testing.check_invariance, of_form(lambda r, P_i, P_j: 0.01 * P_i.alpha * torch.exp(-r)),
                                 "The energy changes on another order of the atoms"),
    "forces that stay behind": (testing.check_invariance, with_result(
        lambda r, _: replace(r, forces=r.forces + r.forces.new_tensor([1e-5, 0.0, 0.0]))),
        "The forces do not follow a rotation"),
    "charges by number": (testing.check_invariance, with_result(
        lambda r, _: replace(r, charges=r.charges + 1e-6 * torch.arange(len(r.charges)))),
        "The charges change on another order of the atoms"),
    "neighbours in the batch": (testing.check_batch, with_result(lambda r, m: replace(r, energy=r.energy + 1e-6 * len(m))),
                                "Energy of a molecule in a batch and alone differ"),
    "a mean over the batch": (testing.check_batch, of_form(lambda r, P_i, P_j: (r - r.mean()).square()),
                              "Energy of a molecule in a batch and alone differ"),
    "a repulsion that stays": (testing.check_separation, of_form(lambda r, P_i, P_j: 1e-3 * torch.ones_like(r)),
                               r"1000 angstrom apart do not add up: by .* eV, .* for molecule \d \(O H H O H H, charge 0"),
    "another Fock matrix": (testing.check_fock, with_solution(lambda s: replace(s, F=1.0001 * s.F)),
                            "The Fock matrix is not the derivative of the energy by the density"),
    "too many electrons": (testing.check_state, with_solution(lambda s: replace(s, D=1.0001 * s.D)),
                           "The density is not idempotent"),
    "no solution": (testing.check_state, with_solution(lambda s: replace(s, F=s.F + 0.01 * torch.ones_like(s.F))),
                    "Fock matrix and density do not commute"),
    "a lopsided matrix": (testing.check_state, with_solution(lambda s: replace(s, F=s.F + 1e-6 * torch.triu(s.F, 1))),
                          "Fock matrix or density is not symmetric"),
    "a charge too much": (testing.check_state, with_result(lambda r, _: replace(r, charges=r.charges + 1e-6)),
                          "The charges of the atoms do not add up"),
    "a spin too much": (testing.check_state, with_result(lambda r, _: replace(r, spin_populations=r.spin_populations + 1e-6)),
                        "The spin populations do not add up"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_method_is_caught(kind):
    check, broken, words = BROKEN[kind]
    molecules = WATERS.select([2]) if kind == "a hand" else WATERS
    check(Hamiltonian(AM1), molecules)
    with pytest.raises(AssertionError, match=words):
        check(broken, molecules)


def test_a_gradient_across_molecules_is_caught():
    """Where the energies happen to agree: a dependence on another molecule that vanishes here but has a slope."""
    model = Hamiltonian(AM1)

    def calculate(molecules, **options):
        result = model(molecules, **options)
        x = molecules.positions
        return replace(result, energy=result.energy + (x - x.detach()).sum())

    with pytest.raises(AssertionError, match=r"energy of molecule 0 \(O H H, .*\) depends on another molecule: by 1.00e\+00"):
        testing.check_batch(calculate, WATERS)


@pytest.mark.parametrize("name", ["AM1", "PM6-D3H4", "PM7-smooth"])
def test_the_published_methods_pass(name):
    testing.check_method(Hamiltonian(name))


def test_every_failure_is_named_at_once():
    """A term that is off the tape and does not end: two properties, one line each."""
    with pytest.raises(AssertionError) as error:
        testing.check_method(of_form(lambda r, P_i, P_j: 1e-3 * r.detach()), WATERS)
    lines = str(error.value).splitlines()
    assert len(lines) == 2 and lines[0].startswith("Forces are no") and "do not add up" in lines[1]


def test_one_molecule_is_enough():
    """A batch is made of it, and it is put apart from a copy of itself."""
    testing.check_method(Hamiltonian("AM1"), WATERS.select([0]))


def test_what_did_not_converge_is_said():
    model = Hamiltonian("AM1")
    with pytest.raises(AssertionError, match=r"The state of molecule 0 \(O H H, charge 0, multiplicity 1\) did not converge"):
        testing.check_state(lambda m, **options: model(m, max_steps=2, **options), WATERS)


def test_molecules_are_chosen_by_the_elements_of_the_method():
    def without(*elements):
        def calculate(molecules, **options):
            if set(elements) & set(molecules.numbers.tolist()):
                raise MissingParameter("no parameters")
            return Hamiltonian("AM1")(molecules, **options)
        return calculate

    assert len(testing.default_molecules(Hamiltonian("AM1"))) == len(testing.DEFAULTS)
    assert set(testing.default_molecules(without(7, 16, 17)).numbers.tolist()) == {1, 6, 8}
    with pytest.raises(MissingParameter, match="give molecules of your own"):
        testing.check_method(without(1))
    with pytest.raises(InvalidMolecule, match="neutral closed-shell"):
        testing.check_separation(Hamiltonian("AM1"), WATERS.select([2]))


def test_no_test_framework_is_needed():
    """Shipped for users: neither pytest nor anything outside the package is loaded."""
    code = "import sys, nddo_ml.testing; assert not {'pytest', 'hypothesis', 'beartype', 'tests'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])
