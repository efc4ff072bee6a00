"""Point charges of the command: from a file, into the results."""

import json

import numpy as np
import pytest
from ase import Atoms
from ase.io import write
from support.physics_models import MOLECULES, model, molecule
from support.point_charges import PLACES, VALUES
from typer.testing import CliRunner

from nddo_ml import PointCharges
from nddo_ml.cli.main import app


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    numbers, positions, _, _ = MOLECULES["water"]
    write("water.xyz", Atoms(numbers, positions))
    (tmp_path / "charges.txt").write_text("# x y z q\n0.3 0.2 3.1 0.5\n-2.5 1.9 0.4 -0.8\n")
    (tmp_path / "bad.txt").write_text("0.3 0.2 3.1\n")
    (tmp_path / "empty.txt").write_text("# x y z q\n\n")
    return tmp_path


def test_command(files):
    words = ["run", "water.xyz", "-m", "PM6", "--point-charges", "charges.txt", "--json", "out.json", "-o", "out.extxyz"]
    assert CliRunner().invoke(app, words).exit_code == 0
    frame = json.loads((files / "out.json").read_text())["frames"][0]
    expected = model("PM6")(molecule("water"), point_charges=PointCharges.single(PLACES, VALUES), forces=True)
    assert frame["energy"] == pytest.approx(float(expected.energy.detach()), abs=1e-6)
    np.testing.assert_allclose(frame["point_charge_forces"], expected.point_charge_forces.detach(), atol=1e-5)
    assert (files / "out.extxyz").exists()


@pytest.mark.parametrize(("words", "message"), [
    (("--point-charges", "none.txt"), "no file none.txt"), (("--point-charges", "bad.txt"), "3 numbers"),
    (("--point-charges", "empty.txt"), "holds no point charge"),
    (("--point-charges", "water.xyz"), "four numbers"), (("--point-charges", "charges.txt", "--freq"), "isolated molecule")])
def test_command_refuses(files, words, message):
    result = CliRunner().invoke(app, ["run", "water.xyz", *words])
    assert result.exit_code == 2 and message in result.output
