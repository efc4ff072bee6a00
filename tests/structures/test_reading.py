"""Structure files: what is in them is read, named or refused, whatever the format, and never ignored."""

import bz2
import gzip
import lzma

import gemmi
import numpy as np
import pytest
from ase.constraints import FixAtoms, FixCartesian
from ase.io import write as ase_write
from support.structure_files import DATA, NAMES, NH4, WATER, pdb, xyz

from nddo_ml.errors import IncompatibleFile, InvalidMolecule
from nddo_ml.structures.reading import atoms_of, read

D, T, O18 = 2.0141, 3.0160, 17.9992


@pytest.fixture
def given(tmp_path):
    """Write a file, and read it."""
    def call(name, text, **options):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read(path, **options)
    return call


def case(name):
    return read(DATA / name)


def said(frames):
    """(formula, charge, multiplicity) of frames, None where the file says nothing."""
    return [(a.get_chemical_formula(), a.info.get("charge"), a.info.get("multiplicity")) for a in atoms_of(frames)]


def notes(frames):
    return " ".join(note for frame in frames for note in frame.notes)


# ---- xyz



@pytest.mark.parametrize("comment, charge, multiplicity", [
    ("Charge=1", 1, None), ("q=-1", -1, None), ("total_charge=2 mult=3", 2, 3), ("charge = 1", 1, None), ("charge=1+", 1, None),
    ("CHARGE=-1, Multiplicity=2", -1, 2), ("Total Charge = -1", -1, None), ("net_charge=1;spin=2", 1, 2), ("uhf=1 q=1", 1, 2),
    ("O'Brien's run charge=1", 1, None), ("charge=1.0", 1, None), ("Properties=species:S:1:pos:R:3 Charge=1 2S+1=4", 1, 4),
    ("charge: -1", -1, None), ('{"charge": 1, "multiplicity": 2}', 1, 2), ("total charge -1 multiplicity 2", -1, 2),
    ("charge neutral E=-17.16", None, None), ("step=5 total charge zero spin singlet", None, None), ("charge", None, None),
    ("Mulliken charges 0.3 and 0.2", None, None), ("Properties=species:S:1:pos:R:3 charge", None, None)])
def test_comments_of_xyz(given, comment, charge, multiplicity):
    frames = given("a.xyz", xyz(comment))
    assert said(frames) == [("H2O", charge, multiplicity)]
    prose = charge is not None and "=" not in comment
    assert ("is read from the comment" in notes(frames)) == prose


@pytest.mark.parametrize("comment, words", [("q=0.53", "0.53"), ("charge=abc", "'abc'"), ("charge=1 q=-1", "Contradicting"),
                                            ("charge=T", "True"), ("total_charge=\"1 2\"", "[1, 2]"), ("mult=x", "'x'")])
def test_a_charge_that_is_none_is_refused(given, comment, words):
    frame, = given("a.xyz", xyz(comment))
    assert words in str(frame.error)
    assert given("a.xyz", xyz(comment), charge=0, multiplicity=1)[0].error is None     # what the user says goes before


def test_a_pair_of_numbers_is_not_passed_over_in_silence(given):
    assert "charge=1 multiplicity=2" in notes(given("a.xyz", xyz("1 2"))) and notes(given("a.xyz", xyz("0 1"))) == ""


@pytest.mark.parametrize("name, formulas", [
    ("blankframes.xyz", ["H2O", "H2O", "H2"]), ("bom.xyz", ["H2O"]), ("fortran.xyz", ["H2O"]), ("qm9.xyz", ["CH4"]),
    ("nums.xyz.gz", ["H2O"])])
def test_kinds_of_xyz(name, formulas):
    assert [formula for formula, *_ in said(case(name))] == formulas


