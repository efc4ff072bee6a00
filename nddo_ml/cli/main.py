"""The command `nddo-ml`: `run` calculates structures of a file, `methods` lists what there is to calculate them with.

Commands parse, call and print. What a calculation needs is imported inside them, so that the help appears at once.
"""

import os
import sys
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

import nddo_ml
from nddo_ml.cli import functional
from nddo_ml.cli.refusals import refusals
from nddo_ml.errors import IncompatibleFile
from nddo_ml.scf.options import SCF

OPTIONAL_FILES = {"--molden": ".molden", "--ir-png": ".png"}   # options whose file may be left out
DERIVED = "(derived)"

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
app.add_typer(functional.app, name="functional")


class RunCommand(TyperCommand):
    """The command `run`, with options whose value may be left out."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:       # the context of click, or of typer's copy of it
        """The words left over; OPTIONAL_FILES may stand without a value."""
        return super().parse_args(ctx, with_derived_files(args))


def with_derived_files(args: list[str]) -> list[str]:
    """Arguments in which --molden and --ir-png have a value: the next word if it has the right suffix, else a marker."""
    complete = []
    for k, word in enumerate(args):
        complete.append(word)
        if word in OPTIONAL_FILES and not (k + 1 < len(args) and args[k + 1].endswith(OPTIONAL_FILES[word])):
            complete.append(DERIVED)
    return complete


def _version(wanted: bool) -> bool:
    if wanted:
        typer.echo(f"nddo-ml {nddo_ml.__version__}")
        raise typer.Exit
    return wanted


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
    stability: Annotated[bool | None, typer.Option(
        "--stability/--no-stability", help="Look for a lower SCF state, broken spin symmetry included; or never. [default: for "
        "one of the same kind, where it is to be feared]")] = SCF.stability,
    max_steps: Annotated[int, typer.Option("--max-steps", min=1, help="Most SCF iterations.")] = SCF.max_steps,
    point_charges: Annotated[Path | None, typer.Option("--point-charges", metavar="FILE", help="Charges around every "
                                                       "structure, one a line: x y z (Å) q (e).")] = None,
    isolated: Annotated[bool, typer.Option("--isolated", help="Take periodic input as an isolated molecule.")] = False,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads. [default: 1, more for large molecules]")] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="All atoms and modes, orbitals, bond orders; every "
                                          "frame.")] = False,
    example: Annotated[bool, typer.Option("--example", help="Calculate the bundled aspirin.")] = False,
) -> None:
    """Calculate energies and properties of the structures in FILE."""
    with refusals():
        if file is None and not example:
            raise IncompatibleFile("No structure given: nddo-ml run FILE, or nddo-ml run --example for the bundled aspirin.")
        from nddo_ml.cli import session
        from nddo_ml.cli.outputs import OutputFiles
        from nddo_ml.cli.structures import read_charges
        from nddo_ml.cli.wanted import Wanted

        vibrations = vibrations or raman or ir_png is not None
        name = file or "aspirin"
        stem = Path(name).stem
        wanted = Wanted(
            charge=charge, multiplicity=multiplicity, unrestricted=unrestricted, stability=stability, max_steps=max_steps,
            optimisation=optimisation, fmax=fmax or (0.001 if vibrations else 0.01), steps=steps, vibrations=vibrations,
            raman=raman, temperature=temperature, pressure=pressure, symmetry_number=symmetry_number,
            point_charges=None if point_charges is None else read_charges(point_charges))
        files = OutputFiles(
            json=json_file, structures=output or (Path(f"{stem}-opt.extxyz") if optimisation else None),
            trajectory=trajectory or (Path(f"{stem}-opt-steps.extxyz") if optimisation else None),
            molden=Path(f"{stem}.molden" if molden == DERIVED else molden) if molden else None,
            ir=Path(f"{stem}-ir.png" if ir_png == DERIVED else ir_png) if ir_png else None)
        code = session.run(session.Session(name, method, device, threads, isolated, verbose), wanted, files)
    raise typer.Exit(code)


@app.command()
def methods(method: Annotated[str | None, typer.Argument(help="Only this one, with everything it covers.")] = None,
            json_: Annotated[bool, typer.Option("--json", help="As JSON.")] = False):
    """List methods, their elements and corrections."""
    with refusals():
        from nddo_ml.cli import session

        session.show_methods(method, json_)


@app.command()
def label(
    structures: Annotated[list[str] | None, typer.Argument(help="Structure files (xyz, extxyz, sdf, ...) and lists of SMILES "
                                                           "(.smi, .json).")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="LABELS.extxyz", help="Frames are appended; the same "
                                         "command goes on after an interruption.")] = Path("labels.extxyz"),
    smiles: Annotated[list[str] | None, typer.Option(help="A molecule as SMILES; may be repeated.")] = None,
    level: Annotated[str | None, typer.Option(help="FUNCTIONAL/BASIS or WAVE FUNCTION/BASIS of PySCF (mp2, ccsd, "
                                              "ccsd(t), ...), GFN2-xTB, or one of our methods. [default: wb97x-v/def2-tzvp "
                                              "without VV10]")] = None,
    functional: Annotated[str | None, typer.Option(help="Functional, or wave function, of --level.")] = None,
    basis: Annotated[str | None, typer.Option(help="Basis set of --level.")] = None,
    dispersion: Annotated[str | None, typer.Option(help="Functional whose D3(BJ) parameters are used, kept apart; vv10; none. "
                                                   "[default: those of the functional]")] = None,
    grid: Annotated[int | None, typer.Option(min=0, max=9, help="Grid level of a functional. [default: 1]")] = None,
    sample: Annotated[str, typer.Option(metavar="PLAN", help="Structures drawn from each molecule: conformers:4, "
                                        "md:300/600/1000:2, modes:2, dimers:4, interactions:2, bonds:3, separated by "
                                        "commas.")] = "",
    method: Annotated[str, typer.Option("--method", "-m", help="Method of ours that the sampling uses.")] = "PM6-D3H4",
    point_charges: Annotated[float, typer.Option(metavar="FRACTION", help="Fraction of the structures that is labelled among "
                                                 "point charges too.")] = 0.0,
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=1, help="Tasks at a time, one CPU core each.")] = 1,
    dask: Annotated[str | None, typer.Option(metavar="ADDRESS", help="Work on this Dask scheduler, or `local`.")] = None,
    seed: Annotated[int, typer.Option(help="Of all random numbers.")] = 0,
    retry: Annotated[bool, typer.Option("--retry", help="Try again what failed in an earlier run.")] = False,
    isolated: Annotated[bool, typer.Option("--isolated", help="Take periodic input as isolated molecules.")] = False,
    results: Annotated[bool, typer.Option("--from", help="The files are results of nddo-ml wavefunction (result.json): their "
                                          "energies, error bars and forces become labels.")] = False,
) -> None:
    """Reference labels: energies, forces and dipoles of structures at a level of theory, to train on."""
    with refusals():
        if results:
            from nddo_ml.cli import label_results

            raise typer.Exit(label_results.run(structures or [], output))
        from nddo_ml.cli.label import LabelRequest, run
        from nddo_ml.labels.levels.catalogue import level as find_level

        request = LabelRequest(structures or [], smiles or [], output, sample, method, point_charges, seed, isolated, retry)
        chosen = find_level(level, functional, basis, dispersion_model=dispersion, grid=grid)
        code = run(request, chosen, jobs, dask)
    raise typer.Exit(code)


@app.command()
def train(
    config: Annotated[Path, typer.Argument(help="Configuration, TOML; see examples/train.toml.")],
    restart: Annotated[bool, typer.Option("--restart", help="Begin again, whatever the output folder holds. "
                                          "[default: go on from its checkpoint]")] = False,
    minutes: Annotated[float | None, typer.Option(min=0.0, help="Stop after so long; the same command goes on.")] = None,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads per process.")] = 1,
) -> None:
    """Train a neural Hamiltonian on reference labels; several processes through torchrun."""
    with refusals():
        import torch

        from nddo_ml.cli.train import run_training

        torch.set_num_threads(threads)
        run_training(config, restart, minutes)


@app.command()
def evaluate(
    files: Annotated[list[str], typer.Argument(help="Labelled frames, extxyz.")],
    method: Annotated[str, typer.Option("--method", "-m", help="A method or a file of weights.")] = "PM6",
    validation: Annotated[float | None, typer.Option(
        min=0.0, max=0.9, help="Fraction of molecules held out, for methods whose file does not say which molecules they were "
        "trained on. [default: 0.1]")] = None,
    large: Annotated[int | None, typer.Option(min=1, help="Heavy atoms from which on a molecule is large. [default: as in the "
                                              "training, or 10]")] = None,
    labels: Annotated[str, typer.Option(help="What the labels hold of dispersion: apart, included, learned (as in "
                                        "[[stage]]).")] = "apart",
    total: Annotated[bool | None, typer.Option("--total/--bare", help="Compare with labels with or without dispersion. "
                                               "[default: with, if the method has dispersion]")] = None,
    fit_offsets: Annotated[str | None, typer.Option(metavar="PART", help="Fit energies per element on this part of the files, "
                                                    "for methods of another zero.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="OUT.json", help="Scores, for machines.")] = None,
    picture: Annotated[Path | None, typer.Option(metavar="OUT.png", help="Parity plots, one per part.")] = None,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 1,
) -> None:
    """Score a method on labelled frames, by named test set."""
    with refusals():
        import torch

        from nddo_ml.cli.train import Scoring, run_evaluation

        torch.set_num_threads(threads)
        run_evaluation(Scoring(files, method, validation, large, labels, total, fit_offsets, output, picture))


@app.command()
def active(
    config: Annotated[Path, typer.Argument(help="Configuration, TOML; see examples/active.toml.")],
    minutes: Annotated[float | None, typer.Option(min=0.0, help="Stop after so long; the same command goes on.")] = None,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of exploring and training.")] = 1,
) -> None:
    """Explore with an ensemble, label what it is least sure of, retrain, again; goes on from where it stands."""
    with refusals():
        import torch

        from nddo_ml.cli.active import run

        torch.set_num_threads(threads)
        run(config, minutes)


@app.command()
def wavefunction(
    config: Annotated[Path | None, typer.Argument(help="Configuration, TOML; see examples/wavefunction.toml.")] = None,
    molecule: Annotated[str | None, typer.Option(metavar="ATOMS", help="In place of a configuration: \"Li 0 0 0; H 0 0 "
                                                 "3.015\".")] = None,
    unit: Annotated[str | None, typer.Option(help="Of positions: bohr or angstrom. [default: bohr]")] = None,
    output: Annotated[str | None, typer.Option("--output", "-o", help="Folder. [default: wavefunction]")] = None,
    restart: Annotated[bool, typer.Option("--restart", help="Begin again, whatever the output folder holds. "
                                          "[default: go on from its checkpoint]")] = False,
    minutes: Annotated[float | None, typer.Option(min=0.0, help="Stop after so long; the same command goes on.")] = None,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 1,
) -> None:
    """Variational Monte Carlo with a neural wavefunction: energies of small molecules with error bars."""
    with refusals():
        import torch

        from nddo_ml.cli.wavefunction import configuration, run_wavefunction

        torch.set_num_threads(threads)
        run_wavefunction(configuration(config, molecule, unit, output), restart, minutes)


@app.command("warm-up")
def warm_up(
    status: Annotated[bool, typer.Option("--status", help="Only say what calculates, kernels or torch, and why.")] = False,
    again: Annotated[bool, typer.Option("--again", help="Throw away what is compiled, and compile anew.")] = False,
) -> None:
    """Compile the kernels now, not in the background.

    It is done once per machine and version. Until then torch calculates, with the same results but slower.
    """
    with refusals():
        from nddo_ml.cli.warm_up import run, show

        code = show() if status else run(again)
    raise typer.Exit(code)


def main() -> None:
    """Entry point of the command."""
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())           # where classes of a user's own are found that a file of weights names
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")   # a terminal without the letters of our tables still gets its numbers
    try:
        app()
    except BrokenPipeError:   # the reader of a pipe has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()
