"""The command `nddo-ml active`: the loop of active learning with progress bars, a line per round and a table at the end."""

from functools import partial
from pathlib import Path

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from nddo_ml.active.config import read_active
from nddo_ml.active.loop import Silent, active
from nddo_ml.cli.label import Request, sources_of
from nddo_ml.cli.train import Stop, Terminal, findable
from nddo_ml.interfaces.ase import NDDO

HEADS = ("round", "picked", "labels", "F fresh", "in 68/95%", "E fresh", "F held out", "E held out")


class Shown(Silent):
    """Progress bars of the exploration, the labels and the training of a round."""

    def __init__(self, console: Console, progress: Progress):
        self.console, self.progress, self.bars, self.number = console, progress, {}, 0

    def round(self, number, rounds):
        for bar in self.bars.values():
            self.progress.remove_task(bar)
        self.bars, self.number = {}, number
        what = "the ensemble to begin with" if number == 0 else f"round {number} of {rounds}"
        self.console.print(what, highlight=False)

    def exploring(self, step, steps, running):
        self._bar("exploring", step, steps, f"{running} trajectories")

    def labels(self, labelled, outstanding, failed):
        self._bar("labels", labelled, labelled + outstanding, f"{failed} failed" if failed else "")

    def training(self, member, members):
        return Terminal(Console(quiet=True), _Named(self, f"member {member} of {members}"))

    def done(self, record):
        if record.get("fresh"):
            self.console.print(f"  fresh labels, before training: F {_of(record['fresh'], 'forces')} kcal/mol/Å, "
                               f"E {_of(record['fresh'], 'energy')} kcal/mol", highlight=False)

    def message(self, text):
        self.console.print(text, highlight=False)

    def _bar(self, name, done, total, live):
        if name not in self.bars:
            self.bars[name] = self.progress.add_task(name, total=total, live="")
        self.progress.update(self.bars[name], completed=done, total=total, live=live)


class _Named:
    """A progress whose one task carries a name and goes when the next training begins."""

    def __init__(self, shown, name):
        self.shown, self.name = shown, name

    def add_task(self, description, total, live):
        """The bar of a stage."""
        self.remove_task(None)
        self.shown.bars["training"] = self.shown.progress.add_task(f"{self.name}: {description}", total=total, live=live)
        return self.shown.bars["training"]

    def remove_task(self, task):
        """Take the bar away."""
        if "training" in self.shown.bars:
            self.shown.progress.remove_task(self.shown.bars.pop("training"))

    def update(self, task, **settings):
        """Move the bar."""
        self.shown.progress.update(task, **settings)


def run(file: Path, minutes: float | None) -> None:
    """Run the loop as the file says, from where it stands."""
    findable(file.parent)
    config, training = read_active(file)
    findable(Path(config.train).parent)
    console = Console()
    sources, refused, notes = sources_of(Request(list(config.explore.structures), [], Path(config.output)))
    for note in notes:
        console.print(f"Note: {note}", style="yellow", highlight=False, markup=False)
    for name, error in refused:
        console.print(f"{name} is left out: {error}", style="yellow", highlight=False)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(),
               TextColumn("{task.fields[live]}"))
    with Progress(*columns, console=console, refresh_per_second=2) as progress:
        records = active(config, training, sources, lambda path: partial(NDDO, path, threads=1), Shown(console, progress),
                         Stop(minutes))
    console.print(table(records))
    console.print(f"{config.output}: labels.extxyz, rounds.jsonl, rounds.png; the newest ensemble: "
                  f"{Path(config.output) / f'round-{len(records) - 1:03d}'}", highlight=False)


def table(records: list[dict]) -> Table:
    """A row per round: errors of fresh labels before training and their uncertainty, the fraction of force errors within it
    and within 1.96 of it, errors and uncertainties of held-out frames after training."""
    made = Table(caption="error ± uncertainty, root mean squares, kcal/mol, Å; fresh: labels before they were trained on",
                 box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in HEADS:
        made.add_column(name, justify="right", overflow="fold")
    for r in records:
        fresh, held = r.get("fresh"), r.get("held_out")
        within = "-" if not fresh else f"{100 * fresh['forces']['coverage_68']:.0f}/{100 * fresh['forces']['coverage_95']:.0f}"
        counts = ["-" if r.get(key) is None else str(r[key]) for key in ("picked", "labels")]
        made.add_row(str(r["round"]), *counts, _of(fresh, "forces"), within, _of(fresh, "energy"), _of(held, "forces"),
                     _of(held, "energy"))
    return made


def _of(worth, name):
    """Error and uncertainty."""
    if not worth or worth[name]["error"] is None:
        return "-"
    return f"{worth[name]['error']:.2f}±{worth[name]['uncertainty']:.2f}"