def test_further_kinds_of_xyz(given):
    for text in ("\n\n 3 \n\n" + WATER + "\n\n" + xyz("x") + "\n", (DATA / "blankframes.xyz").read_text().replace("\n", "\r\n"),
                 xyz("x").replace("\n", "\r") * 2, b"\xff\xfe" + (2 * xyz("x")).encode("utf-16-le")):
        frames = given("a.xyz", text)
        assert len(frames) >= 2 and all(f[0] in ("H2O", "H2") for f in said(frames))
    qm9 = (DATA / "qm9.xyz").read_text()
    assert [f[0] for f in said(given("b.xyz", qm9 + qm9.replace("1300.1", "1300") + xyz("x")))] == ["CH4", "CH4", "H2O"]
    atoms, = atoms_of(case("qm9.xyz"))
    assert atoms.positions[1, 2] == pytest.approx(0.63)
    for body in ("O 0 0 0\nH 9.6d-1 0 0\nH -2.4D-01 .93d+0 0", "O 0 0 0\nH 96.*^-2 0 0\nH -.24 0.93D0 0"):
        atoms, = atoms_of(given("c.xyz", xyz("x", body)))
        np.testing.assert_allclose(atoms.positions, [[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]], atol=1e-12)
    extended = "3\nProperties=pos:R:3:species:S:1:forces:R:3\n0 0 0 O 1D0 0 0\n0.96 0 0 H 0 0 0\n-0.24 0.93D0 0 H 0 0 2.5d-1\n"
    frame, = given("d.xyz", extended, results=True)
    assert frame.atoms.get_forces()[2, 2] == 0.25 and frame.atoms.positions[2, 1] == 0.93


@pytest.mark.parametrize("text, good", [(xyz("ok") + "2\ncut\nH 0 0 0\n" + xyz("ok"), [1, 0, 1]),
                                        ("2\nfew\n" + WATER + xyz("ok"), [0, 1]), (xyz("ok") + "the end\n", [1, 0]),
                                        (xyz("ok") + xyz("bad", "Qq 0 0 0\nH 0 0 1\n") + xyz("ok"), [1, 0, 1]),
                                        (xyz("ok") + xyz("bad", "H 0 0 0\nH 0 0 ****\n") + xyz("ok"), [1, 0, 1]),
                                        ((DATA / "mixed3.xyz").read_text(), [1, 0])])
def test_a_bad_frame_is_named_and_the_others_are_read(given, text, good):
    frames = given("a.xyz", text)
    assert [int(frame.error is None) for frame in frames] == good
    for k, frame in enumerate(frames, 1):
        assert frame.error is None or f"frame {k}, line" in str(frame.error)


@pytest.mark.parametrize("text, masses", [
    ("2\n\nD 0 0 0\nH 0 0 0.74\n", [D, 1.008]), ("2\n\nT 0 0 0\nd 0 0 0.74\n", [T, D]),
    ("2\nProperties=species:S:1:pos:R:3:masses:R:1\nD 0 0 0 2.5\nH 0 0 0.74 1.0\n", [2.5, 1.0])])
def test_isotopes_of_xyz(given, text, masses):
    assert [round(float(a.get_masses()[1]), 3) for a in atoms_of(case("hdo_mass.extxyz"))] == [2.014, 2.014, 1.008]
    atoms, = atoms_of(given("a.xyz", text))
    assert atoms.get_chemical_formula() == "H2"
    np.testing.assert_allclose(atoms.get_masses(), masses, atol=1e-3)


# ---- PDB





@pytest.mark.parametrize("field, charge", [("N1+", 1), ("N+1", 1), ("N +", 1), ("N+", 1), ("N1-", -1), ("N-1", -1), ("N -", -1),
                                           ("N2+", 2), ("N-3", -3), ("N", None), ("N0", None)])
def test_charges_of_pdb(given, field, charge):
    assert said(given("a.pdb", pdb(" " + field))) == [("H4N", charge, None)]


@pytest.mark.parametrize("field", ["N1", "N++", "Nx", "N*1", "N?+", "N12", "N--"])
def test_any_other_charge_of_pdb_is_refused(given, field):
    good, bad = given("a.pdb", pdb() + "END\n" + pdb(" " + field))
    assert good.error is None and "frame 2" in str(bad.error) and "1+" in str(bad.error)


@pytest.mark.parametrize("name", ["nh4_traj_END.pdb", "nh4_traj_MODEL.pdb"])
def test_frames_of_pdb(name):
    assert said(case(name)) == 3 * [("H4N", 1, None)]


@pytest.mark.parametrize("text", [
    pdb() + "END\n" + pdb(), "MODEL        1\n" + pdb() + "MODEL        2\n" + pdb(),
    pdb() + "TER\nENDMDL\n" + pdb() + "ENDMDL\nCONECT    1    2\nEND\n",
    "CRYST1    1.000    1.000    1.000  90.00  90.00  90.00 P 1           1\n" + 2 * (pdb() + "END\n")])
def test_further_frames_of_pdb(given, text):
    frames = given("a.pdb", text)
    assert said(frames) == 2 * [("H4N", 1, None)] and not frames[0].atoms.pbc.any()


