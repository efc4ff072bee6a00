"""A run of the command: read, calculate frame by frame with a progress bar, print, write."""

import json
import os
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

import nddo_ml
from nddo_ml.cli import structures, tables
from nddo_ml.cli.calculate import UNITS, Calculation, Wanted, calculate, record, state, written
from nddo_ml.cli.refusals import INCOMPLETE, REFUSED, refuse
from nddo_ml.common.devices import usable
from nddo_ml.common.json import finite
from nddo_ml.elements import symbol
from nddo_ml.errors import NDDOError
from nddo_ml.geometry.constraints import described
from nddo_ml.hamiltonian.model import Hamiltonian
from nddo_ml.interfaces.molden import write_molden
from nddo_ml.methods import learned, methods
from nddo_ml.methods import method as find_method
from nddo_ml.properties import spectra
from nddo_ml.structures import reading, writing

WIDTH = 120            # columns where the output is no terminal
LARGE = 100            # atoms from which more than one thread pays
MOST_THREADS = 4       # more wait for each other


@dataclass(frozen=True)
class Outputs:
    """Files to write; None: not wanted."""

    json: Path | None = None
    structures: Path | None = None
    trajectory: Path | None = None
    molden: Path | None = None
    ir: Path | None = None


def run(name: str, method: str, wanted: Wanted, outputs: Outputs, device: str, threads: int | None, isolated: bool,
        verbose: bool) -> int:
    """The exit code: 0, REFUSED if a frame could not be calculated, INCOMPLETE if an optimisation did not converge."""
    console = _console()
    find_method(method)
    usable(device)
    path = structures.find(name)
    frames = reading.read(path, isolated, wanted.charge, wanted.multiplicity)
    check_outputs(outputs)
    torch.set_num_threads(threads or useful_threads(max(len(frame.atoms or ()) for frame in frames)))
    model = Hamiltonian(method, device=device)
    entries = []
    with _progress(len(frames), wanted) as (advance, report):
        for k, frame in enumerate(frames):
            label = path.stem if len(frames) == 1 else f"{path.stem}, frame {k + 1}"
            try:
                found = frame.error or replace(calculate(frame.atoms, model, wanted, report), notes=frame.notes)
            except NDDOError as error:
                found = error
            entries.append((label, found))
            advance()
    _say(console, frames)
    show(console, entries, verbose)
    files, warnings = write(entries, outputs, model, method)
    for file in files:
        console.print(f"written: {file}", style="dim", highlight=False)
    for warning in warnings:
        console.print(f"Warning: {warning}", style="yellow", highlight=False, markup=False)
    return exit_code(entries)


