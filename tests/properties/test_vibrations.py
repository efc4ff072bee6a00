"""Normal modes, infrared and Raman intensities against finite differences of MOPAC, and the properties they must have."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from ase.build import molecule

from nddo_ml.errors import InvalidMolecule
from nddo_ml.properties.vibrations import ir_intensities, normal_modes, raman_activities, rigid_motions
from nddo_ml.units import CODATA_2018

GOLDEN = json.loads((Path(__file__).parents[1] / "data" / "vibrations.json").read_text())


def springs(positions, constant=30.0):
    """Hessian of springs at rest between all atoms, sum k u u^T: translation and rotation cost nothing, exactly."""
    x = torch.as_tensor(np.asarray(positions), dtype=torch.float64)
    i, j = torch.triu_indices(len(x), len(x), 1)

    def distances(y):
        return (y[i] - y[j]).square().sum(-1).sqrt()

    def energy(flat):
        return constant / 2 * ((distances(flat.reshape(-1, 3)) - distances(x)) ** 2).sum()
    return torch.autograd.functional.hessian(energy, x.flatten())


def water():
    a = molecule("H2O")
    return springs(a.positions), torch.tensor(a.get_masses()), torch.tensor(a.positions)


@pytest.mark.parametrize("golden", GOLDEN["records"], ids=lambda g: f"{g['name']} {g['method']}")
def test_frequencies_and_intensities_from_the_hessian_of_mopac(golden):
    """0.01 cm^-1 and 0.1 %: what five decimals of the stored Hessian allow; degenerate intensities are compared as sums."""
    v = normal_modes(np.array(golden["hessian_kcal_mol_A2"]) / CODATA_2018.kcal_mol, golden["masses"], golden["positions"])
    expected = np.array(golden["frequencies"])
    assert np.abs(v.frequencies.numpy() - expected).max() < 0.01
    intensities = ir_intensities(np.array(golden["dipole_derivatives_D_A"]) / CODATA_2018.debye, v.modes).numpy()
    group = np.cumsum(np.diff(expected, prepend=expected[0]) > 1)
    theirs = np.bincount(group, golden["intensities"])
    assert np.abs(np.bincount(group, intensities) - theirs).max() <= 1e-3 * theirs.max()
    assert np.allclose(np.bincount(group, intensities), theirs, rtol=1e-3, atol=1e-3)


def test_diatomic_formula():
    """nu = sqrt(k/mu)/(2 pi c) = 1302.79 cm^-1 for k = 1 mdyn/angstrom and mu = 1 amu; five external motions, one mode."""
    k = 1e2 / 16.02176634   # 1 mdyn/angstrom = 100 J/m^2
    hessian = torch.zeros(6, 6, dtype=torch.float64)
    hessian[2, 2] = hessian[5, 5] = k
    hessian[2, 5] = hessian[5, 2] = -k
    v = normal_modes(hessian, [2.0, 2.0], [[0, 0, 0], [0, 0, 1.0]])
    assert v.frequencies.tolist() == pytest.approx([1302.79], abs=0.01)
    assert v.reduced_masses.tolist() == pytest.approx([2.0])   # 1 / sum |dx/dQ|^2 of equal masses is the mass itself
    assert v.residual.abs().max() < 1e-5 and len(v.residual) == 5


def test_atom_and_linear():
    v = normal_modes(torch.zeros(3, 3), [4.0], [[1.0, 2, 3]])
    assert len(v.frequencies) == 0 and v.zero_point_energy == 0 and v.imaginary == 0
    assert ir_intensities(torch.zeros(3, 3), v.modes).shape == (0,)
    x = torch.tensor([[0.0, 0, -1.16], [0, 0, 0], [0, 0, 1.16]], dtype=torch.float64)
    assert len(normal_modes(torch.eye(9), [16.0, 12, 16], x).frequencies) == 4
    bent = x + torch.tensor([[0.0, 0, 0], [0, 1e-4, 0], [0, 0, 0]])
    assert len(normal_modes(torch.eye(9), [16.0, 12, 16], bent).frequencies) == 4


def test_modes_are_orthonormal_and_move_nothing_rigidly():
    hessian, masses, positions = water()
    v = normal_modes(hessian, masses, positions)
    flat = v.modes.flatten(1) * masses.sqrt().repeat_interleave(3)
    assert torch.allclose(flat @ flat.T, torch.eye(3, dtype=torch.float64), atol=1e-12)
    assert (v.modes * masses[:, None]).sum(1).abs().max() < 1e-12
    assert torch.linalg.cross(v.modes, (positions * masses[:, None]).expand_as(v.modes)).sum(1).abs().max() < 1e-10
    assert v.residual.abs().max() < 0.01
    external, internal = rigid_motions(masses, positions)
    assert (external.T @ internal).abs().max() < 1e-12


def test_rotation_translation_permutation():
    hessian, masses, positions = water()
    v = normal_modes(hessian, masses, positions)
    turn = torch.linalg.qr(torch.tensor(np.random.default_rng(1).normal(size=(3, 3))))[0]
    order = torch.tensor([2, 0, 1])
    w = normal_modes(springs((positions @ turn.T + 40)[order]), masses[order], (positions @ turn.T + 40)[order])
    assert torch.allclose(v.frequencies, w.frequencies, atol=1e-6)


def test_imaginary_modes_are_negative_and_reported():
    hessian, masses, positions = water()
    v = normal_modes(-hessian, masses, positions)
    assert v.imaginary == 3 and bool((v.frequencies < 0).all()) and v.zero_point_energy == 0
    assert torch.allclose(-v.frequencies.flip(0), normal_modes(hessian, masses, positions).frequencies)


def test_heavy_isotope_lowers_frequencies():
    """Teller-Redlich: every frequency falls or stays when a mass rises."""
    hessian, masses, positions = water()
    light = normal_modes(hessian, masses, positions).frequencies
    heavy = normal_modes(hessian, masses * torch.tensor([1.0, 2, 2]), positions).frequencies
    assert bool((heavy < light).all())


def test_raman_of_a_breathing_sphere_and_of_a_pure_anisotropy():
    """Isotropic alpha': S = 45 a'^2, ratio 0; traceless alpha': S = 7 g'^2, ratio 3/4."""
    mode = torch.zeros(1, 1, 3, dtype=torch.float64)
    mode[0, 0, 0] = 1.0
    derivative = torch.zeros(3, 3, 3, dtype=torch.float64)
    derivative[0] = 2 * torch.eye(3)
    sphere = raman_activities(derivative, mode)
    assert sphere.activities.tolist() == pytest.approx([180.0]) and sphere.depolarisation.tolist() == pytest.approx([0.0])
    derivative[0] = torch.diag(torch.tensor([1.0, -1.0, 0.0]))
    shear = raman_activities(derivative, mode)
    assert shear.activities.tolist() == pytest.approx([7 * 3.0]) and shear.depolarisation.tolist() == pytest.approx([0.75])
    silent = raman_activities(torch.zeros(3, 3, 3), mode)
    assert silent.activities.tolist() == [0.0] and silent.depolarisation.tolist() == [0.0]


def test_raman_is_rotation_invariant():
    """g'^2 from its definition 1/2 sum of squared differences plus 3 sum of squared off-diagonals, in any frame."""
    r = np.random.default_rng(3)
    a = r.normal(size=(3, 3))
    a = a + a.T
    derivative = np.zeros((3, 3, 3))
    derivative[0] = a
    mode = torch.zeros(1, 1, 3, dtype=torch.float64)
    mode[0, 0, 0] = 1.0
    x, y, z = np.diag(a)
    g = ((x - y) ** 2 + (y - z) ** 2 + (z - x) ** 2) / 2 + 3 * (a[0, 1] ** 2 + a[1, 2] ** 2 + a[0, 2] ** 2)
    expected = 45 * (np.trace(a) / 3) ** 2 + 7 * g
    assert raman_activities(derivative, mode).activities.tolist() == pytest.approx([expected])
    turn = np.linalg.qr(r.normal(size=(3, 3)))[0]
    derivative[0] = turn @ a @ turn.T
    assert raman_activities(derivative, mode).activities.tolist() == pytest.approx([expected])


def test_refusals():
    with pytest.raises(InvalidMolecule, match="do not fit 2 atoms"):
        normal_modes(torch.zeros(3, 3), [1.0, 1.0], torch.zeros(2, 3))
    with pytest.raises(InvalidMolecule, match="not finite"):
        normal_modes(torch.full((3, 3), torch.nan), [1.0], torch.zeros(1, 3))
