"""The command `nddo-ml label`: structures and SMILES in, labelled frames out, with a progress bar and a summary."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from nddo_ml.cli import structures
from nddo_ml.cli.refusals import INCOMPLETE
from nddo_ml.errors import IncompatibleFile, InvalidMolecule, NDDOError, UnknownOption
from nddo_ml.interfaces.ase import NDDO
from nddo_ml.labels.journal import Journal
from nddo_ml.labels.label import LabelProgress, label, with_partners
from nddo_ml.labels.levels.theory import Level
from nddo_ml.labels.queue import queue
from nddo_ml.labels.sampling import Sampling, Source, plan
from nddo_ml.labels.structures import from_atoms, read_smiles
from nddo_ml.methods import method as find_method
from nddo_ml.structures.reading import read

LISTS = (".smi", ".smiles", ".json")
INTERRUPTED = 130      # exit code of a command stopped from the terminal
QUIET = 60.0           # seconds between two lines where there is no terminal


@dataclass(frozen=True)
class LabelRequest:
    """What to label and how structures are drawn; see `nddo-ml label --help`."""

    files: list[str]            # of structures, and lists of SMILES
    smiles: list[str]
    output: Path
    sample: str = ""            # the plan
    method: str = "PM6-D3H4"    # that the sampling uses
    charged: float = 0.0        # fraction of the structures that is labelled among point charges too
    seed: int = 0
    isolated: bool = False      # take periodic input as isolated molecules
    retry: bool = False         # what failed in an earlier run


class Refused(NamedTuple):
    """A frame of a file that is no structure to be labelled."""

    name: str
    error: NDDOError


def run(request: LabelRequest, level: Level, jobs: int, dask: str | None) -> int:
    """The exit code: 0, INCOMPLETE where something got no label, INTERRUPTED."""
    console = Console(stderr=True)
    sampling = sampling_of(request)
    sources, refused, notes = sources_of(request)
    if not sources:
        nothing = IncompatibleFile("Nothing to label: give structure files, lists of SMILES (.smi, .json) or --smiles CCO.")
        raise refused[0].error if refused else nothing
    if request.output.suffix.lower() not in (".extxyz", ".xyz"):
        raise IncompatibleFile(f"{request.output}: labels are written as extended XYZ; end the name in .extxyz.")
    structures.check_writable(request.output)
    sources = with_partners(sources, request.seed)
    console.print(f"level: {level.name}", style="dim", highlight=False)
    for note in notes:
        console.print(f"Note: {note}", style="yellow", highlight=False, markup=False)
    last, interrupted = LabelProgress(), False
    with Journal(request.output, level.name) as journal, queue(jobs, dask) as tasks:
        for name, error in refused:
            if name not in journal.failed:
                journal.add_error(name, {"source": name}, f"{type(error).__name__}: {error}")
        start = time.perf_counter()
        try:
            with _Shown(console) as show:
                for last in label(sources, sampling, level, journal, tasks, request.retry):
                    show(last)
        except KeyboardInterrupt:
            interrupted = True
        errors = last.errors + len(refused)
        _summary(console, journal, last, errors, time.perf_counter() - start, interrupted)
    return INTERRUPTED if interrupted else INCOMPLETE if errors else 0


def sampling_of(request: LabelRequest) -> Sampling:
    """How the sources become structures.

    Raises:
        UnknownOption: the plan, the method or the fraction means nothing.
    """
    if not 0 <= request.charged <= 1:
        raise UnknownOption(f"--point-charges {request.charged:g}: give a fraction from 0 to 1.")
    find_method(request.method)
    calculator = partial(NDDO, request.method, threads=1)
    return Sampling(plan(request.sample), calculator, request.seed, request.charged, request.method)


def sources_of(request: LabelRequest) -> tuple[list[Source], list[Refused], list[str]]:
    """Molecules and structures in the order given; frames that are none; notes on how files are read."""
    sources: list[Source] = []
    refused: list[Refused] = []
    notes: dict[str, None] = {}
    for name in request.files:
        path = structures.find(name)
        if path.suffix.lower() in LISTS:
            sources += [Source(smiles, group) for smiles, group in read_smiles(path)]
            continue
        for k, frame in enumerate(read(path, request.isolated)):
            notes |= dict.fromkeys(frame.notes)
            try:
                if frame.atoms is None:
                    raise frame.error or IncompatibleFile(f"{name}#{k} holds no structure.")
                sources.append(Source(structure=from_atoms(frame.atoms, source=f"{path.name}#{k}")))
            except (InvalidMolecule, IncompatibleFile) as error:
                refused.append(Refused(f"{name}#{k}", error))
    return sources + [Source(smiles) for smiles in request.smiles], refused, list(notes)


class _Shown:
    """A progress bar on a terminal, elsewhere a line now and then; yields the function that is told the progress."""

    def __init__(self, console: Console):
        self._console, self._start, self._spoken = console, time.perf_counter(), time.perf_counter()
        self._bar = Progress(SpinnerColumn(), TextColumn("{task.fields[rate]}"), BarColumn(), MofNCompleteColumn(),
                             TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("{task.fields[errors]}"),
                             TextColumn("{task.description}", style="dim"), console=console, transient=True,
                             disable=not console.is_terminal)

        self._task = self._bar.add_task("", total=None, rate="", errors="")

    def __enter__(self) -> Callable[[LabelProgress], None]:
        self._bar.start()
        return self._show

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def _show(self, progress: LabelProgress) -> None:
        now, done = time.perf_counter(), progress.labelled + progress.kept
        rate = f"{60 * progress.labelled / max(now - self._start, 1e-9):.1f} frames/min" if progress.labelled else "frames"
        errors = f"[red]{progress.errors} without label[/red]" if progress.errors else ""
        self._bar.update(self._task, completed=done, total=max(progress.expected, done), rate=rate, errors=errors,
                         description=progress.last[:60].replace("[", "\\["))
        if not self._console.is_terminal and now - self._spoken > QUIET:
            self._spoken = now
            self._console.print(f"{done} of about {progress.expected} frames, {rate}, {progress.errors} without label",
                                highlight=False)


def _summary(console: Console, journal: Journal, last: LabelProgress, errors: int, seconds: float, interrupted: bool) -> None:
    """What the run did, in a few lines."""
    there = len(journal.labelled)
    console.print(f"{journal.path}: {there} frame{'s' * (there != 1)}; {last.labelled} new in {seconds:.0f} s "
                  f"({last.busy:.0f} s of work), {last.kept} kept from before, {last.duplicates} given twice", highlight=False)
    if errors:
        console.print(f"{errors} without a label, reasons in {journal.errors_path} (--retry tries them again)", style="yellow",
                      highlight=False)
    if interrupted:
        console.print("Interrupted: the same command goes on from here.", style="yellow")
