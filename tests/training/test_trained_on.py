"""A model's file says which molecules it was trained on, and an evaluation never takes them for unseen ones."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from ase.io import read, write
from support.training_data import write_labels
from typer.testing import CliRunner

from nddo_ml import Hamiltonian
from nddo_ml.cli.main import app
from nddo_ml.hamiltonian import weights
from nddo_ml.hamiltonian.weights import trained_on
from nddo_ml.methods import learned
from nddo_ml.methods.learned import TrainedOn, card
from nddo_ml.networks import build
from nddo_ml.training.config import from_dict
from nddo_ml.training.dataset import key, load, read_frames, share, split, split_by
from nddo_ml.training.trainer import SilentTraining, Training

LABELS = Path(__file__).parents[2] / "labels"
NETWORK = {"channels": 4, "radial": 4, "layers": 1}


def config(file, output, validation=0.25, **stage):
    stage = {"kind": "pretrain", "files": [str(file)], "epochs": 1, "offsets": "atoms", **stage}
    start = stage.pop("start", None)
    model = {"parent": "AM1", "network": NETWORK} if start is None else {"start": str(start)}
    return from_dict({"output": str(output), "model": model, "data": {"validation": validation}, "log": {"plot": 0},
                      "optimiser": {"batch": 16}, "stage": [stage]})


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(labels, the training, its file of weights); a quarter of the molecules held out, two frames of each."""
    folder = tmp_path_factory.mktemp("trained")
    write_labels(folder / "labels.extxyz", 2)
    training = Training(config(folder / "labels.extxyz", folder), 0, folder)
    assert training.run()
    return folder / "labels.extxyz", training, folder / "model.safetensors"


def evaluated(file, method, out, *options):
    done = CliRunner().invoke(app, ["evaluate", str(file), "-m", str(method), "--bare", "-o", str(out), *options])
    assert done.exit_code == 0, done.output
    return json.loads(out.read_text()), " ".join(done.output.split())


def test_the_file_says_what_was_trained_on(trained):
    file, training, path = trained
    mine = {f.molecule for f in training.work.data.train}
    said = trained_on(card(path))
    assert said == TrainedOn(0.25, 10, frozenset(map(key, mine))) and 3 < len(mine) < 10
    assert all((key(m) in said.molecules) == (share(m) >= 0.25) for m in {f.molecule for f in load([file]) if len(f) > 1})
    assert Hamiltonian(str(path)).method.card.split == {"validation": 0.25, "large": 10}


@pytest.mark.parametrize("options", [(), ("--validation", "0.9"), ("--validation", "0.0")])
def test_trained_frames_are_never_called_validation(trained, tmp_path, options):
    """Whatever fraction is asked for, the parts are the training's own."""
    file, training, path = trained
    found, words = evaluated(file, path, tmp_path / "s.json", *options)
    parts = {name: len(frames) for name, frames in training.work.data.parts.items()}
    assert {name: s["frames"] for name, s in found["sets"].items()} == parts and parts["validation"] > 0
    assert found["split"] == {"by": "model", "large": 10, "known": True}
    assert ("is not needed: the file of model says" in words) == bool(options)


def test_molecules_of_other_files_are_held_out_by_name(trained, tmp_path):
    """A file of unseen molecules and one trained one: the first are all held out, though a hash would call most of them
    training; the trained one is, under the geometry it never had."""
    frames = read(trained[0], ":")
    chosen = [a for a in frames if a.info["smiles"] == "CH3OH"] + [a for a in frames if a.info["smiles"] == "[OH]"]
    assert share("CH3OH") >= 0.25
    for k, atoms in enumerate(chosen):
        atoms.info["smiles"] = {"CH3OH": "CH3OH", "[OH]": f"new {k}"}[atoms.info["smiles"]]
        atoms.positions *= 1.01
    write(tmp_path / "other.extxyz", chosen, format="extxyz")
    found, _ = evaluated(tmp_path / "other.extxyz", trained[2], tmp_path / "s.json")
    assert {name: s["frames"] for name, s in found["sets"].items()} == {"train": 2, "radicals": 2}


