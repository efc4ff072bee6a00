"""A functional in torch as the level of theory of reference labels."""

import pickle

import numpy as np
import pytest
from ase import Atoms

from nddo_ml.errors import UnknownOption
from nddo_ml.functional import NeuralGGA, Projected, load, save

pytest.importorskip("pyscf")
from support.functionals import randomised

from nddo_ml.labels.levels.catalogue import level
from nddo_ml.labels.structures import Structure, from_atoms


def water(shift=0.0) -> Structure:
    return from_atoms(Atoms("OH2", [[0, 0, 0.1], [0, 0.757 + shift, -0.47], [0, -0.72, -0.5]]))


@pytest.mark.parametrize("ours, theirs", [("functional:PBE0/def2-svp", "pbe0/def2-svp"),
                                          ("functional:R2SCAN/def2-svp", "r2scan/def2-svp")])
def test_the_label_is_that_of_pyscf(ours, theirs):
    a, b = level(ours, grid=1)(water()), level(theirs, dispersion_model="none", grid=1)(water())
    assert abs(a.energy - b.energy) < 1e-6 and abs(a.gap - b.gap) < 1e-4
    assert np.abs(a.dipole - b.dipole).max() < 1e-5
    assert a.dispersion_energy is None


def test_forces_are_derivatives_on_a_coarse_grid():
    h, made = 1e-3, level("functional:neural-xc/def2-svp", grid=0)
    minus, here, plus = (made(from_atoms(Atoms("LiH", [[0, 0, 0], [0, 0, 1.6 + s]]))) for s in (-h, 0, h))
    assert abs(here.forces[1, 2] + (plus.energy - minus.energy) / (2 * h)) < 1e-5


@pytest.mark.slow
def test_a_file_with_a_part_of_the_density_matrix(tmp_path):
    """Its name tells two sets of weights apart, it can be pickled, and its forces are derivatives."""
    made = NeuralGGA(width=6)
    made.nonlocal_part = Projected(elements=(1, 8), width=6)
    levels = []
    for seed in (1, 2):
        path = tmp_path / f"mine{seed}.safetensors"
        save(randomised(made, 0.2, seed), path, "mine")
        levels.append(level(f"functional:{path}/def2-svp", grid=2))
    first, second = levels
    assert first.name != second.name and first.name.startswith("functional:mine-") and str(tmp_path) not in first.name
    assert first.dispersion == "none"
    again = pickle.loads(pickle.dumps(first))
    assert again.name == first.name
    h = 1e-3
    slope = (first(water(h)).energy - first(water(-h)).energy) / (2 * h)
    assert abs(again(water()).forces[1, 1] + slope) < 1e-4 < abs(slope)
    assert level(f"functional:{path}").basis == "def2-tzvp"


@pytest.mark.filterwarnings("ignore:Basis may be available")       # PySCF, of a basis set that it does not know
def test_what_cannot_be_is_refused():
    with pytest.raises(UnknownOption, match="R2SCAN"):
        level("functional:nothing/def2-svp")
    with pytest.raises(UnknownOption, match="VV10"):
        level("functional:PBE/def2-svp", dispersion_model="vv10")
    with pytest.raises(UnknownOption, match="basis"):
        level("functional:PBE/nothing")
    with pytest.raises(UnknownOption, match="frozen"):
        level("functional:PBE/def2-svp", frozen=2)
    assert load("PBE").label == "PBE"


def test_dispersion_stands_apart():
    label = level("functional:PBE/def2-svp", dispersion_model="pbe")(water())
    assert label.dispersion_energy < 0 and label.dispersion_forces.shape == (3, 3)
