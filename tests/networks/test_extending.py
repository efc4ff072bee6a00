"""Features, heads, networks and losses of one's own: docs/howto/extending.md as it stands, and what is refused."""

import json
import re
import shlex
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from support.physics_models import molecule
from support.training_data import write_labels
from torch import nn
from typer.testing import CliRunner

from nddo_ml import Hamiltonian, Molecules
from nddo_ml.cli.main import app
from nddo_ml.common.extras import name_of, named
from nddo_ml.errors import IncompatibleFile, MissingParameter, UnknownOption
from nddo_ml.hamiltonian import weights
from nddo_ml.networks import FeatureModule, Network, ParameterNetwork, build, settings
from nddo_ml.networks.environment import PairGeometry, environment, kinds, places, switch
from nddo_ml.networks.message_passing import Features, MessagePassing
from nddo_ml.networks.shifts import CHANNELS, Shifts
from nddo_ml.training.config import from_dict
from nddo_ml.training.trainer import Training

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "extending.md"
HERE = __name__
OWN_KEY = HERE.replace(".", "/")     # as torch lets modules be called
SPECIES = [1, 6, 7, 8, 9, 16, 17]


@pytest.fixture
def clean(tmp_path, monkeypatch):
    """An empty folder to work in, found by imports; what is imported from it is forgotten."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def test_the_page_runs(clean):
    """Every block, in order: files are written, commands called, the rest is one program."""
    names, kinds_ = {"__name__": "page"}, []
    for kind, block in re.findall(r"^```(\w+)\n(.*?)^```", PAGE.read_text(), re.M | re.S):
        file = re.match(r"# (\w+\.\w+)\n", block)
        kinds_.append("file" if file else kind)
        if file:
            (clean / file[1]).write_text(block)
        elif kind == "bash":
            for line in block.splitlines():
                done = CliRunner().invoke(app, shlex.split(line)[1:])
                assert done.exit_code == 0, f"{line}: {done.output}"
        else:
            exec(compile(block, f"extending.md, block {len(kinds_)}", "exec"), names)
    assert kinds_.count("file") == 2 and kinds_.count("bash") == 2 and kinds_.count("python") >= 4
    events = [json.loads(line) for line in Path("trained/seed-0/metrics.jsonl").read_text().splitlines()]
    losses = [e["loss.my_parts:directions"] for e in events if e["event"] == "epoch"]
    assert len(losses) == 4 and all(0 < x < 0.4 for x in losses) and losses[-1] < losses[0]
    model = Hamiltonian("trained/seed-0/model.safetensors")
    state = torch.load("trained/seed-0/checkpoint.pt", weights_only=True)["model"]
    assert float(state["network.own.my_parts:Levels.line.weight"].abs().max()) > 0, "the head is trained"
    assert {type(m).__module__ for m in (model.network.features, model.network.own["my_parts:Levels"])} == {"my_parts"}
    r = torch.tensor([0.96, 0.96, torch.dist(*torch.tensor([[0.96, 0, 0], [-0.24, 0.93, 0]])).item()], dtype=torch.float64)
    assert float(names["hardened"].energy - names["published"].energy) == pytest.approx(
        float(5 * torch.exp(-3 * r).sum()), abs=0.005)       # first order: the second O-H bond is 0.9605 long
    with pytest.raises(UnknownOption, match="AM1-harder is a method of your own form"):
        weights.save(Hamiltonian(names["mine"], network=build({"channels": 4})), "x.safetensors", "x", weights.Origin("l", "d"))


# parts of our own, simpler and stranger than those of the page

class Neighbours(nn.Module):
    """Features without any parameter: how many neighbours of each element, and the mean direction to them."""

    def __init__(self, species, cutoff=4.0, power=1):
        super().__init__()
        self.config = {"cutoff": cutoff, "power": power}
        self.channels, self.vectors, self.cutoff, self.power = len(species), 1, cutoff, power

    def forward(self, env):
        one = nn.functional.one_hot(env.kind[env.neighbour], self.channels).double()
        f = switch(env.R, self.cutoff)[:, None] ** self.power
        return Features(env.summed(one * f), env.summed(env.u * f)[:, :, None])


class Everything(nn.Module):
    """A head that says every column of atoms and pairs, by the features' sums and directions."""

    def __init__(self, features, species):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.05))

    def forward(self, env, features):
        n, near = len(env.kind), len(env.pairs)
        a = self.scale * torch.tanh(features.s.sum(1))
        both = a[env.centre[:near]] + a[env.neighbour[:near]]
        v = self.scale * features.v[:, :, 0] / (1 + features.v[:, :, 0].norm(dim=1, keepdim=True))
        return {"U": a[:, None].expand(n, 3), "factors": a[:, None].expand(n, 11), "local": a,
                "block": torch.cat((v, v.new_zeros(n, 6)), 1), "resonance": both[:, None].expand(near, len(CHANNELS)),
                "core": both[:, None].expand(near, 2), "charges": 0.1 * (a[env.centre[:near]] - a[env.neighbour[:near]])}


