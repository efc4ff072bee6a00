"""The square of the total spin, and wavefunctions no triplet mixes in."""

import math

import pytest
import torch

from nddo_ml.errors import InvalidMolecule
from nddo_ml.wavefunction.real_space.ansatz import wavefunction
from nddo_ml.wavefunction.real_space.mean_field_start import MeanField, SlaterShell
from nddo_ml.wavefunction.real_space.sampling import walk, walkers_at
from nddo_ml.wavefunction.real_space.spin import spin_square
from nddo_ml.wavefunction.real_space.systems import from_text

SQUARE = "H 2.3 2.3 0; H 2.3 -2.3 0; H -2.3 -2.3 0; H -2.3 2.3 0"


def positions(electrons, walkers, seed=0):
    return torch.randn(walkers, electrons, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("text", "multiplicity", "expected"), [("H 0 0 0; H 0 0 2", 3, 2.0), ("H 0 0 0", 2, 0.75),
                                                                ("N 0 0 0", 8, 63 / 4), ("He 0 0 0", 1, 0.0)])
def test_states_of_one_spin_have_it_everywhere(text, multiplicity, expected):
    """All electrons of one spin, or a singlet of two: S^2 psi is a multiple of psi."""
    system = from_text(text, multiplicity=multiplicity)
    psi = wavefunction(system, singlet=multiplicity == 1)
    square = spin_square(psi, positions(system.electrons, 10))
    torch.testing.assert_close(square, torch.full_like(square, expected), rtol=0, atol=1e-9)


@pytest.mark.parametrize("tilt", [0.0, 0.3, math.pi / 4])
def test_an_unrestricted_determinant(tilt):
    """One electron of each spin in a and in cos a + sin b, a and b orthogonal: <S^2> = 1 - cos^2, by Monte Carlo."""
    shells = (SlaterShell(0, 1, 0, 1.0), SlaterShell(0, 2, 1, 0.8))
    a = torch.tensor([[1.0, 0, 0, 0]], dtype=torch.float64).T
    b = torch.tensor([[math.cos(tilt), math.sin(tilt), 0, 0]], dtype=torch.float64).T

    class Determinant:
        up, down = 1, 1
        field = MeanField(torch.zeros(1, 3, dtype=torch.float64), shells, (a[None], b[None]))

        def __call__(self, r):
            return self.field(r)

    psi, generator = Determinant(), torch.Generator().manual_seed(1)
    walkers = walk(psi, walkers_at(psi, positions(2, 4000), 1.0), 200, generator)
    square = torch.stack([spin_square(psi, (walkers := walk(psi, walkers, 20, generator, adapt=False)).r) for _ in range(5)])
    error = float(square.std()) / square.numel() ** 0.5
    assert abs(float(square.mean()) - math.sin(tilt) ** 2) < max(4 * error, 1e-9) and error < 0.02


def test_a_singlet_stays_itself_when_all_spins_are_exchanged():
    """So no triplet is in it; without `singlet` the four electrons of a square know which spin is up."""
    system = from_text(SQUARE)
    r = positions(4, 20)
    for singlet in (True, False):
        psi = wavefunction(system, singlet=singlet, seed=1)
        (sign, log), (other, log_other) = psi(r), psi(r[:, [2, 3, 0, 1]])
        same = torch.equal(sign, other) and torch.allclose(log, log_other, rtol=0, atol=1e-10)
        assert same == singlet


def test_a_singlet_is_antisymmetric():
    psi, r = wavefunction(from_text(SQUARE), singlet=True), positions(4, 20)
    (sign, log), (other, same) = psi(r), psi(r[:, [1, 0, 2, 3]])
    assert torch.equal(other, -sign)
    torch.testing.assert_close(same, log, rtol=0, atol=1e-11)


def test_a_singlet_needs_as_many_electrons_of_either_spin():
    with pytest.raises(InvalidMolecule, match=r"2 up and 1 down: leave .singlet. out"):
        wavefunction(from_text("Li 0 0 0"), singlet=True)

