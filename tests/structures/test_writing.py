"""What is written comes back: charge, multiplicity, isotopes, fixed atoms; or a warning says what the format does not hold."""

import json

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms, FixCartesian
from support.commands import nddo
from support.structure_files import DATA, NH4, pdb, xyz

from nddo_ml.errors import IncompatibleFile, InvalidMolecule
from nddo_ml.interfaces.ase import NDDO
from nddo_ml.structures.reading import atoms_of, read
from nddo_ml.structures.writing import write

AMMONIUM = Atoms("NH4", [[0, 0, 0], [0.59, 0.59, 0.59], [-0.59, -0.59, 0.59], [-0.59, 0.59, -0.59], [0.59, -0.59, -0.59]])


def ammonium():
    atoms = AMMONIUM.copy()
    atoms.info = {"charge": 1, "multiplicity": 1}
    atoms.calc = SinglePointCalculator(atoms, energy=-1.0, charges=np.array([-0.2, 0.3, 0.3, 0.3, 0.3]))
    return atoms


def oxygen():
    atoms = Atoms("O2", [[0, 0, 0], [0, 0, 1.2]])
    atoms.info = {"charge": 0, "multiplicity": 3}
    atoms.calc = SinglePointCalculator(atoms, charges=np.zeros(2), magmoms=np.ones(2))
    return atoms


def dianion():
    atoms = Atoms("C2O4", [[0, 0, 0], [1.5, 0, 0], [-0.6, 1.1, 0], [-0.6, -1.1, 0], [2.1, 1.1, 0], [2.1, -1.1, 0]])
    atoms.info = {"charge": -2, "multiplicity": 1}
    atoms.calc = SinglePointCalculator(atoms, charges=np.array([0.3, 0.3, -0.7, -0.6, -0.6, -0.7]))
    return atoms


def heavy_water():
    atoms = Atoms("OH2", [[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]], masses=[15.999, 2.014, 1.008])
    atoms.info = {"charge": -1, "multiplicity": 2}
    atoms.set_constraint(FixAtoms([0]))
    return atoms


@pytest.mark.parametrize("name", ["a.extxyz", "a.xyz", "a.sdf", "a.mol", "a.pdb", "a.gjf", "a.com", "a.json", "a.traj", "coord",
                                  "a.xyz.gz", "a.sdf.gz", "a.pdb.gz"])
@pytest.mark.parametrize("make", [ammonium, oxygen, dianion, heavy_water])
def test_state_comes_back(tmp_path, name, make):
    before = make()
    warnings = " ".join(write(tmp_path / name, [before]))
    after, = atoms_of(read(tmp_path / name))
    assert after.get_chemical_formula() == before.get_chemical_formula()
    assert after.info.get("charge", 0) == before.info["charge"]
    if "multiplicity" in warnings:
        assert name.startswith("a.pdb") and make is oxygen
    else:
        lowest = 1 + (int(before.numbers.sum()) - before.info["charge"]) % 2
        assert after.info.get("multiplicity", lowest) == before.info["multiplicity"]
    if "masses" not in warnings:
        np.testing.assert_allclose(after.get_masses(), before.get_masses(), atol=0.01)
    assert bool(after.constraints) == bool(before.constraints) or "constraints" in warnings
    assert not warnings or make in (oxygen, heavy_water)


def test_charges_of_groups(tmp_path):
    """The charge of an ion stands at a heavy atom, those of the file stay where they are."""
    write(tmp_path / "a.sdf", [ammonium()])
    assert "M  CHG  1   1   1" in (tmp_path / "a.sdf").read_text()
    write(tmp_path / "b.pdb", [dianion(), ammonium()])
    lines = (tmp_path / "b.pdb").read_text().splitlines()
    assert [line[76:80].strip() for line in lines if line.startswith("HETATM")][:6] == ["C", "C", "O1-", "O", "O", "O1-"]
    (tmp_path / "c.pdb").write_text(pdb(" N", "H1+"))
    four, = atoms_of(read(tmp_path / "c.pdb"))
    write(tmp_path / "d.sdf", [four])
    assert read(tmp_path / "d.sdf")[0].atoms.arrays["formal_charges"].tolist() == [0, 1, 1, 1, 1]


def test_names_of_a_protein_are_kept(tmp_path):
    before, = atoms_of(read(DATA / "ala_alt.pdb"))
    write(tmp_path / "a.pdb", [before, before])
    after = atoms_of(read(tmp_path / "a.pdb"))
    for atoms in after:
        np.testing.assert_array_equal(atoms.symbols, before.symbols)
        for name in ("atomtypes", "residuenames", "residuenumbers", "chains"):
            np.testing.assert_array_equal(atoms.arrays[name], before.arrays[name])


@pytest.mark.parametrize("name", ["a.cif", "a.xsf", "a.gro"])
def test_formats_without_a_charge_warn(tmp_path, name):
    warning, = write(tmp_path / name, [ammonium()])
    assert "does not hold the charge" in warning and name in warning


