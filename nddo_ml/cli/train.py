"""The commands `train` and `evaluate` at work: progress on the terminal, tables at the end."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.progress import Progress, TaskID
from rich.table import Table

from nddo_ml.cli.progress import Stop, bars, findable
from nddo_ml.common.processes import joined
from nddo_ml.errors import UnknownOption
from nddo_ml.hamiltonian.model import Hamiltonian
from nddo_ml.hamiltonian.weights import trained_on
from nddo_ml.training.config import DISPERSION, Stage, TrainingData, read_config
from nddo_ml.training.dataset import LabelledFrame, load, split, split_by
from nddo_ml.training.evaluate import Prediction, Scores, atom_errors, predict, scores, with_offsets
from nddo_ml.training.plots import parity
from nddo_ml.training.stages import StageData, has_dispersion, with_dispersion, without_dispersion
from nddo_ml.training.trainer import SilentTraining, train

COLUMNS = (("forces", "F", 2), ("energy", "E", 2), ("energy_per_atom", "E/at.", 2), ("relative", "E rel.", 2),
           ("atomisation", "E at.", 2), ("interaction", "E int.", 2), ("dipole", "µ", 3), ("smallest_gap", "gap", 1),
           ("iterations", "it.", 1), ("contaminated", "<S²> off", 0), ("failed", "failed", 0))
UNITS = "F kcal/mol/Å, E kcal/mol, µ D; gap: the smallest, eV"


class Terminal(SilentTraining):
    """Progress bars with the errors of the running epoch, a line per validation."""

    def __init__(self, console: Console, progress: Progress):
        self.console, self.progress, self.batches = console, progress, 0
        self.task: TaskID | None = None

    def stage(self, number: int, stage: Stage, data: StageData, batches: int) -> None:
        """A stage begins; batches: of an epoch."""
        name = stage.name or stage.kind
        self.console.print(f"Stage {number} ({name}): " + ", ".join(f"{row['part']} {row['frames']}" for row in data.summary)
                           + "".join(f"; left out ({why}): {n}" for why, n in data.left_out.items()), highlight=False)
        if self.task is not None:
            self.progress.remove_task(self.task)
        self.batches = batches
        self.task = self.progress.add_task(name, total=batches * (1 if stage.kind == "frozen" else stage.epochs), live="")

    def batch(self, epoch: int, done: int, means: dict[str, Any]) -> None:
        """A batch is done; means: of the epoch so far."""
        assert self.task is not None      # a stage has begun
        live = "" if not means else (f"loss {means['loss']:.4f}  F {means['forces']:.2f}  E {means['energy']:.2f}  "
                                     f"µ {means['dipole']:.3f}  it. {means['iterations']:.1f}")
        self.progress.update(self.task, completed=epoch * self.batches + done, live=live)

    def epoch(self, epoch: int, means: dict[str, Any]) -> None:
        """An epoch is over."""
        trouble = [f"{means[name]} {name.replace('_', ' ')}" for name in ("unconverged", "contaminated", "failed",
                                                                          "skipped_steps", "hysteresis") if means[name]]
        if trouble:
            self.console.print(f"  epoch {epoch}: " + ", ".join(trouble), highlight=False)

    def validation(self, epoch: int, sets: dict[str, Scores], best: bool) -> None:
        """The averaged weights were scored."""
        words = "  ".join(f"{name} {s.forces:.2f}/{s.energy:.2f}/{s.dipole:.3f}" for name, s in sets.items())
        self.console.print(f"  epoch {epoch}{' *' if best else '  '} {words}", highlight=False)

    def message(self, text: str) -> None:
        """Something to know."""
        self.console.print(text, highlight=False)


def run_training(file: Path, restart: bool, minutes: float | None) -> None:
    """Train as the file says; what each printed figure is, it says at the start.

    Raises: NDDOError, if the configuration or its data are refused, or another run holds the folder.
    """
    findable(file.parent)
    config = read_config(file)
    with joined() as world:
        console, stop = Console(quiet=not world.first), Stop(minutes)
        console.print("Errors of test sets: F kcal/mol/Å / E kcal/mol / µ D; * the best so far", highlight=False)
        with bars(console, disable=not world.first) as progress:
            folders = train(config, world, Terminal(console, progress), stop, restart)
    if stop():
        console.print("Stopped; the same command goes on from here.", highlight=False)
    for folder in folders:
        console.print(f"Done: {folder} (weights, metrics.jsonl, learning.png, parity-*.png, structures-*.csv)", highlight=False)


@dataclass(frozen=True)
class Scoring:
    """What to score, and how; see `nddo-ml evaluate --help`."""

    files: list[str]                    # labelled frames
    method: str                         # its name, or a file of weights
    validation: float | None = None     # fraction of molecules held out; None: as in the training, or TrainingData.validation
    large: int | None = None            # heavy atoms from which on a molecule is large; None: as above
    labels: str = "apart"               # what the labels hold of dispersion, one of DISPERSION
    total: bool | None = None           # compare with dispersion in the labels; None: if the method has dispersion
    fit: str | None = None              # part of the files that energies per element are fitted to
    output: Path | None = None          # scores, for machines
    picture: Path | None = None         # parity plots, one per part


def run_evaluation(wanted: Scoring) -> None:
    """Score a method on labelled frames, part by part; `train` is what its file says it was trained on.

    Raises: UnknownOption, IncompatibleFile.
    """
    console = Console()
    if wanted.labels not in DISPERSION:
        raise UnknownOption(f"--labels {wanted.labels}: expected {', '.join(DISPERSION)}.")
    hamiltonian = Hamiltonian(wanted.method)
    total = has_dispersion(hamiltonian) if wanted.total is None else wanted.total
    frames = without_dispersion(load(wanted.files), wanted.labels)
    parts, said, note = _parts(with_dispersion(frames) if total else frames, hamiltonian, wanted)
    if note:
        console.print(note, style="yellow", highlight=False)
    predictions = _predictions(console, hamiltonian, parts, wanted)
    atoms, rows = atom_errors(parts.get("atoms", []), predictions.get("atoms", [])), {}
    for name, frames in parts.items():
        rows[name] = scores(frames, predictions[name], atoms)
        if wanted.picture is not None:
            file = wanted.picture.with_name(f"{wanted.picture.stem}-{name}.png")
            parity(frames, predictions[name], file, f"{wanted.method}: {name}")
    console.print(table(rows, f"{wanted.method}, against labels {'with' if total else 'without'} dispersion"))
    if wanted.output is not None:
        document = {"method": wanted.method, "files": [str(f) for f in wanted.files], "total": total, "split": said,
                    "sets": {name: asdict(s) for name, s in rows.items()}}
        wanted.output.write_text(json.dumps(document, indent=1))


def _predictions(console: Console, hamiltonian: Hamiltonian, parts: dict[str, list[LabelledFrame]], wanted: Scoring
                 ) -> dict[str, list[Prediction]]:
    """What the method says about every part, with energies per element fitted where that is asked for."""
    predictions = {}
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task(wanted.method, total=sum(map(len, parts.values())))
        for name, frames in parts.items():
            predictions[name] = predict(hamiltonian, frames, progress=lambda n: progress.advance(task, n))
    if wanted.fit is None:
        return predictions
    if wanted.fit not in parts:
        raise UnknownOption(f"--fit-offsets {wanted.fit}: the files have no such part; they have {', '.join(parts)}.")
    source = parts[wanted.fit], predictions[wanted.fit]
    return {name: with_offsets(frames, predictions[name], *source) for name, frames in parts.items()}


def _parts(frames: Sequence[LabelledFrame], hamiltonian: Hamiltonian, wanted: Scoring
           ) -> tuple[dict[str, list[LabelledFrame]], dict[str, Any], str]:
    """(frames by part, how they were split, a note for the terminal): by the molecules the model was trained on where its file
    says which, else by the hash of their names."""
    card = hamiltonian.method.card
    trained = None if card is None else trained_on(card)
    if card is None or trained is None:
        held = TrainingData.validation if wanted.validation is None else wanted.validation
        size = TrainingData.large if wanted.large is None else wanted.large
        note = "" if card is None else (
            f"The file of {card.name} does not say which molecules it was trained on: they are taken to be those of validation "
            f"= {held}, large = {size}. If its training held out others, parts below hold molecules it has seen.")
        return split(frames, held, size), {"by": "name", "validation": held, "large": size, "known": card is None}, note
    used = trained if wanted.large is None else replace(trained, large=wanted.large)
    note = "" if wanted.validation is None else (
        f"--validation {wanted.validation} is not needed: the file of {card.name} says which {len(trained.molecules)} "
        "molecules it was trained on.")
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
