"""The commands `functional train`, `evaluate`, `constraints` and `list`: learned exchange-correlation functionals."""

import json
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from nddo_ml.cli.refusals import refusals
from nddo_ml.errors import UnknownOption

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False,
                  help="Exchange-correlation functionals in torch: train, evaluate, check.")


OURS = "Ours by name, file, or \"module:Class\" of your own"


def _importable(names):
    """Let classes of the user's own be found in this folder and beside the files that are named."""
    for folder in (Path(), *(Path(name).parent for name in names if name.endswith(".safetensors"))):
        if str(folder.resolve()) not in sys.path:
            sys.path.insert(0, str(folder.resolve()))


@app.command("list")
def list_():
    """List functionals that are known by name, and what they are."""
    from nddo_ml.functional.library import describe, names

    with refusals():
        for name in names():
            typer.echo(f"{name:<24}{describe(name)}")


@app.command()
def train(config: Annotated[Path, typer.Argument(help="TOML file; see examples/functional.toml.")],
          restart: Annotated[bool, typer.Option("--restart", help="Forget what an earlier run has done.")] = False,
          minutes: Annotated[float | None, typer.Option(min=0.0, help="Stop after so many; the same command goes on.")] = None):
    """Train a functional through its own self-consistent densities."""
    with refusals():
        _train(config, restart, minutes)


def _train(file, restart, minutes):
    import torch

    from nddo_ml.cli.train import Stop
    from nddo_ml.common.files import held
    from nddo_ml.common.toml import from_table, read_toml
    from nddo_ml.functional import library
    from nddo_ml.functional.training.config import Config

    torch.set_num_threads(1)
    sys.path.insert(0, str(file.parent.resolve()))      # where a class of the user's own may stand
    config = from_table(Config, read_toml(file), str(file))
    at = file.parent
    d, start = config.data, config.functional.start
    config = replace(config, output=str(at / config.output), data=replace(
        d, file=str(at / d.file) if d.file else "", properties=str(at / d.properties) if d.properties else ""),
        functional=replace(config.functional, start=str(at / start) if start.endswith(library.SUFFIX) else start))
    config.checked(str(file))
    with held(config.output):                           # the seeds share its files
        _train_seeds(config, Stop(minutes), restart)


def _train_seeds(config, stop, restart):
    """Every seed, with its pictures; then the best is chosen."""
    from nddo_ml.functional import library, plots
    from nddo_ml.functional.training.trainer import Training, best_seed

    for seed in config.seeds:
        with _bars() as watch:
            training = Training(config, seed, watch, stop, restart)
            path = training.run()
        if not training.finished:
            typer.echo("Stopped; the same command goes on from here.")
            return
        entries = [json.loads(line) for line in (path.parent / "metrics.jsonl").read_text().splitlines()]
        made = training.best_functional()
        plots.learning(entries, path.parent / "learning.png")
        beside = dict.fromkeys(name for name in (library.parent_of(made), "PBE") if name in library.PUBLISHED)
        plots.enhancement([made, *map(library.load, beside)], path.parent / "enhancement.png")
        typer.echo(f"Seed {seed}: {path} (metrics.jsonl, learning.png, enhancement.png beside it)")
    chosen = best_seed(config)
    typer.echo(f"Done: {Path(config.output) / path.name} is {chosen.parent.name}, the best on the validation molecules.")


