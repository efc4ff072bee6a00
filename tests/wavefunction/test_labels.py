"""Energies with error bars as labels: what a result becomes, and what its error bar does in a training."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from ase.io import read, write
from typer.testing import CliRunner

from nddo_ml.cli.main import app
from nddo_ml.errors import IncompatibleFile
from nddo_ml.training import dataset
from nddo_ml.training.batches import collate
from nddo_ml.training.losses import Outputs, Weights, Widths, terms, trust
from nddo_ml.units import CODATA_2018
from nddo_ml.wavefunction.real_space.config import (
    RealSpaceAnsatz,
    RealSpaceConfig,
    RealSpaceEvaluation,
    RealSpaceLog,
    RealSpaceSampling,
)
from nddo_ml.wavefunction.real_space.run import calculate, prepared

HARTREE, BOHR = CODATA_2018.hartree, CODATA_2018.bohr


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """result.json of H2 with forces, and of another geometry without."""
    folder = tmp_path_factory.mktemp("runs")
    for name, distance, forces in (("near", 1.4, 3), ("far", 2.6543210987, 0)):
        calculate(prepared(RealSpaceConfig(
            f"H 0 0 0; H 0 0 {distance}", output=str(folder / name), iterations=2, log=RealSpaceLog(2),
            ansatz=RealSpaceAnsatz(start=""), sampling=RealSpaceSampling(16, 2, 20),
            evaluation=RealSpaceEvaluation(4, 2, forces))))
    return [folder / name / "result.json" for name in ("near", "far")]


def labels(results, output):
    done = CliRunner().invoke(app, ["label", "--from", *map(str, results), "-o", str(output)])
    assert done.exit_code == 0, done.output
    return done


def test_results_become_frames(results, tmp_path):
    output = tmp_path / "labels.extxyz"
    labels(results, output)
    labels(results, output)                                     # once each, however often
    near, far = read(output, ":")
    expected = [json.loads(path.read_text()) for path in results]
    for atoms, result in zip((near, far), expected, strict=True):
        assert atoms.info["ref_energy"] == pytest.approx(result["energy"] * HARTREE, rel=1e-8)
        assert atoms.info["ref_energy_error"] == pytest.approx(result["error"] * HARTREE, rel=1e-6) and result["error"] > 0
        assert atoms.info["multiplicity"] == 1 and atoms.info["charge"] == 0
    assert far.positions[1, 2] == pytest.approx(2.6543210987 * BOHR, abs=1e-8)
    np.testing.assert_allclose(near.arrays["ref_forces"], np.array(expected[0]["forces"]) * HARTREE / BOHR, atol=1e-6)
    frames = dataset.load([output])
    assert [f.energy_error > 0 for f in frames] == [True, True]
    assert np.isfinite(frames[0].forces).all() and (frames[0].forces_error > 0).all()
    assert np.isnan(frames[1].forces).all() and frames[1].largest_force == 0


@pytest.mark.parametrize(("change", "words"), [
    (lambda r: r.pop("error"), "no result of"), (lambda r: r.update(format="other"), "no result of"),
    (lambda r: r.update(error=0.0), "expected finite numbers"), (lambda r: r.update(energy=float("nan")), "finite numbers")])
def test_other_files_are_refused(results, tmp_path, change, words):
    result = json.loads(results[0].read_text())
    change(result)
    (tmp_path / "result.json").write_text(json.dumps(result))
    done = CliRunner().invoke(app, ["label", "--from", str(tmp_path / "result.json"), "-o", str(tmp_path / "l.extxyz")])
    assert done.exit_code == 2 and words in " ".join(done.output.split())
    assert not (tmp_path / "l.extxyz").exists()


def test_levels_are_not_mixed(results, tmp_path):
    result = json.loads(results[0].read_text())
    result["config"]["ansatz"]["kind"] = "psiformer"
    (tmp_path / "result.json").write_text(json.dumps(result))
    done = CliRunner().invoke(app, ["label", "--from", str(tmp_path / "result.json"), str(results[1]), "-o",
                                    str(tmp_path / "l.extxyz")])
    assert done.exit_code == 2 and "separate files" in done.output


def hydrogens(*errors, energy=0.0, **more):
    return [dataset.LabelledFrame("x", "[H][H]", "core", "", np.array([1, 1]), np.array([[0, 0, 0], [0, 0, 0.7 + 0.1 * k]]), 0,
                                  1, energy, np.zeros((2, 3)), energy_error=error, **more) for k, error in enumerate(errors)]


def outputs(batch, energy, forces=0.0):
    n, zeros = len(batch), torch.zeros_like(batch.forces)
    return Outputs(batch.energy + torch.as_tensor(energy, dtype=torch.float64), batch.forces + forces, zeros[:n], zeros[:, 0],
                   None, None, None, None, torch.ones(n, dtype=torch.bool))


def test_an_error_bar_lowers_the_weight():
    """The gradient of the loss by the energy of a frame: half of that of an exact label where the error bar is the width."""
    width = Widths().energy * 2**0.5                            # per square root of atoms, two of them
    batch = collate(hydrogens(0.0, width, 100 * width), [0, 1, 2])
    shift = torch.full((3,), 0.01, dtype=torch.float64, requires_grad=True)
    terms(outputs(batch, shift), batch, Weights(), Widths())["energy"].backward()
    assert float(shift.grad[1] / shift.grad[0]) == pytest.approx(0.5, rel=1e-12)
    assert float(shift.grad[2] / shift.grad[0]) == pytest.approx(1e-4, rel=1e-3)
    assert float(trust(torch.tensor(0.0), 0.2)) == 1.0


def test_error_bars_of_forces_and_of_energies_among_themselves():
    noisy = np.full((2, 3), Widths().forces)
    exact, rough = (collate(hydrogens(0.0, 0.0, forces_error=e), [0, 1]) for e in (None, noisy))
    losses = [float(terms(outputs(b, [0.0, 0.0], 0.01), b, Weights(), Widths())["forces"]) for b in (exact, rough)]
    assert losses[1] == pytest.approx(losses[0] / 2)
    width = Widths().energy * 2**0.5
    exact, rough = (collate(hydrogens(e, e), [0, 1]) for e in (0.0, width))
    losses = [float(terms(outputs(b, [0.0, 0.02]), b, Weights(relative=1.0), Widths())["relative"]) for b in (exact, rough)]
    assert losses[1] == pytest.approx(losses[0] / 2) and losses[0] > 0


def test_frames_without_forces_train_on_energies_alone():
    frames = [replace(f, forces=np.full((2, 3), np.nan)) for f in hydrogens(0.0, 0.0)]
    batch = collate(frames, [0, 1])
    parts = terms(outputs(batch, [0.1, 0.1], 1.0), batch, Weights(), Widths())
    assert "forces" not in parts and float(parts["energy"]) > 0


def test_weights_are_those_of_least_variance():
    """Values scattered by w about a constant, labels by s besides: the mean with these weights has the smallest error bar."""
    generator = torch.Generator().manual_seed(0)
    s = torch.tensor([0.0, 0.0, 0.3, 1.0, 1.0, 3.0], dtype=torch.float64)
    noise = torch.randn(20000, 6, generator=generator, dtype=torch.float64) * (0.2**2 + s**2).sqrt()
    weight = trust(s, 0.2)
    spread = (noise @ weight / weight.sum()).var()
    for factor in (0.5, 2.0):
        other = trust(s * factor, 0.2)
        assert spread < (noise @ other / other.sum()).var()
    assert spread < 0.2 * noise.mean(1).var()


def test_error_bars_that_are_none(results, tmp_path):
    output = tmp_path / "labels.extxyz"
    labels(results[:1], output)
    atoms = read(output)
    atoms.info["ref_energy_error"] = -1.0
    write(output, atoms, format="extxyz")
    with pytest.raises(IncompatibleFile, match="error bar"):
        dataset.load([output])


def test_energies_alone_are_scored_and_drawn(tmp_path):
    """Where no frame has forces their score is NaN, and the picture is there."""
    pytest.importorskip("matplotlib")
    from nddo_ml.training.evaluate import Prediction, scores
    from nddo_ml.training.plots import parity

    frames = [replace(f, forces=np.full((2, 3), np.nan)) for f in hydrogens(0.1, 0.1)]
    predictions = [Prediction(0.1, np.zeros((2, 3))) for _ in frames]
    errors = scores(frames, predictions)
    assert np.isnan(errors.forces) and errors.energy == pytest.approx(0.1 * CODATA_2018.kcal_mol)
    parity(frames, predictions, tmp_path / "parity.png")
    assert (tmp_path / "parity.png").stat().st_size > 5000
