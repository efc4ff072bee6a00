"""What cannot be calculated is refused by name, with a message that says what was found and what was expected."""

import numpy as np
import pytest
import torch

from nddo_ml import Hamiltonian, InvalidMolecule, MissingParameter, Molecules, NDDOError, SCFNotConverged, UnknownOption
from nddo_ml.elements import number

pytestmark = pytest.mark.usefixtures("wrong_types")

NAN, INF = float("nan"), float("inf")
WATER = [8, 1, 1]
PLACES = [[0.0, 0.0, 0.0], [0.0, 0.0, 0.96], [0.93, 0.0, -0.24]]


@pytest.fixture(scope="module")
def AM1():
    return Hamiltonian("AM1")


def water(changes=None, charge=0, multiplicity=1):
    places = np.array(PLACES)
    for atom, place in (changes or {}).items():
        places[atom] = place
    return Molecules.single(WATER, places, charge, multiplicity)


def refused(error, words, call):
    """`call` raises exactly `error`, which is an NDDOError, and its message holds all the words."""
    with pytest.raises(NDDOError) as found:
        call()
    assert type(found.value) is error
    for word in words:
        assert word in str(found.value), f"{word!r} is not in: {found.value}"


@pytest.mark.parametrize("changes, words", [
    ({1: [0, 0, NAN]}, ["Atom 1", "counting from 0", "nan", "finite", "angstrom"]),
    ({2: [INF, 0, 0]}, ["Atom 2", "inf", "finite"]),
    ({2: [-INF, 0, 0]}, ["Atom 2", "-inf", "finite"]),
    ({2: [1e200, 0, 0]}, ["Atom 2", "1e+200"]),
    ({1: [0, 0, 0]}, ["Atoms 0 ", "and 1 ", "0.0000", "0.05", "angstrom"]),
    ({2: [0.0, 0.02, 0.96]}, ["Atoms 1 ", "and 2 ", "0.0200"]),
], ids=["nan", "inf", "-inf", "overflow", "coinciding", "close"])
def test_coordinates(AM1, changes, words):
    refused(InvalidMolecule, words, lambda: AM1(water(changes), forces=True))


@pytest.mark.parametrize("numbers, places, words", [
    ([], np.zeros((0, 3)), ["Molecule 0", "no atoms", "at least one"]),
    (WATER, PLACES[:2], ["3 numbers", "(2, 3)", "(3, 3)", "angstrom"]),
    (WATER, np.zeros(9), ["(9,)", "(3, 3)"]),
    (WATER, np.zeros((3, 2)), ["(3, 2)", "(3, 3)"]),
    (WATER, torch.zeros(3, 2), ["(3, 2)", "(3, 3)"]),
    (WATER, [[0, 0, 0], [0, 1], [1, 0, 0]], ["Molecule 0", "(3, 3)"]),
    (WATER, [["x", 0, 0], [0, 0, 1], [1, 0, 0]], ["Molecule 0", "(3, 3)"]),
    (["O", "H", "H"], PLACES, ["'O'", "species numbers", "[8, 1, 1]"]),
    ([8.5, 1, 1], PLACES, ["8.5", "species numbers"]),
    ([8, NAN, 1], PLACES, ["nan", "species numbers"]),
    (8, PLACES[:1], ["8", "sequence"]),
    ([WATER], PLACES, ["species numbers"]),
], ids=["empty", "short", "flat", "plane", "tensor", "ragged", "text", "symbols", "fraction", "nan", "scalar", "nested"])
def test_structures(numbers, places, words):
    refused(InvalidMolecule, words, lambda: Molecules.single(numbers, places))


def test_batches_that_do_not_match():
    refused(InvalidMolecule, ["at least one"], lambda: Molecules.batch([], []))
    refused(InvalidMolecule, ["2 molecules", "1"], lambda: Molecules.batch([WATER, WATER], [PLACES]))
    refused(InvalidMolecule, ["Molecule 1", "(2, 3)"], lambda: Molecules.batch([WATER, WATER], [PLACES, PLACES[:2]]))
    two = [WATER] * 2, [PLACES] * 2
    refused(InvalidMolecule, ["3 values", "charge", "2 molecules"], lambda: Molecules.batch(*two, [0, 0, 0]))
    refused(InvalidMolecule, ["3 values", "multiplicity"], lambda: Molecules.batch(*two, 0, [1, 1, 1]))