def test_constraints_come_back(tmp_path):
    atoms = oxygen()
    atoms.set_constraint([FixCartesian([1], [True, False, True]), FixAtoms([0])])
    assert write(tmp_path / "a.extxyz", [atoms]) == []
    fixed = [(c.index.tolist(), c.mask.tolist()) for c in read(tmp_path / "a.extxyz")[0].atoms.constraints]
    assert fixed == [([0], [True] * 3), ([1], [True, False, True])]


def test_one_structure_only(tmp_path):
    with pytest.raises(IncompatibleFile, match=r"holds 2 structure\(s\)"):
        write(tmp_path / "a.mol", [ammonium(), ammonium()])


# ---- the command and the calculator

@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def results(*words):
    """Exit code, what was printed on one line, and the frames of the JSON file, of AM1."""
    code, printed = nddo("run", *words, "-m", "AM1", "--json", "out.json")
    with open("out.json", encoding="utf-8") as file:
        return code, " ".join(printed.split()), json.load(file)["frames"]


HEATS = {   # kcal/mol, AM1; alanine as its coordinates give it in a plain xyz file
    "nh4_traj_END.pdb": [150.5895] * 3, "nh4_traj_MODEL.pdb": [150.5895] * 3, "ala_noel.pdb": [-93.7303],
    "ala_1hb.pdb": [-93.7303], "ala_alt.pdb": [-93.7303], "nh4_plus.pdb": [150.5895], "nh4_p1.pdb": [150.5895],
    "d_word1.xyz": [-59.2329], "d_word2.xyz": [-59.2329], "ammonium.sdf.gz": [150.5895], "nums.xyz.gz": [-59.2329],
    "qm9.xyz": [-8.0286], "bom.xyz": [-59.2329], "fortran.xyz": [-59.2329], "nh4.gjf": [150.5895], "coord": [150.5887]}


@pytest.mark.parametrize("name", HEATS)
def test_heats_of_the_cases(folder, name):
    code, _, frames = results(DATA / name)
    assert code == 0
    assert [frame["heat_of_formation"] for frame in frames] == pytest.approx(HEATS[name], abs=2e-3)


@pytest.mark.parametrize("name, bad", [("multi_bad.sdf", 2), ("mixed3.xyz", 2)])
def test_the_others_are_calculated(folder, name, bad):
    code, printed, frames = results(DATA / name)
    assert code == 2 and f"Error in frame {bad}" in printed
    assert [("error" in frame) for frame in frames] == [k == bad for k in range(1, len(frames) + 1)]


def test_ammonium_through_files(folder):
    (folder / "nh4.xyz").write_text(xyz("charge=1", NH4))
    first = results("nh4.xyz", "-o", "a.sdf")[2][0]["heat_of_formation"]
    for source, target in (("a.sdf", "b.pdb"), ("b.pdb", "c.xyz"), ("c.xyz", "d.extxyz")):
        assert results(source, "-o", target)[2][0]["heat_of_formation"] == pytest.approx(first, abs=2e-3)
    assert "does not hold the charge" in results("d.extxyz", "-o", "e.xsf")[1]


def test_isotopes_reach_the_frequencies(folder):
    frame, = results(DATA / "d2o_iso.sdf", "--opt", "--freq")[2]
    # as with the column of masses of hdo_mass.extxyz
    np.testing.assert_allclose(frame["vibrations"]["frequencies"], [1379, 2567, 2584], atol=1.0)
    assert "masses" in (folder / "d2o_iso-opt.extxyz").read_text()


def test_what_was_read_is_said(folder):
    code, printed, frames = results(DATA / "ala_alt.pdb")
    assert code == 0 and "Note:" in printed and "4 atoms left out" in printed and "4 atoms left out" in frames[0]["notes"][0]
    (folder / "a.xyz").write_text(3 * xyz("charge=1"))
    code, printed, frames = results("a.xyz", "--charge", -1)
    assert code == 0 and "--charge -1 instead of +1 as the file says. (3 frames)" in printed
    assert [frame["charge"] for frame in frames] == [-1, -1, -1]
    code, printed, frames = results("a.xyz", "--charge", 0, "--multiplicity", 3)
    assert code == 0 and frames[0]["multiplicity"] == 3 and "--charge +0" in printed


@pytest.mark.parametrize("key", ["Charge", "q", "total_charge"])
def test_the_calculator_reads_what_the_command_reads(key):
    atoms = AMMONIUM.copy()
    atoms.calc = NDDO("AM1")
    atoms.info = {key: 1}
    atoms.get_potential_energy()
    assert int(atoms.calc.result.molecules.charge[0]) == 1
    atoms.info = {key: True}      # a bare word of a comment, as ASE reads it
    with pytest.raises(InvalidMolecule, match="True"):
        atoms.get_potential_energy()
