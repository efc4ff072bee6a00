"""A run of the command: read, calculate frame by frame with a progress bar, print, write."""

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from nddo_ml.cli import structures, tables
from nddo_ml.cli.advice import warnings
from nddo_ml.cli.calculate import Calculation, Entries, calculate
from nddo_ml.cli.outputs import OutputFiles, write
from nddo_ml.cli.refusals import INCOMPLETE, REFUSED, refuse
from nddo_ml.cli.wanted import Report, Wanted
from nddo_ml.common.devices import usable
from nddo_ml.elements import symbol
from nddo_ml.errors import NDDOError
from nddo_ml.geometry.constraints import described
from nddo_ml.hamiltonian.model import Hamiltonian
from nddo_ml.methods import learned, methods
from nddo_ml.methods import method as find_method
from nddo_ml.structures import reading
from nddo_ml.structures.frames import Frame

WIDTH = 120            # columns where the output is no terminal
LARGE = 100            # atoms from which more than one thread pays
MOST_THREADS = 4       # more wait for each other


@dataclass(frozen=True)
class Session:
    """What a run reads, and how it works."""

    name: str                       # of a structure file, or of a bundled molecule
    method: str
    device: str = "cpu"
    threads: int | None = None      # of torch; None: what pays
    isolated: bool = False          # take periodic input as an isolated molecule
    verbose: bool = False           # print everything


def run(session: Session, wanted: Wanted, files: OutputFiles) -> int:
    """The exit code: 0, REFUSED if a frame could not be calculated, INCOMPLETE if an optimisation did not converge.

    Raises: NDDOError, if nothing can be calculated at all.
    """
    console = _console()
    find_method(session.method)
    usable(session.device)
    path = structures.find(session.name)
    frames = reading.read(path, session.isolated, wanted.charge, wanted.multiplicity)
    files.check()
    torch.set_num_threads(session.threads or useful_threads(max(len(frame.atoms or ()) for frame in frames)))
    model = Hamiltonian(session.method, device=session.device)
    entries = []
    with _progress(len(frames), wanted) as (advance, report):
        for k, frame in enumerate(frames):
            entries.append((path.stem if len(frames) == 1 else f"{path.stem}, frame {k + 1}",
                            _calculated(frame, model, wanted, report)))
            advance()
    _say(console, frames)
    show(console, entries, session.verbose)
    written, notes = write(entries, files, model, session.method)
    for file in written:
        console.print(f"written: {file}", style="dim", highlight=False)
    for note in notes:
        console.print(f"Warning: {note}", style="yellow", highlight=False, markup=False)
    return exit_code(entries)


def _calculated(frame: Frame, model: Hamiltonian, wanted: Wanted, report: Report) -> Calculation | NDDOError:
    """The calculation of a frame, or why there is none."""
    if frame.atoms is None or frame.error is not None:
        assert frame.error is not None      # a frame has atoms or an error
        return frame.error
    try:
        return replace(calculate(frame.atoms, model, wanted, report), notes=frame.notes)
    except NDDOError as error:
        return error


