"""The command as a user meets it: results, files, and refusals with exit code 2 and one clear message."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ase.build import molecule
from ase.io import read, write
from support.commands import nddo

import nddo_ml
from nddo_ml import Hamiltonian, Molecules
from nddo_ml.cli.advice import of_optimisation, warnings
from nddo_ml.cli.calculate import calculate
from nddo_ml.cli.structures import bundled
from nddo_ml.cli.wanted import Wanted
from nddo_ml.geometry.optimise import Optimised
from nddo_ml.interfaces.ase import NDDO
from nddo_ml.methods import methods
from nddo_ml.structures.reading import atoms_of
from nddo_ml.structures.reading import read as read_structures

DATA = Path(__file__).parents[1] / "data"




@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write("water.xyz", molecule("H2O"))
    return tmp_path


def test_as_a_program():
    def call(*words):
        return subprocess.run([sys.executable, "-m", "nddo_ml.cli.main", *words], capture_output=True, text=True, check=False)

    assert call("--version").stdout.split()[-1] == nddo_ml.__version__
    refused = call("run", "nothing.xyz")
    assert refused.returncode == 2 and refused.stdout == "" and "Traceback" not in refused.stderr
    assert refused.stderr.startswith("Error: There is no file nothing.xyz")


def test_help_does_not_load_torch():
    code = ("import sys; from typer.testing import CliRunner; from nddo_ml.cli.main import app; "
            "assert CliRunner().invoke(app, ['run', '--help']).exit_code == 0; sys.exit('torch' in sys.modules)")
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_bundled_molecules_are_real():
    assert {"aspirin", "caffeine"} <= set(bundled())
    for path in bundled().values():
        atoms = read(path)
        distances = atoms.get_all_distances() + 9 * np.eye(len(atoms))
        assert 0.9 < distances.min() < 1.2   # X-H bonds


def test_example(folder):
    code, printed = nddo("run", "--example", "--json", "out.json")
    assert code == 0
    for words in ("C9H8O4", "PM6-D3H4", "heat of formation", "HOMO", "dipole", "SCF", "charge"):
        assert words in printed
    found = json.loads((folder / "out.json").read_text())
    assert found["version"] == nddo_ml.__version__ and found["method"] == "PM6-D3H4"
    frame, = found["frames"]
    assert frame["heat_of_formation"] == pytest.approx(-140.66378, abs=2e-3)   # MOPAC 22.0.6, PM6-D3H4 1SCF on the bundled file
    assert sum(frame["energies"].values()) == pytest.approx(frame["energy"], abs=1e-9)
    assert len(frame["charges"]) == 21 and frame["scf"]["converged"]


def test_files(folder):
    code, printed = nddo("run", "water.xyz", "-m", "am1", "-o", "sub/out.extxyz", "--molden", "--json", "out.json", "-v")
    assert code == 0, printed
    assert "bond orders" in printed and "orbitals" in printed and "written: water.molden" in printed
    atoms = read(folder / "sub" / "out.extxyz")
    expected = molecule("H2O", calculator=NDDO("AM1"))
    assert atoms.get_potential_energy() == pytest.approx(expected.get_potential_energy(), abs=1e-7)
    np.testing.assert_allclose(atoms.get_forces(), expected.get_forces(), atol=1e-6)
    assert atoms.info["charge"] == 0 and atoms.info["multiplicity"] == 1
    assert (folder / "water.molden").read_text().startswith("[Molden Format]")
    assert nddo("run", "sub/out.extxyz", "--molden", "other.molden")[0] == 0
    assert (folder / "other.molden").exists()


def test_charge_and_spin(folder):
    assert "doublet" in nddo("run", "water.xyz", "--charge", 1)[1]
    code, printed = nddo("run", "water.xyz", "--charge", 1, "--multiplicity", 4, "--json", "o.json")
    assert code == 0 and "quartet" in printed and "unrestricted" in printed and "spin" in printed
    assert json.loads((folder / "o.json").read_text())["frames"][0]["s2"] == pytest.approx(3.75, abs=0.1)
    assert "half-electron" in nddo("run", "water.xyz", "--charge", 1, "--restricted")[1]


def test_several_frames(folder):
    frames = [molecule("H2O"), molecule("CH4"), molecule("H2O")]
    frames[1].positions[0] = np.nan
    write("many.xyz", frames, format="xyz")
    code, printed = nddo("run", "many.xyz", "-o", "out.extxyz", "--json", "out.json", "--molden")
    assert code == 2 and "Error in frame 2" in printed and "finite" in printed
    entries = json.loads((folder / "out.json").read_text())["frames"]
    assert entries[1]["error"]["type"] == "InvalidMolecule"
    assert entries[0]["energy"] == pytest.approx(entries[2]["energy"], abs=1e-7)   # the others are untouched
    assert len(read(folder / "out.extxyz", ":")) == 2
    assert (folder / "many-1.molden").exists() and (folder / "many-3.molden").exists()


def test_optimisation_and_frequencies(folder):
    code, printed = nddo("run", "water.xyz", "--method", "PM6", "--opt", "--freq", "--raman", "--ir-png", "--json", "out.json",
                         "--temperature", 400)
    assert code == 0, printed
    for words in ("frequency", "zero-point", "point group C2v", "symmetry number 2", "Raman", "400 K", "polarizability"):
        assert words in printed
    frame, = json.loads((folder / "out.json").read_text())["frames"]
    # MOPAC 22.0.6, PM6 PRECISE FORCE; masses differ in the fourth digit
    np.testing.assert_allclose(frame["vibrations"]["frequencies"], WATER_PM6, atol=1.0)
    assert frame["optimisation"]["converged"] and frame["optimisation"]["largest_force"] < 0.001
    steps = read(folder / "water-opt-steps.extxyz", ":")
    energies = [a.get_potential_energy() for a in steps]
    assert len(steps) > 2 and energies[-1] < energies[0] and min(energies) == pytest.approx(energies[-1], abs=1e-6)
    assert read(folder / "water-opt.extxyz").get_potential_energy() == pytest.approx(frame["energy"], abs=1e-8)
    assert (folder / "water-ir.png").read_bytes().startswith(b"\x89PNG")


WATER_PM6 = [1334.58, 2526.39, 2613.29]


def test_an_atom(folder):
    (folder / "he.xyz").write_text("1\n\nHe 0 0 0\n")
    code, printed = nddo("run", "he.xyz", "--opt", "--raman", "--ir-png", "-o", "out.extxyz")
    assert code == 0, printed
    assert "30.12" in printed   # cal/mol/K: Sackur-Tetrode entropy of helium, 126.15 J/mol/K at 1 bar, 126.04 at 1 atm


def test_warnings(folder):
    code, printed = nddo("run", "water.xyz", "--opt", "--steps", 2, "--fmax", 1e-5)
    assert code == 1 and "stopped after" in printed
    code, printed = nddo("run", "water.xyz", "--freq")
    assert code == 0 and "no stationary point" in printed


SDF = """ammonium
  test

  5  4  0  0  0  0            999 V2000
    0.0000    0.0000    0.0000 N   0  {code}  0  0  0  0
    0.6000    0.6000    0.6000 H   0  0  0  0  0  0
   -0.6000   -0.6000    0.6000 H   0  0  0  0  0  0
   -0.6000    0.6000   -0.6000 H   0  0  0  0  0  0
    0.6000   -0.6000   -0.6000 H   0  0  0  0  0  0
  1  2  1  0
  1  3  1  0
  1  4  1  0
  1  5  1  0
{charge}M  END
"""
PDB = """ATOM      1  N   NH4 A   1       0.000   0.000   0.000  1.00  0.00           N{charge}
ATOM      2  H1  NH4 A   1       0.600   0.600   0.600  1.00  0.00           H
ATOM      3  H2  NH4 A   1      -0.600  -0.600   0.600  1.00  0.00           H
ATOM      4  H3  NH4 A   1      -0.600   0.600  -0.600  1.00  0.00           H
ATOM      5  H4  NH4 A   1       0.600  -0.600  -0.600  1.00  0.00           H
END
"""
CHARGED = {"chg.sdf": SDF.format(code=0, charge="M  CHG  1   1   1\n"), "code.mol": SDF.format(code=3, charge=""),
           "two.sdf": 2 * (SDF.format(code=0, charge="M  CHG  1   1   1\n") + "$$$$\n"), "formal.pdb": PDB.format(charge="1+")}


@pytest.mark.parametrize("name", CHARGED)
def test_charges_of_files(folder, name):
    (folder / name).write_text(CHARGED[name])
    frames = atoms_of(read_structures(folder / name))
    assert len(frames) == (2 if name == "two.sdf" else 1)
    assert all(a.info["charge"] == 1 and len(a) == 5 for a in frames)
    assert nddo("run", name)[0] == 0


def test_an_optimisation_over_a_step_of_the_energy_says_so(folder):
    shutil.copy(DATA / "glycine_zwitterion.xyz", folder)
    code, output = nddo("run", "glycine_zwitterion.xyz", "--opt", "--json", "out.json")
    assert code == 0, output
    frame = json.loads((folder / "out.json").read_text())["frames"][0]
    assert frame["optimisation"]["converged"] and 0.05 < frame["optimisation"]["step_in_the_energy"] < 0.1
    assert any("has a step of" in w for w in frame["warnings"])
    assert "1.15 Å" in nddo("methods", "PM6-D3H4")[1] and "7 Å" in nddo("methods", "PM7")[1]
    assert "steps in its energy: none" in nddo("methods", "MNDO/d")[1]


def test_more_steps_are_advised_only_where_they_ran_out(folder):
    code, output = nddo("run", "aspirin", "-m", "AM1", "--opt", "--steps", "2")
    assert code == 1 and "raise --steps" in output
    stopped = [of_optimisation(_stopped(stuck, lost), 0.5)[0] for stuck, lost in ((True, False), (True, True))]
    assert not any("--steps" in w for w in stopped) and "step or a kink" in stopped[0] and "SCF fails" in stopped[1]


def _stopped(stuck, lost):
    """An optimisation of one atom that did not converge."""
    no, zero = torch.tensor([False]), torch.zeros(1, dtype=torch.float64)
    return Optimised(Molecules.single([1], [[0, 0, 0]]), zero, torch.zeros(1, 3, dtype=torch.float64), no, no,
                     torch.tensor([25]), torch.tensor([stuck]), torch.tensor([lost]), zero)


@pytest.mark.parametrize(("lowest", "alarm"), [(-9.0, False), (-11.0, True), (20.0, False)])
def test_a_minimum_is_doubted_only_beyond_10i(lowest, alarm):
    found = calculate(molecule("H2O"), Hamiltonian("PM6"), Wanted(vibrations=True), lambda what, fraction: None)
    frequencies = found.spectroscopy.vibrations.frequencies.clone()
    frequencies[0] = lowest
    changed = replace(found.spectroscopy, vibrations=replace(found.spectroscopy.vibrations, frequencies=frequencies))
    said = " ".join(warnings(replace(found, spectroscopy=changed)))
    assert ("not a minimum" in said) == alarm and ("imaginary" in said) == (lowest < 0)


def test_names_and_numbers_in_xyz(folder):
    (folder / "a.xyz").write_text("3\nwater by numbers\n8 0 0 0\n1 0.76 0.59 0\n1 -0.76 0.59 0\n")
    assert read_structures(folder / "a.xyz")[0].atoms.get_chemical_formula() == "H2O"
    (folder / "b.xyz").write_text("2\n\nNa 0 0 0\n- 0 0 3\n")
    assert nddo("run", "b.xyz", "-m", "PM6", "-o", "b.extxyz", "--json", "b.json")[0] == 0
    assert nddo("run", "b.extxyz", "-m", "PM6", "--json", "c.json")[0] == 0
    first, second = (json.loads((folder / n).read_text())["frames"][0] for n in ("b.json", "c.json"))
    assert first["energy"] == pytest.approx(second["energy"], abs=1e-9) and first["numbers"] == [11, 2002]


BAD = {   # name of the file, its contents, options, words of the message
    "nan": ("a.xyz", "2\n\nH 0 0 0\nH 0 0 nan\n", [], "finite"),
    "coinciding": ("a.xyz", "2\n\nH 0 0 0\nH 0 0 0.001\n", [], "apart"),
    "unknown element": ("a.xyz", "1\n\nQq 0 0 0\n", [], "'Qq' is not the name of a species"),
    "no parameters": ("a.xyz", "1\n\nFe 0 0 0\n", ["-m", "AM1"],
                      "AM1 has no parameters for Fe (Z=26); methods that do: PM6, PM7"),
    "empty structure": ("a.xyz", "0\n\n", [], "no atoms"),
    "empty file": ("a.xyz", "", [], "contains no structure"),
    "cut short": ("a.xyz", "3\n\nH 0 0 0\n", [], "3 atoms announced"),
    "no xyz": ("a.xyz", "hello\nworld\n", [], "expected the number of atoms"),
    "missing column": ("a.xyz", "1\n\nH 0 0\n", [], "expected an element and three coordinates"),
    "letters": ("a.xyz", "1\n\nH 0 0 x\n", [], "expected an element and three coordinates"),
    "broken sdf": ("a.sdf", "what\nis\nthis\n", [], "cannot be read"),
    "unknown format": ("a.strange", "what is this", [], "format"),
    "periodic": ("a.xyz", '1\nLattice="5 0 0 0 5 0 0 0 5"\nHe 0 0 0\n', [], "--isolated"),
    "conflict": ("a.xyz", "1\nProperties=species:S:1:pos:R:3 charge=1 q=0\nLi 0 0 0\n", [], "Contradicting"),
    "parity": ("a.xyz", "1\n\nLi 0 0 0\n", ["--multiplicity", "1"], "cannot have multiplicity 1"),
    "too many unpaired": ("a.xyz", "1\n\nLi 0 0 0\n", ["--multiplicity", "12"], "multiplicity 12"),
    "charge": ("a.xyz", "1\n\nLi 0 0 0\n", ["--charge", "5"], "charge"),
    "no convergence": ("a.xyz", "2\n\nO 0 0 0\nC 0 0 1.2\n", ["--max-steps", "1"], "did not converge"),
    "method": ("a.xyz", "1\n\nH 0 0 0\n", ["-m", "PM8"], "There is no method 'PM8'"),
    "device": ("a.xyz", "1\n\nH 0 0 0\n", ["--device", "abacus"], "There is no device 'abacus'"),
    "output format": ("a.xyz", "1\n\nH 0 0 0\n", ["-o", "out.strange"], "no format that ASE writes"),
    "output folder": ("a.xyz", "1\n\nH 0 0 0\n", ["--json", "."], "is a folder"),
    "temperature": ("a.xyz", "1\n\nH 0 0 0\n", ["--temperature", "-1"], "--temperature"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused(folder, name):
    file, contents, options, words = BAD[name]
    (folder / file).write_text(contents)
    code, printed = nddo("run", file, *options)
    assert code == 2 and words in " ".join(printed.split())
    assert "Traceback" not in printed


def test_periodic_input_can_be_taken_as_isolated(folder):
    write("cell.extxyz", molecule("H2O", cell=[9, 9, 9], pbc=True))
    assert nddo("run", "cell.extxyz", "--isolated")[0] == 0


def test_no_file():
    assert nddo("run")[0] == 2
    assert nddo("run", ".")[0] == 2


def test_methods():
    code, printed = nddo("methods")
    assert code == 0 and all(m in printed for m in methods())
    code, printed = nddo("methods", "PM6", "--json")
    listed, = json.loads(printed)
    assert listed["elements"][:2] == ["H", "He"] and "Eu:sparkle" in listed["sparkles_and_pseudo_atoms"]
    assert nddo("methods", "PM8")[0] == 2


MOLFILE = """
     title and program lines may be empty

  3  2  0  0  0  0  0  0  0  0999 V2000
    0.0000    0.0000    0.1193 O   0  0
    0.0000    0.7632   -0.4770 H   0  0
    0.0000   -0.7632   -0.4770 H   0  0
  1  2  1  0
  1  3  1  0
M  END
"""


@pytest.mark.parametrize("text, frames", [(MOLFILE, 1), (MOLFILE + "$$$$\n", 1), (MOLFILE + "$$$$\n" + MOLFILE + "$$$$\n", 2)])
def test_molfiles_without_a_title(tmp_path, text, frames):
    (tmp_path / "water.sdf").write_text(text)
    found = atoms_of(read_structures(tmp_path / "water.sdf"))
    assert [a.get_chemical_formula() for a in found] == ["H2O"] * frames
