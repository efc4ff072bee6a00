"""Labels of PySCF: against PySCF itself, done the long way, and against differences of its energies."""

import sys

import numpy as np
import pytest

pytest.importorskip("pyscf")

from support.labels import structure

from nddo_ml.errors import UnknownOption
from nddo_ml.labels.levels.catalogue import level
from nddo_ml.labels.levels.pyscf import EV, KohnSham, WaveFunction, converged, molecule
from nddo_ml.labels.levels.pyscf_gradient import exchange_correlation, gradient, nimble, occupied
from nddo_ml.labels.levels.theory import frame

WATER = structure([8, 1, 1], [[0, 0, 0.12], [0, 0.78, -0.48], [0, -0.75, -0.47]])
NH2 = structure([7, 1, 1], [[0, 0, 0.12], [0, 0.8, -0.5], [0, -0.75, -0.52]], multiplicity=2)
SITES = np.array([[0, 0, 3.0, -0.8], [2.5, 1, 0, 0.4]])


def small(functional="wb97x-v", **more):
    return level(f"{functional}/6-31g", **more)


def plain(level_, structure):
    """PySCF's mean field and gradient without anything of ours, converged further than a label."""
    mf = level_.mean_field(molecule(structure, level_.basis, 2000), structure)
    mf.conv_tol, mf.conv_tol_grad = 1e-12, 1e-7
    mf.kernel()
    return mf, mf.nuc_grad_method().kernel()


@pytest.mark.parametrize("functional", ["wb97x-v", "pbe0", "pbe", "hf", "camb3lyp"])
@pytest.mark.parametrize("structure", [WATER, NH2, structure(WATER.numbers, WATER.positions, point_charges=SITES)],
                         ids=["restricted", "unrestricted", "sites"])
def test_the_short_way_is_the_long_way(functional, structure):
    """Energy to 1e-7 eV, forces to 1e-4 eV/angstrom: the label stops at 1e-9 hartree."""
    own = small(functional)
    mf, expected = plain(own, structure)
    found = own(structure)
    assert found.energy == pytest.approx(mf.e_tot * EV, abs=1e-7)
    np.testing.assert_allclose(found.forces, -expected * EV / 0.529177210903, atol=1e-4)
    # the same density: what differs is our gradient alone
    np.testing.assert_allclose(gradient(mf), expected, atol=2e-7)


def test_grid_blocks_and_small_memory_change_nothing():
    """Orbitals on the grid that do not fit are evaluated again, block by block."""
    def energy(memory):
        return KohnSham("wb97x-v", "6-31g", "wb97x", memory=memory)(WATER)

    roomy, narrow = energy(3000), energy(1)
    assert roomy.energy == pytest.approx(narrow.energy, abs=1e-7)
    np.testing.assert_allclose(roomy.forces, narrow.forces, atol=5e-5)


def test_exchange_correlation_forces_sum_to_the_error_of_the_grid_only():
    own = KohnSham("pbe", "6-31g", "pbe", grid=4)
    mf = converged(nimble(own.mean_field(molecule(WATER, own.basis, 2000), WATER)), WATER)
    found = exchange_correlation(mf, occupied(mf))
    assert np.abs(found).max() > 0.01 and np.abs(found.sum(0)).max() < 1e-3


def test_forces_on_point_charges_are_the_slope_of_the_energy():
    own, step = small(), 1e-3
    shift = np.array([[0, 0, step, 0], [0] * 4])
    at = [own(structure(WATER.numbers, WATER.positions, point_charges=SITES + d * shift)) for d in (1, -1)]
    found = own(structure(WATER.numbers, WATER.positions, point_charges=SITES))
    assert found.point_charge_forces[0, 2] == pytest.approx(-(at[0].energy - at[1].energy) / (2 * step), abs=2e-5)
    assert abs(found.point_charge_forces[0, 2]) > 0.05


def test_where_diis_fails_newton_goes_on(monkeypatch):
    """With too few cycles allowed the second-order solver takes over, to the same numbers."""
    from nddo_ml.labels.levels import pyscf as pyscf_levels

    own = small()
    expected, field = own(NH2), KohnSham.mean_field

    def hurried(self, mol, structure):
        mf = field(self, mol, structure)
        mf.max_cycle = 2
        return mf

    monkeypatch.setattr(pyscf_levels.KohnSham, "mean_field", hurried)
    found = own(NH2)
    assert found.energy == pytest.approx(expected.energy, abs=1e-6)
    np.testing.assert_allclose(found.forces, expected.forces, atol=1e-3)
    assert found.s2 == pytest.approx(expected.s2, abs=1e-4) and found.gap == pytest.approx(expected.gap, abs=1e-3)


def test_the_frame_says_where_it_comes_from():
    own = small()
    atoms = frame(NH2, own(NH2), own)
    assert atoms.info["level"] == "wb97x-v/6-31g df grid1 conv1e-09 d3bj(wb97x)" and atoms.info["ref_dispersion"] == "apart"
    assert atoms.info["ref_s2"] == pytest.approx(0.75, abs=0.02) and atoms.info["multiplicity"] == 2
    assert atoms.info["ref_energy_d3"] < 0 and atoms.arrays["ref_forces_d3"].shape == (3, 3)
    np.testing.assert_allclose(atoms.arrays["ref_forces_d3"].sum(0), 0, atol=1e-8)


