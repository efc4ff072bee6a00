"""The training itself: losses, optimiser, gradients through the SCF, the loop and its checkpoints."""

import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from ase import Atoms
from support.training_data import write_interactions
from typer.testing import CliRunner

from nddo_ml import NDDO, Hamiltonian
from nddo_ml.cli.main import app
from nddo_ml.ensembles.ensemble import Ensemble
from nddo_ml.errors import IncompatibleFile, SCFNotConverged, UnknownOption
from nddo_ml.training import dataset
from nddo_ml.training.batches import collate
from nddo_ml.training.config import TrainingSCF, from_dict
from nddo_ml.training.evaluate import predict
from nddo_ml.training.losses import Outputs, Weights, Widths, huber, terms
from nddo_ml.training.models import finished, hamiltonian_of
from nddo_ml.training.optimiser import Average, MuonAdamW, clipped, matrices, orthogonal, schedule, trainable
from nddo_ml.training.starts import Densities
from nddo_ml.training.step import TrainingStep
from nddo_ml.training.trainer import Training, train

NETWORK = {"channels": 6, "radial": 5, "layers": 1}


@pytest.fixture(scope="module")
def frames(file):
    return [f for f in dataset.load([file]) if len(f) > 1]


def config(file, output, **more):
    """A training of seconds: AM1 learns to be PM3."""
    values = {"output": str(output), "model": {"parent": "AM1", "network": NETWORK}, "data": {"validation": 0.25},
              "optimiser": {"batch": 8, "average": 0.8}, "log": {"plot": 0, "validate": 2},
              "scf": {"cold": 2},
              "stage": [{"kind": "pretrain", "files": [str(file)], "epochs": 4, "rate": 4e-3, "offsets": "atoms"}]}
    return from_dict({**values, **more})


# losses

def outputs(batch, **changes):
    """Outputs that agree with the labels of a batch."""
    found = Outputs(batch.energy, batch.forces, torch.nan_to_num(batch.dipole), torch.zeros_like(batch.charges), None, None,
                    None, None, torch.ones(len(batch), dtype=torch.bool))
    return replace(found, **changes)


def test_huber_is_a_square_then_a_line():
    x = torch.linspace(-3, 3, 601, dtype=torch.float64, requires_grad=True)
    y = huber(x, 0.5)
    slope, = torch.autograd.grad(y.sum(), x)
    inside = x.abs() < 0.5
    assert torch.allclose(y[inside], x[inside] ** 2)
    assert torch.allclose(slope[~inside].abs(), torch.tensor(1.0, dtype=torch.float64)), "the slope stays that at the width"
    assert float(y.detach().diff().abs().max()) < 0.011, "no step at the width"


def test_perfect_outputs_cost_nothing_and_each_label_counts(frames):
    batch = collate(frames, range(8))
    all_on = Weights(relative=1.0)
    assert all(float(v) == 0 for v in terms(outputs(batch), batch, all_on, Widths()).values())
    for name, value in (("energy", batch.energy + 0.1), ("forces", batch.forces + 0.1), ("dipole", batch.dipole + 0.1)):
        parts = terms(outputs(batch, **{name: value}), batch, all_on, Widths())
        assert {k for k, v in parts.items() if float(v) > 0} == {name} | ({"relative"} if name == "energy" else set())
        twice = terms(outputs(batch, **{name: value}), batch, replace(all_on, **{name: 2 * getattr(all_on, name)}), Widths())
        assert float(twice[name]) == pytest.approx(2 * float(parts[name]))


def test_relative_energies_do_not_see_a_constant_per_molecule(frames):
    index = [k for k, f in enumerate(frames) if f.molecule in ("H2O", "NH3")]
    batch = collate(frames, index)
    shift = batch.species.double() * 3.0 - 1.0
    parts = terms(outputs(batch, energy=batch.energy + shift), batch, Weights(relative=1.0), Widths())
    assert float(parts["energy"]) > 0.1 and float(parts["relative"]) == pytest.approx(0.0, abs=1e-12)


