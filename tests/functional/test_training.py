"""Training: exact gradients at constant density, molecules on one side only, a short run that learns and resumes."""

import json

import pytest
import torch

from nddo_ml.errors import IncompatibleFile, UnknownOption
from nddo_ml.functional import NeuralGGA, Projected
from nddo_ml.functional.training.config import FunctionalConfig, FunctionalData, FunctionalForm, FunctionalOptimisation
from nddo_ml.functional.training.thermochemistry import read_thermochemistry, split


def test_bundled_reactions_are_split_by_molecule():
    systems, reactions = read_thermochemistry()
    assert len(reactions) == 60 and all(key in systems for r in reactions for key in r.systems)
    parts = split(reactions, 0.2, 0.2)
    molecules = [{(r.kind, r.name) for r in part} for part in parts.values()]
    assert sum(map(len, parts.values())) == 60 and not any(a & b for a in molecules for b in molecules if a is not b)
    assert all({r.kind for r in part} == {"atomisation", "barrier"} for part in parts.values())
    assert split(reactions, 0.2, 0.2) == parts
    for r in reactions:        # atoms are conserved
        count = {}
        for key, c in zip(r.systems, r.coefficients, strict=True):
            for symbol in systems[key].symbols:
                count[symbol] = count.get(symbol, 0) + c
        assert not any(count.values()), r


def test_bad_input_is_refused(tmp_path):
    path = tmp_path / "x.json"
    path.write_text("[1, 2]")
    with pytest.raises(IncompatibleFile, match="thermochemistry"):
        read_thermochemistry(path)
    with pytest.raises(UnknownOption, match="fractions"):
        split([], 0.6, 0.5)
    with pytest.raises(UnknownOption, match=r"optimiser.rounds = 0"):
        FunctionalConfig("x", optimiser=FunctionalOptimisation(rounds=0)).checked()


def line(slopes, offsets, x):
    """Residuals of straight lines."""
    from nddo_ml.functional.training.losses import Residuals

    return Residuals(slopes @ x.detach() - offsets, slopes, torch.full((len(offsets),), 0.5, dtype=torch.float64))


def test_levenberg_marquardt_finds_the_ridge_solution():
    """Of small residuals, where Huber's loss is a square: (J' w J + prior)^-1 J' w b, in more parameters than residuals; a
    loss never grows, and at the minimum there is no step."""
    from nddo_ml.functional.training.fit import LevenbergMarquardt

    g = torch.Generator().manual_seed(0)
    J, b = torch.randn(5, 9, generator=g, dtype=torch.float64), 0.1 * torch.randn(5, generator=g, dtype=torch.float64)
    x = torch.nn.Parameter(torch.zeros(9, dtype=torch.float64))
    fit = LevenbergMarquardt([x], prior=0.3)
    here, losses, better = line(J, b, x), [], True
    while better:
        losses.append(fit.loss(here))
        here, better = fit.step(here, lambda: line(J, b, x))
    exact = torch.linalg.solve(0.5 * J.T @ J + 0.3 * torch.eye(9, dtype=torch.float64), 0.5 * J.T @ b)
    assert torch.allclose(x.detach(), exact, atol=1e-7) and losses == sorted(losses, reverse=True) and len(losses) > 2


def test_levenberg_marquardt_forgives_what_is_far_off():
    """One residual of three contradicts the others by 100 widths: the fit stays near the two, as a median would."""
    from nddo_ml.functional.training.fit import LevenbergMarquardt

    J, b = torch.ones(3, 1, dtype=torch.float64), torch.tensor([1.0, 1.0, 100.0], dtype=torch.float64)
    x = torch.nn.Parameter(torch.tensor([30.0], dtype=torch.float64))
    fit = LevenbergMarquardt([x], prior=1e-9)
    here = line(J, b, x)
    for _ in range(60):
        here, _ = fit.step(here, lambda: line(J, b, x))
    assert abs(float(x.detach()) - 1.5) < 1e-3      # two squares of slope 1 each against a line of slope 1