@pytest.mark.parametrize("z", [0, -1, 119, 1000, 1072, 2000, 2009, 10**7])
def test_unknown_species(AM1, z):
    refused(InvalidMolecule, [str(z), "not a species number", "118"], lambda: AM1(Molecules.single([z], [[0, 0, 0]])))


@pytest.mark.parametrize("method, z, words", [
    ("AM1", 26, ["AM1", "Fe", "Z=26", "PM6, PM7"]), ("MNDO/d", 18, ["Ar", "AM1"]), ("RM1", 3, ["RM1", "Li"]),
    ("PM6", 92, ["PM6", "U (Z=92)", "no method"]), ("MNDO/d", number("Eu:sparkle"), ["Eu:sparkle", "PM6"]),
])
def test_species_without_parameters(method, z, words):
    refused(MissingParameter, words, lambda: Hamiltonian(method)(Molecules.single([z], [[0, 0, 0]])))


@pytest.mark.parametrize("charge, multiplicity, words", [
    (0, 2, ["8 valence electrons", "multiplicity 2", "odd", "at most 5"]), (1, 1, ["7 valence electrons", "even"]),
    (0, 99, ["99", "at most 5"]), (0, 7, ["multiplicity 7", "at most 5"]), (0, 0, ["multiplicity 0", "1 or more"]),
    (0, -3, ["multiplicity -3", "1 or more"]), (20, 1, ["charge 20", "-12 valence electrons", "between -4 and 8"]),
    (-6, 1, ["charge -6", "between -4 and 8"]),
])
def test_impossible_electrons(AM1, charge, multiplicity, words):
    refused(InvalidMolecule, words, lambda: AM1(water(None, charge, multiplicity)))


@pytest.mark.parametrize("value", [0.5, 1e-6, NAN, INF, None, "one", [1, 2], {}])
@pytest.mark.parametrize("what", ["charge", "multiplicity"])
def test_charge_and_multiplicity_are_whole(what, value):
    words = [what, "2 values" if isinstance(value, list) else "whole number"]
    refused(InvalidMolecule, words, lambda: Molecules.single(WATER, PLACES, **{what: value}))


@pytest.mark.parametrize("numbers", [[number("+1/2"), 8, 1, 1], [number("+1/2")]])
def test_half_charges_come_in_pairs(numbers):
    places = [[0, 0, -3.0], *PLACES][:len(numbers)]
    refused(InvalidMolecule, ["half charges", "pairs"], lambda: Hamiltonian("PM6")(Molecules.single(numbers, places)))


def test_what_is_no_molecules_record(AM1):
    good = water()
    refused(InvalidMolecule, ["tuple", "Molecules.single"], lambda: AM1((WATER, PLACES)))
    single = Molecules(good.numbers, good.positions.float(), good.molecule, good.charge, good.unpaired)
    refused(InvalidMolecule, ["float32", "float64"], lambda: AM1(single))
    two = torch.zeros(2, dtype=torch.long)
    tangled = Molecules(good.numbers, good.positions, torch.tensor([1, 0, 1]), two, two)
    refused(InvalidMolecule, ["ordered by molecule"], lambda: AM1(tangled))


@pytest.mark.parametrize("name", ["PM5", "", None, 3, "am1 "])
def test_unknown_method(name):
    if name == "am1 ":
        assert Hamiltonian(name).method.name == "AM1"
        return
    refused(UnknownOption, [repr(name), "available", "PM6-D3H4"], lambda: Hamiltonian(name))


def test_close_names_are_suggested():
    refused(UnknownOption, ["Did you mean PM6-D3H4?"], lambda: Hamiltonian("PM6-D3H"))
    refused(UnknownOption, ["Did you mean neural?"], lambda: Hamiltonian("neurol"))
    refused(UnknownOption, ["network='x'", "no torch module"], lambda: Hamiltonian("AM1", network="x"))


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "cpux", "cuda:x"])
def test_device_that_is_not_there(device):
    refused(UnknownOption, [repr(device), "use cpu"], lambda: Hamiltonian("AM1", device=device))


