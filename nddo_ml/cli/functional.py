"""The commands `functional train`, `evaluate`, `constraints` and `list`: learned exchange-correlation functionals."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nddo_ml.cli.refusals import refusals
from nddo_ml.errors import UnknownOption

if TYPE_CHECKING:       # the commands load what they need when they run
    from nddo_ml.functional.pyscf.densities import KohnShamLevel
    from nddo_ml.functional.reactions import ChemicalSystem, Reaction
    from nddo_ml.functional.training.config import FunctionalConfig
    from nddo_ml.functional.training.evaluation import FunctionalScore
    from nddo_ml.functional.training.trainer import SilentFunctionalTraining

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False,
                  help="Exchange-correlation functionals in torch: train, evaluate, check.")

OURS = "Ours by name, file, or \"module:Class\" of your own"


def _importable(names: Iterable[str]) -> None:
    """Let classes of the user's own be found in this folder and beside the files that are named."""
    from nddo_ml.cli.progress import findable

    for folder in (Path(), *(Path(name).parent for name in names if name.endswith(".safetensors"))):
        findable(folder)


@app.command("list")
def list_() -> None:
    """List functionals that are known by name, and what they are."""
    from nddo_ml.functional.library import describe, names

    with refusals():
        for name in names():
            typer.echo(f"{name:<24}{describe(name)}")


@app.command()
def train(config: Annotated[Path, typer.Argument(help="TOML file; see examples/functional.toml.")],
          restart: Annotated[bool, typer.Option("--restart", help="Forget what an earlier run has done.")] = False,
          minutes: Annotated[float | None, typer.Option(min=0.0, help="Stop after so many; the same command goes on.")] = None,
          ) -> None:
    """Train a functional through its own self-consistent densities."""
    with refusals():
        _train(config, restart, minutes)


def _train(file: Path, restart: bool, minutes: float | None) -> None:
    import torch

    from nddo_ml.cli.progress import Stop, findable
    from nddo_ml.common.files import held

    torch.set_num_threads(1)
    findable(file.parent)                               # where a class of the user's own may stand
    config = _configuration(file)
    with held(config.output):                           # the seeds share its files
        _train_seeds(config, Stop(minutes), restart)


def _configuration(file: Path) -> "FunctionalConfig":
    """What a TOML file asks for; its paths are beside it."""
    from nddo_ml.common.toml import from_table, read_toml
    from nddo_ml.functional import library
    from nddo_ml.functional.training.config import FunctionalConfig

    def beside(name: str) -> str:
        return str(file.parent / name) if name else ""

    config = from_table(FunctionalConfig, read_toml(file), str(file))
    start = config.functional.start
    data = replace(config.data, file=beside(config.data.file), properties=beside(config.data.properties))
    form = replace(config.functional, start=beside(start) if start.endswith(library.SUFFIX) else start)
    return replace(config, output=str(file.parent / config.output), data=data, functional=form).checked(str(file))


def _train_seeds(config: "FunctionalConfig", stop: Callable[[], bool], restart: bool) -> None:
    """Every seed, with its pictures; then the best is chosen."""
    from nddo_ml.functional import library, plots
    from nddo_ml.functional.training.trainer import FunctionalTraining, best_seed

    for seed in config.seeds:
        with _bars() as watch:
            training = FunctionalTraining(config, seed, watch, stop, restart)
            path = training.run()
        if not training.finished:
            typer.echo("Stopped; the same command goes on from here.")
            return
        entries = [json.loads(line) for line in (path.parent / "metrics.jsonl").read_text().splitlines()]
        best = training.best_functional()
        plots.learning(entries, path.parent / "learning.png")
        beside = dict.fromkeys(name for name in (library.parent_of(best), "PBE") if name in library.PUBLISHED)
        plots.enhancement([best, *map(library.load, beside)], path.parent / "enhancement.png")
        typer.echo(f"Seed {seed}: {path} (metrics.jsonl, learning.png, enhancement.png beside it)")
    chosen = best_seed(config)
    typer.echo(f"Done: {Path(config.output) / path.name} is {chosen.parent.name}, the best on the validation molecules.")


@contextmanager
def _bars() -> "Iterator[SilentFunctionalTraining]":
    """Progress on the terminal."""
    from rich.console import Console
    from rich.progress import Progress

    from nddo_ml.cli.progress import bars
    from nddo_ml.functional.training.losses import UNITS
    from nddo_ml.functional.training.trainer import SilentFunctionalTraining

    console = Console()

    class ShownFunctionalTraining(SilentFunctionalTraining):
        """A bar for the densities of each round and one for its steps; a line for its errors."""

        def __init__(self, progress: Progress) -> None:
            self.progress, self.tasks = progress, {}

        def _advance(self, name: str, done: int, total: int, live: str = "") -> None:
            if name not in self.tasks:
                self.tasks[name] = self.progress.add_task(name, total=total, live="")
            self.progress.update(self.tasks[name], completed=done, live=live, visible=done < total)

        def system(self, round_: int, done: int, total: int) -> None:
            self._advance(f"round {round_}: densities", done, total)

        def step(self, round_: int, done: int, total: int, loss: float) -> None:
            self._advance(f"round {round_}: steps", done, total, f"loss {loss:.4f}")

        def round(self, round_: int, errors: Mapping[str, Mapping[str, float]], best: bool, unconverged: Sequence[str]) -> None:
            known = {part: [f"{kind} {e:.3g} {UNITS.get(kind, 'kcal/mol')}" for kind, e in by_kind.items() if e == e]
                     for part, by_kind in errors.items()}
            words = "; ".join(f"{part}: {', '.join(said)}" for part, said in known.items() if said)
            trouble = f"; not converged: {', '.join(unconverged)}" if unconverged else ""
            console.print(f"round {round_}{' *' if best else '  '} {words}{trouble}", highlight=False, soft_wrap=True)

    with bars(console) as progress:
        yield ShownFunctionalTraining(progress)


