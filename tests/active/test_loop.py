"""The loop from end to end with one of our own methods as the reference, and what a kill leaves behind."""

import json
import os
import subprocess
import sys
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from ase.build import molecule as ase_molecule
from ase.io import read, write
from support.ensembles import NETWORK, member
from support.training_data import LABELLED_BY, write_labels
from typer.testing import CliRunner

from nddo_ml import NDDO
from nddo_ml.active import loop
from nddo_ml.active.config import anchored, from_dict, read_active
from nddo_ml.active.labelling import labelled, read_picked
from nddo_ml.active.loop import active
from nddo_ml.cli.main import app
from nddo_ml.ensembles.ensemble import Ensemble
from nddo_ml.errors import IncompatibleFile, InvalidMolecule, UnknownOption
from nddo_ml.hamiltonian import weights
from nddo_ml.labels.levels.own import OwnMethod
from nddo_ml.labels.sampling import Source
from nddo_ml.labels.structures import from_atoms
from nddo_ml.training.batches import molecules_of
from nddo_ml.training.dataset import read_frames
from nddo_ml.units import CODATA_2018

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Labels of small molecules by PM3, two structures to start from, an ensemble that knows neither."""
    folder = tmp_path_factory.mktemp("data")
    write_labels(folder / "labels.extxyz", frames=2)
    write(folder / "seeds.xyz", [ase_molecule("CH3OH"), ase_molecule("H2O")], format="extxyz")
    for k in range(2):
        (folder / f"seed-{k}").mkdir()
        weights.save(member(k, 0.01), folder / f"seed-{k}" / "model.safetensors", f"m{k}", weights.Origin("PM3", "0"))
    (folder / "train.toml").write_text(f"""
