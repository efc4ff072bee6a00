"""Frames, splits, batches, offsets, configuration: what a training starts from."""

import gzip
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.io import read, write
from support.training_data import structures

from nddo_ml import Hamiltonian
from nddo_ml.errors import IncompatibleFile, UnknownOption
from nddo_ml.training import dataset, offsets
from nddo_ml.training.batches import collate, draw, orbitals
from nddo_ml.training.config import TrainingConfig, from_dict, read_config
from nddo_ml.training.evaluate import predict
from nddo_ml.training.stages import stage_data, with_dispersion, without_dispersion
from nddo_ml.training.starts import Densities

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def frames(file):
    return dataset.load([file])


def frame(molecule="C", numbers=(6, 1, 1, 1, 1), group="core", how="", charge=0, multiplicity=1, **more):
    n = len(numbers)
    return dataset.LabelledFrame("x", molecule, group, how, np.array(numbers), np.arange(3.0 * n).reshape(n, 3), charge,
                                 multiplicity, 0.0, np.zeros((n, 3)), **more)


def test_frames_hold_what_the_file_says(file, frames):
    raw = read(file, ":")
    assert len(frames) == len(raw) == len(structures())
    for f, atoms in zip(frames, raw, strict=True):
        assert f.energy == atoms.info["ref_energy"] and f.charge == atoms.info["charge"]
        assert np.array_equal(f.forces, atoms.arrays["ref_forces"]) and np.array_equal(f.positions, atoms.positions)
        assert f.molecule == atoms.info["smiles"]


def test_compressed_files_and_repeated_files_are_the_same_data(file, frames, tmp_path):
    packed = tmp_path / "labels.extxyz.gz"
    with file.open("rb") as source, gzip.open(packed, "wb") as target:
        shutil.copyfileobj(source, target)
    assert dataset.content_hash(dataset.load([packed, file])) == dataset.content_hash(frames[::-1])
    assert dataset.content_hash(frames[1:]) != dataset.content_hash(frames)


def test_dipole_of_an_ion_does_not_depend_on_where_it_stands(file, frames, tmp_path):
    atoms = next(a for a in read(file, ":") if a.info["charge"] == 1)
    shift = np.array([3.0, -2.0, 5.0])
    atoms.positions += shift
    atoms.info["ref_dipole"] = atoms.info["ref_dipole"] + shift
    write(tmp_path / "moved.extxyz", atoms, format="extxyz")
    moved = dataset.load([tmp_path / "moved.extxyz"])[0]
    here = next(f for f in frames if f.charge == 1)
    assert np.allclose(moved.dipole, here.dipole, atol=1e-7)      # positions are written with eight digits
    found = predict(Hamiltonian("PM3"), [here])[0]
    assert np.allclose(found.dipole, here.dipole, atol=1e-6)


@pytest.mark.parametrize(("change", "message"), [
    (lambda a: a.info.pop("ref_energy"), "no `ref_energy`"), (lambda a: a.arrays.pop("ref_forces"), "no `ref_forces`"),
    (lambda a: a.info.update(ref_energy=float("nan")), "not finite"), (lambda a: a.positions.fill(0.0), "apart"),
    (lambda a: a.info.update(ref_dipole=[1.0, 2.0]), "ref_dipole")])
def test_bad_frames_are_refused_by_name(file, tmp_path, change, message):
    frames = read(file, ":3")
    change(frames[1])
    write(tmp_path / "bad.extxyz", frames, format="extxyz")
    with pytest.raises(IncompatibleFile, match=f"Frame 1 of .*bad.extxyz.*{message}"):
        dataset.load([tmp_path / "bad.extxyz"])


def test_missing_and_foreign_files_are_refused(tmp_path):
    with pytest.raises(IncompatibleFile, match="no data file"):
        dataset.load([tmp_path / "none.extxyz"])
    (tmp_path / "text.extxyz").write_text("hello\nworld\n")
    with pytest.raises(IncompatibleFile, match="not a readable"):
        dataset.load([tmp_path / "text.extxyz"])


