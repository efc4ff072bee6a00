"""Structures: what they are made of, what decides their label, how they survive their files."""

import io

import numpy as np
import pytest
from ase.build import molecule
from ase.io import read
from support.labels import structure, water

from nddo_ml.errors import IncompatibleFile, InvalidMolecule
from nddo_ml.labels.journal import text
from nddo_ml.labels.structures import from_atoms, lowest_multiplicity, read_smiles


def test_a_structure_survives_its_file(tmp_path):
    """Ids, charges, texts: what is read is what was written, also where the format has traps."""
    made = [structure([1, 9], [[0, 0, 0], [0, 0, 0.923456785]], smiles=s, how="md 300 K")
            for s in (r"F/C=C\F", "[H]", "C#N", "a 'b'")]
    made += [structure([8], [[0, -1e-12, 1 / 3]], -1, 2, point_charges=np.array([[1, 2, 3, -0.5]])),
             structure([1, 1], [[0, 0, 0], [0, 0, 2]], 0, 1, unrestricted=True, complex="A.B@1", fragment="AB")]
    back = [from_atoms(read(io.StringIO(text(s.atoms)), format="extxyz")) for s in made]
    for a, b in zip(made, back, strict=True):
        assert a.id == b.id and (a.smiles, a.how, a.complex, a.fragment) == (b.smiles, b.how, b.complex, b.fragment)
    assert len({s.id for s in made}) == 3      # the four first are one structure: texts do not decide a label


def test_hydrogen_fluoride_is_not_false():
    atoms = structure([1, 9], [[0, 0, 0], [0, 0, 0.92]], smiles="F").atoms
    assert read(io.StringIO(text(atoms)), format="extxyz").info["smiles"] == "[H]F"


def test_everything_that_decides_a_label_decides_the_id():
    a = water()
    others = [water(1e-6), *(structure(a.numbers, a.positions, **change) for change in (
        {"charge": 2}, {"multiplicity": 3}, {"unrestricted": True}, {"point_charges": np.ones((1, 4))}))]
    assert len({a.id, *(o.id for o in others)}) == 6


def test_free_atoms_have_their_ground_state():
    """Experiment (NIST): H 2, C 3, N 4, O 3, F 2, P 4, S 3, Cl 2, Ne 1; ions like the isoelectronic atom."""
    found = {z: lowest_multiplicity([z], 0) for z in (1, 6, 7, 8, 9, 10, 15, 16, 17)}
    assert found == {1: 2, 6: 3, 7: 4, 8: 3, 9: 2, 10: 1, 15: 4, 16: 3, 17: 2}
    assert lowest_multiplicity([17], -1) == 1 and lowest_multiplicity([8], 1) == 4
    with pytest.raises(InvalidMolecule, match="Fe"):
        lowest_multiplicity([26], 2)


@pytest.mark.parametrize("change", [{"positions": [[0, 0, 0], [0, 0, 0.1]]}, {"multiplicity": 2}, {"multiplicity": 0},
                                    {"positions": [[0, 0, 0], [0, 0, np.nan]]}, {"charge": 3},
                                    {"numbers": [], "positions": np.zeros((0, 3))}])
def test_what_cannot_be_labelled_is_refused(change):
    with pytest.raises(InvalidMolecule):
        structure(**{"numbers": [1, 1], "positions": [[0, 0, 0], [0, 0, 0.74]]} | change)


def test_lists_of_smiles(tmp_path):
    (tmp_path / "a.smi").write_text("# comment\nCCO core\n\nC\n")
    (tmp_path / "b.json").write_text('["C", {"smiles": "N", "group": "core"}]')
    (tmp_path / "c.json").write_text('{"x": 1}')
    assert read_smiles(tmp_path / "a.smi") == [("CCO", "core"), ("C", "")]
    assert read_smiles(tmp_path / "b.json") == [("C", ""), ("N", "core")]
    with pytest.raises(IncompatibleFile, match=r"c\.json"):
        read_smiles(tmp_path / "c.json")


def test_charge_and_spin_come_from_the_file():
    radical = from_atoms(molecule("CH3CH2O"))       # ASE brings its initial magnetic moments
    assert (radical.multiplicity, radical.group) == (2, "radical")
    atoms = molecule("CH3CH2O")
    atoms.info["multiplicity"] = 4
    with pytest.raises(InvalidMolecule, match=r"Contradicting values of the multiplicity: 4 .* 2 from"):
        from_atoms(atoms)