def test_interactions_see_complexes_less_their_fragments(frames):
    """Constants per atom cancel; a complex without one of its fragments, or with one that failed, is no interaction."""
    two, pair = (next(f for f in frames if len(f) == n) for n in (2, 4))
    named = [replace(f, parts_of=name, fragment=part)
             for name in ("x", "y") for f, part in ((pair, "AB"), (two, "A"), (two, "B"))]
    batch = collate(named[:5], range(5))
    assert batch.interactions.tolist() == [[1.0, -1.0, -1.0, 0.0, 0.0]]
    weights = Weights(energy=0.0, interaction=2.0)
    per_atom = outputs(batch, energy=batch.energy + 3.0 * batch.atoms)
    assert float(terms(per_atom, batch, weights, Widths())["interaction"]) == pytest.approx(0.0, abs=1e-12)
    off = torch.tensor([0.05, 0.0, -0.01, 7.0, 7.0], dtype=torch.float64)
    found = outputs(batch, energy=batch.energy + off)
    assert float(terms(found, batch, weights, Widths())["interaction"]) == pytest.approx(2.0 * 0.06**2)
    failed = replace(found, valid=torch.tensor([True, False, True, True, True]))
    assert "interaction" not in terms(failed, batch, weights, Widths())


def test_frames_for_differences_count_nowhere_else(frames):
    two, pair = (next(f for f in frames if len(f) == n) for n in (2, 4))
    named = [replace(f, parts_of="x", fragment=part, differences_only=True)
             for f, part in ((pair, "AB"), (two, "A"), (two, "B"))]
    batch = collate([*named, frames[0]], range(4))
    wrong = outputs(batch, energy=batch.energy + torch.tensor([1.0, 0, 0, 0]), forces=torch.cat(
        (batch.forces[:-len(frames[0])] + 1.0, batch.forces[-len(frames[0]):])))
    parts = terms(wrong, batch, Weights(interaction=1.0, relative=1.0), Widths())
    assert {name for name, value in parts.items() if float(value) > 0} == {"interaction"}


def test_what_is_masked_does_not_count(frames):
    batch = collate(frames, range(4))
    valid = torch.tensor([True, False, True, True])
    nan = torch.where(valid, batch.energy, torch.nan).requires_grad_()
    parts = terms(outputs(batch, energy=nan, valid=valid), batch, Weights(), Widths())
    slope, = torch.autograd.grad(parts["energy"], nan)
    assert float(parts["energy"].detach()) == 0 and bool(torch.isfinite(slope).all())


def test_gap_restraint_acts_below_its_width_only(frames):
    batch = collate(frames, range(2))
    parts = terms(outputs(batch, gap=torch.tensor([2.0, 9.0])), batch, Weights(gap=1.0), Widths(gap=3.0))
    assert float(parts["gap"]) == pytest.approx(0.5)


# optimiser

def test_orthogonal_factor():
    torch.manual_seed(0)
    for shape in ((12, 5), (5, 12), (3, 7, 7)):
        G = torch.randn(shape, dtype=torch.float64)
        S = torch.linalg.svdvals(orthogonal(G))
        assert float(S.min()) > 0.6 and float(S.max()) < 1.25
        assert torch.allclose(orthogonal(1e3 * G), orthogonal(G), atol=1e-10), "the size of a gradient says nothing"
        u, _, v = torch.linalg.svd(G, full_matrices=False)
        assert float(((orthogonal(G) - u @ v) ** 2).mean().sqrt()) < 0.25 / min(shape[-2:]) ** 0.5


def test_optimiser_moves_every_parameter_downhill():
    torch.manual_seed(0)
    layers = torch.nn.Embedding(6, 4), torch.nn.Linear(4, 5), torch.nn.SiLU(), torch.nn.Linear(5, 3)
    module = torch.nn.Sequential(*layers).double()
    assert len(matrices(module)) == 2 and len(trainable(module)) == 5, "a table of embeddings is no matrix"
    optimiser, x, y = MuonAdamW(module), torch.arange(6), torch.randn(6, 3).double()
    losses = []
    for _ in range(60):
        module.zero_grad()
        loss = (module(x) - y).square().mean()
        loss.backward()
        before = [p.detach().clone() for p in module.parameters()]
        optimiser.step(0.02)
        losses.append(float(loss.detach()))
        assert all(not torch.equal(p, b) for p, b in zip(module.parameters(), before, strict=True))
    assert losses[-1] < 0.1 * losses[0]