def test_fluorine_is_no_truth_value(tmp_path):
    atoms = Atoms("FH", [[0, 0, 0], [0, 0, 0.92]], info={"ref_energy": -1.0, "smiles": "F"})
    atoms.arrays["ref_forces"] = np.zeros((2, 3))
    write(tmp_path / "hf.extxyz", atoms, format="extxyz")
    assert dataset.load([tmp_path / "hf.extxyz"])[0].molecule == "F"


def test_split_goes_by_molecule_and_never_changes():
    names = [f"C{'C' * k}O" for k in range(2000)]
    found = {name: dataset.part(frame(name), 0.1, 10) for name in names}
    held_out = [name for name in names if found[name] != "train"]
    assert 140 < len(held_out) < 260                                     # 200 expected, standard deviation 13
    assert all(dataset.part(frame(name), 0.2, 10) != "train" for name in held_out), "a larger fraction holds out more"
    for name in held_out[:20]:      # whatever else differs, a molecule stays where it is
        assert dataset.part(frame(name, charge=1), 0.1, 10) == "ions"
        assert dataset.part(frame(name, multiplicity=2), 0.1, 10) == "radicals"
        assert dataset.part(frame(name, group="complex"), 0.1, 10) == "complexes"


def test_named_parts():
    big = frame(numbers=[6] * 12)
    assert dataset.part(big, 0.1, 12) == "large" and dataset.part(big, 0.0, 13) == "train"
    assert dataset.part(frame("A.B", [6] * 12), 0.0, 12) == "train"
    assert dataset.part(frame(numbers=[6]), 0.9, 10) == "atoms"
    assert dataset.part(frame(how="dissociation C-H 2.1"), 0.0, 10) == "dissociation"


def test_limits_are_nested():
    frames = [frame(f"m{k // 3}") for k in range(90)]
    small, large = (set(map(id, dataset.limited(frames, n))) for n in (20, 50))
    assert len(small) == 20 and small < large


def test_batches_hold_each_frame_once_and_one_kind_of_spin(frames):
    sizes = orbitals(Hamiltonian("AM1").method, frames)
    channels = [2 if f.multiplicity > 1 else 1 for f in frames]
    batches = draw(sizes, channels, 4, (1, 2))
    assert sorted(k for b in batches for k in b) == list(range(len(frames)))
    assert all(len({channels[k] for k in b}) == 1 and len(b) <= 4 for b in batches)
    assert batches == draw(sizes, channels, 4, (1, 2)) != draw(sizes, channels, 4, (1, 3))


def test_frames_of_one_name_share_a_batch():
    random = np.random.default_rng(0)
    names = [k % 20 for k in range(60)]
    batches = draw(random.integers(4, 60, 60).tolist(), [1] * 60, 6, (0,), names)
    assert sorted(k for b in batches for k in b) == list(range(60)) and max(map(len, batches)) <= 6 + 2
    assert all(sum(name in {names[k] for k in b} for b in batches) == 1 for name in range(20))


def test_densities_come_back_to_float32(frames):
    batch = collate(frames, [0, 4, 8])
    H, kept = Hamiltonian("AM1"), Densities()
    result = H(batch.molecules)
    for place, k in enumerate(batch.index):
        kept.keep(k, result.density(place))
    assert all(torch.allclose(kept.density(k), result.density(place), atol=1e-6) for place, k in enumerate(batch.index))
    again = H(batch.molecules, guess=kept.starts(batch.index, batch.molecules), tolerance=1e-4)
    assert int(again.iterations.max()) < int(H(batch.molecules, tolerance=1e-4).iterations.min())
    assert torch.allclose(again.energy, result.energy, atol=1e-8)        # quadratic in the error of the density
    kept.forget(4)
    assert kept.starts(batch.index, batch.molecules) is None


