"""What is drawn around a molecule, by its statistics and its geometry."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from ase import units
from ase.build import molecule
from support.labels import CHEAP, PHOSPHORUS, water

from nddo_ml.errors import InvalidMolecule
from nddo_ml.labels import clusters, draws
from nddo_ml.labels.bonds import bonds
from nddo_ml.labels.draws import SamplingStep
from nddo_ml.labels.structures import from_atoms
from nddo_ml.properties.vibrations import WAVENUMBER_ENERGY, normal_modes


def test_displacements_have_the_width_of_quantum_oscillators():
    """<(x_O)^2> of many displacements against the sum over modes of the formula; 400 draws: 7 % noise, three of it allowed."""
    start = draws.relaxed(water(), CHEAP, fmax=1e-3)
    drawn = draws.displacements(start, SamplingStep("modes", 400, (300.0,)), CHEAP, np.random.default_rng(1))
    found = np.mean([(s.positions - start.positions) ** 2 for s in drawn], 0)
    hessian = CHEAP().get_hessian(start.atoms)
    modes = normal_modes(hessian, torch.tensor(start.atoms.get_masses()), torch.tensor(start.positions))
    E = modes.frequencies.numpy() * WAVENUMBER_ENERGY
    width = draws.HBAR_SQUARED / (2 * E) / np.tanh(E / (2 * units.kB * 300))
    expected = np.einsum("m,max->ax", width, modes.modes.numpy() ** 2)
    large = expected > 1e-3
    assert large.sum() >= 4
    np.testing.assert_allclose(found[large], expected[large], rtol=0.22)


def test_interactions_come_with_their_fragments():
    """Relaxed, as placed, pulled apart: each time the two molecules are those of the complex, atom by atom."""
    pair, step = (water(), from_atoms(molecule("NH3"))), SamplingStep("interactions", 4)
    found = draws.dimers(pair, step, CHEAP, np.random.default_rng(1))
    assert len(found) == 12 and len({s.complex for s in found}) == 4
    for pair, a, b in zip(found[::3], found[1::3], found[2::3], strict=True):
        np.testing.assert_array_equal(pair.positions, np.concatenate([a.positions, b.positions]))
        assert (pair.fragment, a.fragment, b.fragment) == ("AB", "A", "B") and pair.complex == a.complex == b.complex != ""
    assert ["relaxed" in s.how for s in found[::3]] == [True, False, True, False]
    assert [" x" in s.how for s in found[::3]] == [False, False, True, False]


def test_molecules_that_have_joined_are_no_complex():
    bonded = from_atoms(molecule("C2H6"))
    halves = tuple(replace(bonded, numbers=bonded.numbers[k], positions=bonded.positions[k], multiplicity=2)
                   for k in ([0, 2, 3, 4], [1, 5, 6, 7]))
    assert draws.with_fragments(clusters.joined(*halves, "complex"), halves, 1.0) == []


def test_stretches_change_one_bond():
    ethanol = from_atoms(molecule("CH3CH2OH"))
    for s in draws.stretches(ethanol, SamplingStep("bonds", 6), np.random.default_rng(0)):
        i, j = (int("".join(filter(str.isdigit, w))) for w in s.how.split()[1].split("-"))
        factor = float(s.how.split("x")[-1])
        old, new = ethanol.atoms.get_all_distances(), s.atoms.get_all_distances()
        assert new[i, j] == pytest.approx(factor * old[i, j], abs=0.01)
        sides = [set(np.flatnonzero(np.isclose(new[k], old[k], atol=1e-6))) for k in (i, j)]
        assert not sides[0] & sides[1] and len(sides[0] | sides[1]) == len(ethanol.numbers)
        assert s.unrestricted == (factor > draws.BREAKING) or abs(factor - draws.BREAKING) < 0.01
    with pytest.raises(InvalidMolecule, match="ring"):
        draws.stretches(from_atoms(PHOSPHORUS), SamplingStep("bonds", 1), np.random.default_rng(0))


def test_torsions_turn_rigid_parts():
    ethanol = from_atoms(molecule("CH3CH2OH"))
    old = ethanol.atoms.get_all_distances()
    found = draws.torsions(ethanol, SamplingStep("torsions", 8), np.random.default_rng(0))
    assert len(found) == 8 and len({s.how for s in found}) == 8
    for s in found:
        i, j = (int("".join(filter(str.isdigit, w))) for w in s.how.split()[1].split("-"))
        new, angle = s.atoms.get_all_distances(), float(s.how.split()[2])
        assert new[i, j] == pytest.approx(old[i, j]) and bonds(s) == bonds(ethanol)
        a, b = (next(p + q - k for p, q in bonds(ethanol) if k in (p, q) and {p, q} != {i, j}) for k in (i, j))
        turned = s.atoms.get_dihedral(a, i, j, b) - ethanol.atoms.get_dihedral(a, i, j, b)
        assert (turned - angle + 180) % 360 - 180 == pytest.approx(0, abs=0.51)
        for k in (i, j):                                # what hangs on either end of the bond keeps its distance to both ends
            np.testing.assert_allclose(new[k], old[k], atol=1e-6)
    with pytest.raises(InvalidMolecule, match="rotate"):
        draws.torsions(water(), SamplingStep("torsions", 1), np.random.default_rng(0))
