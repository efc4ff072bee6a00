"""Runs: what the command does, checkpoints that go on exactly, errors before any sampling, and the energies promised."""

import json
import math
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from nddo_ml.cli.main import app
from nddo_ml.errors import IncompatibleFile, InvalidMolecule, UnknownOption
from nddo_ml.training.config import record
from nddo_ml.wavefunction.forces import forces, warp
from nddo_ml.wavefunction.run import Averages, Config, Log, Sampling, calculate, prepared
from nddo_ml.wavefunction.variational import train

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("wavefunction*.toml"))
SMALL = Config("He 0 0 0", iterations=6, sampling=Sampling(16, 2, 20), evaluation=Averages(4, 2), log=Log(2))


def config(folder, **changes):
    return replace(SMALL, output=str(folder), **changes)


def test_an_interrupted_run_ends_as_the_whole_one(tmp_path):
    """Stopped after five iterations; weights, lines and energies are equal to the last bit."""
    whole = prepared(config(tmp_path / "a"))
    expected = calculate(whole)
    count = [0]

    def after_five():
        count[0] += 1
        return count[0] > 5

    part = prepared(config(tmp_path / "b"))
    assert calculate(part, stop=after_five) is None
    rest = prepared(config(tmp_path / "b"))
    found = calculate(rest)
    assert torch.equal(found.energies, expected.energies)
    for a, b in zip(whole.psi.parameters(), rest.psi.parameters(), strict=True):
        assert torch.equal(a, b)
    a, b = ((tmp_path / x / "metrics.jsonl").read_text() for x in "ab")
    assert a == b and len(a.splitlines()) == 6


def test_a_killed_run_goes_on_exactly(tmp_path):
    """SIGKILL in the middle, lines beyond the last checkpoint: the continuation equals the whole run."""
    code = ("import torch; torch.set_num_threads(1)\n"
            "import os, sys, signal\nsys.path.insert(0, {tests!r})\n"
            "from test_wavefunction_run import config, prepared, calculate\n"
            "def die(p):\n    if p.iteration == 4: os.kill(os.getpid(), signal.SIGKILL)\n"
            "calculate(prepared(config({folder!r})), die)\n").format(tests=str(Path(__file__).parent),
                                                                    folder=str(tmp_path / "b"))
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1]).returncode < 0
    assert not (tmp_path / "b" / "result.json").exists() and (tmp_path / "b" / "checkpoint.pt").exists()
    expected = calculate(prepared(config(tmp_path / "a")))
    assert torch.equal(calculate(prepared(config(tmp_path / "b"))).energies, expected.energies)


def test_the_result_of_a_run(tmp_path):
    found = calculate(prepared(config(tmp_path, exact=-2.903724377)))
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["energy"] == found.energy.mean and result["error"] == found.energy.error > 0
    assert result["difference"] == pytest.approx(result["energy"] + 2.903724377)
    assert (result["up"], result["down"], result["iterations"]) == (1, 1, 6)


def test_a_checkpoint_of_something_else_is_refused(tmp_path):
    calculate(prepared(config(tmp_path)))
    with pytest.raises(IncompatibleFile, match=r"of another molecule .He 0 0 0; 1 up, 1 down., not of Li 0 0 0"):
        calculate(prepared(config(tmp_path, molecule="Li 0 0 0")))
    with pytest.raises(IncompatibleFile, match=r"other settings .seed: 0 then, 3 now"):
        calculate(prepared(config(tmp_path, seed=3)))
    calculate(prepared(config(tmp_path, iterations=7)))                  # more iterations are no other run
    (tmp_path / "checkpoint.pt").write_bytes(b"nothing")
    with pytest.raises(IncompatibleFile, match="not a readable checkpoint"):
        calculate(prepared(config(tmp_path)))
    assert calculate(prepared(config(tmp_path)), restart=True) is not None


def test_settings_that_cannot_be(tmp_path):
    for changes, words in (({"multiplicity": 2}, "Multiplicity 2"), ({"molecule": "Fe 0 0 0"}, "Z=26")):
        with pytest.raises(InvalidMolecule, match=words):
            prepared(config(tmp_path, **changes))
    for changes, words in (({"ansatz": {"kind": "slater"}}, "ferminet, psiformer"),
                           ({"optimiser": {"kind": "sgd"}}, "spring, adam"), ({"sampling": {"walkers": 2}}, "at least 4"),
                           ({"device": "tpu"}, "cpu, cuda"),
                           ({"ansatz": {"kind": "psiformer", "width": 30}}, "multiple of ansatz.heads")):
        with pytest.raises(UnknownOption, match=words):
            prepared(record(Config, {"molecule": "He 0 0 0", **changes}, "here"))
    assert not list(tmp_path.iterdir())