def test_weight_decay_pulls_to_zero_or_to_the_start():
    for anchored in (False, True):
        torch.manual_seed(0)
        module = torch.nn.Linear(4, 5).double()
        goal = [torch.zeros_like(p) if not anchored else p.detach().clone() for p in module.parameters()]
        optimiser = MuonAdamW(module, ratio=0.5, weight_decay=2.0, anchored=anchored)
        with torch.no_grad():
            for p in module.parameters():
                p.add_(1.0)
        off = [p.detach() - g for p, g in zip(module.parameters(), goal, strict=True)]
        for p in module.parameters():
            p.grad = torch.zeros_like(p)
        optimiser.step(0.1)
        factors = (1 - 0.1 * 2.0, 1 - 0.1 * 0.5 * 2.0)            # weight: Muon, bias: AdamW
        for p, g, d, factor in zip(module.parameters(), goal, off, factors, strict=True):
            assert torch.allclose(p - g, factor * d, atol=1e-12)


def test_schedule_rises_and_falls():
    values = [schedule(k, 100, 0.1, 0.01) for k in range(100)]
    assert values[9] == 1.0 == max(values) and values[0] == pytest.approx(0.1)
    assert all(a > b for a, b in pairwise(values[10:])) and values[-1] == pytest.approx(0.01, abs=2e-3)


def test_clipping_keeps_the_direction():
    p = torch.nn.Parameter(torch.zeros(3))
    p.grad = torch.tensor([3.0, 0.0, 4.0])
    assert clipped([p], 1.0) == pytest.approx(5.0) and torch.allclose(p.grad, torch.tensor([0.6, 0.0, 0.8]))
    assert clipped([p], 2.0) == pytest.approx(1.0) and torch.allclose(p.grad, torch.tensor([0.6, 0.0, 0.8]))
    p.grad[1] = torch.nan
    assert np.isnan(clipped([p], 1.0))


def test_average_follows_and_steps_aside():
    p = torch.nn.Parameter(torch.zeros(2))
    average = Average([p], 0.9)
    for _ in range(300):
        with torch.no_grad():
            p.fill_(1.0)
        average.update()
    with torch.no_grad():
        p.fill_(5.0)
    with average.applied():
        assert torch.allclose(p.detach(), torch.ones(2), atol=1e-6)
    assert torch.equal(p.detach(), torch.full((2,), 5.0))


# gradients through the SCF

def test_gradient_of_the_loss_is_its_slope(frames):
    """The loss of forces, energies and dipoles, by one direction in all weights: SCF and response converged, the difference
    of two losses 2e-4 apart is good to six digits."""
    torch.manual_seed(1)
    model = hamiltonian_of(config("none", "none"), 0)
    with torch.no_grad():
        for p in trainable(model):
            p.add_(0.05 * torch.randn_like(p))
    tight = TrainingSCF(tolerance=1e-9, response_tolerance=1e-11)
    batch = collate(frames, range(0, len(frames), 4))
    step = TrainingStep(model, Weights(gap=1.0), Widths(gap=20.0), tight, 0.3)
    direction = [torch.randn_like(p) for p in trainable(model)]

    def loss(t):
        with torch.no_grad():
            for p, d in zip(trainable(model), direction, strict=True):
                p.add_(d, alpha=t)
        model.zero_grad()
        value = sum(step(frames, batch, Densities()).losses.values())
        slope = sum(float((p.grad * d).sum()) for p, d in zip(trainable(model), direction, strict=True))
        with torch.no_grad():
            for p, d in zip(trainable(model), direction, strict=True):
                p.sub_(d, alpha=t)
        return value, slope

    h = 1e-4
    exact = loss(0.0)[1]
    assert abs(exact) > 1e-2
    assert (loss(h)[0] - loss(-h)[0]) / (2 * h) == pytest.approx(exact, rel=1e-5)