@pytest.mark.parametrize("options, words", [
    ({"order": 0}, ["order=0", "1, 2 or 3"]), ({"order": 4}, ["order=4"]), ({"tolerance": 0.0}, ["tolerance=0.0", "positive"]),
    ({"tolerance": NAN}, ["nan", "positive"]), ({"max_steps": 0}, ["max_steps=0", "positive"]),
    ({"max_steps": -1}, ["max_steps=-1"]),
])
def test_options_that_mean_nothing(AM1, options, words):
    refused(UnknownOption, words, lambda: AM1(water(), **options))


def test_fields_of_the_wrong_shape(AM1):
    flat, undefined = torch.zeros(3, dtype=torch.float64), torch.full((1, 3), NAN, dtype=torch.float64)
    refused(InvalidMolecule, ["(3,)", "(1, 3)"], lambda: AM1(water(), field=flat))
    refused(InvalidMolecule, ["finite"], lambda: AM1(water(), field=undefined))
    refused(InvalidMolecule, ["torch.float32", "torch.float64"], lambda: AM1(water(), field=torch.zeros(1, 3)))


def test_half_electron_limits(AM1):
    quintet = Molecules.single([6], [[0, 0, 0]], 0, 5)
    words = ["two open orbitals", "multiplicity 5", "unrestricted=True"]
    refused(InvalidMolecule, words, lambda: AM1(quintet, unrestricted=False))
    hydrogen = Molecules.single([1], [[0, 0, 0]], 0, 2)
    refused(InvalidMolecule, ["unrestricted=True"], lambda: AM1(hydrogen, unrestricted=False, stability=True))
    refused(InvalidMolecule, ["unrestricted=True"], lambda: AM1(hydrogen, unrestricted=False, order=2))


@pytest.mark.parametrize("max_steps", [1, 2, 3])
def test_too_few_steps(AM1, max_steps):
    words = ["did not converge", f"limit {max_steps}", "commutator", "raise max_steps"]
    refused(SCFNotConverged, words, lambda: AM1(water(), max_steps=max_steps))


def test_unconverged_on_request(AM1):
    """Asked not to raise, the result is NaN and says so; asked to raise, a batch raises too."""
    result = AM1(water(), max_steps=1, forces=True, raise_unconverged=False)
    assert result.energy.isnan().all() and not result.converged.any() and result.residual > 1e-3
    assert result.heat_of_formation.isnan().all()
    two = Molecules.batch([WATER, [1]], [PLACES, [[0, 0, 0]]], 0, [1, 2])
    refused(SCFNotConverged, ["1 of 2", "molecule 0"], lambda: AM1(two, max_steps=2, raise_unconverged=True))


def test_a_bad_member_names_itself(AM1):
    """In one batch the culprit is named by its place."""
    places = np.array(PLACES)
    bad = places.copy()
    bad[1, 2] = NAN
    refused(InvalidMolecule, ["Atom 1 of molecule 1"], lambda: AM1(Molecules.batch([WATER] * 3, [places, bad, places])))
    refused(InvalidMolecule, ["Molecule 2", "charge 20"], lambda: AM1(Molecules.batch([WATER] * 3, [places] * 3, [0, 0, 20])))
    close = places.copy()
    close[1] = close[0]
    refused(InvalidMolecule, ["0 of molecule 2"], lambda: AM1(Molecules.batch([WATER] * 3, [places, places, close])))


def test_a_bad_member_of_another_bucket_names_itself(AM1):
    """Molecules of different size are solved apart; errors still count from the beginning of the batch."""
    chain = [[1.5 * k, 0.3 * (k % 2), 0.0] for k in range(12)]
    carbon, hydrogen = [6] * 12, [1, 1]
    close = Molecules.batch([carbon, hydrogen, WATER], [chain, np.zeros((2, 3)), PLACES])
    refused(InvalidMolecule, ["0 of molecule 1", "1 of molecule 1"], lambda: AM1(close))
    electrons = Molecules.batch([carbon, hydrogen, WATER], [chain, np.eye(3)[:2], PLACES], 0, [1, 1, 4])
    refused(InvalidMolecule, ["Molecule 2", "multiplicity 4"], lambda: AM1(electrons))