def test_a_stretched_bond_breaks_its_spin_symmetry():
    """H2 at 2.5 angstrom: unrestricted lies near two atoms, restricted far above."""
    apart = [[0, 0, 0], [0, 0, 2.5]]
    own = small()
    restricted, broken = own(structure([1, 1], apart)), own(structure([1, 1], apart, unrestricted=True))
    atom = own(structure([1], [[0, 0, 0]], multiplicity=2))
    assert broken.s2 > 0.7 and restricted.energy - broken.energy > 1.0
    assert abs(broken.energy - 2 * atom.energy) < 0.3


@pytest.mark.parametrize("theory", ["mp2", "cisd", "ccsd", "ccsd(t)"])
def test_forces_of_wave_functions_are_slopes_of_their_energy(theory):
    own, step = WaveFunction(theory, "sto-3g", 1e-12), 1e-3
    for here in (WATER, NH2) if theory != "ccsd(t)" else (WATER,):
        shift = np.zeros((len(here.numbers), 3))
        shift[1, 1] = step
        at = [own(structure(here.numbers, here.positions + d * shift, 0, here.multiplicity)) for d in (1, -1)]
        found = own(here)
        assert found.forces[1, 1] == pytest.approx(-(at[0].energy - at[1].energy) / (2 * step), abs=2e-4)
        assert found.dipole is None


def test_energies_only_where_there_is_no_gradient():
    assert level("ccsd(t)/sto-3g")(NH2).forces is None       # PySCF's unrestricted ones are wrong: issue 3305
    own = level("fci/sto-3g")
    h2 = structure([1, 1], [[0, 0, 0], [0, 0, 0.74]])
    atoms = frame(h2, own(h2), own)
    assert "ref_forces" not in atoms.arrays and "no gradient" in atoms.info["ref_forces_missing"]
    # two electrons: CISD is exact
    assert atoms.info["ref_energy"] == pytest.approx(level("cisd/sto-3g")(h2).energy, abs=1e-6)


def test_names_are_checked_before_any_work():
    for words, message in ((("nonsense/6-31g",), "nonsense"), (("pbe/no-basis",), "no-basis"),
                           (("slater/6-31g",), "D3"), (("pbe/6-31g", "vv10"), "VV10")):
        with pytest.raises(UnknownOption, match=message):
            level(words[0], dispersion_model=words[1] if len(words) > 1 else None)
    with pytest.raises(UnknownOption, match="no setting 'grid'"):
        level("mp2/sto-3g", grid=3)
    with pytest.raises(UnknownOption, match="point charges"):
        level("mp2/sto-3g")(structure(WATER.numbers, WATER.positions, point_charges=SITES))
    assert level("wb97x-d3bj").name == level().name and level(functional="PBE0").dispersion_model == "pbe0"
    assert level("pbe/6-31g", dispersion_model="none").dispersion == "none"
    assert "pyscf" in sys.modules


@pytest.mark.parametrize("here", [WATER, NH2])
def test_tightbinding(here):
    pytest.importorskip("tblite")
    own, step = level("GFN2-xTB"), 1e-4
    shift = np.zeros((len(here.numbers), 3))
    shift[1, 1] = step
    at = [own(structure(here.numbers, here.positions + d * shift, 0, here.multiplicity)).energy for d in (1, -1)]
    found = own(here)
    assert found.forces[1, 1] == pytest.approx(-(at[0] - at[1]) / (2 * step), abs=1e-4)
    assert found.charges.sum() == pytest.approx(0, abs=1e-8) and found.gap > 0 and own.dispersion == "included"
    assert found.charges.shape == (len(here.numbers),) and found.dipole.shape == (3,)


def test_tightbinding_knows_spin():
    """The published spin constant of hydrogen's s shell, W = -0.0716 hartree, lowers its atom by |W|/2."""
    pytest.importorskip("tblite")
    atom = level("GFN2-xTB")(structure(np.array([1]), np.zeros((1, 3)), 0, 2))
    assert atom.energy / EV == pytest.approx(-0.39348276 - 0.0716 / 2, abs=1e-4)


def test_geometries_from_smiles():
    pytest.importorskip("rdkit")
    from nddo_ml.errors import InvalidMolecule
    from nddo_ml.labels.structures import from_smiles
    found = {s: from_smiles(s, 1) for s in ("CCO", "[NH4+]", "[CH3]", "O=O", "[O]", "[H]", "F", "[Cl-]")}
    assert [(f.charge, f.multiplicity, f.group) for f in found.values()] == [
        (0, 1, "molecule"), (1, 1, "ion"), (0, 2, "radical"), (0, 3, "radical"), (0, 3, "radical"), (0, 2, "radical"),
        (0, 1, "molecule"), (-1, 1, "ion")]
    assert from_smiles("CCO", 1).id == found["CCO"].id != from_smiles("CCO", 2).id
    with pytest.raises(InvalidMolecule, match="not a SMILES"):
        from_smiles("C(C", 1)