def test_a_bad_frame_of_pdb(given):
    bad = pdb().replace("   0.590   0.590   0.590", "   0.590   xxxxx   0.590")
    frames = given("a.pdb", pdb() + "END\n" + bad + "END\n" + pdb())
    assert [frame.error is None for frame in frames] == [True, False, True]
    assert "frame 2" in str(frames[1].error) and "xxxxx" in str(frames[1].error)


@pytest.mark.parametrize("name", ["ala_noel.pdb", "ala_1hb.pdb"])
def test_elements_from_names(name):
    frames = case(name)
    assert said(frames) == [("C3H7NO2", None, None)] and "names of the atoms" in notes(frames)
    assert frames[0].atoms.symbols[1] == "C"


def test_calcium_stands_one_column_before_carbon(given):
    text = (DATA / "ala_noel.pdb").read_text()
    ion = "HETATM   14 CA    CA A   2       8.000   0.000   0.000  1.00  0.00\n"
    assert said(given("a.pdb", text.replace("END", ion + "END")))[0][0] == "C3H7CaNO2"
    assert given("b.pdb", text.replace(" CA  ALA", "CA   ALA"))[0].atoms.symbols[1] == "Ca"


@pytest.mark.parametrize("change", [
    lambda s: s.ljust(72) + "PROA", lambda s: s.ljust(72) + "C", lambda s: s.ljust(72) + "1ABC  12",
    lambda s: s[:12] + s[12:16].strip().ljust(4) + s[16:]], ids=["segment", "segment C", "before 1996", "left-justified"])
def test_files_without_elements(given, change):
    lines = [change(line) for line in (DATA / "ala_noel.pdb").read_text().splitlines() if line.startswith("ATOM")]
    assert said(given("a.pdb", "\n".join(lines))) == [("C3H7NO2", None, None)]


@pytest.mark.parametrize("tail", ["N1+", "  N1+", "\bN1+", "\b\bN1+", " n1+", "N1+ "])
def test_shifted_columns(given, tail):
    text = pdb("@" + tail).replace(10 * " " + "@", 10 * " ")
    while "\b" in text:
        text = text.replace(" \b", "", 1)
    assert said(given("a.pdb", text)) == [("H4N", 1, None)]
    ligand = pdb("C", names=["CA  ", *NAMES[1:]])     # the columns of the element go before the name
    for text in (ligand, ligand.replace(8 * " " + "C\n", 7 * " " + "C\n"), ligand.replace("C\n", " C\n", 1)):
        assert said(given("b.pdb", text))[0][0] == "CH4"


def test_alternate_locations(given):
    frames = case("ala_alt.pdb")
    whole = atoms_of(case("ala_noel.pdb"))[0]
    assert said(frames) == [("C3H7NO2", None, None)] and "A of ALA A1 are kept, 4 atoms left out" in notes(frames)
    np.testing.assert_allclose(sorted(frames[0].atoms.positions.tolist()), sorted(whole.positions.tolist()))
    text = (DATA / "ala_alt.pdb").read_text()
    second = "\n".join(line.replace("1.00", {"A": "0.30", "B": "0.70"}.get(line[16:17], "1.00")) for line in text.splitlines())
    frames = given("b.pdb", second)
    assert "B of ALA A1" in notes(frames) and 3.42 in frames[0].atoms.positions[:, 0]
    one = "\n".join(line for line in text.splitlines() if line[16:17] != "A")       # nothing to choose
    assert said(given("c.pdb", one)) == [("C3H7NO2", None, None)] and notes(given("c.pdb", one)) == ""


@pytest.mark.parametrize("name", ["a.cif", "a.mmcif", "a.cif.gz"])
def test_mmcif(given, name):
    structure = gemmi.read_pdb_string((DATA / "ala_alt.pdb").read_text().replace("           N\n", "           N1+\n", 1))
    text = structure.make_mmcif_document().as_string().encode()
    frames = given(name, gzip.compress(text) if name.endswith("gz") else text)
    assert said(frames) == [("C3H7NO2", 1, None)] and "A of ALA A1" in notes(frames)


def test_deuterium_of_pdb(given):
    atoms, = atoms_of(given("a.pdb", pdb(others=" D", names=[NAMES[0], " D1 ", " D2 ", " D3 ", " D4 "])))
    np.testing.assert_allclose(atoms.get_masses(), [14.007] + 4 * [D], atol=1e-3)


# ---- SD files

def records(text, *changes):
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return text


