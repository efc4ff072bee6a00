"""D3 with rational damping: the reference labels' own dispersion, derivatives, the long range.

data/d3bj.extxyz: energies (eV) and forces (eV/angstrom) of s-dftd3 1.x through pyscf-dispersion, `DFTD3Dispersion(mol,
xc="wb97x", version="d3bj")`, on frames of the training data: ions, radicals, complexes, all eight elements.
"""

import math
from dataclasses import astuple
from pathlib import Path

import pytest
import torch
from ase.io import read

from nddo_ml.integrals.corrections import GROUPS, Composition, Geometry, corrections, energy_and_forces
from nddo_ml.integrals.corrections.d3 import OMEGA_B97X_D3BJ, DispersionD3BJ
from nddo_ml.molecules import Molecules
from nddo_ml.units import CODATA_2018

FRAMES = read(Path(__file__).parents[1] / "data" / "d3bj.extxyz", ":")
BATCH = Molecules.batch([a.numbers for a in FRAMES], [a.positions for a in FRAMES])
WITH_A1 = DispersionD3BJ(s6=1.0, s8=1.2177, a1=0.4145, a2=4.8593)   # of PBE0: exercises a1
ELEMENTS = (1, 6, 7, 8, 9, 15, 16, 17)


def energy(term, composition, x):
    """Energies of a term, eV."""
    return term(Geometry.of(composition, x), CODATA_2018) / CODATA_2018.kcal_mol


def test_reference_labels():
    """1e-8 eV, 1e-7 eV/angstrom: pyscf's bohr differs from ours by 3e-11 relative; no three-body term is in the labels."""
    value, forces = energy_and_forces(OMEGA_B97X_D3BJ, BATCH)
    expected = torch.tensor([a.info["ref_energy_d3"] for a in FRAMES])
    expected_forces = torch.cat([torch.from_numpy(a.arrays["ref_forces_d3"]) for a in FRAMES])
    assert {z for a in FRAMES for z in a.numbers} == set(ELEMENTS)
    assert expected.abs().min() > 1e-3 and expected_forces.abs().max() > 1e-3
    assert torch.allclose(value, expected, atol=1e-8, rtol=0)
    assert torch.allclose(forces, expected_forces, atol=1e-7, rtol=0)


@pytest.mark.parametrize("term", [OMEGA_B97X_D3BJ, WITH_A1], ids=["omegaB97X", "PBE0"])
def test_tad_dftd3(term):
    """The package of the D3 authors' group, which knows a1 too: every element pair at bonding and van der Waals distance."""
    tad = pytest.importorskip("tad_dftd3")
    numbers = torch.tensor(ELEMENTS).repeat(2)
    generator = torch.Generator().manual_seed(1)
    x = torch.cartesian_prod(*[torch.arange(3.0, dtype=torch.float64)] * 3)[:16] * 1.7
    x = x + 0.2 * torch.randn(x.shape, dtype=torch.float64, generator=generator)
    s6, s8, a1, a2 = (torch.tensor(value, dtype=torch.float64) for value in astuple(term))
    parameters = {"s6": s6, "s8": s8, "a1": a1, "a2": a2, "s9": torch.zeros_like(s6)}
    expected = CODATA_2018.hartree * tad.dftd3(numbers, x / CODATA_2018.bohr, parameters).sum()
    value, _ = energy_and_forces(term, Molecules.single(numbers, x))
    assert float(value) == pytest.approx(float(expected), abs=1e-9)


def test_derivatives():
    """First to third order, and translation and rotation."""
    composition = Composition.of(BATCH.select([0]))
    x = BATCH.select([0]).positions.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: energy(WITH_A1, composition, x), (x,), eps=1e-5, atol=1e-9)
    assert torch.autograd.gradgradcheck(lambda x: energy(WITH_A1, composition, x), (x,), eps=1e-5, atol=1e-8)
    gradient, = torch.autograd.grad(energy(WITH_A1, composition, x).sum(), x, create_graph=True)
    assert gradient.abs().max() > 1e-3
    assert gradient.sum(0).abs().max() < 1e-12
    assert torch.linalg.cross(x, gradient).sum(0).abs().max() < 1e-12
    v = torch.randn(x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))

    def along(t, order):
        t = torch.tensor(t, dtype=torch.float64, requires_grad=True)
        value = energy(WITH_A1, composition, x.detach() + t * v).sum()
        for _ in range(order):
            value, = torch.autograd.grad(value, t, create_graph=True)
        return value.detach()

    third = (along(-2e-4, 2) - 8 * along(-1e-4, 2) + 8 * along(1e-4, 2) - along(2e-4, 2)) / 12e-4
    assert float(along(0.0, 3)) == pytest.approx(float(third), rel=1e-7)


def test_batch_equals_single_and_parts_are_named():
    alone = torch.cat([energy_and_forces(OMEGA_B97X_D3BJ, BATCH.select([k]))[0] for k in range(len(BATCH))])
    together = corrections({"dispersion_d3bj": OMEGA_B97X_D3BJ}, Composition.of(BATCH), BATCH.positions)
    assert GROUPS["dispersion_d3bj"] == "dispersion" and list(together) == ["dispersion"]
    assert torch.allclose(together["dispersion"], alone, atol=1e-13, rtol=0)


def test_an_atom_has_none():
    beside = Molecules.batch([[6], [1, 8]], [[[0.0, 0, 0]], [[0.0, 0, 0], [0, 0, 1]]])
    value, forces = energy_and_forces(OMEGA_B97X_D3BJ, beside)
    assert value[0] == 0.0 > value[1] and (forces[0] == 0.0).all() and forces[1].abs().max() > 0
    value, forces = energy_and_forces(OMEGA_B97X_D3BJ, Molecules.single([6], [[0.0, 0, 0]]))
    assert value.tolist() == [0.0] and (forces == 0.0).all()


def test_long_range():
    """-C6/R^6 without a cutoff (criterion L7), for every pair of elements: the slope is -6 within 0.02 between 15 and 30
    angstrom, where C8 is still 1 %, and tends to -6; nothing happens at 15, where the zero-damping form of MOPAC ends.
    """
    pairs = [(a, b) for k, a in enumerate(ELEMENTS) for b in ELEMENTS[k:]]
    numbers = [list(pair) for pair in pairs]

    def at(R):
        return energy_and_forces(OMEGA_B97X_D3BJ, Molecules.batch(numbers, [[[0.0, 0, 0], [0, 0, R]]] * len(pairs)))[0]

    assert ((at(30.0) / at(15.0)).log() / math.log(2.0) + 6).abs().max() < 0.02
    assert ((at(2000.0) / at(1000.0)).log() / math.log(2.0) + 6).abs().max() < 1e-5
    assert (at(15.0 + 1e-9) / at(15.0 - 1e-9) - 1).abs().max() < 1e-8
