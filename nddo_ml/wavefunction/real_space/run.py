"""A real-space calculation from its configuration: training, checkpoints that go on exactly, evaluation, result.

The folder of a run holds checkpoint.pt (written whole or not at all), metrics.jsonl (one line per iteration, cut back to the
checkpoint when a run goes on) and result.json.
"""

import json
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

from nddo_ml.common.files import held, write_text
from nddo_ml.common.processes import ALONE, World
from nddo_ml.errors import UnknownOption
from nddo_ml.wavefunction.real_space.ansatz import wavefunction
from nddo_ml.wavefunction.real_space.checkpoint import RealSpaceCalculation, plain, read, write
from nddo_ml.wavefunction.real_space.config import RealSpaceConfig, check_config, sizes, variational_settings
from nddo_ml.wavefunction.real_space.forces import Forces, forces
from nddo_ml.wavefunction.real_space.mean_field_start import fit_to_field
from nddo_ml.wavefunction.real_space.starting_orbitals import StartingOrbitals, starting_orbitals
from nddo_ml.wavefunction.real_space.systems import from_text
from nddo_ml.wavefunction.real_space.variational import (
    Averaging,
    IterationProgress,
    MonteCarloAverages,
    RunControl,
    VariationalSettings,
    WalkerState,
    averaged,
    evaluate,
    initial_state,
    never,
    train,
)

RESULT = "nddo_ml wavefunction result 1"


@dataclass(frozen=True)
class RealSpaceRun(RealSpaceCalculation):
    """Everything of a calculation before it starts."""

    settings: VariationalSettings       # of the training
    start: StartingOrbitals             # what the ansatz is fitted to before


def prepared(config: RealSpaceConfig, where: str = "the configuration") -> RealSpaceRun:
    """The calculation that a configuration asks for, which was read from `where`; nothing is sampled yet.

    Raises:
        InvalidMolecule: the molecule cannot be read, or is impossible.
        UnknownOption: a word or a number of the configuration is not allowed.
        MissingParameter, SCFNotConverged: the method to start from does not hold the state.
    """
    ansatz = config.ansatz
    system = from_text(config.molecule, config.charge, config.multiplicity, config.unit)
    check_config(config, where)
    psi = wavefunction(system, ansatz.kind, ansatz.determinants, config.seed, ansatz.singlet, sizes(ansatz)).to(config.device)
    psi = psi.float() if config.precision == "mixed" else psi
    start = starting_orbitals(system, ansatz.start, ansatz.determinants)
    return RealSpaceRun(config, system, psi, variational_settings(config, system), start)


def calculate(run: RealSpaceRun, report: Callable[[IterationProgress], None] = lambda progress: None,
              measured: Callable[[int], None] = lambda blocks: None, stop: Callable[[], bool] = never,
              restart: bool = False, world: World = ALONE) -> MonteCarloAverages | None:
    """Train to the iterations asked for and evaluate; from the checkpoint in the output folder if there is one.

    None: stop() said so before the end; the next call goes on as if it had not. Several processes share the walkers, the first
    one writes. `report` is told of each iteration, `measured` how often local energies were taken for the averages.

    Raises:
        UnknownOption: the walkers cannot be shared out evenly among the processes.
        IncompatibleFile: the checkpoint is of another molecule, of other settings or of another number of processes, or another
            run writes into the folder.
        SamplingFailed: the training diverged.
    """
    if run.settings.walkers % world.size:
        raise UnknownOption(f"sampling.walkers = {run.settings.walkers} is no multiple of the {world.size} processes.")
    control, folder = RunControl(stop, world), Path(run.config.output)
    with held(folder, world=world):
        state = _trained(run, folder, _begun(run, folder, restart, world), report, control)
        return None if control.ended() else _evaluated(run, folder, state, measured, control)


def _begun(run: RealSpaceRun, folder: Path, restart: bool, world: World) -> WalkerState:
    """The state of the checkpoint, or that before the first iteration, with the lines of metrics.jsonl that belong to it."""
    checkpoint = folder / "checkpoint.pt"
    state = None if restart or not checkpoint.exists() else read(checkpoint, run, world)
    world.gathered(None)                               # all have looked before the first writes
    if world.first:
        folder.mkdir(parents=True, exist_ok=True)
        _cut(folder / "metrics.jsonl", 0 if state is None else state.iteration)
    if state is not None:
        return state
    if run.start.field is not None:
        fit_to_field(run.psi, run.system, run.start.field, seed=run.config.seed)
        world.same([p.data for p in run.psi.parameters()])
    return initial_state(run.psi, run.system, run.settings, run.config.seed, world)


def _trained(run: RealSpaceRun, folder: Path, state: WalkerState, report: Callable[[IterationProgress], None],
             control: RunControl) -> WalkerState:
    """The state after the training, which leaves metrics and checkpoints in the folder."""
    checkpoint, world = folder / "checkpoint.pt", control.world
    with (folder / "metrics.jsonl").open("a") if world.first else nullcontext() as lines:

        def note(progress: IterationProgress, state: WalkerState) -> None:
            if lines is not None:
                lines.write(json.dumps(asdict(progress)) + "\n")
            if state.iteration % run.config.log.checkpoint == 0:
                if lines is not None:
                    lines.flush()
                write(checkpoint, run, state, world)
            report(progress)

        state = train(run.psi, state, run.settings, run.config.iterations, note, control)
    write(checkpoint, run, state, world)
    return state


def _evaluated(run: RealSpaceRun, folder: Path, state: WalkerState, measured: Callable[[int], None],
               control: RunControl) -> MonteCarloAverages | None:
    """The averages, with the result written to the folder; None if the control ended the run meanwhile."""
    asked, psi = run.config.evaluation, averaged(run.psi, state)
    averages = evaluate(psi, state, Averaging(asked.blocks, asked.steps), lambda done, energies: measured(done), control)
    if control.ended():
        return None
    if control.world.first:
        on_nuclei = forces(psi, state, asked.forces, asked.steps) if asked.forces else None
        write_text(folder / "result.json", json.dumps(result(run, state, averages, on_nuclei), indent=1))
    return averages


def result(run: RealSpaceRun, state: WalkerState, averages: MonteCarloAverages, on_nuclei: Forces | None = None) -> dict:
    """The result for machines: energies in hartree, positions in bohr, forces in hartree/bohr."""
    e, exact = averages.energy, run.config.exact
    of_nuclei = {} if on_nuclei is None else {"forces": on_nuclei.force.tolist(), "forces_error": on_nuclei.error.tolist()}
    return {"format": RESULT, "molecule": run.system.formula, "unit": "bohr", **plain(run.system), "energy": e.mean,
            "error": e.error, **of_nuclei, "spin_square": averages.spin.mean, "spin_square_error": averages.spin.error,
            "variance": e.variance, "correlation": e.correlation, "start": run.start.said, "acceptance": averages.acceptance,
            "reset": state.reset + averages.reset, "iterations": state.iteration, "exact": exact,
            "difference": None if exact is None else e.mean - exact, "config": asdict(run.config)}


def _cut(path, iterations):
    """Keep the lines of the first iterations in a file."""
    lines = path.read_text().splitlines() if path.exists() else []
    write_text(path, "".join(line + "\n" for line in lines[:iterations]))
