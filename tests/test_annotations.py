"""Annotations are true: the first calls of every test are checked, and what the checks refuse is refused at the door too."""

import os

import pytest
import torch
from jaxtyping import TypeCheckError

from nddo_ml import Hamiltonian, InvalidMolecule, Molecules
from nddo_ml.scf.density import aufbau

ON = "nddo_ml" in os.environ.get("SHAPES", "nddo_ml").split(",")


def flat():
    """A record of seven atoms in a plane of two coordinates."""
    one = torch.zeros(1, dtype=torch.long)
    return Molecules(torch.ones(7, dtype=torch.long), torch.rand(7, 2, dtype=torch.float64), torch.zeros(7, dtype=torch.long),
                     one, one)


@pytest.mark.skipif(not ON, reason="the checks are switched off")
def test_the_checks_are_on():
    """For arguments of functions and for fields of records, in every test anew."""
    with pytest.raises(TypeCheckError, match="positions"):
        flat()
    alpha = torch.ones(2, dtype=torch.long)
    with pytest.raises(TypeCheckError, match="beta"):
        aufbau(alpha, torch.ones(3, dtype=torch.long), 1, 3)


def test_molecules_of_a_wrong_shape_are_refused(wrong_types):
    with pytest.raises(InvalidMolecule, match=r"positions of the molecules have shape \(7, 2\): expected \(7, 3\)"):
        Hamiltonian("AM1")(flat())
