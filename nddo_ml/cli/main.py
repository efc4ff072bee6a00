"""The command `nddo-ml`: `run` calculates structures of a file, `methods` lists what there is to calculate them with.

Commands parse, call and print. What a calculation needs is imported inside them, so that the help appears at once.
"""

import os
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from typer.core import TyperCommand

import nddo_ml
from nddo_ml.cli.refusals import REFUSED, refuse
from nddo_ml.errors import IncompatibleFile, NDDOError

OPTIONAL_FILES = {"--molden": ".molden", "--ir-png": ".png"}   # options whose file may be left out
DERIVED = "(derived)"

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


class RunCommand(TyperCommand):
    """The command `run`, with options whose value may be left out."""

    def parse_args(self, ctx, args):
        return super().parse_args(ctx, with_derived_files(args))


def with_derived_files(args: list[str]) -> list[str]:
    """Arguments in which --molden and --ir-png have a value: the next word if it has the right suffix, else a marker."""
    complete = []
    for k, word in enumerate(args):
        complete.append(word)
        if word in OPTIONAL_FILES and not (k + 1 < len(args) and args[k + 1].endswith(OPTIONAL_FILES[word])):
            complete.append(DERIVED)
    return complete


@contextmanager
def refusals():
    """Errors the package raises on purpose end the command with one message and exit code 2."""
    try:
        yield
    except (NDDOError, OSError) as error:
        refuse(error)
        raise typer.Exit(REFUSED) from None


def _version(wanted: bool):
    if wanted:
        typer.echo(f"nddo-ml {nddo_ml.__version__}")
        raise typer.Exit


@app.callback()
def common(version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True,
                                                help="Print the version.")] = False):
    """NDDO semi-empirical quantum chemistry: MNDO, AM1, PM3, RM1, MNDO/d, PM6, PM7 and their corrected variants."""


@app.command(cls=RunCommand)
def run(
    file: Annotated[str | None, typer.Argument(help="Structure file: xyz, extxyz, pdb, sdf or anything else ASE reads, one or "
                                               "several frames; or a bundled molecule: aspirin, caffeine.")] = None,
    method: Annotated[str, typer.Option("--method", "-m", help="See `nddo-ml methods`.")] = "PM6-D3H4",
    charge: Annotated[int | None, typer.Option("--charge", "-c", help="Total charge. [default: from the file, or 0]")] = None,
    multiplicity: Annotated[int | None, typer.Option(help="2S + 1. [default: from the file, or the lowest]")] = None,
    unrestricted: Annotated[bool | None, typer.Option(
        "--unrestricted/--restricted", help="Alpha and beta orbitals apart, also for singlets; or never (half-electron open "
        "shells). [default: open shells only]")] = None,
    optimisation: Annotated[bool, typer.Option("--opt", help="Optimise the geometry.")] = False,
    vibrations: Annotated[bool, typer.Option("--freq", help="Frequencies, infrared intensities, thermochemistry.")] = False,
    raman: Annotated[bool, typer.Option("--raman", help="Raman activities too (implies --freq).")] = False,
    ir_png: Annotated[str | None, typer.Option("--ir-png", metavar="[FILE.png]", help="Infrared spectrum as a picture (implies "
                                               "--freq); without a name, <input>-ir.png.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="OUT.json", help="Everything, for machines.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="OUT.extxyz", help="Final structures with energies "
                                                "and forces, format by suffix. [default with --opt: "
                                                "<input>-opt.extxyz]")] = None,
    trajectory: Annotated[Path | None, typer.Option(metavar="OUT.extxyz", help="Steps of the optimisation. [default with "
                                                    "--opt: <input>-opt-steps.extxyz]")] = None,
    molden: Annotated[str | None, typer.Option(metavar="[FILE.molden]", help="Orbitals for a viewer; without a name, "
                                               "<input>.molden.")] = None,
    fmax: Annotated[float | None, typer.Option(min=1e-6, help="Largest force at the end of --opt, eV/Å. [default: 0.01, with "
                                               "--freq 0.001]")] = None,
    steps: Annotated[int, typer.Option(min=1, help="Most evaluations of an optimisation.")] = 500,
    temperature: Annotated[float, typer.Option(min=0.01, help="Of the thermochemistry, K.")] = 298.15,
    pressure: Annotated[float, typer.Option(min=1e-9, help="Of the thermochemistry, Pa.")] = 101325.0,
    symmetry_number: Annotated[int | None, typer.Option(min=1, help="Rotational symmetry number. "
                                                         "[default: detected]")] = None,
    stability: Annotated[bool, typer.Option("--stability", help="Look for a lower SCF state and report it.")] = False,
    max_steps: Annotated[int, typer.Option("--max-steps", min=1, help="Most SCF iterations.")] = 300,
    isolated: Annotated[bool, typer.Option("--isolated", help="Take periodic input as an isolated molecule.")] = False,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads. [default: 1, more for large molecules]")] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="All atoms and modes, orbitals, bond orders; every "
                                          "frame.")] = False,
    example: Annotated[bool, typer.Option("--example", help="Calculate the bundled aspirin.")] = False,
):
    """Calculate energies and properties of the structures in FILE."""
    with refusals():
        if file is None and not example:
            raise IncompatibleFile("No structure given: nddo-ml run FILE, or nddo-ml run --example for the bundled aspirin.")
        from nddo_ml.cli import session
        from nddo_ml.cli.calculate import Wanted

        vibrations = vibrations or raman or ir_png is not None
        name = file or "aspirin"
        stem = Path(name).stem
        wanted = Wanted(charge, multiplicity, unrestricted, stability, max_steps, optimisation,
                        fmax or (0.001 if vibrations else 0.01), steps, vibrations, raman, temperature, pressure,
                        symmetry_number)
        outputs = session.Outputs(
            json_file, output or (Path(f"{stem}-opt.extxyz") if optimisation else None),
            trajectory or (Path(f"{stem}-opt-steps.extxyz") if optimisation else None),
            Path(f"{stem}.molden" if molden == DERIVED else molden) if molden else None,
            Path(f"{stem}-ir.png" if ir_png == DERIVED else ir_png) if ir_png else None)
        code = session.run(name, method, wanted, outputs, device, threads, isolated, verbose)
    raise typer.Exit(code)


@app.command()
def methods(method: Annotated[str | None, typer.Argument(help="Only this one, with everything it covers.")] = None,
            json_: Annotated[bool, typer.Option("--json", help="As JSON.")] = False):
    """List methods, their elements and corrections."""
    with refusals():
        from nddo_ml.cli import session

        session.show_methods(method, json_)


def main():
    """Entry point of the command."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")   # a terminal without the letters of our tables still gets its numbers
    try:
        app()
    except BrokenPipeError:   # the reader of a pipe has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()