class Constant(nn.Module):
    """A network of one number: what all levels move by where there is a neighbour."""

    def __init__(self, species, size=1.0):
        super().__init__()
        self.species, self.config = tuple(species), {"species": list(species), "size": size}
        self.size, self.u = size, nn.Parameter(torch.zeros(()))

    def forward(self, numbers, i, j, R, u):
        kinds(self.species, numbers, places(self.species))
        n = torch.zeros(len(numbers), dtype=R.dtype).index_add(0, torch.cat((i, j)), torch.exp(-torch.cat((R, R))))
        return Shifts((self.size * self.u * n)[:, None].expand(-1, 3), None, i[:0], None, None, None, None)


class Mute(Constant):
    """Says nothing of its size."""

    def __init__(self, species, size=1.0):
        super().__init__(species, size)
        self.config = {"species": list(species)}


class Bare(nn.Module):
    """No network of the protocol."""

    def forward(self, numbers, i, j, R, u):
        return None


def spread_of_charges(outputs, batch):
    return outputs.charges.square().mean() + 0.0 * outputs.result.energy.sum()


class Gaps:
    """A loss of gaps, which must be on the tape for it."""

    def __call__(self, outputs, batch):
        return torch.relu(12.0 - outputs.gap[outputs.valid]).square().mean()


def every_atom(outputs, batch):
    return outputs.charges


def trained(config, value=0.1):
    torch.manual_seed(0)
    network = build(config)
    with torch.no_grad():
        for p in network.parameters():
            p.add_(value)
    return Hamiltonian("AM1", network=network.requires_grad_(False))


OWN = {
    "features": {"features": f"{HERE}:Neighbours", "species": SPECIES, "heads": ["atom", "pair", "charge", "block"],
                 "power": 2},
    "head": {"heads": ["atom", f"{HERE}:Everything"], "species": SPECIES, "channels": 4, "layers": 1},
    "both": {"features": f"{HERE}:Neighbours", "species": SPECIES, "heads": [f"{HERE}:Everything", "local"]},
    "network": {"network": f"{HERE}:Constant", "species": SPECIES, "size": 2.0},
}
each = pytest.mark.parametrize("config", OWN.values(), ids=OWN)


@each
def test_own_parts_are_saved_and_come_back_by_name(config, tmp_path):
    H = trained(config)
    weights.save(H, tmp_path / "own.safetensors", "own", weights.Origin("level", "hash"))
    again = Hamiltonian(str(tmp_path / "own.safetensors"))
    for name in ("water", "thiol", "hydroxymethyl"):
        a, b = H(molecule(name), forces=True), again(molecule(name), forces=True)
        assert float(a.energy) == float(b.energy) != float(Hamiltonian("AM1")(molecule(name)).energy)
        assert torch.equal(a.forces, b.forces)
    assert settings(again.network) == settings(H.network)
    with safe_open(tmp_path / "own.safetensors", "np") as archive:
        assert HERE in archive.metadata()["network"]
    with pytest.raises(MissingParameter):
        again(Molecules.single([14, 1, 1, 1, 1], [[0, 0, 0], [.9, .9, .9], [-.9, -.9, .9], [.9, -.9, -.9], [-.9, .9, -.9]]))


