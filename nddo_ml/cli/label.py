"""The command `nddo-ml label`: structures and SMILES in, labelled frames out, with a progress bar and a summary."""

import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

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
from nddo_ml.errors import IncompatibleFile, InvalidMolecule, UnknownOption
from nddo_ml.interfaces.ase import NDDO
from nddo_ml.labels.journal import Journal
from nddo_ml.labels.label import label, with_partners
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
class Request:
    """What to label and how structures are drawn; see `nddo-ml label --help`."""

    files: list[str]
    smiles: list[str]
    output: Path
    sample: str = ""
    method: str = "PM6-D3H4"
    charged: float = 0.0
    seed: int = 0
    isolated: bool = False
    retry: bool = False


def run(request: Request, level: Level, jobs: int, dask: str | None) -> int:
    """The exit code: 0, INCOMPLETE where something got no label, INTERRUPTED."""
    console = Console(stderr=True)
    sampling = sampling_of(request)
    sources, refused, notes = sources_of(request)
    if not sources:
        nothing = IncompatibleFile("Nothing to label: give structure files, lists of SMILES (.smi, .json) or --smiles CCO.")
        raise refused[0][1] if refused else nothing
    if request.output.suffix.lower() not in (".extxyz", ".xyz"):
        raise IncompatibleFile(f"{request.output}: labels are written as extended XYZ; end the name in .extxyz.")
    structures.check_writable(request.output)
    sources = with_partners(sources, request.seed)
    console.print(f"level: {level.name}", style="dim", highlight=False)
    for note in notes:
        console.print(f"Note: {note}", style="yellow", highlight=False, markup=False)
    last = None
    with Journal(request.output, level.name) as journal, queue(jobs, dask) as tasks:
        for name, error in refused:
            if name not in journal.failed:
                journal.add_error(name, {"source": name}, f"{type(error).__name__}: {error}")
        interrupted = False
        start = time.perf_counter()
        try:
            with _shown(console) as show:
                for last in label(sources, sampling, level, journal, tasks, request.retry):
                    show(last)
        except KeyboardInterrupt:
            interrupted = True
        errors = last.errors + len(refused)
        _summary(console, journal, last, errors, time.perf_counter() - start, interrupted)
    return INTERRUPTED if interrupted else INCOMPLETE if errors else 0


def sampling_of(request: Request) -> Sampling:
    """How the sources become structures. UnknownOption: the plan or the fraction means nothing."""
    if not 0 <= request.charged <= 1:
        raise UnknownOption(f"--point-charges {request.charged:g}: give a fraction from 0 to 1.")
    find_method(request.method)
    calculator = partial(NDDO, request.method, threads=1)
    return Sampling(plan(request.sample), calculator, request.seed, request.charged, request.method)


def sources_of(request: Request) -> tuple[list[Source], list, list[str]]:
    """Molecules and structures in the order given; (name, error) of frames that are none; notes on how files are read."""
    sources, refused, notes = [], [], {}
    for name in request.files:
        path = structures.find(name)
        if path.suffix.lower() in LISTS:
            sources += [Source(smiles, group) for smiles, group in read_smiles(path)]
            continue
        for k, frame in enumerate(read(path, request.isolated)):
            notes |= dict.fromkeys(frame.notes)
            try:
                if frame.error is not None:
                    raise frame.error
                sources.append(Source(structure=from_atoms(frame.atoms, source=f"{path.name}#{k}")))
            except (InvalidMolecule, IncompatibleFile) as error:
                refused.append((f"{name}#{k}", error))
    return sources + [Source(smiles) for smiles in request.smiles], refused, list(notes)


class _shown:
    """A progress bar on a terminal, elsewhere a line now and then; yields the function that is told the progress."""

    def __init__(self, console):
        self._console, self._start, self._spoken = console, time.perf_counter(), time.perf_counter()
        self._bar = Progress(SpinnerColumn(), TextColumn("{task.fields[rate]}"), BarColumn(), MofNCompleteColumn(),
                             TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("{task.fields[errors]}"),
                             TextColumn("{task.description}", style="dim"), console=console, transient=True,
                             disable=not console.is_terminal)

    def __enter__(self):
        self._bar.start()
        self._task = self._bar.add_task("", total=None, rate="", errors="")
        return self._show

    def __exit__(self, *error):
        self._bar.stop()

    def _show(self, p):
        now = time.perf_counter()
        rate = f"{60 * p.labelled / max(now - self._start, 1e-9):.1f} frames/min" if p.labelled else "frames"
        errors = f"[red]{p.errors} without label[/red]" if p.errors else ""
        self._bar.update(self._task, completed=p.labelled + p.kept, total=max(p.expected, p.labelled + p.kept), rate=rate,
                         errors=errors, description=p.last[:60].replace("[", "\\["))
        if not self._console.is_terminal and now - self._spoken > QUIET:
            self._spoken = now
            self._console.print(f"{p.labelled + p.kept} of about {p.expected} frames, {rate}, {p.errors} without label",
                                highlight=False)


def _summary(console, journal, p, errors, seconds, interrupted):
    """What the run did, in a few lines."""
    there = len(journal.labelled)
    console.print(f"{journal.path}: {there} frame{'s' * (there != 1)}; {p.labelled} new in {seconds:.0f} s "
                  f"({p.busy:.0f} s of work), {p.kept} kept from before, {p.duplicates} given twice", highlight=False)
    if errors:
        console.print(f"{errors} without a label, reasons in {journal.errors_path} (--retry tries them again)", style="yellow",
                      highlight=False)
    if interrupted:
        console.print("Interrupted: the same command goes on from here.", style="yellow")