def test_loose_response_is_close_to_the_exact_one(frames):
    batch = collate(frames, range(8))
    model = hamiltonian_of(config("none", "none"), 0)
    found = []
    for scf in (TrainingSCF(), TrainingSCF(tolerance=1e-9, response_tolerance=1e-10)):
        model.zero_grad()
        TrainingStep(model, Weights(), Widths(), scf, 0.3)(frames, batch, Densities())
        found.append(torch.cat([p.grad.flatten() for p in trainable(model) if p.grad is not None]))
    assert float((found[0] - found[1]).norm()) < 1e-2 * float(found[1].norm())


class Stubborn(Hamiltonian):
    """A Hamiltonian that cannot solve batches with fluorine."""

    def forward(self, molecules, **options):
        if bool((molecules.numbers == 9).any()):
            raise SCFNotConverged("no gap")
        return super().forward(molecules, **options)


def test_a_member_that_fails_stands_alone_and_is_counted(frames):
    """The gradient is then that of the others, whatever halves they were solved in."""
    fluorine = [k for k, f in enumerate(frames) if 9 in f.numbers]
    index = [k for k, f in enumerate(frames) if f.multiplicity == 1][:16]
    assert len(set(fluorine) & set(index)) == 3
    model = Stubborn("AM1", network=hamiltonian_of(config("none", "none"), 0).network)
    outcome = TrainingStep(model, Weights(), Widths(), TrainingSCF(), 0.3)(frames, collate(frames, index), Densities())
    fates = {r.frame: r.fate for r in outcome.records}
    assert {k for k, fate in fates.items() if fate == "failed"} == set(fluorine) & set(index)
    assert outcome.valid == 13 and len(fates) == 16 and all(np.isfinite(v) for v in outcome.losses.values())


def test_unconverged_and_contaminated_members_are_masked(frames):
    index = [k for k, f in enumerate(frames) if f.multiplicity == 2]
    model = hamiltonian_of(config("none", "none"), 0)
    impure = [replace(f, s2=2.0) if k == index[0] else f for k, f in enumerate(frames)]
    outcome = TrainingStep(model, Weights(), Widths(), TrainingSCF(), 0.3)(impure, collate(impure, index), Densities())
    assert [r.fate for r in outcome.records].count("contaminated") == 1 and outcome.valid == len(index) - 1
    model.zero_grad()
    kept = Densities()
    outcome = TrainingStep(model, Weights(), Widths(), TrainingSCF(max_steps=2), 0.3)(frames, collate(frames, index), kept)
    assert {r.fate for r in outcome.records} == {"unconverged"} and outcome.valid == 0 and len(kept) == 0
    assert all(p.grad is None or bool(torch.isfinite(p.grad).all()) for p in trainable(model))


# the loop

@pytest.fixture(scope="module")
def whole(file, tmp_path_factory):
    """Four epochs at a stretch."""
    folder = tmp_path_factory.mktemp("whole")
    training = Training(config(file, folder), 0, folder)
    assert training.run()
    return training


def test_training_learns(file, tmp_path):
    """A few seconds of it halve the loss, and serve molecules it has not seen."""
    stage = {"kind": "pretrain", "files": [str(file)], "epochs": 16, "rate": 8e-3, "offsets": "atoms"}
    training = Training(config(file, tmp_path, stage=[stage]), 0, tmp_path)
    assert training.run()
    events = training.journal.read()
    losses = [e["loss"] for e in events if e["event"] == "epoch"]
    assert len(losses) == 16 and losses[-1] < 0.5 * losses[0]
    held_out = [e["score"] for e in events if e["event"] in ("validation", "final")]
    assert held_out[-1] < 0.9 * held_out[0] and held_out[-1] == min(held_out), "the best weights are what is left"
    assert all(e["ok"] == len(training.work.share.frames) for e in events if e["event"] == "epoch")


def test_cold_starts_come_every_few_epochs(whole):
    events = whole.journal.read()
    assert [e["cold"] for e in events if e["event"] == "epoch"] == [0, 0, len(whole.work.share.frames), 0], "every second epoch"


@pytest.mark.parametrize("pieces", [(2,), (1, 2)])
def test_resumed_training_is_the_same_to_the_last_bit(file, whole, tmp_path, pieces):
    for epochs in pieces:
        training = Training(config(file, tmp_path), 0, tmp_path)
        training.resume()
        assert not training.run(epochs=epochs)
    training = Training(config(file, tmp_path), 0, tmp_path)
    assert training.resume() and training.run()
    same_end(training, whole)


