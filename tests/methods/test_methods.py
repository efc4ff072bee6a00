"""Methods, their tables and the species they cover."""

import copy
import csv
import pickle
from pathlib import Path

import pytest
import torch

from nddo_ml import elements
from nddo_ml.errors import InvalidMolecule, MissingParameter, UnknownOption
from nddo_ml.integrals.parameters import PARAMETER_NAMES
from nddo_ml.methods import method, methods, tables
from nddo_ml.units import CODATA_2018, MNDO_1977

SHARED = Path(__file__).parents[3] / "shared" / "parameters"
BASES = ("MNDO", "AM1", "PM3", "RM1", "MNDO/d", "PM6", "PM7")
COUNTS = {"MNDO": 41, "AM1": 42, "PM3": 42, "RM1": 25, "MNDO/d": 22, "PM6": 70, "PM7": 70}   # elements that MOPAC 22.0.6 runs


def row(name, species):
    return int(method(name).rows(torch.tensor([elements.number(species)])))


@pytest.mark.parametrize("name", BASES)
def test_elements_covered(name):
    e = method(name).elements
    assert int((e.n_ao > 0).sum()) == COUNTS[name]
    assert set(e.n_ao.tolist()) <= {0, 1, 4, 9}
    assert torch.equal(e.number, e.number.sort().values)
    assert bool((e.occ_s + e.occ_p + e.occ_d)[e.n_ao > 0].eq(e.core[e.n_ao > 0]).all())


@pytest.mark.parametrize("name", methods())
def test_shapes_and_finite(name):
    m = method(name)
    rows = len(m.elements.number)
    for key in PARAMETER_NAMES:
        value = getattr(m.parameters, key)
        assert value.dtype == torch.float64 and value.shape == ((rows, 4) if key in "KLM" else (rows,))
        assert bool(torch.isfinite(value).all())
    assert torch.equal(m.pairs.index, m.pairs.index.T) and m.pairs.index.shape == (rows, rows)
    assert int(m.pairs.index.max()) == len(m.pairs.alpha) - 1


def test_values():
    """A value of each kind, from the articles cited in the tables."""
    p = method("AM1").parameters
    assert float(p.U_ss[row("AM1", "H")]) == -11.396427
    assert float(p.alpha[row("AM1", "O")]) == 4.455371
    assert p.K[row("AM1", "H")].tolist() == [0.122796, 0.00509, -0.018336, 0.0]
    assert float(method("PM3").parameters.beta_p[row("PM3", "C")]) == -9.802755
    pm6 = method("PM6")
    entry = int(pm6.pairs.index[row("PM6", "C"), row("PM6", "H")])
    assert (float(pm6.pairs.alpha[entry]), float(pm6.pairs.x[entry])) == (1.027806, 0.216506)
    assert int(pm6.pairs.index[row("PM6", "La:sparkle"), row("PM6", "O")]) == -1   # La with orbitals has one
    assert int(pm6.pairs.index[row("PM6", "La"), row("PM6", "O")]) >= 0
    assert float(pm6.elements.EHEAT[row("PM6", "C")]) == 170.89
    assert float(method("PM7").elements.core[row("PM7", "-1/2")]) == -0.5
    assert float(method("PM7").parameters.rho_core[row("PM7", "+")]) == 0.5


@pytest.mark.skipif(not SHARED.exists(), reason="needs the project's parameter folder")
@pytest.mark.parametrize("name", BASES)
def test_tables_complete(name):
    """Every parameter of the source tables is read unchanged; no pair and no species is lost."""
    m = method(name)

    def lines(file):
        path = SHARED / file
        lines = path.read_text().splitlines() if path.exists() else []
        return list(csv.DictReader(line for line in lines if not line.startswith("#")))

    for source, offset in ((f"{m.table}.csv", 0), (f"{m.table}_sparkles.csv", elements.SPARKLE)):
        for r in lines(source):
            z = int(r["Z"])
            if offset == 0 and z in tables.UNPUBLISHED.get(m.table, ()):
                continue
            k = row(name, str(offset + z))
            for key in (*PARAMETER_NAMES, "core", "n_s", "n_p", "n_d", "m_sp", "m_d", "n_ao", "main_group", "occ_d", "EHEAT"):
                record = m.parameters if key in PARAMETER_NAMES else m.elements
                expected = [float(r.get(f"{key}{n}") or 0) for n in range(1, 5)] if key in "KLM" else float(r.get(key) or 0)
                assert getattr(record, key)[k].tolist() == expected
    present = [r for r in lines(f"{m.table}_pairs.csv")
               if all(int(r[z]) in m.elements.number or int(r[z]) == 87 for z in ("Z_A", "Z_B"))]
    assert len(present) == len(m.pairs.alpha)
    number = {87: elements.number("+1/2")}
    for r in present:
        i, j = (row(name, str(number.get(int(r[z]), int(r[z])))) for z in ("Z_A", "Z_B"))
        entry = int(m.pairs.index[i, j])
        assert (float(m.pairs.alpha[entry]), float(m.pairs.x[entry])) == (float(r["alpha_AB"]), float(r["x_AB"]))


