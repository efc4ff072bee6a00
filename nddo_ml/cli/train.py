"""The commands `train` and `evaluate` at work: progress on the terminal, tables at the end."""

import json
import math
import signal
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from nddo_ml.common.processes import joined
from nddo_ml.errors import UnknownOption
from nddo_ml.hamiltonian.model import Hamiltonian
from nddo_ml.hamiltonian.weights import trained_on
from nddo_ml.training.config import DISPERSION, TrainingData, read_config
from nddo_ml.training.dataset import load, split, split_by
from nddo_ml.training.evaluate import Scores, atom_errors, predict, scores, with_offsets
from nddo_ml.training.plots import parity
from nddo_ml.training.stages import has_dispersion, with_dispersion, without_dispersion
from nddo_ml.training.trainer import SilentTraining, train

COLUMNS = (("forces", "F", 2), ("energy", "E", 2), ("energy_per_atom", "E/at.", 2), ("relative", "E rel.", 2),
           ("atomisation", "E at.", 2), ("interaction", "E int.", 2), ("dipole", "µ", 3), ("smallest_gap", "gap", 1),
           ("iterations", "it.", 1), ("contaminated", "<S²> off", 0), ("failed", "failed", 0))
UNITS = "F kcal/mol/Å, E kcal/mol, µ D; gap: the smallest, eV"


class Terminal(SilentTraining):
    """Progress bars with the errors of the running epoch, a line per validation."""

    def __init__(self, console: Console, progress: Progress):
        self.console, self.progress, self.task, self.batches = console, progress, None, 0

    def stage(self, number, stage, data, batches):
        name = stage.name or stage.kind
        self.console.print(f"Stage {number} ({name}): " + ", ".join(f"{row['part']} {row['frames']}" for row in data.summary)
                           + "".join(f"; left out ({why}): {n}" for why, n in data.left_out.items()), highlight=False)
        if self.task is not None:
            self.progress.remove_task(self.task)
        self.batches = batches
        self.task = self.progress.add_task(name, total=batches * (1 if stage.kind == "frozen" else stage.epochs), live="")

    def batch(self, epoch, done, means):
        live = "" if not means else (f"loss {means['loss']:.4f}  F {means['forces']:.2f}  E {means['energy']:.2f}  "
                                     f"µ {means['dipole']:.3f}  it. {means['iterations']:.1f}")
        self.progress.update(self.task, completed=epoch * self.batches + done, live=live)

    def epoch(self, epoch, means):
        trouble = [f"{means[name]} {name.replace('_', ' ')}" for name in ("unconverged", "contaminated", "failed",
                                                                          "skipped_steps", "hysteresis") if means[name]]
        if trouble:
            self.console.print(f"  epoch {epoch}: " + ", ".join(trouble), highlight=False)

    def validation(self, epoch, sets, best):
        words = "  ".join(f"{name} {s.forces:.2f}/{s.energy:.2f}/{s.dipole:.3f}" for name, s in sets.items())
        self.console.print(f"  epoch {epoch}{' *' if best else '  '} {words}", highlight=False)

    def message(self, text):
        self.console.print(text, highlight=False)


class Stop:
    """Asked after every batch: whether the time is up, or the user interrupted once (a second time ends at once)."""

    def __init__(self, minutes: float | None):
        self.end = math.inf if minutes is None else time.monotonic() + 60 * minutes
        self.interrupted = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._interrupt)

    def __call__(self) -> bool:
        return self.interrupted or time.monotonic() > self.end

    def _interrupt(self, number, frame):
        if self.interrupted:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self.interrupted = True


def findable(folder: Path) -> None:
    """Let modules beside a configuration, which may define features, heads and losses, be imported."""
    if str(folder.resolve()) not in sys.path:
        sys.path.insert(0, str(folder.resolve()))