@app.command()
def evaluate(names: Annotated[list[str], typer.Argument(help=f"{OURS}; PySCF's by their names in libxc.")],
             file: Annotated[Path | None, typer.Option(help="Thermochemistry file. [default: the bundled one]")] = None,
             only: Annotated[str, typer.Option(help="all; or train, validation, test of a training's default split.")] = "all",
             delocalisation: Annotated[bool, typer.Option("--delocalisation", help="H2+ and half electrons too.")] = False,
             basis: str = "def2-tzvpp", grid: int = 2, fitted: bool = True,
             json_file: Annotated[Path | None, typer.Option("--json", metavar="OUT.json")] = None,
             picture: Annotated[Path | None, typer.Option(metavar="OUT.png", help="Errors against references.")] = None,
             ) -> None:
    """Mean errors of atomisation energies and barriers, method beside method."""
    with refusals():
        import torch
        from rich.console import Console

        from nddo_ml.functional import plots
        from nddo_ml.functional.pyscf.densities import KohnShamLevel

        torch.set_num_threads(1)
        _importable(names)
        systems, reactions = _reactions(file, only, delocalisation)
        level = KohnShamLevel(basis, grid, fitted)
        scores = _scores(names, systems, reactions, level)
        Console().print(_table(scores, reactions, level))
        if json_file is not None:
            json_file.write_text(json.dumps([_plain(score, level) for score in scores], indent=1))
        if picture is not None:
            plots.parity({Path(score.method).stem: score.errors for score in scores}, picture)


def _reactions(file: Path | None, only: str, delocalised: bool) -> "tuple[dict[str, ChemicalSystem], list[Reaction]]":
    """The systems and reactions that methods are compared by."""
    from nddo_ml.functional.training import delocalisation
    from nddo_ml.functional.training.config import FunctionalData
    from nddo_ml.functional.training.thermochemistry import PARTS, read_thermochemistry, split

    systems, reactions = read_thermochemistry(file)
    if only not in ("all", *PARTS):
        raise UnknownOption(f"--only {only}: expected all, {', '.join(PARTS)}.")
    if only != "all":
        reactions = split(reactions, FunctionalData.validation, FunctionalData.test)[only]
    if delocalised:
        for more, added in (delocalisation.stretched(), delocalisation.fractional(FunctionalData.fractional)):
            systems, reactions = systems | more, reactions + added
    return systems, reactions


def _scores(names: Sequence[str], systems: "Mapping[str, ChemicalSystem]", reactions: "Sequence[Reaction]",
            level: "KohnShamLevel") -> "list[FunctionalScore]":
    """How good each method is, with a bar while it is found out; unknown names are refused before any work."""
    from rich.progress import Progress

    from nddo_ml.functional.training.evaluation import evaluate, method

    for name in names:
        method(name)
    scores = []
    with Progress(transient=True) as progress:
        for name in names:
            task = progress.add_task(name, total=None)
            scores.append(evaluate(name, systems, reactions, level,
                                   lambda done, total, task=task: progress.update(task, completed=done, total=total)))
    return scores


def _table(scores: "Sequence[FunctionalScore]", reactions: "Sequence[Reaction]", level: "KohnShamLevel") -> Any:
    """Mean and largest errors by kind of reaction, a row for each method."""
    from rich.table import Table

    from nddo_ml.functional.reactions import KINDS

    table = Table(title=f"Mean errors, kcal/mol ({len(reactions)} reactions, {level.name})")
    kinds = [kind for kind in KINDS if any(r.kind == kind for r in reactions)]
    table.add_column("functional")
    for column in (*(c for kind in kinds for c in (kind, "largest")), "not converged"):
        table.add_column(column, justify="right")
    for score in scores:
        cells = []
        for kind in kinds:
            e = [abs(x) for x in score.of_kind(kind)]
            cells += [f"{sum(e) / len(e):.2f}", f"{max(e):.1f}"] if e else ["-", "-"]
        table.add_row(Path(score.method).stem, *cells, ", ".join(score.unconverged) or "0")
    return table


def _plain(score: "FunctionalScore", level: "KohnShamLevel") -> dict[str, Any]:
    """What JSON holds of it."""
    return {"method": score.method, "level": level.name, "unconverged": score.unconverged, "helped": score.helped,
            "energies": score.energies, "errors": [[r.kind, r.name, *r.systems, e] for r, e in score.errors.items()]}


@app.command()
def constraints(name: Annotated[str, typer.Argument(help=f"{OURS}.")]) -> None:
    """Check the exact conditions a functional obeys."""
    with refusals():
        from nddo_ml.functional import constraints as check
        from nddo_ml.functional import load

        _importable([name])
        for row in check(load(name)):
            typer.echo(f"{'yes' if row.holds else 'no ':<4}{row.name}: {row.worst:.1e} (allowed {row.tolerance:.0e})")
