"""A real-space calculation from its configuration: training, checkpoints that go on exactly, evaluation, result.

The folder of a run holds checkpoint.pt (written whole or not at all), metrics.jsonl (one line per iteration, cut back to the
checkpoint when a run goes on) and result.json.
"""

import json
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from math import inf
from pathlib import Path

import torch

from nddo_ml.common.files import held, read_checkpoint, write_checkpoint, write_text
from nddo_ml.common.processes import ALONE, World
from nddo_ml.common.toml import COUNT, MEMORY, NUMBER, POSITIVE, SEED, check_limits
from nddo_ml.errors import IncompatibleFile, UnknownOption
from nddo_ml.wavefunction.natural_gradient import Adam, Spring, stable_rate
from nddo_ml.wavefunction.real_space.ansatz import Wavefunction, wavefunction
from nddo_ml.wavefunction.real_space.forces import Forces, forces
from nddo_ml.wavefunction.real_space.mean_field_start import MeanField, fitted
from nddo_ml.wavefunction.real_space.sampling import Walkers
from nddo_ml.wavefunction.real_space.starting_orbitals import beginning
from nddo_ml.wavefunction.real_space.systems import System, from_text
from nddo_ml.wavefunction.real_space.variational import (
    Evaluation,
    Progress,
    Settings,
    State,
    averaged,
    evaluate,
    start,
    train,
)

FORMAT = "nddo_ml wavefunction 2"
RESULT = "nddo_ml wavefunction result 1"
LOOSE = ("output", "iterations", "evaluation", "log", "exact")     # may change between a checkpoint and its continuation
SIZES = {"ferminet": ("width", "pair_width", "layers"), "psiformer": ("width", "heads", "layers")}


@dataclass(frozen=True)
class Ansatz:
    """[ansatz] kind: ferminet or psiformer. width, layers: of the network; pair_width: FermiNet's; heads: Psiformer's.
    start: the NDDO method, or file of a trained Hamiltonian, from whose determinants it starts; "": from Slater's exponents;
    "auto": an atom from Slater functions of its own, a molecule from PM6, and from exponents where PM6 does not hold the state.
    singlet: of as many electrons up as down, no triplet may mix in; twice the time."""

    kind: str = "ferminet"
    determinants: int = 4
    width: int = 32
    layers: int = 3
    pair_width: int = 8
    heads: int = 4
    start: str = "auto"
    singlet: bool = False


@dataclass(frozen=True)
class Sampling:
    """[sampling] walkers; steps: Metropolis steps between local energies; burn_in: before the first."""

    walkers: int = 256
    steps: int = 10
    burn_in: int = 200


@dataclass(frozen=True)
class Optimiser:
    """[optimiser] kind: spring or adam. rate/(1 + t/decay), by default one that suits the heaviest nucleus; momentum, damping,
    norm, growth: SPRING's; clip: mean deviations."""

    kind: str = "spring"
    rate: float | None = None
    decay: float = Spring.decay
    momentum: float = Spring.momentum
    damping: float = Spring.damping
    norm: float = Spring.norm
    growth: float = Spring.growth
    clip: float = Settings.clip


@dataclass(frozen=True)
class Averages:
    """[evaluation] blocks: times local energies are taken, steps: Metropolis steps between them; forces: times the forces on
    the nuclei are taken, 0: never."""

    blocks: int = 200
    steps: int = 10
    forces: int = 0


@dataclass(frozen=True)
class Log:
    """[log] checkpoint: every so many iterations."""

    checkpoint: int = 50


@dataclass(frozen=True)
class Config:
    """molecule: "Li 0 0 0; H 0 0 3.015". unit: bohr or angstrom. output: folder. exact: energy to compare with, hartree.
    precision: mixed (training in single precision, the equations of its steps and all averages in double) or double."""

    molecule: str
    output: str = "wavefunction"
    unit: str = "bohr"
    charge: int = 0
    multiplicity: int | None = None
    iterations: int = 1000
    seed: int = 0
    device: str = "cpu"
    precision: str = "mixed"
    exact: float | None = None
    ansatz: Ansatz = field(default_factory=Ansatz)
    sampling: Sampling = field(default_factory=Sampling)
    optimiser: Optimiser = field(default_factory=Optimiser)
    evaluation: Averages = field(default_factory=Averages)
    log: Log = field(default_factory=Log)


