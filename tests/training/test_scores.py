"""Scores: errors of predictions beside labels, by the quantities a comparison table shows."""

from dataclasses import replace

import numpy as np
import pytest

from nddo_ml.training import dataset
from nddo_ml.training.evaluate import FAILED, Prediction, atom_errors, overall, scores, with_offsets
from nddo_ml.units import CODATA_2018


@pytest.fixture(scope="module")
def frames(file):
    return [f for f in dataset.load([file]) if len(f) > 1]


def exact(frames):
    return [Prediction(f.energy, f.forces, f.dipole, f.gap, f.s2, 5) for f in frames]


def test_scores_of_labels_are_zero(frames):
    found = scores(frames, exact(frames), {z: 0.0 for z in (1, 6, 7, 8, 9)})
    assert all(getattr(found, k) == 0 for k in ("forces", "energy", "relative", "atomisation", "dipole", "gap", "failed",
                                                "contaminated"))
    assert np.isnan(found.interaction) and found.frames == len(frames)


def test_scores_say_what_is_wrong(frames):
    kcal = CODATA_2018.kcal_mol
    wrong = [replace(p, energy=p.energy + 0.1, forces=p.forces + 0.2, dipole=p.dipole + [0, 0.3, 0.4]) for p in exact(frames)]
    found = scores(frames, wrong)
    assert found.energy == pytest.approx(0.1 * kcal) and found.relative == pytest.approx(0.0, abs=1e-9)
    assert found.forces == pytest.approx(0.2 * kcal) and found.dipole == pytest.approx(0.5 * CODATA_2018.debye)
    assert found.energy_per_atom == pytest.approx(0.1 * kcal * np.mean([1 / len(f) for f in frames]))
    half = scores(frames, [*wrong[:4], *([FAILED] * (len(frames) - 4))])
    assert half.failed == len(frames) - 4 and half.energy == pytest.approx(0.1 * kcal)


def test_atomisation_energies_know_no_offsets(file):
    """Whatever constant a model adds per atom, free atoms included."""
    frames = dataset.load([file])
    shifted = [replace(p, energy=p.energy + 3.0 * len(f)) for f, p in zip(frames, exact(frames), strict=True)]
    found = scores(frames, shifted, atom_errors(frames, shifted))
    assert found.energy > 100 and found.atomisation == pytest.approx(0.0, abs=1e-9)


def test_interaction_energies_need_the_fragments(frames):
    parts = [replace(frames[k], parts_of="dimer", fragment=name) for k, name in enumerate(("AB", "A", "B"))]
    found = scores(parts, [replace(p, energy=p.energy + e) for p, e in zip(exact(parts), (0.5, 0.1, 0.1), strict=True)])
    assert found.interaction == pytest.approx(0.3 * CODATA_2018.kcal_mol)


def test_offsets_bring_another_zero_to_ours(frames):
    shifted = [replace(p, energy=p.energy - 7.0 * len(f)) for f, p in zip(frames, exact(frames), strict=True)]
    neutral = [k for k, f in enumerate(frames) if f.charge == 0]
    found = scores(frames, with_offsets(frames, shifted, [frames[k] for k in neutral], [shifted[k] for k in neutral]))
    assert found.energy == pytest.approx(0.0, abs=1e-6)


def test_overall_score_counts_what_fails(frames):
    good, none = scores(frames, exact(frames)), scores(frames, [FAILED] * len(frames))
    assert overall({"validation": good}) == 0 < overall({"validation": good, "ions": none})
    assert overall({"large": good}) == float("inf"), "test sets of another kind do not choose weights"