def test_lookup():
    assert method("pm6-d3h4") is method("PM6-D3H4")
    assert method("MNDOD") is method("mndo-d") is method("MNDO/d")
    assert method(method("AM1")) is method("AM1")
    assert method("MNDO/d").constants == MNDO_1977 and method("PM7").constants == CODATA_2018
    assert method("PM7").join and not method("PM6").join
    with pytest.raises(UnknownOption, match=r"'PM66'.*available: MNDO, AM1.*Did you mean PM6"):
        method("PM66")


@pytest.mark.parametrize("name", ["MNDO/d", "PM7", "PM7-smooth"])
def test_the_recipe_is_what_the_method_says(name):
    """What the integrals are told of a method."""
    m = method(name)
    recipe = m.recipe
    assert (recipe.constants, recipe.join, recipe.fade) == (m.constants, m.join, m.fade)
    assert recipe.core_energy is m.core_core.energy and recipe.elements is m.elements
    assert recipe.rho_core is m.parameters.rho_core
    C_H = torch.tensor([row(name, "C")]), torch.tensor([row(name, "H")])
    assert recipe.core_rules(*C_H).charge.tolist() == [4.0]


def test_corrections_follow_the_base():
    base = method("PM6").corrections
    assert all(method(n).corrections[:len(base)] == base for n in methods() if n.startswith("PM6-"))
    assert method("MNDO/d").corrections == ()


def test_missing_parameters():
    def refused(name, species):
        with pytest.raises(MissingParameter) as error:
            row(name, species)
        return str(error.value)

    assert refused("AM1", "Fe") == "AM1 has no parameters for Fe (Z=26); methods that do: PM6, PM7."
    assert "no publication" in refused("MNDO", "Fe") and "PM6, PM7" in refused("MNDO", "Fe")
    assert "no method here does" in refused("PM6", "Rn")
    assert "+1/2" in refused("RM1", "+1/2")
    for number in (0, -3, 119, 5000):
        with pytest.raises(InvalidMolecule, match=str(number)):
            method("AM1").rows(torch.tensor([6, number]))


def test_lanthanides_become_sparkles():
    am1 = method("AM1")
    assert row("AM1", "Eu") == row("AM1", "Eu:sparkle") and float(am1.elements.core[row("AM1", "Eu")]) == 3
    assert row("RM1", "Eu") != row("RM1", "Eu:sparkle")
    assert row("PM6", "La") != row("PM6", "La:sparkle")
    assert 63 in am1.species and 63 not in method("MNDO").species


@pytest.mark.parametrize("name", methods())
def test_methods_travel(name):
    m = method(name)
    assert pickle.loads(pickle.dumps(m)) == m and copy.deepcopy(m) == m


def test_species_names():
    for number in (1, 26, 118, 1063, 2001, 2008):
        assert elements.number(elements.symbol(number)) == number == elements.number(str(number))
    assert elements.number("eu:SPARKLE") == 1063 and elements.number("FE") == 26
    with pytest.raises(InvalidMolecule, match=r"'Feo'.*Did you mean 'Fe'"):
        elements.number("Feo")
    with pytest.raises(InvalidMolecule, match="1001"):
        elements.symbol(1001)


def test_masses_and_radii():
    numbers = torch.tensor([1, 8, 63, 1063, 2001])
    m, r = elements.masses(numbers), elements.covalent_radii(numbers)
    assert float(m[1]) == pytest.approx(15.999) and float(m[2]) == float(m[3]) and float(m[4]) == 0
    assert float(r[0]) == 0.31 and float(r[4]) == 0