def useful_threads(atoms: int) -> int:
    """CPU threads for molecules of so many atoms: small matrices are fastest on one, and leave the others to other work."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return 1 if atoms < LARGE else min(MOST_THREADS, cores)


def check_outputs(outputs: Outputs) -> None:
    """Refuse files that could not be written, before anything is calculated."""
    for file in (outputs.json, outputs.structures, outputs.trajectory, outputs.molden, outputs.ir):
        if file is not None:
            structures.check_writable(file)
    for file in (outputs.structures, outputs.trajectory):
        if file is not None:
            writing.check_format(file)


def _say(console, frames):
    """How the file was read: each note once, however many frames it is about."""
    for note, count in Counter(note for frame in frames for note in frame.notes).items():
        console.print(f"Note: {note}{f' ({count} frames)' if count > 1 else ''}", style="yellow", highlight=False, markup=False)


def show(console: Console, entries: list[tuple[str, Calculation | NDDOError]], verbose: bool) -> None:
    """The results on the terminal, errors on standard error."""
    many = len(entries) > 1
    if many:
        console.print(tables.frames(entries))
        if not verbose:
            console.print("one line a frame: --verbose shows all tables of each, --json writes everything", style="dim")
    for k, (label, found) in enumerate(entries, 1):
        if isinstance(found, NDDOError):
            refuse(found, f" in frame {k}" if many else "")
            continue
        if not many or verbose:
            _report(console, label, found, verbose)
        for warning in found.warnings:
            console.print(f"Warning{f' in frame {k}' if many else ''}: {warning}", style="yellow", highlight=False)


def _report(console, label, found, verbose):
    """All tables of one structure."""
    console.print(tables.heading(label, found), highlight=False)
    parts = [tables.energies(found), tables.atoms(found, verbose)]
    parts += [tables.bonds(found), tables.orbitals(found)] if verbose else []
    if found.spectroscopy is not None:
        parts += [tables.frequencies(found, verbose)] if len(found.atoms) > 1 else []
        parts += [tables.thermodynamics(found)] if found.spectroscopy.thermochemistry is not None else []
    console.print(*parts, sep="\n")
    if found.optimised is not None:
        first, last = found.trajectory[0][1], found.trajectory[-1][1]
        change = f"energy {'lower' if last <= first else 'higher'} by {abs(first - last):.4f} eV"
        held = described(found.atoms)
        console.print(f"optimised in {int(found.optimised.evaluations[0])} evaluations, {change}{f'; {held}' if held else ''}",
                      highlight=False)
    console.print(f"{found.seconds:.2f} s", style="dim", highlight=False)


def write(entries, outputs: Outputs, model, method: str) -> tuple[list[Path], list[str]]:
    """The files written, and warnings of what they cannot hold."""
    good = [(k, found) for k, (_, found) in enumerate(entries, 1) if isinstance(found, Calculation)]
    many = len(entries) > 1
    done, warnings = [], []
    if outputs.json is not None:
        outputs.json.write_text(json.dumps(document(entries, method), indent=1, allow_nan=False) + "\n", encoding="utf-8")
        done.append(outputs.json)
    if outputs.structures is not None and good:
        final = [structures.with_results(found.atoms, *written(found)) for _, found in good]
        warnings += writing.write(outputs.structures, final)
        done.append(outputs.structures)
    steps = [structures.with_results(atoms, {"energy": energy, "forces": forces}, {"frame": k} | state(found))
             for k, found in good for atoms, energy, forces in found.trajectory]
    if outputs.trajectory is not None and steps:
        warnings += writing.write(outputs.trajectory, steps)
        done.append(outputs.trajectory)
    for k, found in good:
        if outputs.molden is not None:
            done.append(write_molden(numbered(outputs.molden, k, many), model, found.result))
        if outputs.ir is not None:
            s = found.spectroscopy
            title = f"{found.atoms.get_chemical_formula()}, {found.result.method}"
            spectrum = spectra.ir_spectrum(s.vibrations.frequencies, s.intensities)
            done.append(spectra.plot(spectrum, numbered(outputs.ir, k, many), title))
    return done, warnings


def document(entries, method: str) -> dict:
    """Everything for machines: one entry per frame, with its results or its error."""
    frames = [{"frame": k, "error": {"type": type(found).__name__, "message": str(found)}} if isinstance(found, NDDOError)
              else {"frame": k, **record(found)} for k, (_, found) in enumerate(entries, 1)]
    return finite({"program": "nddo_ml", "version": nddo_ml.__version__, "method": find_method(method).name,
                   "citation": find_method(method).citation, "units": UNITS, "frames": frames})


def numbered(path: Path, k: int, many: bool) -> Path:
    """The path itself, or one of several."""
    return path.with_name(f"{path.stem}-{k}{path.suffix}") if many else path


def exit_code(entries) -> int:
    """0, or the code of the worst that happened."""
    if any(isinstance(found, NDDOError) for _, found in entries):
        return REFUSED
    return INCOMPLETE if any(f.optimised is not None and not bool(f.optimised.converged[0]) for _, f in entries) else 0


def show_methods(name: str | None, as_json: bool) -> None:
    """Methods, published and trained, and their elements, as a table or as JSON."""
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


def _console():
    console = Console()
    return console if console.is_terminal else Console(width=WIDTH)


@contextmanager
def _progress(count, wanted):
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