@each
def test_forces_with_own_parts_are_derivatives(config):
    """By differences at 1e-4 angstrom, and a free atom is the parent's."""
    H, here = trained(config), molecule("thiol")
    forces = H(here, forces=True, tolerance=1e-10).forces
    step = torch.zeros_like(here.positions)
    step[1] = torch.tensor([0.6, -0.3, 0.74], dtype=torch.float64) * 1e-4
    e = [float(H(here.with_positions(here.positions + s * step), tolerance=1e-10).energy) for s in (-1, 1)]
    assert (e[0] - e[1]) / 2 == pytest.approx(float((forces * step).sum()), abs=1e-9)
    atom = Molecules.single([8], [[0, 0, 0]], 0, 3)
    assert float(H(atom).energy) == float(Hamiltonian("AM1")(atom).energy)


def test_own_heads_add_up_and_fade():
    """Two heads that say the same column give the sum; at the cutoff all that a head says of a pair is gone."""
    one = trained(OWN["head"]).network
    alone = build({**OWN["head"], "heads": ["atom"]})
    alone.load_state_dict({k: v for k, v in one.state_dict().items() if not k.startswith("own.")})
    numbers, i, j = torch.tensor([8, 1]), torch.tensor([0]), torch.tensor([1])
    for R, gone in ((1.5, False), (4.999, True)):
        arguments = numbers, i, j, torch.tensor([R], dtype=torch.float64), torch.tensor([[0, 0, 1.0]], dtype=torch.float64)
        a, b = one(*arguments), alone(*arguments)
        env = environment(kinds(one.species, numbers, one.table), PairGeometry(*arguments[1:]), 5.0)
        said = one.own[f"{OWN_KEY}:Everything"](env, one.features(env))["U"]
        gate = -torch.expm1(-2.0 * env.summed(switch(env.R, 5.0)))
        assert torch.allclose(a.U, b.U + said * gate[:, None], atol=1e-14) and float(said.abs().max()) > 1e-3
        assert (float(a.resonance.abs().max()) < 1e-12) == gone == (float(a.charges.abs().max() if gone else 1) < 1e-12)


def test_networks_made_in_python_are_named_by_their_classes():
    """Features and heads given as objects and classes, built-in ones too."""
    network = ParameterNetwork(SPECIES, Neighbours(SPECIES, 3.5), ["pair", Everything]).double()
    plain = settings(network)
    assert plain["features"] == f"{HERE}:Neighbours" and plain["heads"] == ["pair", f"{HERE}:Everything"]
    assert plain["cutoff"] == 3.5
    assert isinstance(network.features, FeatureModule) and isinstance(Constant(SPECIES), Network)
    built_in = ParameterNetwork(SPECIES, MessagePassing(SPECIES, 4, 2, 1)).double()
    assert settings(built_in)["features"].endswith(":MessagePassing")
    assert settings(build({"channels": 4})) == build({"channels": 4}).config


def test_what_could_not_come_back_is_not_saved(tmp_path):
    """A config that leaves something out, one of something else, no protocol, a class nobody could import."""
    class Local(Constant):
        pass

    def save(network):
        weights.save(Hamiltonian("AM1", network=network.double()), tmp_path / "x.safetensors", "x", weights.Origin("l", "d"))

    changed = Mute(SPECIES, 5.0)
    with torch.no_grad():
        changed.u.fill_(0.4)
    wide = Constant(SPECIES)
    wide.more = nn.Linear(3, 3)
    odd = Constant(SPECIES)
    odd.config = {"species": torch.tensor(SPECIES)}
    for network, words in ((changed, "config of Mute makes a network that says something else"),
                           (wide, "config of Constant makes other tensors"), (odd, "holds more than numbers"),
                           (Bare(), "Bare lacks species, config"), (Local(SPECIES), "inside a function")):
        with pytest.raises(UnknownOption, match=words):
            save(network)
    assert not list(tmp_path.iterdir())
    network, state = build({"channels": 4}), torch.get_rng_state()
    save(network)
    assert torch.equal(state, torch.get_rng_state()), "saving draws no random numbers"