def test_gradient_at_constant_density_is_that_of_the_whole_scf():
    """Central differences of self-consistent energies, step 1e-3: agreement to 1e-7 hartree per unit of the parameter."""
    pytest.importorskip("pyscf")
    from support.functionals import randomised

    from nddo_ml.functional.pyscf.densities import KohnShamLevel, energy, snapshot, solved_system

    imine = read_thermochemistry()[0]["W4-11/nh"]
    functional = NeuralGGA(width=6)
    functional.nonlocal_part = Projected(width=6)
    randomised(functional, 0.2)
    level = KohnShamLevel("6-31g", 0, tolerance=1e-11)
    first = snapshot(functional, solved_system(functional, imine, level))
    E = energy(functional, first)
    assert abs(float(E.detach()) - first.energy) < 1e-12
    for w in (functional.exchange_network.layers[0].weight, functional.correlation_network.layers[2].weight,
              functional.nonlocal_part.last.weight):
        exact, moved = torch.autograd.grad(E, w, retain_graph=True)[0][0, 0], []
        for step in (1e-3, -1e-3):
            with torch.no_grad():
                w[0, 0] += step
            moved.append(solved_system(functional, imine, level, first.density_matrices).mean_field.e_tot)
            with torch.no_grad():
                w[0, 0] -= step
        assert abs(exact) > 1e-5 and abs(float(exact) - (moved[0] - moved[1]) / 2e-3) < 1e-7


@pytest.mark.slow
def test_a_short_training_learns_and_resumes(tmp_path):
    pytest.importorskip("pyscf")
    from nddo_ml.functional.training.trainer import FunctionalTraining, best_seed

    thermo = {"systems": {}, "reactions": []}
    systems, reactions = read_thermochemistry()
    for r in (r for r in reactions if r.kind == "atomisation" and r.name in ("h2", "ch", "nh", "oh", "hf")):
        thermo["reactions"].append({"kind": r.kind, "name": r.name, "systems": r.systems, "coefficients": r.coefficients,
                                    "reference": r.reference})
        thermo["systems"] |= {key: {"symbols": systems[key].symbols, "positions": systems[key].positions,
                                    "charge": systems[key].charge, "unpaired": systems[key].unpaired} for key in r.systems}
    file = tmp_path / "few.json"
    file.write_text(json.dumps(thermo))
    config = FunctionalConfig(str(tmp_path / "out"), functional=FunctionalForm(width=6),
                              data=FunctionalData(str(file), validation=0.2, test=0.0, grid=0),
                              optimiser=FunctionalOptimisation(rounds=2, steps=6))
    calls = []
    stopped = FunctionalTraining(config, 0, stop=lambda: calls.append(1) or len(calls) > 14)
    stopped.run()
    first = stopped.round
    again = FunctionalTraining(config, 0)
    assert 0 < first == again.round < 3
    path = again.run()
    rounds = [json.loads(line) for line in (path.parent / "metrics.jsonl").read_text().splitlines()]
    rounds = [e for e in rounds if e["event"] == "round"]
    assert [e["round"] for e in rounds] == [0, 1, 2] and all(not e["unconverged"] for e in rounds)
    assert rounds[-1]["errors"]["train"]["atomisation"] < 0.3 * rounds[0]["errors"]["train"]["atomisation"]
    with pytest.raises(IncompatibleFile, match="optimiser"):
        FunctionalTraining(FunctionalConfig(config.output, functional=config.functional, data=config.data), 0)
    other = FunctionalTraining(config, 1, stop=lambda: True)
    other.run()
    assert other.round == 1, "a second seed finds the densities of its first round there, and stops before those of the next"
    assert set(other.snapshots) == set(again.snapshots)
    assert best_seed(config).parent.name == "seed-0" and (tmp_path / "out" / path.name).read_bytes() == path.read_bytes()
    assert again.best_functional().energy_density is not None
