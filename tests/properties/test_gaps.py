"""Frontier orbitals of one molecule, from its levels and their occupations."""

import math

import pytest
import torch

from nddo_ml.molecules import Molecules
from nddo_ml.properties.centres import centres_of_mass
from nddo_ml.properties.gaps import empty_levels, gap, has_gap, homo_lumo, occupied_levels


def levels(*channels):
    return torch.tensor(channels, dtype=torch.float64)


def test_restricted_and_unrestricted():
    assert homo_lumo(levels([-10, -8, 1]), levels([2, 2, 0])) == (-8, 1)
    assert homo_lumo(levels([-10, -8, 1], [-9, -2, 3]), levels([1, 1, 0], [1, 0, 0])) == (-8, -2)      # alpha to beta
    assert float(gap(levels([-10, -8, 1], [-9, -2, 3]), levels([1, 1, 0], [1, 0, 0]))) == 6


def test_a_half_filled_level_is_occupied_and_empty():
    eps, f = levels([-10, -5, 1]), levels([2, 1, 0])
    assert occupied_levels(eps, f).tolist() == [-10, -5] and empty_levels(eps, f).tolist() == [-5, 1]
    assert homo_lumo(eps, f) == (-5, -5) and float(gap(eps, f)) == 0


@pytest.mark.parametrize(("occupations", "expected"), [([2, 2], (-1, math.inf)), ([0, 0], (-math.inf, -3))])
def test_what_does_not_exist_is_infinite(occupations, expected):
    assert homo_lumo(levels([-3, -1]), levels(occupations)) == expected
    assert not has_gap(levels(occupations)) and has_gap(levels([2, 0]))


def test_the_gap_is_on_the_tape():
    eps = levels([-10, -8, 1]).requires_grad_()
    slope, = torch.autograd.grad(gap(eps, levels([2, 2, 0])), eps)
    assert slope.tolist() == [[0, -1, 1]]


def test_centres_of_mass_of_a_batch():
    """Of equal atoms the midpoint; each molecule has its own."""
    two = Molecules.batch([[6, 6], [8]], [[[0, 0, 0], [2, 0, 4.0]], [[1, 2, 3.0]]])
    assert torch.allclose(centres_of_mass(two), torch.tensor([[1, 0, 2], [1, 2, 3]], dtype=torch.float64))