@pytest.mark.parametrize(("name", "words"), [
    ("nowhere_at_all:Head", r"there is no module 'nowhere_at_all'.*PYTHONPATH"),
    ("nowhere.at.all:Head", "there is no module 'nowhere'"), ("nddo_ml.nothing:Head", r"there is no module 'nddo_ml\.nothing'"),
    (f"{HERE}:Everythin", "has no 'Everythin'; did you mean 'Everything'"), ("broken:Head", "SyntaxError"),
    ("needy:Head", "its module 'needy' imports 'absent_package', which is not installed"), ("raising:Head", "KeyError: 'oops'"),
    ("Head", "expected \"module:Name\""), (f"{HERE}:", "expected \"module:Name\"")])
def test_a_name_that_cannot_be_imported_says_what_is_missing(clean, name, words):
    (clean / "broken.py").write_text("class Head(:\n")
    (clean / "needy.py").write_text("import absent_package\n")
    (clean / "raising.py").write_text("raise KeyError('oops')\n")
    with pytest.raises(UnknownOption, match=words):
        named(name, "a head")
    assert named(name_of(Everything), "a head") is Everything


def test_a_file_without_its_classes_says_which_module_is_missing(clean):
    """The methods it lies among can be listed; the command ends with the message."""
    (clean / "gone.py").write_text(f"from {HERE} import Neighbours\n\n\nclass Gone(Neighbours):\n    pass\n")
    gone = trained({"features": "gone:Gone", "species": SPECIES, "heads": ["atom"]})
    weights.save(gone, "gone.safetensors", "g", weights.Origin("l", "d"))
    assert float(Hamiltonian("gone.safetensors")(molecule("water")).energy) != 0
    (clean / "gone.py").unlink()
    del sys.modules["gone"]
    with pytest.raises(IncompatibleFile, match=r"gone\.safetensors.*features = 'gone:Gone': there is no module 'gone'"):
        Hamiltonian("gone.safetensors")
    (clean / "w.xyz").write_text("3\n\nO 0 0 0\nH 0.96 0 0\nH -0.24 0.93 0\n")
    done = CliRunner().invoke(app, ["run", "w.xyz", "-m", "gone.safetensors"])
    assert done.exit_code == 2 and "there is no module 'gone'" in done.output
    (clean / "gone.py").write_text("class Other:\n    pass\n")
    with pytest.raises(IncompatibleFile, match=r"the module 'gone' \(.*gone\.py\) has no 'Gone'"):
        Hamiltonian("gone.safetensors")


class Wrong(Everything):
    """A head that returns a column of zeros that there is not."""

    column = "beta"

    def forward(self, env, features):
        return {self.column: features.s.new_zeros(len(env.kind), 1)}


class Column(Wrong):
    """One that would be spread over all atoms, in silence."""

    column = "local"


def test_heads_that_say_something_else_are_refused():
    for cls, words in ((Wrong, "returns 'beta': expected any of U, factors"),
                       (Column, r"returns 'local' of shape \(3, 1\): expected \(3,\)")):
        H = Hamiltonian("AM1", network=build({"channels": 4, "heads": ["atom", name_of(cls)]}))
        with pytest.raises(UnknownOption, match=words):
            H(molecule("water"))
    with pytest.raises(UnknownOption, match="features Linear lack channels, vectors, cutoff, config"):
        ParameterNetwork(SPECIES, nn.Linear(2, 2))
    with pytest.raises(UnknownOption, match="'block' needs features with vectors"):
        build({"features": "symmetry functions", "heads": ["block"]})
    with pytest.raises(UnknownOption, match=r"Settings of .*Neighbours that do not exist.*width"):
        build({"features": f"{HERE}:Neighbours", "width": 3})
    with pytest.raises(UnknownOption, match="features='graph'"):
        build({"features": "graph"})


# trainings

