"""The command `nddo-ml active`: the loop of active learning with progress bars, a line per round and a table at the end."""

from functools import partial
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.progress import Progress, TaskID
from rich.table import Table

from nddo_ml.active.config import read_active
from nddo_ml.active.loop import SilentLoop, active
from nddo_ml.cli.label import LabelRequest, sources_of
from nddo_ml.cli.progress import Stop, bars, findable
from nddo_ml.cli.train import Terminal
from nddo_ml.interfaces.ase import NDDO
from nddo_ml.training.config import Stage
from nddo_ml.training.stages import StageData

HEADS = ("round", "picked", "labels", "F fresh", "in 68/95%", "E fresh", "F held out", "E held out")


class LoopBars(SilentLoop):
    """Progress bars of the exploration, the labels and the training of a round."""

    def __init__(self, console: Console, progress: Progress):
        self.console, self.progress = console, progress
        self.bars: dict[str, TaskID] = {}

    def round(self, number: int, rounds: int) -> None:
        """A round begins; 0: the ensemble to begin with."""
        for bar in self.bars.values():
            self.progress.remove_task(bar)
        self.bars = {}
        what = "the ensemble to begin with" if number == 0 else f"round {number} of {rounds}"
        self.console.print(what, highlight=False)

    def exploring(self, step: int, steps: int, running: int) -> None:
        """So many steps are done, so many trajectories go on."""
        self._bar("exploring", step, steps, f"{running} trajectories")

    def labels(self, labelled: int, outstanding: int, failed: int) -> None:
        """So many labels there are, are being made, could not be made."""
        self._bar("labels", labelled, labelled + outstanding, f"{failed} failed" if failed else "")

    def training(self, member: int, members: int) -> Terminal:
        """A member is trained."""
        return MemberBar(self, f"member {member} of {members}")

    def done(self, record: dict[str, Any]) -> None:
        """A round is over."""
        if record.get("fresh"):
            self.console.print(f"  fresh labels, before training: F {_of(record['fresh'], 'forces')} kcal/mol/Å, "
                               f"E {_of(record['fresh'], 'energy')} kcal/mol", highlight=False)

    def message(self, text: str) -> None:
        """Something to know."""
        self.console.print(text, highlight=False)

    def _bar(self, name: str, done: int, total: int, live: str) -> None:
        if name not in self.bars:
            self.bars[name] = self.progress.add_task(name, total=total, live="")
        self.progress.update(self.bars[name], completed=done, total=total, live=live)


class MemberBar(Terminal):
    """The bar of a member's training, without lines of text; it stays until the next stage or the next member begins."""

    def __init__(self, loop: LoopBars, name: str):
        super().__init__(Console(quiet=True), loop.progress)
        self.loop, self.name = loop, name

    def stage(self, number: int, stage: Stage, data: StageData, batches: int) -> None:
        """A stage begins."""
        self._clear()
        super().stage(number, stage, data, batches)
        assert self.task is not None
        self.progress.update(self.task, description=f"{self.name}: {stage.name or stage.kind}")
        self.loop.bars["training"] = self.task

    def _clear(self) -> None:
        """Take the bar of the stage before away, of this member or the one before it."""
        bar, self.task = self.loop.bars.pop("training", None), None
        if bar is not None:
            self.progress.remove_task(bar)


def run(file: Path, minutes: float | None) -> None:
    """Run the loop as the file says, from where it stands."""
    findable(file.parent)
    config, training = read_active(file)
    findable(Path(config.train).parent)
    console = Console()
    sources, refused, notes = sources_of(LabelRequest(list(config.explore.structures), [], Path(config.output)))
    for note in notes:
        console.print(f"Note: {note}", style="yellow", highlight=False, markup=False)
    for name, error in refused:
        console.print(f"{name} is left out: {error}", style="yellow", highlight=False)
    with bars(console) as progress:
        records = active(config, training, sources, lambda path: partial(NDDO, path, threads=1), LoopBars(console, progress),
                         Stop(minutes))
    console.print(table(records))
    console.print(f"{config.output}: labels.extxyz, rounds.jsonl, rounds.png; the newest ensemble: "
                  f"{Path(config.output) / f'round-{len(records) - 1:03d}'}", highlight=False)


def table(records: list[dict[str, Any]]) -> Table:
    """A row per round: errors of fresh labels before training and their uncertainty, the fraction of force errors within it
    and within 1.96 of it, errors and uncertainties of held-out frames after training.
    """
    rows = Table(caption="error ± uncertainty, root mean squares, kcal/mol, Å; fresh: labels before they were trained on",
                 box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in HEADS:
        rows.add_column(name, justify="right", overflow="fold")
    for r in records:
        fresh, held = r.get("fresh"), r.get("held_out")
        within = "-" if not fresh else f"{100 * fresh['forces']['coverage_68']:.0f}/{100 * fresh['forces']['coverage_95']:.0f}"
        counts = ["-" if r.get(key) is None else str(r[key]) for key in ("picked", "labels")]
        rows.add_row(str(r["round"]), *counts, _of(fresh, "forces"), within, _of(fresh, "energy"), _of(held, "forces"),
                     _of(held, "energy"))
    return rows


def _of(worth: dict[str, Any] | None, name: str) -> str:
    """Error and uncertainty."""
    if not worth or worth[name]["error"] is None:
        return "-"
    return f"{worth[name]['error']:.2f}±{worth[name]['uncertainty']:.2f}"
