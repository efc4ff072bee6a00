"""The command `wavefunction` at work: progress with energy and error bar, result at the end."""

import math
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from nddo_ml.cli.train import Stop
from nddo_ml.common.processes import joined
from nddo_ml.common.toml import from_table, read_toml
from nddo_ml.errors import MissingExtra, UnknownOption
from nddo_ml.wavefunction.real_space.config import RealSpaceConfig
from nddo_ml.wavefunction.real_space.plots import pictures
from nddo_ml.wavefunction.real_space.run import calculate, prepared
from nddo_ml.wavefunction.real_space.variational import IterationProgress


def configuration(file: Path | None, molecule: str | None, unit: str | None, output: str | None) -> RealSpaceConfig:
    """The configuration of a TOML file, or of the molecule given in its place; the other arguments go before those of the file.

    Raises:
        IncompatibleFile: the file cannot be read.
        UnknownOption: a key does not exist, or there is neither a file nor a molecule.
    """
    if file is None and molecule is None:
        raise UnknownOption("Nothing to calculate: nddo-ml wavefunction CONFIG.toml, or --molecule \"He 0 0 0\".")
    values = {} if file is None else read_toml(file)
    if molecule is not None:
        values["molecule"] = molecule
    if unit is not None:
        values["unit"] = unit
    config = from_table(RealSpaceConfig, values, "the command" if file is None else str(file))
    config = config if file is None else config.with_output(file.parent)
    return config if output is None else replace(config, output=output)


def run_wavefunction(config: RealSpaceConfig, restart: bool, minutes: float | None) -> None:
    """Calculate, alone or with the other processes of torchrun, and print what came out."""
    with joined() as world:
        _run(config, restart, minutes, world)


def _run(config, restart, minutes, world):
    if config.device == "cuda" and world.size > 1:
        torch.cuda.set_device(world.rank % max(1, torch.cuda.device_count()))
    run = prepared(config)
    console, stop = Console(quiet=not world.first), Stop(minutes)
    system, reset, recent = run.system, [0], []
    console.print(f"{system.formula} (bohr), {system.up} up and {system.down} down; {config.ansatz.kind}, "
                  f"{sum(p.numel() for p in run.psi.parameters())} parameters, {config.sampling.walkers} walkers; from "
                  f"{run.start.said}", highlight=False)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(),
               TextColumn("{task.fields[live]}"))
    with Progress(*columns, console=console, refresh_per_second=2) as bar:
        training = bar.add_task("training", total=config.iterations, live="")
        measuring = bar.add_task("averages", total=config.evaluation.blocks, live="")

        def report(progress: IterationProgress) -> None:
            recent.append(progress)
            del recent[:-50]
            mean = sum(x.energy for x in recent) / len(recent)
            error = math.sqrt(sum(x.error**2 for x in recent)) / len(recent)
            bar.update(training, completed=progress.iteration + 1,
                       live=f"E {mean:.5f}({error:.5f})  var {progress.variance:.4f}  acc. {progress.acceptance:.2f}")
            if progress.reset > reset[0]:
                console.print(f"  iteration {progress.iteration}: {progress.reset - reset[0]} walkers reset", highlight=False)
                reset[0] = progress.reset

        averages = calculate(run, report, lambda done: bar.update(measuring, completed=done), stop, restart, world)
    if averages is None:
        console.print("Stopped; the same command goes on from here.", highlight=False)
        return
    if not world.first:
        return
    e = averages.energy
    words = "" if config.exact is None else f"; exact {config.exact:.6f}, difference {1e3 * (e.mean - config.exact):+.3f} mHa"
    console.print(f"E = {e.mean:.6f} +- {e.error:.6f} hartree{words}", highlight=False)
    m = (system.up - system.down) / 2
    console.print(f"<S^2> = {averages.spin.mean:.3f} +- {averages.spin.error:.3f}; {m * (m + 1):g} without other spins mixed "
                  "in", highlight=False)
    console.print(f"variance {e.variance:.5f}, correlation {e.correlation:.1f} blocks, acceptance {averages.acceptance:.2f}, "
                  f"walkers reset {reset[0] + averages.reset}", highlight=False)
    folder = Path(config.output)
    try:
        made = ", ".join(p.name for p in pictures(folder, averages, config.exact))
    except MissingExtra as error:
        made = str(error)
    console.print(f"Done: {folder} (result.json, metrics.jsonl, {made})", highlight=False)
