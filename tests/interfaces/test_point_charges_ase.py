"""Point charges of the ASE calculator."""

import copy
import pickle

import numpy as np
import pytest
from ase import Atoms
from ase.io import write
from support.physics_models import MOLECULES, model, molecule, run
from support.point_charges import PLACES, VALUES

from nddo_ml import NDDO, InvalidMolecule, PointCharges, UnknownOption


@pytest.fixture
def water():
    numbers, positions, _, _ = MOLECULES["water"]
    return Atoms(numbers, positions)


def test_calculator(water):
    """Energy and forces are those of the Hamiltonian; changing or removing the charges discards them."""
    water.calc = NDDO("PM6", point_charges=(PLACES, VALUES))
    expected = model("PM6")(molecule("water"), point_charges=PointCharges.single(PLACES, VALUES), forces=True)
    assert water.get_potential_energy() == pytest.approx(float(expected.energy.detach()), abs=1e-9)
    np.testing.assert_allclose(water.calc.results["point_charge_forces"], expected.point_charge_forces.detach(), atol=1e-6)
    total = water.get_forces().sum(0) + water.calc.results["point_charge_forces"].sum(0)
    np.testing.assert_allclose(total, 0, atol=1e-8)
    water.calc.set(point_charges=(PLACES, [0.5, 0.8]))
    assert not water.calc.results
    other = water.get_potential_energy()
    assert other != pytest.approx(float(expected.energy.detach()), abs=1e-3)
    water.calc.set(point_charges=np.column_stack((PLACES, [0.5, 0.8])))
    assert water.calc.results                                                # the same charges in the other form
    water.calc.set(point_charges=None)
    assert water.get_potential_energy() == pytest.approx(float(run("PM6", molecule("water")).energy), abs=1e-6)
    assert "point_charge_forces" not in water.calc.results


def test_calculator_travels(water, tmp_path):
    water.calc = NDDO("PM6", point_charges=(PLACES, VALUES))
    energy = water.get_potential_energy()
    for other in (pickle.loads(pickle.dumps(water.calc)), copy.deepcopy(water.calc), NDDO(**water.calc.todict())):
        assert other.get_potential_energy(water) == pytest.approx(energy, abs=1e-6)
    assert "forces" in water.calc.export_properties()
    write(tmp_path / "water.traj", water)
    H = water.calc.get_hessian(water)
    assert abs(H.reshape(3, 3, 3, 3).sum((0, 2))).max() > 1e-3


@pytest.mark.parametrize("given", [5, [[0, 0, 1]], "file", (PLACES, [1.0]), [PLACES]])
def test_calculator_refuses(given):
    with pytest.raises(InvalidMolecule, match="charges"):
        NDDO("PM6", point_charges=given)


def test_calculator_has_no_such_option():
    with pytest.raises(UnknownOption, match="point_charges"):
        NDDO("PM6").set(point_charge=None)
