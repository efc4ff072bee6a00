"""One run per folder, whatever trains there, and numbers of a configuration that mean something."""

import os
import signal
import subprocess
import sys
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from types import UnionType
from typing import get_args, get_origin

import pytest
from support.training_data import write_labels
from typer.testing import CliRunner

from nddo_ml.active import config as active_config
from nddo_ml.active.loop import active
from nddo_ml.cli.main import app
from nddo_ml.common.files import LOCK, held
from nddo_ml.common.processes import World
from nddo_ml.errors import IncompatibleFile, UnknownOption
from nddo_ml.functional.training import config as functional
from nddo_ml.labels.journal import Journal
from nddo_ml.labels.levels.catalogue import level
from nddo_ml.networks import build
from nddo_ml.training import config
from nddo_ml.training.trainer import train
from nddo_ml.wavefunction.real_space import config as real_space
from nddo_ml.wavefunction.real_space import run as wavefunction

ROOT = Path(__file__).parents[2]
HOLDER = ("import sys; from nddo_ml.common.files import held\n"
          "with held(*sys.argv[1:]): print('held', flush=True); sys.stdin.read()")
LOCKER = ("import fcntl, os, sys\n"                        # the same without the second that torch takes to load
          "for folder in sys.argv[1:]:\n"
          "    os.makedirs(folder, exist_ok=True)\n"
          f"    fcntl.flock(os.open(os.path.join(folder, '{LOCK}'), os.O_RDWR | os.O_CREAT), fcntl.LOCK_EX)\n"
          "print('held', flush=True); sys.stdin.read()")