def test_stopped_within_an_epoch_it_goes_on_there(file, whole, tmp_path):
    batches = iter(range(100))
    training = Training(config(file, tmp_path), 0, tmp_path)
    assert not training.run(stop=lambda: next(batches) == 3 * whole.work.batches // 2)
    assert training.standing.batch > 0
    training = Training(config(file, tmp_path), 0, tmp_path)
    assert training.resume() and training.run()
    same_end(training, whole)


def same_end(training, whole):
    for (name, a), b in zip(training.model.state_dict().items(), whole.model.state_dict().values(), strict=True):
        assert torch.equal(torch.nan_to_num(a), torch.nan_to_num(b)), name
    timed = ("time", "seconds")
    assert [{k: v for k, v in e.items() if k not in timed} for e in training.journal.read()] == \
           [{k: v for k, v in e.items() if k not in timed} for e in whole.journal.read()]


def test_interaction_energies_of_another_level_are_trained_on(file, tmp_path):
    """Of the file under `interactions` nothing else enters: an energy of another zero, forces turned round."""
    write_interactions(tmp_path / "dimers.extxyz", 20)
    stage = {"kind": "finetune", "files": [str(file)], "interactions": [str(tmp_path / "dimers.extxyz")], "epochs": 1,
             "offsets": "atoms", "losses": {"interaction": 10.0}}
    training = Training(config(file, tmp_path / "run", stage=[stage]), 0, tmp_path / "run")
    assert training.run()
    epoch = next(e for e in training.journal.read() if e["event"] == "epoch")
    assert epoch["loss.interaction"] > 0 and epoch["energy"] < 100 and epoch["ok"] < len(training.work.share.frames)
    complexes = {f.parts_of for f in training.work.data.train} - {None}
    assert sum(f.differences_only for f in training.work.data.train) == 3 * len(complexes) > 0
    assert 0 < epoch["difference"] == 3 * (epoch["difference"] // 3) <= epoch["ok"], "a part of them in each epoch"
    with pytest.raises(IncompatibleFile, match="complex or its fragment"):
        stage["interactions"] = [str(file)]
        Training(config(file, tmp_path / "other", stage=[stage]), 0, tmp_path / "other").run()


def test_checkpoints_of_other_trainings_are_refused(file, whole, tmp_path):
    other = config(file, whole.folder, optimiser={"batch": 9, "average": 0.8})
    with pytest.raises(IncompatibleFile, match=r"optimiser\.batch: 8 then, 9 now"):
        Training(other, 0, whole.folder).resume()
    (tmp_path / "checkpoint.pt").write_text("nonsense")
    with pytest.raises(IncompatibleFile, match="not a readable checkpoint"):
        Training(config(file, tmp_path), 0, tmp_path).resume()
    torch.save({"weights": 1}, tmp_path / "checkpoint.pt")
    with pytest.raises(IncompatibleFile, match="not a checkpoint of this version"):
        Training(config(file, tmp_path), 0, tmp_path).resume()


def test_written_weights_are_the_trained_model(whole, frames):
    again = Hamiltonian(str(whole.folder / "model.safetensors"))
    batch = collate(frames, range(6))
    mine = finished(whole.model, True)(batch.molecules, forces=True)
    found = again(batch.molecules, forces=True)
    assert torch.allclose(found.energy, mine.energy, atol=1e-10, rtol=0)
    assert torch.allclose(found.forces, mine.forces, atol=1e-9, rtol=0)
    notes = json.loads(again.method.card.notes)
    assert again.method.card.data == whole.work.data.hash and notes["training_frames"] == len(whole.work.data.train)


def test_trained_tables_are_a_method(file, frames, tmp_path):
    """trainable = "parameters": the file works wherever a method is named, on the zero of its labels, and can be trained on."""
    stage = {"kind": "pretrain", "files": [str(file)], "epochs": 1, "rate": 1e-3, "offsets": "atoms"}
    model = {"parent": "AM1", "trainable": "parameters", "dispersion": False}
    training = Training(config(file, tmp_path, model=model, stage=[stage]), 0, tmp_path)
    assert training.run()
    path = tmp_path / "model.safetensors"
    assert {p.name for p in tmp_path.glob("*.safetensors")} == {"model.safetensors", "best.safetensors", "stage-1.safetensors"}
    assert not list(tmp_path.glob("model.pt"))
    again, batch = Hamiltonian(str(path)), collate(frames, range(6))
    mine = finished(training.model, False)(batch.molecules)
    assert torch.equal(again(batch.molecules).energy, mine.energy)
    assert (mine.energy - Hamiltonian("AM1")(batch.molecules).energy).abs().min() > 1e-3
    assert (mine.energy - batch.energy).abs().max() < 2.0, "eV; the offsets are worth hundreds"
    assert set(again.method.card.elements) == {1, 6, 7, 8, 9} and not again.method.card.network
    atoms = Atoms(frames[0].numbers, frames[0].positions)
    atoms.calc = NDDO(str(path))
    assert atoms.get_potential_energy() == pytest.approx(float(mine.energy[0]), abs=1e-6)
    atoms.write(tmp_path / "one.xyz")
    command = CliRunner()
    ran = command.invoke(app, ["run", str(tmp_path / "one.xyz"), "--method", str(path)])
    scored = command.invoke(app, ["evaluate", str(file), "--method", str(path), "-o", str(tmp_path / "scores.json")])
    assert (ran.exit_code, scored.exit_code) == (0, 0), ran.output + scored.output
    sets = json.loads((tmp_path / "scores.json").read_text())["sets"]
    assert sets["train"]["energy"] < 30 and sets["train"]["failed"] == 0
    ensemble = Ensemble([path, tmp_path / "stage-1.safetensors"])
    assert float(ensemble(batch.molecules).energy_spread.max()) < 1e-9, "the only stage is the last one"
    go_on = hamiltonian_of(config(file, tmp_path, model={"start": str(path), "trainable": "parameters"}), 0)
    with torch.no_grad():       # on the tape of its table the cores are repelled by torch instead of kernels
        assert torch.equal(go_on(batch.molecules).energy, mine.energy)
    with pytest.raises(UnknownOption, match="has no network"):
        hamiltonian_of(config(file, tmp_path, model={"start": str(path)}), 0)


def test_a_bad_parameter_does_not_end_a_step(frames):
    """Its molecules are masked and counted, the gradients of the others are finite and those of the batch without them."""
    index = [k for k, f in enumerate(frames) if f.multiplicity == 1][:12]
    others = [k for k in index if 7 not in frames[k].numbers]
    assert 0 < len(others) < len(index)

    def gradients(chosen, value):
        model = Hamiltonian("AM1").requires_grad_(True)
        nitrogen = model.method.rows(torch.tensor([7]))
        with torch.no_grad():
            model.zeta_p[nitrogen] = value
        one = TrainingStep(model, Weights(), Widths(), TrainingSCF(tolerance=1e-8, response_tolerance=1e-10), 0.3)
        outcome = one(frames, collate(frames, chosen), Densities())
        return outcome, model.beta_s.grad.clone()

    with pytest.warns(RuntimeWarning, match="zeta_p of N is -1"):
        outcome, found = gradients(index, -1.0)
    alone, expected = gradients(others, 2.0)
    assert outcome.valid == alone.valid == len(others)
    assert [r.fate for r in outcome.records].count("unconverged") == len(index) - len(others)
    assert float(found.abs().max()) > 0 and torch.allclose(found, expected, rtol=1e-5, atol=1e-8)


def test_a_trained_network_takes_further_heads(file, whole, frames, tmp_path):
    """They shift nothing yet, their energies are restrained, and nothing but heads can be added."""
    start = str(whole.folder / "model.safetensors")
    model = {"start": start, "network": {"heads": ["atom", "pair", "local"]}}
    stage = {"kind": "finetune", "files": [str(file)], "epochs": 1, "rate": 4e-3, "offsets": "atoms", "losses": {"local": 3.0}}
    training = Training(config(file, tmp_path, model=model, stage=[stage]), 0, tmp_path)
    batch = collate(frames, range(6))
    given = finished(Hamiltonian(start), False)(batch.molecules)
    assert torch.allclose(training.model(batch.molecules).energy, given.energy, atol=1e-10, rtol=0)
    assert training.run()
    epoch = next(e for e in training.journal.read() if e["event"] == "epoch")
    local = training.model(batch.molecules).local_energies.detach()
    assert epoch["loss.local"] > 0 and len(local) == len(batch.molecules.numbers) and float(local.abs().max()) > 0
    for wrong in ({"heads": ["local"]}, {"heads": ["atom", "pair"], "cutoff": 6.0}, {"channels": 8}):
        with pytest.raises(UnknownOption, match="further heads"):
            hamiltonian_of(config(file, tmp_path, model={"start": start, "network": wrong}), 0)


def test_a_state_dict_is_tensors_only(whole, tmp_path):
    """It once carried the module itself, by a method that torch took for a version."""
    torch.save(whole.model.state_dict(), tmp_path / "state.pt")
    assert set(torch.load(tmp_path / "state.pt", weights_only=True)) == set(whole.model.state_dict())


def test_free_atoms_end_at_their_labels(whole):
    atoms = whole.work.data.parts["atoms"]
    for f, p in zip(atoms, predict(whole.model, atoms), strict=True):
        assert p.energy == pytest.approx(f.energy, abs=1e-6), f.molecule


def test_structures_are_logged(whole):
    lines = (whole.folder / "structures-1.csv").read_text().splitlines()
    assert len(lines) == 1 + len(whole.work.share.frames)
    assert lines[0].startswith("source,molecule,charge,multiplicity,energy,forces")


def test_steps_with_gradients_that_are_not_finite_are_skipped(file, tmp_path, monkeypatch):
    (tmp_path / "broken_loss.py").write_text("def broken(outputs, batch):\n    return outputs.energy.sum() * float('nan')\n")
    monkeypatch.syspath_prepend(tmp_path)
    stage = {"kind": "pretrain", "files": [str(file)], "epochs": 1, "rate": 1e-2, "offsets": "atoms",
             "losses": {"broken_loss:broken": 1.0}}
    training = Training(config(file, tmp_path / "run", stage=[stage]), 0, tmp_path / "run")
    before = [p.detach().clone() for p in trainable(training.model)]
    assert training.run()
    epoch = next(e for e in training.journal.read() if e["event"] == "epoch")
    assert epoch["skipped_steps"] == training.work.batches > 1 and epoch["gradient"] == 0
    assert all(torch.equal(a, p) for a, p in zip(before, trainable(training.model), strict=True))


def test_a_training_leaves_the_random_numbers_of_others_alone(file, tmp_path):
    """Its own come from its seed, whatever was drawn before."""
    state = torch.get_rng_state()
    a = hamiltonian_of(config("none", "none"), 3)
    torch.rand(5)
    b = hamiltonian_of(config("none", "none"), 3)
    assert all(torch.equal(x, y) for x, y in zip(a.network.parameters(), b.network.parameters(), strict=True))
    torch.set_rng_state(state)
    assert Training(config(file, tmp_path, stage=[{"kind": "frozen", "files": [str(file)]}]), 0, tmp_path).run()
    assert torch.equal(torch.get_rng_state(), state)


def test_a_frozen_stage_changes_nothing_but_offsets(file, tmp_path):
    made = config(file, tmp_path, stage=[{"kind": "frozen", "files": [str(file)]}])
    training = Training(made, 0, tmp_path)
    before = [p.detach().clone() for p in trainable(training.model)]
    assert training.run()
    assert all(torch.equal(a, p) for a, p in zip(before, trainable(training.model), strict=True))
    assert [e["ok"] for e in training.journal.read() if e["event"] == "epoch"] == [len(training.work.share.frames)]
    assert float(training.model.atom_offsets.abs().max()) > 0


def test_members_of_an_ensemble_differ(file, tmp_path):
    made = config(file, tmp_path, seeds=[0, 1], stage=[{"kind": "pretrain", "files": [str(file)], "epochs": 1, "limit": 8}])
    folders = train(made)
    assert [f.name for f in folders] == ["seed-0", "seed-1"]
    a, b = (Hamiltonian(str(f / "model.safetensors")) for f in folders)
    assert any(not torch.equal(x, y) for x, y in zip(a.network.parameters(), b.network.parameters(), strict=True))