def test_a_file_that_does_not_say_is_told_of(trained, tmp_path):
    """As are none of the published methods, which learned from nothing here."""
    model = Hamiltonian("AM1", network=build(NETWORK))
    weights.save(model, tmp_path / "old.safetensors", "old", weights.Origin("level", "hash"))
    assert trained_on(card(tmp_path / "old.safetensors")) is None
    small = read(trained[0], ":4")
    write(tmp_path / "few.extxyz", small, format="extxyz")
    found, words = evaluated(tmp_path / "few.extxyz", tmp_path / "old.safetensors", tmp_path / "s.json", "--validation", "0.2")
    assert "does not say which molecules it was trained on" in words and "validation = 0.2" in words
    assert found["split"] == {"by": "name", "validation": 0.2, "large": 10, "known": False}
    found, words = evaluated(tmp_path / "few.extxyz", "AM1", tmp_path / "s.json")
    assert "does not say" not in words and found["split"]["known"]


def test_what_weights_were_trained_on_goes_on_with_them(trained, tmp_path):
    """A fine-tuning on other molecules knows those of its start, says so where it holds them out, and keeps both through a
    stop; of a start that does not say, nothing is said."""
    class Heard(SilentTraining):
        said = ""

        def message(self, text):
            self.said += text

    file, _, path = trained
    write(tmp_path / "more.extxyz", [a for a in read(file, ":") if a.info["smiles"] in ("H2CO", "HCN", "HF", "CO", "[H]", "[C]",
                                                                                       "[N]", "[O]", "[F]")], format="extxyz")
    heard = Heard()
    again = config(tmp_path / "more.extxyz", tmp_path, 0.9, start=path, epochs=2)
    assert not Training(again, 0, tmp_path, report=heard).run(epochs=1)
    assert "was trained on" in heard.said and "held-out molecules" in heard.said
    rest = Training(again, 0, tmp_path)
    assert rest.resume() and rest.run()
    mine = {key(f.molecule) for f in rest.work.data.train}
    assert trained_on(card(tmp_path / "model.safetensors")).molecules == trained_on(card(path)).molecules | mine
    model = Hamiltonian(str(path))
    weights.save(model, tmp_path / "old.safetensors", "old", weights.Origin("level", "hash"))
    heard = Heard()
    assert Training(config(file, tmp_path / "x", start=tmp_path / "old.safetensors"), 0, tmp_path / "x", report=heard).run()
    assert trained_on(card(tmp_path / "x" / "model.safetensors")) is None and heard.said == ""


def test_without_held_out_molecules_the_latest_weights_are_kept(trained, tmp_path):
    """None could say which are best; the first ones, which have learned nothing, once stood for them."""
    run = Training(config(trained[0], tmp_path, 0.0, limit=6), 0, tmp_path)
    before = [p.detach().clone() for p in run.model.network.parameters()]
    assert run.run() and set(run.work.data.parts) == {"train", "atoms"}
    after = Hamiltonian(str(tmp_path / "model.safetensors")).network.parameters()
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_the_shipped_model_knows_its_molecules():
    """Those of labels/neural.toml (tools/trained_on.py); of the reference labels those of hash below 0.1 are none of them."""
    said = trained_on(learned.shipped()["neural"])
    assert said.validation == 0.1 and said.large == 10 and len(said.molecules) == 2644
    frames = read_frames(LABELS / "torsions.extxyz.gz") + read_frames(LABELS / "large.extxyz.gz")
    by_model = {name: {f.source for f in found} for name, found in split_by(said, frames).items()}
    by_hash = {name: {f.source for f in found} for name, found in split(frames, 0.1, 10).items()}
    assert by_model == by_hash and len(by_model["train"]) > 50 and len(by_model["large"]) > 2
    assert not any(key(f.molecule) in said.molecules for f in frames if share(f.molecule) < 0.1)
    renamed = [replace(f, molecule=f"{f.molecule} never seen") for f in frames if f.heavy < 10]
    assert "train" not in split_by(said, renamed)


def test_the_list_is_no_part_of_the_model(trained, tmp_path):
    """Energies are those of the file without it, to the last bit."""
    H = Hamiltonian(str(trained[2]))
    weights.save(H, tmp_path / "bare.safetensors", "bare", weights.Origin("level", "hash"))
    bare = Hamiltonian(str(tmp_path / "bare.safetensors"))
    for (name, a), (other, b) in zip(H.state_dict().items(), bare.state_dict().items(), strict=True):
        assert name == other and torch.equal(torch.nan_to_num(a), torch.nan_to_num(b))