def test_v3000(given):
    assert said(case("acetate_v3000.sdf")) == [("CHO2", -1, None)]
    text = (DATA / "acetate_v3000.sdf").read_text()
    more = (records(text, ("CHG=-1", "-\nM  V30 CHG=-1")), records(text, (" CHG=-1", " RAD=2")),
            records(text, ("CHG=-1", "CHG=-1 MASS=18"), ("H -0.6", "D -0.6")))
    frames = given("a.sdf", "".join(more))
    assert said(frames) == [("CHO2", -1, None), ("CHO2", None, 2), ("CHO2", -1, None)]
    np.testing.assert_allclose(frames[2].atoms.get_masses(), [12.011, O18, 15.999, D], atol=1e-3)


@pytest.mark.parametrize("name", ["d2o_D.sdf", "d2o_iso.sdf"])
def test_isotopes_of_sdf(name):
    atoms, = atoms_of(case(name))
    assert atoms.get_chemical_formula() == "H2O"
    np.testing.assert_allclose(atoms.get_masses(), [15.999, D, D], atol=1e-3)


def test_further_isotopes_of_sdf(given):
    text, entry = (DATA / "d2o_iso.sdf").read_text(), "M  ISO  2   2   2   3   2"
    frames = given("a.sdf", records(text, (entry, "M  ISO  2   1  18   3   3")) + records(text, (entry + "\n", ""))
                   + records(text, (entry, "M  ISO  1   1  44")))
    np.testing.assert_allclose(frames[0].atoms.get_masses(), [O18, D, T], atol=1e-3)     # the second by its line of the atom
    np.testing.assert_allclose(frames[1].atoms.get_masses(), [15.999, D, D], atol=1e-3)
    assert "record 3" in str(frames[2].error) and "O has no isotope of mass number 44" in str(frames[2].error)


def test_radicals_of_sdf(given):
    assert said(case("ch2_rad.sdf")) == [("CH2", None, 3)]
    text, entry = (DATA / "ch2_rad.sdf").read_text(), "M  RAD  1   1   3"
    frames = given("a.sdf", records(text, (entry, "M  RAD  1   1   1")) + records(text, (entry, "M  RAD  2   1   2   2   2"))
                   + records(text, (entry + "\n", ""), ("C   0  0", "C   0  4")))
    assert [m for *_, m in said(frames)] == [1, 3, 2] and "2 radical centres" in notes(frames)


def test_fields_of_sdf(given):
    text = (DATA / "multi_bad.sdf").read_text().split("$$$$\n")[0]
    neutral = records(text, ("M  CHG  1   1   1\n", ""), ("N   0  3", "N   0  0"))
    frames = given("a.sdf", f"{text}> <Charge>\n1\n\n$$$$\n{neutral}> <total_charge>\n1\n\n> <mult>\n3\n\n$$$$\n"
                   f"{text}> <charge>\n0\n\n$$$$\n{records(text, ('M  CHG  1   1   1' + chr(10), ''))}$$$$\n")
    assert "frame 3" in str(frames[2].error) and "Contradicting" in str(frames[2].error)
    assert said([*frames[:2], frames[3]]) == [("H4N", 1, None), ("H4N", 1, 3), ("H4N", 1, None)]


def test_a_bad_record_is_named(given):
    frames = case("multi_bad.sdf")
    assert [frame.error is None for frame in frames] == [True, False, True]
    assert "record 2 (ammonium)" in str(frames[1].error) and "'Zz'" in str(frames[1].error)
    good, bad = (DATA / "ch2_rad.sdf").read_text(), "\n".join((DATA / "ch2_rad.sdf").read_text().splitlines()[:5]) + "\n$$$$\n"
    for text in (bad + good, good + bad + good, good + records(good, ("0.9900", "0.99xx"))):
        frames = given("a.sdf", text)
        assert sum(frame.error is None for frame in frames) == text.count(good)
        assert all(f"record {k}" in str(frame.error) for k, frame in enumerate(frames, 1) if frame.error)


def test_molfiles_that_do_not_keep_to_the_columns(given):
    frames = given("a.mol", "x\n\n\n3 2 V2000\n0.0 0.0 0.1234567 O\n0.0 0.76 -0.47 H 0 3\n0.0 -0.76 -0.47 D\n1 2 1\n1 3 1\n"
                            "M  END\n")
    assert said(frames) == [("H2O", 1, None)] and frames[0].atoms.positions[0, 2] == 0.1234567
    assert frames[0].atoms.get_masses()[2] == pytest.approx(D, abs=1e-3)