@dataclass(frozen=True)
class Run:
    """Everything of a calculation before it starts. field: determinants the ansatz is fitted to first; began: what they are."""

    config: Config
    system: System
    psi: Wavefunction
    settings: Settings
    field: MeanField | None = None
    began: str = ""


LIMITS = {
    "charge": (-1000, 1000), "multiplicity": COUNT, "iterations": NUMBER, "seed": SEED, "exact": (-1e9, 1e9),
    "ansatz.determinants": COUNT, "ansatz.width": COUNT, "ansatz.layers": COUNT, "ansatz.pair_width": COUNT,
    "ansatz.heads": COUNT, "sampling.walkers": (4, 10**9), "sampling.steps": COUNT, "sampling.burn_in": NUMBER,
    "optimiser.rate": (1e-12, 1e3), "optimiser.decay": (1e-12, inf), "optimiser.momentum": MEMORY,
    "optimiser.damping": POSITIVE, "optimiser.norm": POSITIVE, "optimiser.growth": (1e-12, inf), "optimiser.clip": POSITIVE,
    "evaluation.blocks": COUNT, "evaluation.steps": COUNT, "evaluation.forces": NUMBER, "log.checkpoint": COUNT}


def prepared(config: Config, where: str = "the configuration") -> Run:
    """The wavefunction and settings of a configuration, read from `where`. InvalidMolecule, UnknownOption: before any
    sampling."""
    a, o, s = config.ansatz, config.optimiser, config.sampling
    molecule = from_text(config.molecule, config.charge, config.multiplicity, config.unit)
    check_limits(config, LIMITS, where)
    if a.kind == "psiformer" and a.width % a.heads:
        raise UnknownOption(f"ansatz.width = {a.width} is no multiple of ansatz.heads = {a.heads}.")
    if o.kind not in ("spring", "adam"):
        raise UnknownOption(f"optimiser.kind = {o.kind!r}: expected spring, adam.")
    if config.precision not in ("mixed", "double"):
        raise UnknownOption(f"precision = {config.precision!r}: expected mixed, double.")
    if config.device not in ("cpu", "cuda"):
        raise UnknownOption(f"device = {config.device!r}: expected cpu, cuda.")
    if config.device == "cuda" and not torch.cuda.is_available():
        raise UnknownOption("device = 'cuda', but torch sees no CUDA device: use cpu, or install the CUDA build of torch.")
    sizes = {name: getattr(a, name) for name in SIZES.get(a.kind, ())}
    psi = wavefunction(molecule, a.kind, a.determinants, config.seed, a.singlet, **sizes).to(config.device)
    psi = psi.float() if config.precision == "mixed" else psi
    if o.kind == "spring":
        optimiser = Spring(stable_rate(max(molecule.numbers)) if o.rate is None else o.rate, o.decay, o.momentum, o.damping,
                           o.norm, o.growth)
    else:
        optimiser = Adam(Adam.rate if o.rate is None else o.rate, o.decay)
    first = beginning(molecule, a.start, a.determinants)
    return Run(config, molecule, psi, Settings(s.walkers, s.steps, s.burn_in, o.clip, optimiser), first.field, first.said)


def calculate(run: Run, report: Callable[[Progress], None] = lambda progress: None,
              measured: Callable[[int], None] = lambda blocks: None, stop: Callable[[], bool] = lambda: False,
              restart: bool = False, world: World = ALONE) -> Evaluation | None:
    """Train to the iterations asked for and evaluate; from the checkpoint in the output folder if there is one.

    None: stop() said so before the end; the next call goes on as if it had not. Several processes share the walkers, the first
    writes. IncompatibleFile: the checkpoint is of another molecule, of other settings or of another number of processes, or
    another run writes into the folder.
    """
    if run.settings.walkers % world.size:
        raise UnknownOption(f"sampling.walkers = {run.settings.walkers} is no multiple of the {world.size} processes.")
    with held(run.config.output, world=world):
        return _calculated(run, report, measured, stop, restart, world)


