"""Several processes train one model, and the commands `train` and `evaluate` work from files."""

import json

import pytest
import torch
from support.commands import torchrun
from support.training_data import write_labels
from typer.testing import CliRunner

from nddo_ml.cli.main import app
from nddo_ml.common.processes import World

TOML = """
output = "trained"
[model]
parent = "AM1"
network = {{ channels = 6, radial = 5, layers = 1 }}
[data]
validation = 0.25
[optimiser]
batch = {batch}
[log]
plot = {plot}
[[stage]]
kind = "pretrain"
files = ["labels.extxyz"]
offsets = "atoms"
epochs = {epochs}
"""


def folder_with(path, frames=3, **settings):
    write_labels(path / "labels.extxyz", frames)
    (path / "train.toml").write_text(TOML.format(**{"batch": 8, "plot": 0, "epochs": 2, **settings}))
    return path / "trained" / "seed-0"


def test_one_process_is_a_world_of_its_own():
    world, p = World(), torch.nn.Parameter(torch.ones(2))
    p.grad = torch.full((2,), 3.0)
    assert world.average([p], 5.0) == 5.0 and torch.equal(p.grad, torch.full((2,), 3.0))
    assert world.share([1, 2, 3]) == [1, 2, 3] == world.join([1, 2, 3], 3)


def test_train_and_evaluate_from_the_command(tmp_path):
    seed = folder_with(tmp_path, frames=2, epochs=1, plot=2)
    run = CliRunner()
    first = run.invoke(app, ["train", str(tmp_path / "train.toml")])
    assert first.exit_code == 0 and "Done" in first.output, first.output
    for name in ("model.safetensors", "learning.png", "parity-validation.png", "structures-1.csv"):
        assert (seed / name).stat().st_size > 100, name
    before = (seed / "metrics.jsonl").read_text()
    again = run.invoke(app, ["train", str(tmp_path / "train.toml")])
    assert again.exit_code == 0 and "Going on" in again.output and (seed / "metrics.jsonl").read_text() == before
    labels, out = str(tmp_path / "labels.extxyz"), tmp_path / "scores.json"
    scored = run.invoke(app, ["evaluate", labels, "-m", str(seed / "model.safetensors"), "--bare", "--validation", "0.25",
                              "-o", str(out)])
    assert scored.exit_code == 0, scored.output
    sets = json.loads(out.read_text())["sets"]
    final = [json.loads(line) for line in before.splitlines() if '"final"' in line][-1]["sets"]
    for name, found in final.items():
        assert sets[name]["forces"] == pytest.approx(found["forces"], rel=1e-3), "the file is the model that was scored"
        assert sets[name]["frames"] == found["frames"]


def test_bad_configurations_end_with_a_message(tmp_path):
    folder_with(tmp_path)
    text = (tmp_path / "train.toml").read_text()
    (tmp_path / "bad.toml").write_text(text.replace("epochs", "epoch"))
    found = CliRunner().invoke(app, ["train", str(tmp_path / "bad.toml")])
    assert found.exit_code == 2 and "did you mean epochs" in found.output
    assert CliRunner().invoke(app, ["train", str(tmp_path / "none.toml")]).exit_code == 2


AVERAGED = """
import torch
from nddo_ml.common.processes import joined
with joined() as world:
    p, q = torch.nn.Parameter(torch.zeros(2, 2)), torch.nn.Parameter(torch.zeros(3))
    p.grad = torch.full((2, 2), float(world.rank + 1))
    total = world.average([p, q], [3.0, 1.0][world.rank])
    assert total == 4.0 and torch.allclose(p.grad, torch.full((2, 2), 1.25)) and torch.equal(q.grad, torch.zeros(3))
    p.grad = torch.full((2, 2), float("nan") if world.rank else 2.0)
    assert world.average([p, q], 1.0 - world.rank) == 1.0 and torch.equal(p.grad, torch.full((2, 2), 2.0))
    items = list(range(5))
    assert world.join([x * 10 for x in world.share(items)], 5) == [0, 10, 20, 30, 40]
"""


@pytest.mark.slow
def test_two_processes_average_their_gradients(tmp_path):
    (tmp_path / "averaged.py").write_text(AVERAGED)
    found = torchrun(["averaged.py"], tmp_path)
    assert found.returncode == 0, found.stderr


@pytest.mark.slow
def test_two_processes_train_one_model(tmp_path):
    """They share the frames out, write one journal, and go on together from their checkpoint."""
    seed = folder_with(tmp_path, batch=6)
    found = torchrun(["-m", "nddo_ml.cli.main", "train", "train.toml"], tmp_path)
    assert found.returncode == 0, found.stderr
    events = [json.loads(line) for line in (seed / "metrics.jsonl").read_text().splitlines()]
    epochs = [e for e in events if e["event"] == "epoch"]
    trained = next(row["frames"] for row in events[0]["summary"] if row["part"] == "train")
    assert [e["epoch"] for e in epochs] == [1, 2] and all(e["ok"] == trained for e in epochs), "each frame once, in one journal"
    assert (seed / "densities-0.pt").exists() and (seed / "densities-1.pt").exists()
    assert torchrun(["-m", "nddo_ml.cli.main", "train", "train.toml"], tmp_path).returncode == 0