MOL2 = """@<TRIPOS>MOLECULE
nh4
 5 4 1 0 0
SMALL
{kind}

@<TRIPOS>ATOM
1 N 0.0 0.0 0.0 N.4 1 LIG 0.2
2 H1 0.59 0.59 0.59 H 1 LIG 0.2
3 H2 -0.59 -0.59 0.59 H 1 LIG 0.2
4 H3 -0.59 0.59 -0.59 H 1 LIG 0.2
5 H4 0.59 -0.59 -0.59 H 1 LIG {last}
@<TRIPOS>BOND
1 1 2 1
2 1 3 1
3 1 4 1
4 1 5 1
"""


def test_mol2(given):
    frames = given("a.mol2", MOL2.format(kind="GASTEIGER", last=0.2) + MOL2.format(kind="NO_CHARGES", last=0.2)
                   + MOL2.format(kind="GASTEIGER", last=0.6))
    assert said(frames[:2]) == [("H4N", 1, None), ("H4N", None, None)] and "no charges" in notes(frames)
    assert "record 3" in str(frames[2].error) and "1.400" in str(frames[2].error)


# ---- other programs

GJF = "%chk=a\n#p PM6 opt\n\ntitle\n\n{state}\n{body}\n"
CJSON = ('{{"chemicalJson": 1, "atoms": {{"elements": {{"number": [7, 1]}}, "coords": {{"3d": [0, 0, 0, 0, 0, 1]}}{formal}}}'
         '{more}}}')
COORD = "$coord\n 0.0 0.0 0.0 n\n 1.115 1.115 1.115 h{fixed}\n{more}$end\n"
PWI = "&system\n ibrav=0, nat=1, ntyp=1, {said}\n/\nATOMIC_SPECIES\nH 1.0 x.upf\nATOMIC_POSITIONS angstrom\nH 0 0 0\n" \
      "CELL_PARAMETERS angstrom\n5 0 0\n0 5 0\n0 0 5\n"
PROGRAMS = {
    "gjf": ("a.gjf", GJF.format(state="1 1", body=NH4), 1, 1), "com": ("a.com", GJF.format(state="-1, 3", body=NH4), -1, 3),
    "orca": ("a.inp", f"! PM3\n*xyz 1 1\n{NH4}*\n", 1, 1),
    "orca 2": ("b.inp", f"! PM3 opt\n\n  * XYZ -1 2\n{NH4}  *\n%scf end\n", -1, 2),
    "eht": ("coord", COORD.format(fixed="", more="$eht charge=1 unpaired=0\n"), 1, 1),
    "chrg": ("coord", COORD.format(fixed="", more="$chrg -1\n$uhf 2\n"), -1, 3),
    "cjson": ("a.cjson", CJSON.format(formal="", more=', "properties": {"totalCharge": 1, "totalSpinMultiplicity": 3}'), 1, 3),
    "cjson 2": ("b.cjson", CJSON.format(formal=', "formalCharges": [-1, 0]', more=""), -1, None),
    "espresso": ("a.pwi", PWI.format(said="tot_charge=1.0"), 1, None),
    "espresso 2": ("b.pwi", PWI.format(said="tot_magnetization = 1"), None, 2)}


@pytest.mark.parametrize("name", PROGRAMS)
def test_charges_of_other_programs(given, name):
    file, text, charge, multiplicity = PROGRAMS[name]
    for packed, contents in ((file, text), (file + ".gz", gzip.compress(text.encode()))):
        assert said(given(packed, contents))[0][1:] == (charge, multiplicity)


@pytest.mark.parametrize("more, word", [("$eht charge=x unpaired=0\n", "x"), ("$chrg one\n$uhf 2\n", "one")])
def test_a_charge_that_is_no_number_is_refused(given, more, word):
    with pytest.raises(InvalidMolecule, match=rf"charge .*'{word}'.*expected a whole number"):
        atoms_of(given("coord", COORD.format(fixed="", more=more)))


def test_the_cases_of_other_programs():
    assert said(case("nh4.gjf")) == said(case("coord")) == [("H4N", 1, 1)]


def test_isotopes_and_freeze_codes_of_gaussian(given):
    body = "C -1 0.0 0.0 0.0\nO 0 1.2 0.0 0.0\nH(iso=2) 0 -0.6 0.9 0.0\nH -1 -0.6 -0.9 0.0\n"
    atoms, = atoms_of(given("a.gjf", GJF.format(state="0 1", body=body)))
    np.testing.assert_allclose(atoms.get_masses(), [12.011, 15.999, D, 1.008], atol=1e-3)
    assert atoms.constraints[0].index.tolist() == [0, 3]
    plain, = atoms_of(given("b.gjf", GJF.format(state="0 1", body="O 0.0 0.0 0.0\nH(Iso=3) 0.0 0.0 1.0\nH 0.9 0.0 0.0\n")))
    assert plain.get_masses()[1] == pytest.approx(T, abs=1e-3) and not plain.constraints


