"""Picking: the most uncertain candidates that differ, and the file that holds them."""

import numpy as np
import pytest
from support.ensembles import candidate, named
from support.labels import structure

from nddo_ml.active.config import Pick
from nddo_ml.active.labelling import read_picked, write_picked
from nddo_ml.active.pick import distances, picked


def shaken(k, size=0.4):
    return named().positions + np.random.default_rng(k).normal(0, size, (3, 3))


def test_the_most_uncertain_are_picked_first():
    some = [candidate(shaken(k), u) for k, u in enumerate((0.3, 0.9, 0.05, 0.6))]
    found = picked(some, Pick(count=2, threshold=0.1, distance=0.0))
    assert [c.uncertainty for c in found] == [0.9, 0.6]
    assert [c.uncertainty for c in picked(some, Pick(threshold=0.1, distance=0.0))] == [0.9, 0.6, 0.3]
    assert picked(some, Pick(threshold=1.0)) == []


def test_near_identical_frames_are_picked_once():
    base = shaken(1)
    near = base + 0.01
    turned = (base[[0, 2, 1]] + 0.02 * np.random.default_rng(0).random((3, 3))) @ np.diag([1, -1, 1])
    some = [candidate(base, 0.9), candidate(near, 0.8), candidate(turned, 0.7), candidate(shaken(2), 0.6)]
    found = picked(some, Pick(distance=0.2))
    assert [c.uncertainty for c in found] == [0.9, 0.6], "shifted, mirrored or renumbered it is the same"
    assert [c.uncertainty for c in picked(some, Pick(distance=0.2), [some[0].structure])] == [0.6]
    other = structure(some[0].structure.numbers, base, charge=2)
    assert len(picked(some, Pick(distance=0.2), [other])) == 2, "an ion is another thing"


def test_few_of_one_trajectory_and_no_wild_forces():
    some = [candidate(shaken(k), 1 - 0.1 * k, trajectory=k // 3) for k in range(6)]
    found = picked(some, Pick(per_trajectory=2, distance=0.0))
    assert [c.trajectory for c in found] == [0, 0, 1, 1]
    assert picked([candidate(shaken(0), 1.0, force=50.0)], Pick(largest_force=20.0)) == []


def test_distances_do_not_depend_on_the_order_of_atoms():
    s = named("CH3OH")
    order = np.random.default_rng(0).permutation(6)
    assert np.allclose(distances(s), distances(structure(s.numbers[order], s.positions[order])))
    assert distances(structure([8], [[0, 0, 0]], multiplicity=3)).shape == (0,)


def test_picks_come_back_from_their_file(tmp_path):
    some = [candidate(shaken(k), 0.5 + k) for k in range(3)]
    write_picked(tmp_path / "p.extxyz", some)
    for a, b in zip(some, read_picked(tmp_path / "p.extxyz"), strict=True):
        assert a.structure.id == b.structure.id and a.opinion.energy == b.opinion.energy
        assert np.allclose(a.opinion.forces, b.opinion.forces) and b.uncertainty == pytest.approx(a.uncertainty)
    write_picked(tmp_path / "none.extxyz", [])
    assert read_picked(tmp_path / "none.extxyz") == []