@pytest.fixture
def another():
    """Starts another process that holds folders, and returns it; it ends with the test."""
    started = []

    def start(*folders, code=LOCKER):
        process = subprocess.Popen([sys.executable, "-c", code, *map(str, folders)], cwd=ROOT, text=True, stdin=subprocess.PIPE,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        started.append(process)
        assert process.stdout.readline() == "held\n", process.stderr.read()
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def training(folder, **more):
    """The values of a training of one epoch."""
    return {"output": str(folder / "trained"), "model": {"parent": "AM1", "network": {"channels": 4, "radial": 4, "layers": 1}},
            "data": {"validation": 0.25}, "log": {"plot": 0},
            "stage": [{"kind": "pretrain", "files": [str(folder / "labels.extxyz")], "epochs": 1, "offsets": "atoms"}], **more}


# one run per folder

def test_a_held_folder_is_refused_until_its_holder_is_gone(tmp_path, another):
    """Also where that was killed: the lock is the system's, the file that stays says nothing."""
    folder = tmp_path / "out"
    process = another(folder, code=HOLDER)
    with pytest.raises(IncompatibleFile, match=rf"out is being written by another run \(process {process.pid} of .*choose"), \
            held(tmp_path / "free", folder):
        pass
    with held(tmp_path / "free"):
        pass                                             # what was taken before the refusal is let go
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (folder / LOCK).exists()
    with held(folder), pytest.raises(IncompatibleFile, match="another run"), held(folder):
        pass
    with held(folder):
        pass


def test_all_processes_of_a_run_are_refused(tmp_path):
    """The first holds the folder, the others hear of it."""
    class Two(World):
        def gathered(self, value):
            return [value if self.first else refusal, ""]

    refusal = ""
    with held(tmp_path / "a", world=Two(0, 2)):
        assert (tmp_path / "a" / LOCK).exists()
    with held(tmp_path / "b", world=Two(1, 2)):
        assert not (tmp_path / "b").exists(), "only the first touches the folder"
    refusal = "written by another"
    with pytest.raises(IncompatibleFile, match=refusal), held(tmp_path / "b", world=Two(1, 2)):
        pass


def test_one_training_per_folder(tmp_path, another):
    """Refused before anything is touched, by the command too; another seed may train beside it; a kill blocks nothing."""
    write_labels(tmp_path / "labels.extxyz", 1)
    (tmp_path / "train.toml").write_text(
        'output = "trained"\nseeds = [0, 1]\n[model]\nparent = "AM1"\nnetwork = { channels = 4, radial = 4, layers = 1 }\n'
        '[log]\nplot = 0\n[[stage]]\nkind = "pretrain"\nfiles = ["labels.extxyz"]\nepochs = 1\nlimit = 4\noffsets = "atoms"\n')
    seed = tmp_path / "trained" / "seed-1"
    process = another(seed)
    for extra in ([], ["--restart"]):
        refused = CliRunner().invoke(app, ["train", str(tmp_path / "train.toml"), *extra])
        assert refused.exit_code == 2 and "seed-1 is being written by another run" in refused.output
    assert {p.name for p in tmp_path.glob("trained/*/*")} == {LOCK}, "seed 0 was not begun either"
    made = config.from_dict(training(tmp_path))
    assert train(made) == [tmp_path / "trained" / "seed-0"]
    process.kill()
    process.wait()
    done = CliRunner().invoke(app, ["train", str(tmp_path / "train.toml"), "--restart"])
    assert done.exit_code == 0 and (seed / "model.safetensors").exists(), done.output


def test_one_wavefunction_per_folder(tmp_path, another):
    he = real_space.RealSpaceConfig("He 0 0 0", str(tmp_path / "he"), iterations=1,
                                    ansatz=real_space.RealSpaceAnsatz(start=""),
                                    sampling=real_space.RealSpaceSampling(8, 1, 5),
                                    evaluation=real_space.RealSpaceEvaluation(2, 1))
    process = another(tmp_path / "he")
    for restart in (False, True):
        with pytest.raises(IncompatibleFile, match="he is being written by another run"):
            wavefunction.calculate(wavefunction.prepared(he), restart=restart)
    process.kill()
    process.wait()
    assert wavefunction.calculate(wavefunction.prepared(he)) is not None


def test_one_functional_per_folder(tmp_path, another):
    pytest.importorskip("pyscf")
    from nddo_ml.functional.training.trainer import FunctionalTraining

    data = functional.FunctionalData(only=("h2", "hf"), validation=0.5, test=0.0)
    one = functional.FunctionalConfig(str(tmp_path / "f"), data=data)
    (tmp_path / "f" / "seed-0").mkdir(parents=True)
    (tmp_path / "f" / "seed-0" / "metrics.jsonl").write_text("{}\n")
    process = another(tmp_path / "f" / "seed-0", tmp_path / "f")
    for restart in (False, True):
        with pytest.raises(IncompatibleFile, match="seed-0 is being written by another run"):
            FunctionalTraining(one, restart=restart)
    assert (tmp_path / "f" / "seed-0" / "metrics.jsonl").exists(), "a restart takes nothing away from the other"
    (tmp_path / "f.toml").write_text('output = "f"\n[data]\nonly = ["h2", "hf"]\nvalidation = 0.5\ntest = 0\n')
    refused = CliRunner().invoke(app, ["functional", "train", str(tmp_path / "f.toml")])
    assert refused.exit_code == 2 and "f is being written by another run" in refused.output
    process.kill()
    process.wait()
    beside = another(tmp_path / "f" / "seed-1")
    assert FunctionalTraining(one).round == 0                        # another seed may be at work
    beside.kill()


def test_one_loop_per_folder(tmp_path, wrong_types):
    """By the labels it writes, before anything else."""
    pytest.importorskip("matplotlib")
    loop = active_config.from_dict({**LOOP, "output": str(tmp_path / "loop")})
    with Journal(tmp_path / "loop" / "labels.extxyz", level("AM1").name), \
            pytest.raises(IncompatibleFile, match=r"labels\.extxyz is being written by another run"):
        active(loop, None, [], None)
    assert not list((tmp_path / "loop").glob("round-*"))


# numbers

def numbers_of(cls, prefix=""):
    """Dotted names of all numbers of a record of records, with the type of each."""
    for f in fields(cls):
        kind = f.type
        if isinstance(kind, UnionType):
            kind = get_args(kind)[0]
        if get_origin(kind) is tuple:
            kind = get_args(kind)[0]
        if is_dataclass(kind):
            yield from numbers_of(kind, f"{prefix}{f.name}.")
        elif kind in (int, float):
            yield f"{prefix}{f.name}", kind


LOOP = {"output": "o", "train": "t", "explore": {"structures": ["s.smi"]}, "label": {"level": "AM1"}}
KINDS = {
    "train": (config.TrainingConfig, config.LIMITS, lambda: config.from_dict(training(Path("nowhere")))),
    "active": (active_config.Active, active_config.LIMITS, lambda: active_config.from_dict(LOOP)),
    "functional": (functional.FunctionalConfig, functional.LIMITS, lambda: functional.FunctionalConfig("o")),
    "wavefunction": (real_space.RealSpaceConfig, real_space.LIMITS, lambda: real_space.RealSpaceConfig("He 0 0 0")),
}
each_kind = pytest.mark.parametrize("kind", KINDS)


@each_kind
def test_every_number_has_limits(kind):
    cls, limits, _ = KINDS[kind]
    found = dict(numbers_of(cls))
    assert set(found) == set(limits) and len(found) > 15
    assert all(low < high for low, high in limits.values())


def with_value(record, path, value):
    """A record of records with another value at a dotted name; in each of several records."""
    here = getattr(record, path[0])
    if len(path) > 1:
        several = isinstance(here, tuple)
        value = tuple(with_value(x, path[1:], value) for x in here) if several else with_value(here, path[1:], value)
    elif isinstance(here, tuple):
        value = (value,)
    return replace(record, **{path[0]: value})


@each_kind
def test_numbers_that_mean_nothing_are_refused_by_name(kind):
    """NaN, and what lies below or above the limits of each; what lies at them passes."""
    from nddo_ml.common.toml import check_limits

    _, limits, example = KINDS[kind]
    whole = example()
    for name, (low, high) in limits.items():
        path = name.split(".")
        for value in (low, high):
            check_limits(with_value(whole, path, value), {name: (low, high)}, "here")
        not_a_number = [] if isinstance(low, int) else [float("nan")]            # no integer
        for value in (*not_a_number, low - max(1, abs(low)), *([2 * high + 1] if high < float("inf") else [])):
            with pytest.raises(UnknownOption, match=rf"{path[-1]} = .* in here: it must be at least"):
                check_limits(with_value(whole, path, value), limits, "here")


@pytest.mark.parametrize(("change", "words"), [
    ({"stage": {"rate": -1.0}}, r"stage 1: rate = -1.0 in x.toml"), ({"stage": {"epochs": -1}}, "stage 1: epochs = -1"),
    ({"stage": {"rate": float("inf")}}, "rate = inf"), ({"stage": {"losses": {"forces": -1.0}}}, "losses.forces = -1.0"),
    ({"stage": {"widths": {"energy": 0.0}}}, "widths.energy = 0.0"), ({"stage": {"limit": 0}}, "limit = 0"),
    ({"stage": {"rate": 0.5, "weight_decay": 3.0}}, "must not exceed 1"),
    ({"stage": {"losses": dict.fromkeys(("forces", "energy", "dipole", "local"), 0.0)}}, "nothing would be learned"),
    ({"seeds": [-1]}, "seeds = -1"), ({"seeds": [3, 3]}, "give none twice"), ({"seeds": []}, "at least one"),
    ({"scf": {"max_steps": 0}}, "scf.max_steps = 0"), ({"log": {"frames": -5}}, "log.frames = -5"),
    ({"data": {"largest_force": float("nan")}}, "data.largest_force = nan"),
])
def test_a_training_that_cannot_be(change, words):
    values = training(Path("nowhere"))
    values |= {"stage": [values["stage"][0] | change.pop("stage", {})], **change}
    with pytest.raises(UnknownOption, match=words):
        config.from_dict(values, "x.toml")


def test_the_others_that_cannot_be():
    for change, words in (({"retrain": {"rate": -1.0}}, "retrain.rate = -1.0"), ({"retrain": {"epochs": -1}}, "epochs = -1"),
                          ({"explore": {"structures": ["s"], "temperatures": [float("nan")]}}, "temperatures = nan"),
                          ({"pick": {"distance": -0.1}}, "pick.distance"), ({"seed": -3}, "seed = -3")):
        with pytest.raises(UnknownOption, match=words):
            active_config.from_dict({**LOOP, **change}, "x.toml")
    for change, words in (({"optimiser": functional.FunctionalOptimisation(steps=-1)}, "optimiser.steps = -1"),
                          ({"data": functional.FunctionalData(tolerance=0.0)}, "data.tolerance = 0.0"),
                          ({"seeds": (1, 1)}, "twice"),
                          ({"losses": functional.FunctionalLosses(barrier=-2.0)}, "losses.barrier = -2.0"),
                          ({"losses": functional.FunctionalLosses(*[0.0] * 8)}, "nothing would be learned")):
        with pytest.raises(UnknownOption, match=words):
            functional.FunctionalConfig("x", **change).checked("x.toml")
    for change, words in (({"iterations": -1}, "iterations = -1"),
                          ({"optimiser": real_space.RealSpaceOptimiser(rate=-1.0)}, "optimiser.rate = -1"),
                          ({"sampling": real_space.RealSpaceSampling(burn_in=-1)}, "burn_in = -1"),
                          ({"optimiser": real_space.RealSpaceOptimiser(momentum=1.5)}, "momentum = 1.5"),
                          ({"exact": float("nan")}, "exact = nan")):
        with pytest.raises(UnknownOption, match=words):
            wavefunction.prepared(real_space.RealSpaceConfig("He 0 0 0", **change))


@pytest.mark.parametrize(("settings", "words"), [
    ({"channels": -3}, "channels = -3"), ({"cutoff": -1.0}, "cutoff = -1.0"), ({"layers": 0}, "layers = 0"),
    ({"radial": 2.5}, "radial = 2.5"), ({"cutoff": float("nan")}, "cutoff = nan"), ({"species": [1, 1]}, "species"),
    ({"species": [0, 6]}, "species"), ({"species": 6}, "species"),
    ({"features": "symmetry functions", "cutoff": 1.2}, "cutoff = 1.2"),
    ({"heads": []}, "heads"), ({"heads": ["atom", "atom"]}, "each once"),
])
def test_sizes_of_networks_that_cannot_be(settings, words, wrong_types):
    with pytest.raises(UnknownOption, match=words):
        build(settings)


def test_the_command_names_the_key(tmp_path):
    for command, text, words in (
            (["train"], 'output = "o"\n[[stage]]\nkind = "pretrain"\nfiles = ["x"]\nrate = -1.0\n', "stage 1: rate = -1.0"),
            (["functional", "train"], 'output = "o"\n[optimiser]\nrounds = -1\n', "optimiser.rounds = -1"),
            (["wavefunction"], 'molecule = "He 0 0 0"\niterations = -1\n', "iterations = -1")):
        (tmp_path / "x.toml").write_text(text)
        found = CliRunner().invoke(app, [*command, str(tmp_path / "x.toml")])
        assert found.exit_code == 2 and words in found.output, found.output
    assert os.listdir(tmp_path) == ["x.toml"], "nothing was begun"