def test_a_format_whose_charge_is_not_read_says_so(given, tmp_path):
    cell = 'Lattice="9 0 0 0 9 0 0 0 9" Properties=species:S:1:pos:R:3'
    atoms, = atoms_of(given("a.xyz", xyz(cell, "H 0 0 0\nH 0 0 0.74\n")))
    for name, form in (("a.cif", "cif"), ("b.abi", "abinit-in")):
        ase_write(tmp_path / name, atoms, format=form)
        frames = read(tmp_path / name, isolated=True)
        assert said(frames) == [("H2", None, None)] and "charge is not read" in notes(frames)


# ---- compression, constraints, and what the user says

@pytest.mark.parametrize("name", ["nh4_traj_END.pdb", "acetate_v3000.sdf", "d2o_iso.sdf", "fixed.extxyz", "coord", "nh4.gjf",
                                  "bom.xyz"])
def test_a_file_says_the_same_when_compressed(given, name):
    data = (DATA / name).read_bytes()
    plain = atoms_of(case(name))
    for suffix, pack in ((".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress)):
        packed = atoms_of(given(name + suffix, pack(data)))
        assert packed == plain and [a.info for a in packed] == [a.info for a in plain]
        assert [len(a.constraints) for a in packed] == [len(a.constraints) for a in plain]
        np.testing.assert_array_equal(packed[0].get_masses(), plain[0].get_masses())


def test_the_case_of_ammonium():
    assert said(case("ammonium.sdf.gz")) == [("H4N", 1, None)]


def test_a_damaged_archive_is_refused(given):
    with pytest.raises(IncompatibleFile, match="cannot be unpacked"):
        given("a.xyz.gz", gzip.compress(100 * xyz("x").encode())[:-12])
    assert said(given("b.xyz.gz", xyz("x"))) == [("H2O", None, None)]      # no archive, whatever its name says


def test_constraints(given):
    atoms, = atoms_of(case("fixed.extxyz"))
    assert isinstance(atoms.constraints[0], FixAtoms) and atoms.constraints[0].index.tolist() == [0, 1]
    poscar = "x\n1.0\n5 0 0\n0 5 0\n0 0 5\nH\n2\nSelective dynamics\nCartesian\n0 0 0 {}\n0 0 0.74 {}\n"
    whole, part = (atoms_of(given("POSCAR", poscar.format(*words), isolated=True))[0].constraints
                   for words in (("F F F", "T T T"), ("T T T", "T F F")))
    assert len(whole) == 1 and whole[0].index.tolist() == [0]
    assert isinstance(part[0], FixCartesian) and (part[0].index.tolist(), part[0].mask.tolist()) == ([1], [False, True, True])
    masks = "2\nProperties=species:S:1:pos:R:3:move_mask:L:3\nH 0 0 0 T F F\nH 0 0 0.74 T T T\n"
    atoms, = atoms_of(given("a.extxyz", masks))
    assert [c.index.tolist() for c in atoms.constraints] == [[0]]
    assert atoms_of(given("coord", COORD.format(fixed=" f", more="")))[0].constraints[0].index.tolist() == [1]
    assert atoms_of(case("coord"))[0].constraints == []      # none, not one of no atoms


ION = "Properties=species:S:1:pos:R:3 charge=1 multiplicity=2"


@pytest.mark.parametrize("options, state, words", [
    ({"charge": 0}, (0, None), "--charge +0 instead of +1"), ({"charge": 0}, (0, None), "impossible with charge +0"),
    ({"charge": 0, "multiplicity": 3}, (0, 3), "--multiplicity 3 instead of 2"), ({"charge": 1}, (1, 2), ""),
    ({"charge": -1}, (-1, 2), "--charge -1 instead of +1"), ({"multiplicity": 4}, (1, 4), "--multiplicity 4")])
def test_what_the_user_says_goes_before_the_file(given, options, state, words):
    frames = given("a.xyz", xyz(ION), **options)
    assert said(frames)[0][1:] == state
    assert words in notes(frames) and (words != "" or notes(frames) == "")