def run_training(file: Path, restart: bool, minutes: float | None) -> None:
    """Train as the file says; what each printed figure is, it says at the start."""
    findable(file.parent)
    config = read_config(file)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(),
               TextColumn("{task.fields[live]}"))
    with joined() as world:
        console, stop = Console(quiet=not world.first), Stop(minutes)
        console.print("Errors of test sets: F kcal/mol/Å / E kcal/mol / µ D; * the best so far", highlight=False)
        with Progress(*columns, console=console, disable=not world.first, refresh_per_second=2) as progress:
            folders = train(config, world, Terminal(console, progress), stop, restart)
    if stop():
        console.print("Stopped; the same command goes on from here.", highlight=False)
    for folder in folders:
        console.print(f"Done: {folder} (weights, metrics.jsonl, learning.png, parity-*.png, structures-*.csv)", highlight=False)


def run_evaluation(files: list[str], method: str, validation: float | None, large: int | None, labels: str, total: bool | None,
                   fit: str | None, output: Path | None, picture: Path | None) -> None:
    """Score a method on labelled frames, part by part; `train` is what its file says it was trained on."""
    console = Console()
    if labels not in DISPERSION:
        raise UnknownOption(f"--labels {labels}: expected {', '.join(DISPERSION)}.")
    hamiltonian = Hamiltonian(method)
    total = has_dispersion(hamiltonian) if total is None else total
    frames = without_dispersion(load(files), labels)
    parts, said, note = _parts(with_dispersion(frames) if total else frames, hamiltonian, validation, large)
    if note:
        console.print(note, style="yellow", highlight=False)
    found, rows = {}, {}
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task(method, total=sum(map(len, parts.values())))
        for name, frames in parts.items():
            found[name] = predict(hamiltonian, frames, progress=lambda n: progress.advance(task, n))
    source = None
    if fit is not None:
        if fit not in parts:
            raise UnknownOption(f"--fit-offsets {fit}: the files have no such part; they have {', '.join(parts)}.")
        source = parts[fit], found[fit]
    if source is not None:
        found = {name: with_offsets(frames, found[name], *source) for name, frames in parts.items()}
    atoms = atom_errors(parts.get("atoms", []), found.get("atoms", []))
    for name, frames in parts.items():
        predictions = found[name]
        rows[name] = scores(frames, predictions, atoms)
        if picture is not None:
            parity(frames, predictions, picture.with_name(f"{picture.stem}-{name}.png"), f"{method}: {name}")
    console.print(table(rows, f"{method}, against labels {'with' if total else 'without'} dispersion"))
    if output is not None:
        output.write_text(json.dumps({"method": method, "files": [str(f) for f in files], "total": total, "split": said,
                                      "sets": {name: asdict(s) for name, s in rows.items()}}, indent=1))


def _parts(frames, hamiltonian, validation, large):
    """(frames by part, how they were split, a note for the terminal): by the molecules the model was trained on where its file
    says which, else by the hash of their names."""
    card = hamiltonian.method.card
    trained = None if card is None else trained_on(card)
    if trained is None:
        held = TrainingData.validation if validation is None else validation
        size = TrainingData.large if large is None else large
        note = "" if card is None else (
            f"The file of {card.name} does not say which molecules it was trained on: they are taken to be those of validation "
            f"= {held}, large = {size}. If its training held out others, parts below hold molecules it has seen.")
        return split(frames, held, size), {"by": "name", "validation": held, "large": size, "known": card is None}, note
    used = trained if large is None else replace(trained, large=large)
    note = "" if validation is None else (f"--validation {validation} is not needed: the file of {card.name} says which "
                                          f"{len(trained.molecules)} molecules it was trained on.")
    return split_by(used, frames), {"by": "model", "large": used.large, "known": True}, note


def table(rows: dict[str, Scores], title: str) -> Table:
    """Scores by part."""
    made = Table(title=title, caption=UNITS, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    values = {key: [getattr(s, key) for s in rows.values()] for key, _, _ in COLUMNS}
    shown = [c for c in COLUMNS if any(math.isfinite(x) for x in values[c[0]]) and (c[2] or any(values[c[0]]))]
    for name in ("part", "frames", *(label for _, label, _ in shown)):
        made.add_column(name, justify="left" if name == "part" else "right", no_wrap=True)
    for name, s in rows.items():
        made.add_row(name, str(s.frames), *(_number(getattr(s, key), digits) for key, _, digits in shown))
    return made


def _number(value, digits):
    return "-" if not math.isfinite(value) else f"{value:.{digits}f}"
