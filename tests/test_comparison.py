"""The comparison of methods: cutting complexes, the memory of predictions, and tables without a hole."""

import sys
from pathlib import Path

import numpy as np
import pytest
from ase.io import read, write

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))
import compare_methods
import peers

from nddo_ml.training.dataset import load
from nddo_ml.training.evaluate import FAILED

WATER = np.array([[0.0, 0.0, 0.117], [0.0, 0.763, -0.472], [0.0, -0.763, -0.472]])
AMMONIUM = np.array([[0.0, 0.0, 0.0], [0.59, 0.59, 0.59], [-0.59, -0.59, 0.59], [-0.59, 0.59, -0.59], [0.59, -0.59, -0.59]])


@pytest.fixture
def frames(tmp_path):
    """A labelled complex of water and ammonium (labels made up), and one that is a single molecule by now."""
    from ase import Atoms

    apart = Atoms("OH2NH4", np.concatenate([WATER, AMMONIUM + [0.0, 0.0, 3.0]]))
    joined = Atoms("OH2NH4", np.concatenate([WATER, AMMONIUM + [0.0, 0.0, 1.2]]))
    for atoms, how in ((apart, "complex 1.10"), (joined, "complex 0.60")):
        atoms.info = {"ref_energy": -3600.0, "ref_energy_d3": -0.1, "charge": 1, "multiplicity": 1, "smiles": "O.[NH4+]",
                      "group": "complex", "how": how}
        atoms.arrays |= {"ref_forces": np.zeros((8, 3)), "ref_forces_d3": np.full((8, 3), 0.01)}
    write(tmp_path / "labels.extxyz", [apart, joined])
    return [compare_methods.named(compare_methods.total(f)) for f in load([tmp_path / "labels.extxyz"])]


def test_reference_with_dispersion(frames):
    assert frames[0].energy == -3600.1 and (frames[0].forces == 0.01).all()
    assert compare_methods.total(frames[0]) is frames[0]                 # never twice
    assert frames[0].parts_of == "O.[NH4+]@complex 1.10" and frames[0].fragment == "AB"


def test_monomers_are_cut(frames, tmp_path):
    """Two molecules with their charges, at the positions they have; not where a bond joins them nor where they are
    labelled."""
    cut = list(compare_methods.monomers(frames))
    assert [a.get_chemical_formula() for a in cut] == ["H2O", "H4N"] and [a.info["charge"] for a in cut] == [0, 1]
    assert np.array_equal(np.concatenate([a.positions for a in cut]), frames[0].positions)
    for a in cut:
        a.info |= {"ref_energy": -1.0, "ref_energy_d3": 0.0}
        a.arrays |= {"ref_forces": np.zeros((len(a), 3)), "ref_forces_d3": np.zeros((len(a), 3))}
    write(tmp_path / "monomers.extxyz", cut)
    labelled = [compare_methods.named(compare_methods.total(f)) for f in load([tmp_path / "monomers.extxyz"])]
    assert not list(compare_methods.monomers([*frames, *labelled]))
    assert compare_methods.counted({"complexes": [*frames, *labelled]})["complexes"]["interactions"] == 1
    assert read(tmp_path / "monomers.extxyz", 1).info["complex"] == frames[0].parts_of


def test_charge_of_smiles():
    for smiles, charge in (("CC(=O)[O-]", -1), ("C[N+](=O)[O-]", 0), ("[NH3+]CC[NH3+]", 2), ("[O-2]", -2), ("C-C", 0)):
        assert compare_methods.charge_of(smiles) == charge


def test_predictions_are_made_once(frames, tmp_path, monkeypatch):
    """A second run calculates nothing and finds the same numbers; a line cut by a kill is made again."""
    first = peers.predictions("PM6+D3BJ", frames[:1], tmp_path)
    monkeypatch.setattr(peers, "calculate", lambda name, frames: pytest.fail("calculated again"))
    again = peers.predictions("PM6+D3BJ", frames[:1], tmp_path)
    assert again[0].energy == first[0].energy and np.allclose(again[0].forces, first[0].forces, atol=1e-7, rtol=0)
    path = tmp_path / "PM6+D3BJ.jsonl"
    path.write_text(path.read_text()[:-20])
    made = []
    monkeypatch.setattr(peers, "calculate", lambda name, frames: made.append(len(frames)) or [FAILED] * len(frames))
    assert not np.isfinite(peers.predictions("PM6+D3BJ", frames[:1], tmp_path)[0].energy) and made == [1]
    assert peers.recall(path).keys() == {peers.key(frames[0])}


def test_document(tmp_path):
    """Tables go between the marks, again and again; a document without marks is refused."""
    path = tmp_path / "a.md"
    path.write_text("before\n" + "\n".join(compare_methods.MARKS) + "\nafter\n")
    for text in ("first", "second"):
        compare_methods.inserted(path, text)
    assert path.read_text() == f"before\n{compare_methods.MARKS[0]}\nsecond\n{compare_methods.MARKS[1]}\nafter\n"
    path.write_text("nothing")
    with pytest.raises(SystemExit, match="comparison"):
        compare_methods.inserted(path, "x")