def _calculated(run, report, measured, stop, restart, world):
    """The calculation in a folder that is ours."""
    folder = Path(run.config.output)
    checkpoint, metrics = folder / "checkpoint.pt", folder / "metrics.jsonl"
    state = None if restart or not checkpoint.exists() else read(checkpoint, run, world)
    world.gathered(None)                               # all have looked before the first writes
    if world.rank == 0:
        folder.mkdir(parents=True, exist_ok=True)
        _cut(metrics, 0 if state is None else state.iteration)
    if state is None:
        if run.field is not None:
            fitted(run.psi, run.system, run.field, seed=run.config.seed)
            world.same([p.data for p in run.psi.parameters()])
        state = start(run.psi, run.system, run.settings, run.config.seed, world)
    with metrics.open("a") if world.rank == 0 else nullcontext() as lines:

        def note(progress, state):
            if world.rank == 0:
                lines.write(json.dumps(asdict(progress)) + "\n")
            if state.iteration % run.config.log.checkpoint == 0:
                if world.rank == 0:
                    lines.flush()
                write(checkpoint, run, state, world)
            report(progress)

        state = train(run.psi, run.system, run.settings, run.config.iterations, state, run.config.seed, note, stop, world)
    write(checkpoint, run, state, world)
    if any(world.gathered(stop())):
        return None
    averages, psi = run.config.evaluation, averaged(run.psi, state)
    found = evaluate(psi, state, averages.blocks, averages.steps, report=lambda done, energies: measured(done), stop=stop,
                     world=world)
    if any(world.gathered(stop())):
        return None
    if world.rank != 0:
        return found
    felt = forces(psi, state, averages.forces, averages.steps) if averages.forces else None
    text = json.dumps(result(run, state, found, felt), indent=1)
    write_text(folder / "result.json", text)
    return found


def result(run: Run, state: State, found: Evaluation, felt: Forces | None = None) -> dict:
    """The result for machines: energies in hartree, positions in bohr, forces in hartree/bohr."""
    e, exact = found.energy, run.config.exact
    of_nuclei = {} if felt is None else {"forces": felt.force.tolist(), "forces_error": felt.error.tolist()}
    return {"format": RESULT, "molecule": run.system.formula, "unit": "bohr", **_plain(run.system), "energy": e.mean,
            "error": e.error, **of_nuclei, "spin_square": found.spin.mean, "spin_square_error": found.spin.error,
            "variance": e.variance, "correlation": e.correlation, "start": run.began, "acceptance": found.acceptance,
            "reset": state.reset + found.reset, "iterations": state.iteration, "exact": exact,
            "difference": None if exact is None else e.mean - exact, "config": asdict(run.config)}


def write(path: Path, run: Run, state: State, world: World = ALONE) -> None:
    """Write a checkpoint with the states of all processes, whole or not at all."""
    states = world.gathered(asdict(state))
    if world.rank == 0:
        write_checkpoint(path, FORMAT, {"config": asdict(run.config), "system": _plain(run.system),
                                        "weights": run.psi.state_dict(), "states": states})


def read(path: Path, run: Run, world: World = ALONE) -> State:
    """This process's state of a checkpoint; its weights are put into run.psi.

    IncompatibleFile: unreadable, of another molecule, of other settings or of another number of processes.
    """
    found = read_checkpoint(path, FORMAT, run.config.device)
    if found["system"] != _plain(run.system):
        old = found["config"]["molecule"]
        spins = f"{found['system']['up']} up, {found['system']['down']} down"
        raise IncompatibleFile(f"{path} is of another molecule ({old}; {spins}), not of {run.config.molecule}: choose another "
                               "output, or --restart.")
    old, new = found["config"], asdict(run.config)
    for key in old:
        if key not in (*LOOSE, "molecule", "unit") and old[key] != new.get(key):
            raise IncompatibleFile(f"{path} belongs to a run with other settings ({key}: {old[key]!r} then, {new.get(key)!r} "
                                   "now): restore them, choose another output, or --restart.")
    if len(found["states"]) != world.size:
        raise IncompatibleFile(f"{path} was written by {len(found['states'])} processes, and this run has {world.size}: start "
                               "as many, choose another output, or --restart.")
    run.psi.load_state_dict(found["weights"])
    state = found["states"][world.rank]
    return State(**{**state, "walkers": Walkers(**state["walkers"]), "generator": state["generator"].cpu()})


def _plain(system):
    return {"numbers": list(system.numbers), "positions": [list(x) for x in system.positions], "up": system.up,
            "down": system.down}


def _cut(path, iterations):
    """Keep the lines of the first iterations."""
    lines = path.read_text().splitlines() if path.exists() else []
    write_text(path, "".join(line + "\n" for line in lines[:iterations]))


def with_output(config: Config, folder: Path) -> Config:
    """The configuration with its output as seen from `folder`."""
    return replace(config, output=str(folder / config.output))