output = "trained"
seeds = [0, 1]
[model]
parent = "AM1"
dispersion = false
network = {json.dumps(NETWORK).replace(":", " =")}
[data]
validation = 0.4
level = "PM3"
[optimiser]
batch = 12
average = 0.5
[log]
plot = 0
[[stage]]
kind = "finetune"
files = ["labels.extxyz"]
epochs = 1
rate = 2e-3
dispersion = "learned"
offsets = "atoms"
""")
    return folder


def settings(data, output, **more):
    values = {"output": str(output), "train": "train.toml", "start": ".", "rounds": 2,
              "explore": {"structures": ["seeds.xyz"], "temperatures": [500.0, 1500.0], "trajectories": 3, "steps": 12,
                          "every": 6, "stop": 50.0, "plan": "dimers:1", "sources": 1},
              "pick": {"count": 4, "threshold": 1e-3, "distance": 0.05, "largest_force": 50.0},
              "label": {"level": LABELLED_BY, "jobs": 0, "pending": 2}, "retrain": {"epochs": 1, "rate": 1e-3}}
    for key, value in more.items():
        values[key] = {**values[key], **value} if isinstance(value, dict) else value
    return anchored(from_dict({key: value for key, value in values.items() if value is not None}), data)


def run(data, output, report=None, stop=lambda: False, **more):
    config, training = settings(data, output, **more)
    sources = [Source(structure=from_atoms(a)) for a in read(data / "seeds.xyz", ":")]
    return active(config, training, sources, lambda path: partial(NDDO, path, threads=1), report, stop)


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """Two rounds at a stretch."""
    output = tmp_path_factory.mktemp("whole")
    return output, run(data, output)


def test_the_loop_ends_with_everything_labelled_and_trained_on(data, whole):
    output, records = whole
    assert [r["round"] for r in records] == [0, 1, 2] and all(r["picked"] == 4 for r in records[1:])
    assert records[-1]["labels"] == 8 and records[-1]["outstanding"] == 0 == records[-1]["failed"]
    ids = labelled(output / "labels.extxyz")
    by_round = [list(labelled(output / f"round-00{k}" / "labels.extxyz")) for k in (1, 2)]
    assert sorted(by_round[0] + by_round[1]) == sorted(ids) and len(by_round[0]) == 2, "two were still outstanding"
    chosen = [c.structure.id for k in (1, 2) for c in read_picked(output / f"round-00{k}" / "picked.extxyz")]
    assert sorted(chosen) == sorted(ids) and len(set(chosen)) == 8
    lines = [json.loads(line) for line in (output / "rounds.jsonl").read_text().splitlines()]
    assert lines == json.loads(json.dumps(records))
    for name in ("rounds.png", "round-001/reliability.png"):
        assert (output / name).read_bytes()[:4] == b"\x89PNG"


def test_fresh_errors_are_those_before_training(whole):
    """The errors of the record, from the ensemble of the round before, which was not trained on these labels."""
    output, records = whole
    before, after = (Ensemble.load(output / f"round-00{k}") for k in (0, 1))
    frames = read_frames(output / "round-001" / "labels.extxyz")

    def error(ensemble):
        wrong = ensemble(molecules_of(frames), forces=True).forces.numpy() - np.concatenate([f.forces for f in frames])
        return np.sqrt((wrong**2).mean()) * CODATA_2018.kcal_mol

    said = records[1]["fresh"]["forces"]["error"]
    assert said == pytest.approx(error(before), rel=1e-4) and abs(said - error(after)) > 1e-2


def test_members_are_retrained_from_their_last_weights(data, whole):
    output, _ = whole
    chain = [Ensemble.load(data), *(Ensemble.load(output / f"round-00{k}") for k in (1, 2))]
    for a, b in pairwise(chain):
        for k in range(2):
            moved = [float((x - y).abs().max()) for x, y in zip(_weights(a, k), _weights(b, k), strict=True)]
            across = [float((x - y).abs().max()) for x, y in zip(_weights(a, 1 - k), _weights(b, k), strict=True)]
            assert 0 < max(moved) < 0.5 * max(across), "each from its own, not far"
    assert chain[2].calibration.frames > 0 and chain[2].calibration.forces.scale > 0
    notes = json.loads(chain[2].method.card.notes)
    assert notes["training_frames"] > json.loads(chain[1].method.card.notes)["training_frames"] - 1


def _weights(ensemble, k):
    return list(ensemble.members[k].network.parameters())


def test_a_finished_loop_has_nothing_to_do(data, whole):
    output, records = whole
    before = {p: p.stat().st_mtime_ns for p in output.rglob("*.safetensors")}
    assert json.dumps(run(data, output)) == json.dumps(records)
    assert {p: p.stat().st_mtime_ns for p in output.rglob("*.safetensors")} == before


class Killed(BaseException):
    """Ends the process where it stands, as far as a test can."""


class Fuse:
    """Blows at the n-th time anything is asked or written."""

    def __init__(self, n):
        self.left = n

    def __call__(self, *_, **__):
        self.left -= 1
        if self.left == 0:
            raise Killed
        return False


@pytest.fixture
def bare(monkeypatch):
    """Loops without pictures, which take half of the time here."""
    for name in ("reliability_picture", "rounds_picture"):
        monkeypatch.setattr(loop, name, lambda *a: None)


def ends_alike(output, whole):
    """Nothing lost, nothing doubled: every structure once, with its label, in one round, as without a kill."""
    def ids(name):
        return [str(a.info["id"]) for a in read(output / name, ":")]

    chosen = [c.structure.id for k in (1, 2) for c in read_picked(output / f"round-00{k}" / "picked.extxyz")]
    trained = [key for k in (1, 2) for key in ids(f"round-00{k}/labels.extxyz")]
    assert len(set(chosen)) == 8 and sorted(chosen) == sorted(ids("labels.extxyz")) == sorted(trained)
    assert chosen[:4] == [c.structure.id for c in read_picked(whole / "round-001" / "picked.extxyz")]
    assert len((output / "rounds.jsonl").read_text().splitlines()) == 3


def until_done(go):
    """Run again and again until nothing kills it; how often it was killed."""
    for count in range(100):
        try:
            go()
        except Killed:
            continue
        return count
    raise AssertionError("it never gets anywhere")


@pytest.mark.parametrize("n", [7, *(pytest.param(n, marks=pytest.mark.slow) for n in (5, 6, 8))])
def test_killed_before_a_file_is_put_in_place(data, whole, tmp_path, monkeypatch, bare, n):
    """Every n-th file of each attempt; nothing is cleaned up on the way out. (A training alone puts four files in place between
    two of its checkpoints.)"""
    put = os.replace

    def go():
        fuse = Fuse(n)
        monkeypatch.setattr(os, "replace", lambda *a: (fuse(), put(*a)))
        run(data, tmp_path)

    assert until_done(go) > 3
    ends_alike(tmp_path, whole[0])


@pytest.mark.slow
@pytest.mark.parametrize("n", [20, 29, 41])
def test_killed_in_between_it_goes_on(data, whole, tmp_path, bare, n):
    """`stop` is asked at every step of dynamics and every batch of training."""
    assert until_done(lambda: run(data, tmp_path, stop=Fuse(n))) > 0
    ends_alike(tmp_path, whole[0])


@pytest.mark.slow
def test_a_process_that_is_really_killed(data, whole, tmp_path):
    """SIGKILL to the command while it works, labels in another process; the fifth attempt is left alone."""
    (tmp_path / "active.toml").write_text(f"""
output = "{tmp_path / 'out'}"
train = "{data / 'train.toml'}"
start = "{data}"
rounds = 2
explore = {{ structures = ["{data / 'seeds.xyz'}"], temperatures = [500, 1500], trajectories = 3, steps = 12, every = 6,
            stop = 50.0, plan = "dimers:1", sources = 1 }}