def training(folder, losses, network=None, **more):
    network = network or {"channels": 4, "radial": 4, "layers": 1}
    values = {"output": str(folder), "model": {"parent": "AM1", "network": network}, "log": {"plot": 0},
              "optimiser": {"batch": 16}, "data": {"validation": 0.2},
              "stage": [{"kind": "pretrain", "files": [str(folder / "labels.extxyz")], "epochs": 1, "offsets": "atoms",
                         "losses": losses}], **more}
    return from_dict(values)


def test_losses_of_ones_own_train(tmp_path):
    """A function and a class, beside or instead of the others; weights of 0 are left out; a network of one's own is trained."""
    write_labels(tmp_path / "labels.extxyz", 1)
    losses = {"forces": 0.0, "dipole": 0.0, "energy": 0.0, "local": 0.0, f"{HERE}:spread_of_charges": 2.0, f"{HERE}:Gaps": 0.1,
              f"{HERE}:every_atom": 0.0}
    network = {"network": f"{HERE}:Constant", "species": [1, 6, 7, 8, 9]}
    run = Training(training(tmp_path, losses, network), 0, tmp_path)
    assert run.run()
    epoch = next(e for e in run.journal.read() if e["event"] == "epoch")
    assert {k for k in epoch if k.startswith("loss.")} == {f"loss.{HERE}:spread_of_charges", f"loss.{HERE}:Gaps"}
    assert epoch["gradient"] > 0 and epoch["skipped_steps"] == 0 and float(run.model.network.u.detach()) != 0
    assert isinstance(Hamiltonian(str(tmp_path / "model.safetensors")).network, Constant)
    again = Training(training(tmp_path, losses, network), 0, tmp_path)
    assert again.resume()
    with pytest.raises(IncompatibleFile, match=r"losses\.own.*: 2\.0 then, 3\.0 now"):
        Training(training(tmp_path, losses | {f"{HERE}:spread_of_charges": 3.0}, network), 0, tmp_path).resume()


def test_losses_that_cannot_be(tmp_path):
    write_labels(tmp_path / "labels.extxyz", 1)
    for losses, words in (({"nowhere_at_all:loss": 1.0}, "a loss = 'nowhere_at_all:loss': there is no module"),
                          ({f"{HERE}:SPECIES": 1.0}, "expected a function")):
        with pytest.raises(UnknownOption, match=words):
            Training(training(tmp_path, losses), 0, tmp_path / "x")
    for weight in (-1.0, float("nan"), "1", True):
        with pytest.raises(UnknownOption, match=rf"stage 1: losses\.{HERE}:Gaps = .*at least 0"):
            training(tmp_path, {f"{HERE}:Gaps": weight})
    with pytest.raises(UnknownOption, match=r"force in .* does not exist: did you mean forces"):
        training(tmp_path, {"force": 1.0, f"{HERE}:Gaps": 1.0})
    with pytest.raises(UnknownOption, match=rf"The loss {HERE}:every_atom returned a tensor of shape"):
        Training(training(tmp_path, {f"{HERE}:every_atom": 1.0}), 0, tmp_path / "y").run()
    assert not (tmp_path / "x").exists()


def test_heads_of_ones_own_join_a_trained_network(tmp_path):
    """As further heads do; a network of one's own has none to add to."""
    write_labels(tmp_path / "labels.extxyz", 1)
    weights.save(trained({"channels": 4, "layers": 1}), tmp_path / "a.safetensors", "a", weights.Origin("l", "d"))
    model = {"start": str(tmp_path / "a.safetensors"), "network": {"heads": ["atom", "pair", f"{HERE}:Everything"]}}
    run = Training(training(tmp_path, {}, model=model), 0, tmp_path / "run")
    assert f"{OWN_KEY}:Everything" in run.model.network.own
    weights.save(trained(OWN["network"]), tmp_path / "b.safetensors", "b", weights.Origin("l", "d"))
    model = {"start": str(tmp_path / "b.safetensors"), "network": {"heads": ["local"]}}
    with pytest.raises(UnknownOption, match="further heads"):
        Training(training(tmp_path, {}, model=model), 0, tmp_path / "run")