def useful_threads(atoms: int) -> int:
    """CPU threads for molecules of so many atoms: small matrices are fastest on one, and leave the others to other work."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return 1 if atoms < LARGE else min(MOST_THREADS, cores)


def _say(console: Console, frames: Sequence[Frame]) -> None:
    """How the file was read: each note once, however many frames it is about."""
    for note, count in Counter(note for frame in frames for note in frame.notes).items():
        console.print(f"Note: {note}{f' ({count} frames)' if count > 1 else ''}", style="yellow", highlight=False, markup=False)


def show(console: Console, entries: Entries, verbose: bool) -> None:
    """The results on the terminal, errors on standard error."""
    many = len(entries) > 1
    if many:
        console.print(tables.frames(entries))
        if not verbose:
            console.print("one line a frame: --verbose shows all tables of each, --json writes everything", style="dim")
    for k, (label, entry) in enumerate(entries, 1):
        if isinstance(entry, NDDOError):
            refuse(entry, f" in frame {k}" if many else "")
            continue
        if not many or verbose:
            _report(console, label, entry, verbose)
        for warning in warnings(entry):
            console.print(f"Warning{f' in frame {k}' if many else ''}: {warning}", style="yellow", highlight=False)


def _report(console: Console, label: str, calculation: Calculation, verbose: bool) -> None:
    """All tables of one structure."""
    console.print(tables.heading(label, calculation), highlight=False)
    parts = [tables.energies(calculation), tables.atoms(calculation, verbose)]
    parts += [tables.bonds(calculation), tables.orbitals(calculation)] if verbose else []
    if calculation.spectroscopy is not None:
        spectroscopy, gas = calculation.spectroscopy, calculation.spectroscopy.thermochemistry
        parts += [tables.frequencies(spectroscopy, verbose)] if len(calculation.atoms) > 1 else []
        parts += [tables.thermodynamics(gas, spectroscopy.polarizability, calculation.result)] if gas is not None else []
    console.print(*parts, sep="\n")
    if calculation.optimisation is not None:
        trajectory, optimised = calculation.optimisation.trajectory, calculation.optimisation.optimised
        first, last = trajectory[0].energy, trajectory[-1].energy
        change = f"energy {'lower' if last <= first else 'higher'} by {abs(first - last):.4f} eV"
        held = described(calculation.atoms)
        console.print(f"optimised in {int(optimised.evaluations[0])} evaluations, {change}{f'; {held}' if held else ''}",
                      highlight=False)
    console.print(f"{calculation.seconds:.2f} s", style="dim", highlight=False)


def exit_code(entries: Entries) -> int:
    """0, or the code of the worst that happened."""
    if any(isinstance(entry, NDDOError) for _, entry in entries):
        return REFUSED
    optimisations = [c.optimisation for _, c in entries if isinstance(c, Calculation) and c.optimisation is not None]
    return 0 if all(bool(o.optimised.converged[0]) for o in optimisations) else INCOMPLETE


def show_methods(name: str | None, as_json: bool) -> None:
    """Methods, published and trained, and their elements, as a table or as JSON. name: only this one.

    Raises: UnknownOption, if there is no method of that name.
    """
    chosen = [find_method(n) for n in ((*methods(), *learned.names()) if name is None else [name])]
    console = _console()
    if as_json:
        listed = [{"name": m.name, "elements": [symbol(n) for n in m.species if n <= 118], "corrections": list(m.corrections),
                   "sparkles_and_pseudo_atoms": [symbol(n) for n in m.species if n > 118], "citation": m.citation,
                   "steps_in_the_energy": list(m.steps), "trained_on": m.card and m.card.level,
                   "parent": m.card and m.card.parent}
                  for m in chosen]
        console.print_json(json.dumps(listed))
        return
    console.print(tables.methods(chosen))
    if name is None and learned.names():
        console.print(f"{learned.NEWEST} means {learned.shipped()[learned.NEWEST].name}; a file of weights (.safetensors) is a "
                      "method too", highlight=False)
    if name is not None and chosen[0].card is None:
        m = chosen[0]
        extra = [symbol(n) for n in m.species if n > 118]
        console.print(f"sparkles and pseudo-atoms, by name: {', '.join(extra) or 'none'}", highlight=False)
        for step in m.steps or ("none",):
            console.print(f"steps in its energy: {step}", highlight=False)


def _console() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=WIDTH)


@contextmanager
def _progress(count: int, wanted: Wanted) -> Iterator[tuple[Callable[[], object], Report]]:
    """Functions that advance the bar by one structure and say what is going on; shown on terminals only, where it takes long.
    """
    console = Console(stderr=True)
    long = count > 1 or wanted.optimisation or wanted.vibrations
    bar = Progress(SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"),
                   TimeElapsedColumn(), console=console, transient=True, disable=not (long and console.is_terminal))
    with bar:
        overall = bar.add_task(f"{count} structures", total=count, visible=count > 1)
        inner = bar.add_task("SCF", total=1.0)
        yield (lambda: bar.advance(overall)), (lambda what, fraction: bar.update(inner, description=what, completed=fraction))
