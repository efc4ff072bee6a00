"""Levels of theory by name, and our own methods as levels."""

import sys

import numpy as np
import pytest
from ase.build import molecule
from support.labels import LEVEL, structure, water

from nddo_ml.errors import MissingExtra, UnknownOption
from nddo_ml.interfaces.ase import NDDO
from nddo_ml.labels.levels.catalogue import level
from nddo_ml.labels.levels.theory import frame
from nddo_ml.labels.queue import queue
from nddo_ml.labels.structures import from_atoms


def test_an_own_method_labels_what_the_calculator_finds():
    ion = molecule("CH3CH2O")
    ion.set_initial_magnetic_moments(None)
    ion.info |= {"charge": -1, "multiplicity": 1}
    labelled = frame(from_atoms(ion), LEVEL(from_atoms(ion)), LEVEL)
    ion.calc = NDDO("AM1")
    assert labelled.info["ref_energy"] == pytest.approx(ion.get_potential_energy(), abs=1e-6)
    np.testing.assert_allclose(labelled.arrays["ref_forces"], ion.get_forces(), atol=1e-5)
    # about the origin: the dipole of an ion moves with it, by its charge
    moved = structure(ion.numbers, ion.positions + [0, 0, 5], -1)
    np.testing.assert_allclose(LEVEL(moved).dipole - labelled.info["ref_dipole"], [0, 0, -5], atol=1e-5)
    assert labelled.info["ref_dispersion"] == "included" and labelled.info["level"] == "AM1"


def test_point_charges_come_with_their_forces():
    bare = water()
    charges = np.array([[0, 0, 3.0, -0.8], [2.5, 1, 0, 0.4]])
    s, step = structure(bare.numbers, bare.positions, point_charges=charges), 1e-3
    shift = np.array([[0, 0, step, 0], [0] * 4])
    shifted = [structure(s.numbers, s.positions, point_charges=charges + d * shift) for d in (1, -1)]
    label = LEVEL(s)
    slope = (LEVEL(shifted[0]).energy - LEVEL(shifted[1]).energy) / (2 * step)
    assert label.point_charge_forces[0, 2] == pytest.approx(-slope, abs=1e-5) and abs(slope) > 0.01
    np.testing.assert_allclose(label.forces.sum(0) + label.point_charge_forces.sum(0), 0, atol=1e-6)


def test_unknown_levels_are_refused_by_name(monkeypatch):
    with pytest.raises(UnknownOption, match="PM6 has no basis"):
        level("PM6", basis="sto-3g")
    monkeypatch.setitem(sys.modules, "pyscf", None)
    with pytest.raises(MissingExtra, match=r"pip install 'nddo_ml\[train\]'"):
        level()
    monkeypatch.setitem(sys.modules, "tblite", None)
    with pytest.raises(MissingExtra, match=r"nddo_ml\[train\]"):
        level("GFN2-xTB")
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(MissingExtra, match=r"nddo_ml\[cluster\]"):
        queue(1, "local")