pick = {{ count = 4, threshold = 1e-3, distance = 0.05, largest_force = 50.0 }}
label = {{ level = "{LABELLED_BY}", jobs = 1, pending = 2 }}
retrain = {{ epochs = 1, rate = 1e-3 }}
""".replace("\n            stop", " stop"))
    command = [sys.executable, "-m", "nddo_ml.cli.main", "active", str(tmp_path / "active.toml")]
    for seconds in (4.0, 5.5, 7.0, 6.0, None):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        try:
            said = process.communicate(timeout=seconds)[0]
            break
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    assert process.returncode == 0, said
    ends_alike(tmp_path / "out", whole[0])


@pytest.mark.slow
def test_asked_to_stop_it_goes_on_later(data, tmp_path, bare):
    asked = iter(range(10**6))
    records = run(data, tmp_path, stop=lambda: next(asked) > 30)
    assert len(records) < 3
    assert run(data, tmp_path)[-1]["labels"] == 8


def test_labels_that_fail_are_counted_and_not_awaited(data, tmp_path, monkeypatch, bare):
    made = OwnMethod.__call__

    def fails(self, s):
        if s.id == last:
            raise InvalidMolecule("no")
        return made(self, s)

    run(data, tmp_path, rounds=1, stop=(tmp_path / "round-001" / "picked.extxyz").exists)
    last = read_picked(tmp_path / "round-001" / "picked.extxyz")[-1].structure.id
    monkeypatch.setattr(OwnMethod, "__call__", fails)
    records = run(data, tmp_path, rounds=1)
    assert records[-1]["failed"] == 1 and records[-1]["labels"] == 3 and records[-1]["outstanding"] == 0


def test_nothing_uncertain_ends_the_loop(data, tmp_path, bare):
    records = run(data, tmp_path, pick={"threshold": 1e3}, rounds=5)
    assert [r["picked"] for r in records] == [None, 0] and records[-1]["labels"] == 0
    assert len(Ensemble.load(tmp_path / "round-001")) == 2


@pytest.mark.slow
def test_without_an_ensemble_one_is_trained_first(data, tmp_path, bare):
    records = run(data, tmp_path, start=None, rounds=1, label={"pending": 0}, explore={"plan": ""})
    assert records[0]["start"] is None and records[1]["labels"] == 4
    assert (tmp_path / "round-000" / "seed-1" / "model.safetensors").exists()


@pytest.mark.slow
def test_labelling_in_other_processes(data, tmp_path, bare):
    records = run(data, tmp_path, rounds=1, label={"jobs": 1, "pending": 1})
    assert records[1]["labels"] == 4


@pytest.mark.slow
def test_labelling_on_a_dask_cluster(data, tmp_path, bare):
    pytest.importorskip("distributed")
    records = run(data, tmp_path, rounds=1, label={"jobs": 1, "dask": "local"})
    assert records[1]["labels"] == 4


def test_other_beginnings_and_levels_are_refused(data, whole, tmp_path):
    with pytest.raises(IncompatibleFile, match="belongs to a loop that started from"):
        run(data, whole[0], start=None)
    with pytest.raises(IncompatibleFile, match="levels are not mixed"):
        run(data, whole[0], label={"level": "MNDO"})
    config, training = settings(data, tmp_path / "x")
    with pytest.raises(InvalidMolecule, match="H4Si has elements the ensemble does not know"):
        active(config, training, [Source(structure=from_atoms(ase_molecule("SiH4")))], lambda path: partial(NDDO, path))


@pytest.mark.parametrize(("change", "message"), [
    ({"explore": {"temperature": [300.0]}}, "did you mean temperatures"), ({"picks": {}}, "did you mean pick"),
    ({"pick": {"count": 0}}, "pick.count = 0"), ({"explore": {"structures": []}}, "structures .* is empty"),
    ({"explore": {"temperatures": [-1.0]}}, "positive"), ({"label": {"level": 3}}, "expected str")])
def test_configurations_are_refused_by_name(data, change, message):
    with pytest.raises(UnknownOption, match=message):
        settings(data, "x", **change) if not {"picks"} & set(change) else from_dict({"output": "x", "train": "y", **change})


def test_a_training_that_makes_no_ensemble_is_refused(data, tmp_path):
    single = (data / "train.toml").read_text().replace("seeds = [0, 1]", "seeds = [0]")
    (data / "single.toml").write_text(single)
    with pytest.raises(UnknownOption, match="has 1 seed"):
        settings(data, tmp_path, train="single.toml", start=None)


def test_example_configuration_is_read():
    config, training = read_active(EXAMPLES / "active.toml")
    assert config.explore.plan and training.stage[-1].kind == "finetune"


def test_command(data, tmp_path, bare):
    text = f"""
output = "{tmp_path / 'out'}"
train = "{data / 'train.toml'}"
start = "{data}"
rounds = 1
[explore]
structures = ["{data / 'seeds.xyz'}"]
trajectories = 2
steps = 6
every = 3
stop = 50.0
[pick]
count = 2
threshold = 1e-3
largest_force = 50.0
[label]
level = "PM3"
jobs = 0
[retrain]
epochs = 1
"""
    (tmp_path / "active.toml").write_text(text)
    found = CliRunner().invoke(app, ["active", str(tmp_path / "active.toml")])
    assert found.exit_code == 0, found.output
    assert "round 1" in found.output and "fresh" in found.output
    (tmp_path / "active.toml").write_text(text.replace("trajectories", "trajektories"))
    found = CliRunner().invoke(app, ["active", str(tmp_path / "active.toml")])
    assert found.exit_code == 2 and "did you mean trajectories" in found.output