def test_the_command(tmp_path):
    file = tmp_path / "he.toml"
    file.write_text('molecule = "He 0 0 0"\noutput = "out"\niterations = 2\nexact = -2.9037\n[sampling]\nwalkers = 8\n'
                    "steps = 1\nburn_in = 10\n[evaluation]\nblocks = 3\n")
    done = CliRunner().invoke(app, ["wavefunction", str(file)])
    assert done.exit_code == 0 and "1 up and 1 down" in done.output and "+-" in done.output and "mHa" in done.output
    assert {p.name for p in (tmp_path / "out").iterdir()} >= {"result.json", "metrics.jsonl", "checkpoint.pt"}
    file.write_text(file.read_text().replace("walkers", "walker"))
    wrong = CliRunner().invoke(app, ["wavefunction", str(file)])
    assert wrong.exit_code == 2 and "did you mean walkers?" in wrong.output
    none = CliRunner().invoke(app, ["wavefunction"])
    assert none.exit_code == 2 and "--molecule" in none.output


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda p: p.stem)
def test_shipped_configurations_are_valid(file):
    run = prepared(replace(record(Config, tomllib.loads(file.read_text()), str(file)), device="cpu"))
    assert run.config.exact is not None and run.config.exact < 0


def test_the_warp_moves_electrons_with_their_nucleus():
    nuclei = torch.tensor([[0.0, 0, 0], [0, 0, 2.0]], dtype=torch.float64)
    r = torch.tensor([[[0.0, 0, 1e-4], [0.3, 0, 1.0]]], dtype=torch.float64)
    weight, gradient = warp(r, nuclei)
    torch.testing.assert_close(weight[0, 0], torch.tensor([1.0, 0.0], dtype=torch.float64), rtol=0, atol=1e-12)
    torch.testing.assert_close(weight[0, 1], torch.tensor([0.5, 0.5], dtype=torch.float64))
    exact = torch.autograd.functional.jacobian(lambda x: warp(x, nuclei)[0][0, 1], r)[:, 0, 1]
    torch.testing.assert_close(gradient[0, 1], exact, rtol=1e-9, atol=1e-9)


def test_forces_add_up_to_nothing():
    """Nuclei and electrons moved together change nothing, for any wavefunction and at every walker."""
    from nddo_ml.wavefunction.forces import contributions

    run = prepared(Config("Li 0 0 0; H 0 0 3.015"))
    r = torch.randn(10, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    _, slope, log = contributions(run.psi, r)
    for total, scale in ((slope.sum(1), slope), (log.sum(1), log)):
        assert total.abs().max() < 1e-9 * scale.abs().max()


GATES = {   # molecule, exact (hartree), tolerance beyond 3 sigma, iterations, walkers
    "H2": ("H 0 0 0; H 0 0 1.4", -1.1744757142, 1e-4, 700, 512),
    "He": ("He 0 0 0", -2.903724377, 1e-4, 700, 512),
    "Li": ("Li 0 0 0", -7.47806032, 5e-4, 1500, 512),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", GATES)
def test_energies(name, tmp_path):
    """|E - exact| < 3 sigma + tolerance and E >= exact - 3 sigma, sigma itself at most the tolerance: a wrong energy fails."""
    molecule, exact, tolerance, iterations, walkers = GATES[name]
    run = prepared(Config(molecule, output=str(tmp_path), iterations=iterations, sampling=Sampling(walkers),
                          evaluation=Averages(400)))
    found = calculate(run).energy
    assert found.error < tolerance
    assert abs(found.mean - exact) < 3 * found.error + tolerance
    assert found.mean > exact - 3 * found.error


@pytest.mark.slow
@pytest.mark.parametrize(("distance", "exact"), [(1.26, 0.0671), (1.4, 0.0004), (1.68, -0.0658)])
def test_forces_of_hydrogen(distance, exact):
    """-dE/dR of the second nucleus within 5e-3 hartree/bohr. W. Kolos, L. Wolniewicz, J. Chem. Phys. 49, 404 (1968), from
    differences of energies."""
    run = prepared(Config(f"H 0 0 0; H 0 0 {distance}"))
    state = train(run.psi, run.system, run.settings, 600)
    found = forces(run.psi, state, 120)
    assert math.isfinite(float(found.error.max())) and found.error.max() < 2.5e-3
    assert abs(float(found.force[1, 2]) - exact) < 5e-3
    assert found.force[:, :2].abs().max() < 4 * found.error.max()