@contextmanager
def _bars():
    """Progress on the terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    from nddo_ml.functional.training.losses import UNITS
    from nddo_ml.functional.training.trainer import Silent

    console = Console()

    class Bars(Silent):
        def __init__(self, progress):
            self.progress, self.tasks = progress, {}

        def _advance(self, name, done, total, live=""):
            if name not in self.tasks:
                self.tasks[name] = self.progress.add_task(name, total=total, live="")
            self.progress.update(self.tasks[name], completed=done, live=live, visible=done < total)

        def system(self, round_, done, total):
            self._advance(f"round {round_}: densities", done, total)

        def step(self, round_, done, total, loss):
            self._advance(f"round {round_}: steps", done, total, f"loss {loss:.4f}")

        def round(self, round_, errors, best, unconverged):
            known = {part: [f"{kind} {e:.3g} {UNITS.get(kind, 'kcal/mol')}" for kind, e in found.items() if e == e]
                     for part, found in errors.items()}
            words = "; ".join(f"{part}: {', '.join(found)}" for part, found in known.items() if found)
            trouble = f"; not converged: {', '.join(unconverged)}" if unconverged else ""
            console.print(f"round {round_}{' *' if best else '  '} {words}{trouble}", highlight=False, soft_wrap=True)

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(),
               TextColumn("{task.fields[live]}"))
    with Progress(*columns, console=console, refresh_per_second=2) as progress:
        yield Bars(progress)


@app.command()
def evaluate(names: Annotated[list[str], typer.Argument(help=f"{OURS}; PySCF's by their names in libxc.")],
             file: Annotated[Path | None, typer.Option(help="Thermochemistry file. [default: the bundled one]")] = None,
             only: Annotated[str, typer.Option(help="all; or train, validation, test of a training's default split.")] = "all",
             delocalisation: Annotated[bool, typer.Option("--delocalisation", help="H2+ and half electrons too.")] = False,
             basis: str = "def2-tzvpp", grid: int = 2, fitted: bool = True,
             json_file: Annotated[Path | None, typer.Option("--json", metavar="OUT.json")] = None,
             picture: Annotated[Path | None, typer.Option(metavar="OUT.png", help="Errors against references.")] = None):
    """Mean errors of atomisation energies and barriers, method beside method."""
    with refusals():
        _evaluate(names, file, only, delocalisation, basis, grid, fitted, json_file, picture)


def _evaluate(names, file, only, delocalisation, basis, grid, fitted, json_file, picture):
    import torch
    from rich.console import Console
    from rich.progress import Progress
    from rich.table import Table

    from nddo_ml.functional import plots
    from nddo_ml.functional.pyscf.densities import Level
    from nddo_ml.functional.training import delocalisation as extra
    from nddo_ml.functional.training.config import Data
    from nddo_ml.functional.training.evaluation import evaluate, method
    from nddo_ml.functional.training.thermochemistry import KINDS, PARTS, read_thermochemistry, split

    torch.set_num_threads(1)
    _importable(names)
    systems, reactions = read_thermochemistry(file)
    if only not in ("all", *PARTS):
        raise UnknownOption(f"--only {only}: expected all, {', '.join(PARTS)}.")
    if only != "all":
        reactions = split(reactions, Data.validation, Data.test)[only]
    if delocalisation:
        for more, added in (extra.stretched(), extra.fractional(Data.fractional)):
            systems, reactions = systems | more, reactions + added
    for name in names:
        method(name)
    level, results = Level(basis, grid, fitted), []
    with Progress(transient=True) as progress:
        for name in names:
            task = progress.add_task(name, total=None)
            results.append(evaluate(name, systems, reactions, level,
                                    lambda done, total, task=task: progress.update(task, completed=done, total=total)))
    table = Table(title=f"Mean errors, kcal/mol ({len(reactions)} reactions, {level.name})")
    kinds = [kind for kind in KINDS if any(r.kind == kind for r in reactions)]
    table.add_column("functional")
    for column in (*(c for kind in kinds for c in (kind, "largest")), "not converged"):
        table.add_column(column, justify="right")
    for r in results:
        cells = []
        for kind in kinds:
            e = [abs(x) for x in r.of_kind(kind)]
            cells += [f"{sum(e) / len(e):.2f}", f"{max(e):.1f}"] if e else ["-", "-"]
        table.add_row(Path(r.method).stem, *cells, ", ".join(r.unconverged) or "0")
    Console().print(table)
    if json_file is not None:
        errors = [[[x.kind, x.name, *x.systems, e] for x, e in r.errors.items()] for r in results]
        rows = [{"method": r.method, "level": level.name, "unconverged": r.unconverged, "helped": r.helped,
                 "energies": r.energies, "errors": e} for r, e in zip(results, errors, strict=True)]
        json_file.write_text(json.dumps(rows, indent=1))
    if picture is not None:
        plots.parity({Path(r.method).stem: r.errors for r in results}, picture)


@app.command()
def constraints(name: Annotated[str, typer.Argument(help=f"{OURS}.")]):
    """Check the exact conditions a functional obeys."""
    with refusals():
        from nddo_ml.functional import constraints as check
        from nddo_ml.functional import load

        _importable([name])
        for row in check(load(name)):
            typer.echo(f"{'yes' if row.holds else 'no ':<4}{row.name}: {row.worst:.1e} (allowed {row.tolerance:.0e})")