def test_offsets_are_recovered(frames):
    H, shift = Hamiltonian("PM3"), {1: 0.7, 6: -3.0, 7: 1.5, 8: 12.0, 9: -0.25}
    moved = [replace(f, energy=f.energy + sum(shift[int(z)] for z in f.numbers)) for f in frames]
    energies = [p.energy for p in predict(H, frames)]
    atoms = [k for k, f in enumerate(frames) if len(f) == 1]
    exact = offsets.from_atoms([moved[k] for k in atoms], [energies[k] for k in atoms], list(shift))
    assert exact == pytest.approx(shift, abs=1e-5)
    many = [k for k in range(len(frames)) if k not in atoms]
    moved = [replace(f, energy=f.energy + 4.8) if f.charge == 1 else f for f in moved]
    elements, charges = offsets.fitted([moved[k] for k in many], [energies[k] for k in many], list(shift))
    assert elements == pytest.approx(shift, abs=1e-4) and charges == pytest.approx({1: 4.8}, abs=1e-4)
    with pytest.raises(IncompatibleFile, match="Z = 17"):
        offsets.from_atoms([moved[k] for k in atoms], [energies[k] for k in atoms], [1, 17])


def test_dispersion_is_taken_out_and_put_back(frames):
    some = [replace(f, dispersion_included=k % 2 == 0) for k, f in enumerate(frames)]
    bare = without_dispersion(some, "apart")
    assert all((a.energy != b.energy) == (k % 2 == 0 and len(a) > 1) for k, (a, b) in enumerate(zip(some, bare, strict=True)))
    assert all(a is b for a, b in zip(some, without_dispersion(some, "learned"), strict=True))
    for a, b in zip(some, with_dispersion(without_dispersion(some, "included")), strict=True):
        assert a.energy == pytest.approx(b.energy, abs=1e-12) and np.allclose(a.forces, b.forces, atol=1e-12)


def test_stage_data_leaves_out_and_counts(file):
    config = from_dict({"output": "x", "stage": [{"kind": "pretrain", "files": [str(file)]}]})
    forces = [np.abs(f.forces).max() for f in dataset.load([file])]
    limit = float(np.median(forces))
    found = stage_data(config.stage[0], replace(config.data, largest_force=limit, validation=0.0))
    assert found.left_out == {"largest force": sum(x > limit for x in forces)}
    with pytest.raises(IncompatibleFile, match="none of them to train on"):
        stage_data(config.stage[0], replace(config.data, large=1, largest_force=1e-9))


@pytest.mark.parametrize(("values", "message"), [
    ({"stage": []}, "output"), ({"output": "x", "stage": []}, "no \\[\\[stage\\]\\]"),
    ({"output": "x", "stage": [{"kind": "pretrain", "files": ["a"], "epoch": 3}]}, "did you mean epochs"),
    ({"output": "x", "optimizer": {}}, "did you mean optimiser"),
    ({"output": "x", "stage": [{"kind": "pretain", "files": ["a"]}]}, "pretrain, finetune"),
    ({"output": "x", "stage": [{"kind": "pretrain", "files": "a"}]}, "expected a list"),
    ({"output": "x", "stage": [{"kind": "pretrain", "files": ["a"], "losses": {"force": 1.0}}]}, "did you mean forces"),
    ({"output": "x", "seeds": [], "stage": [{"kind": "pretrain", "files": ["a"]}]}, "seeds"),
    ({"output": "x", "stage": [{"kind": "pretrain", "files": ["a"], "epochs": 2.5}]}, "expected int")])
def test_configurations_are_refused_by_name(values, message):
    with pytest.raises(UnknownOption, match=message):
        from_dict(values)


def test_example_configuration_is_read():
    config = read_config(EXAMPLES / "train.toml")
    assert isinstance(config, TrainingConfig) and [s.kind for s in config.stage] == ["frozen", "pretrain", "finetune"]
    assert from_dict(_plain(config.as_dict())) == config


def _plain(value):
    """As TOML would hold it: None is absent."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items() if v is not None}
    return [_plain(v) for v in value] if isinstance(value, tuple) else value
