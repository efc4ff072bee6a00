"""QCSchema: units, drivers, and failures as records."""

import json

import numpy as np
import pytest
from ase.build import molecule

from nddo_ml import Hamiltonian, Molecules
from nddo_ml.interfaces.qcschema import compute

HARTREE, BOHR = 27.211386245988, 0.529177210903   # CODATA 2018


def atomic_input(driver="energy", method="PM6", keywords=None, **molecule_entries):
    water = molecule("H2O")
    return {"schema_name": "qcschema_input", "schema_version": 1, "id": "w", "driver": driver,
            "model": {"method": method, "basis": None}, "keywords": keywords or {},
            "molecule": {"symbols": list(water.symbols), "geometry": (water.positions / BOHR).ravel().tolist(),
                         **molecule_entries}}


@pytest.fixture(scope="module")
def reference():
    water = molecule("H2O")
    return Hamiltonian("PM6")(Molecules.single(water.numbers, water.positions), forces=True)


def test_energy(reference):
    found = compute(atomic_input())
    assert found["success"] and found["schema_name"] == "qcschema_output" and found["id"] == "w"
    energy = float(reference.energy[0].detach()) / HARTREE
    assert found["return_result"] == pytest.approx(energy, abs=1e-10)
    assert found["properties"]["return_energy"] == found["return_result"]
    assert found["properties"]["calcinfo_nalpha"] == found["properties"]["calcinfo_nbeta"] == 4
    np.testing.assert_allclose(found["properties"]["scf_dipole_moment"], reference.dipole[0].detach().numpy() / BOHR, atol=1e-8)
    heat = float(reference.heat_of_formation[0].detach())
    assert found["extras"]["nddo_ml"]["heat_of_formation_kcal_mol"] == pytest.approx(heat, abs=1e-6)


def test_gradient(reference):
    found = compute(atomic_input("gradient"))
    expected = -reference.forces.detach().numpy().ravel() * BOHR / HARTREE
    np.testing.assert_allclose(found["return_result"], expected, atol=1e-8)


def test_properties(reference):
    found = compute(atomic_input("properties"))["return_result"]
    np.testing.assert_allclose(found["mulliken_charges"], reference.charges.detach().numpy(), atol=1e-7)
    assert len(found["wiberg_lowdin_indices"]) == 9


def test_hessian():
    found = compute(atomic_input("hessian"))
    assert found["success"], found["error"]
    H = np.reshape(found["return_result"], (9, 9))
    np.testing.assert_allclose(H, H.T, atol=1e-12)
    h = 1e-3
    plus, minus = (compute(_moved(s * h))["return_result"] for s in (1, -1))
    # error of the central difference: h^2/6 times a fourth derivative of order 1 hartree/bohr^4
    np.testing.assert_allclose(H[4], (np.array(plus) - minus) / (2 * h), atol=2e-5)


def _moved(step):
    wanted = atomic_input("gradient")
    wanted["molecule"]["geometry"][4] += step
    return wanted


def test_charge_and_multiplicity():
    found = compute(atomic_input(molecular_charge=1.0, molecular_multiplicity=2))
    assert found["success"]
    assert (found["properties"]["calcinfo_nalpha"], found["properties"]["calcinfo_nbeta"]) == (4, 3)


@pytest.mark.parametrize(("wanted", "kind", "words"), [
    (atomic_input("optimise"), "input_error", "driver"), (atomic_input(method="PM9"), "input_error", "PM9"),
    (atomic_input(keywords={"scf": 1}), "input_error", "keyword"),
    (atomic_input(molecular_multiplicity=2), "input_error", "multiplicity"),
    (atomic_input(real=[True, False, True]), "input_error", "ghost"),
    (atomic_input(geometry=[0.0] * 6), "input_error", "coordinates"),
    (atomic_input(geometry=["a"] * 9), "input_error", "bohr"),
    (atomic_input(keywords="tight"), "input_error", "dictionary"),
    (atomic_input(symbols=["O", "Qq", "H"]), "input_error", "Qq"), ({"driver": "energy"}, "input_error", "molecule"),
    (atomic_input(keywords={"max_steps": 1}), "convergence_error", "did not converge")])
def test_failures_are_records(wanted, kind, words):
    found = compute(wanted)
    assert found["success"] is False and found["input_data"] == wanted
    assert found["error"]["error_type"] == kind and words in found["error"]["error_message"]


def test_models_of_qcelemental_accept_it():
    models = pytest.importorskip("qcelemental.models")
    assert models.AtomicResult(**compute(atomic_input("gradient"))).success
    assert models.AtomicResult(**compute(atomic_input("properties"))).success
    assert not models.FailedOperation(**compute(atomic_input("optimise"))).success


@pytest.mark.parametrize("entries", [
    {"symbols": ["H"], "geometry": [0, 0, 0], "molecular_charge": -1},                     # no empty level
    {"symbols": ["H"], "geometry": [0, 0, 0], "molecular_charge": 1},                      # no occupied one
    {"symbols": ["O", "H", "H"], "method": "neural"},                                      # no heat of formation
    {"symbols": ["Xx"], "geometry": [0, 0, float("nan")]}])                                # a failure repeats its input
def test_results_hold_only_numbers_that_json_knows(entries):
    method = entries.pop("method", "PM6")
    found = compute(atomic_input("properties", method, **entries))
    json.dumps(found, allow_nan=False)
    if found["success"]:
        returned = found["return_result"]
        missing = {name for name, value in returned.items() if value is None}
        assert missing == {-1: {"lumo"}, 1: {"homo"}, 0: set()}[entries.get("molecular_charge", 0)]
        assert (found["extras"]["nddo_ml"]["heat_of_formation_kcal_mol"] is None) == (method == "neural")
