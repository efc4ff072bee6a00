"""The command `warm-up`: the kernels are compiled now, with a progress bar; or what calculates is said, and why."""

import os
import time
from importlib.util import find_spec

import typer
from rich.console import Console

from nddo_ml.cli.progress import bars
from nddo_ml.cli.refusals import INCOMPLETE, REFUSED
from nddo_ml.common import code_cache, compiling
from nddo_ml.hamiltonian.warm_up import exercise

LOOK = 0.5      # seconds between two looks whether another process has finished


def show() -> int:
    """Say what calculates on this machine, and why; the exit code."""
    status = compiling.status()
    versions = ", ".join(f"{name} {number}" for name, number in code_cache.versions().items() if number)
    lines = {"calculates": "compiled kernels" if status.kernels else "torch", "because": status.reason, "versions": versions,
             "folder": status.folder, "log": status.log}
    for name, value in lines.items():
        if value:
            typer.echo(f"{name:<12}{value}")
    return 0


def run(again: bool) -> int:
    """Compile the kernels, where they are not; the exit code. again: also where they are."""
    reason = compiling.unable()
    if reason:
        hint = " pip install numba brings the compiler." if find_spec("numba") is None else ""
        typer.echo(f"Nothing can be compiled: {reason}. Torch calculates, with the same results.{hint}", err=True)
        return REFUSED
    cache, console = code_cache.find(code_cache.fingerprint()), Console()
    if cache.busy():
        with console.status("Another process compiles the kernels."):
            while cache.busy():
                time.sleep(LOOK)
    if cache.complete() and not again:
        typer.echo(f"The kernels are compiled already: {cache.folder}")
        return _switched()
    cache.empty() if again else cache.reopen()
    try:
        seconds = _compiled(console)
    except Exception as error:      # whatever a compiler raises
        typer.echo(f"Compiling failed: {type(error).__name__}: {error}\nTorch calculates, with the same results.", err=True)
        return INCOMPLETE
    typer.echo("Another process compiles them now." if seconds is None else f"Compiled in {seconds:.0f} s: {cache.folder}")
    return _switched()


def _compiled(console: Console) -> float | None:
    """Seconds it took to compile, with a bar; None: another process was faster to begin."""
    with bars(console) as progress:
        task = progress.add_task("compiling", total=None, live="")
        return compiling.compile_all(
            lambda: exercise(lambda what, done, total: progress.update(task, completed=done, total=total, live=what)))


def _switched() -> int:
    """Say so if the kernels are switched off."""
    if os.environ.get(compiling.SWITCH) == "0":
        typer.echo(f"{compiling.SWITCH}=0 is set: torch calculates all the same.")
    return 0
