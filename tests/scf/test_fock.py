"""The contract of every Hamiltonian: F = dE/dD, for any integrals, restricted and unrestricted, packed and by classes."""

import numpy as np
import pytest
import torch

from nddo_ml.orbitals import DISTRIBUTIONS, layout, packed_pairs
from nddo_ml.scf.fock import Integrals, electronic_energy, fock, kernel, one_electron

N_AO = np.array([4, 1, 1, 9, 4, 1, 1, 1, 1, 0])
OWNER = np.array([0, 0, 0, 1, 1, 1, 1, 2, 2, 2])


def random_integrals(lay, generator):
    def rand(*shape):
        return torch.rand(*shape, dtype=torch.float64, generator=generator) - 0.3

    one, h_atoms, two, h_pairs = [], [], [], []
    for group in lay.atoms:
        k, m = group.packed.shape
        w = rand(k, m, m)
        one.append((w + w.mT) / 2)
        h_atoms.append(rand(k, m))
    for group in lay.pairs:
        n_i, n_j = group.shells
        two.append(rand(len(group.i), DISTRIBUTIONS[n_i], DISTRIBUTIONS[n_j]))
        h_pairs.append(rand(len(group.i), n_i * n_j))
    return Integrals(h_atoms, h_pairs, one, two, torch.zeros(lay.molecules, dtype=torch.float64))


@pytest.mark.parametrize("treated", [None, N_AO], ids=["packed", "classes"])
@pytest.mark.parametrize("spins", [1, 2])
def test_fock_matrix_is_the_derivative_of_the_energy(treated, spins):
    generator = torch.Generator().manual_seed(1)
    lay = layout(N_AO, OWNER, 3, treated=treated)
    integrals = random_integrals(lay, generator)
    D = torch.rand(3, spins, lay.size, lay.size, dtype=torch.float64, generator=generator)
    D = (D + D.mT) * lay.real[:, None, :, None] * lay.real[:, None, None]
    D.requires_grad_()
    gradient, = torch.autograd.grad(electronic_energy(lay, integrals, D).sum(), D)
    F = fock(lay, kernel(lay, integrals), one_electron(lay, integrals), D)
    assert F.abs().max() > 1
    assert torch.allclose((gradient + gradient.mT) / 2 * spins / 2, F, rtol=0, atol=1e-12)
    assert torch.equal(F, F.mT)


def test_packed_and_class_layouts_agree():
    """The same integrals seen through both layouts give the same matrices; ghosts of the packed layout never count."""
    generator = torch.Generator().manual_seed(2)
    packed, classes = layout(N_AO[:3], OWNER[:3], 1), layout(N_AO[:3], OWNER[:3], 1, treated=N_AO[:3])
    wide = random_integrals(packed, generator)
    one = [wide.one[0][1:, :1, :1], wide.one[0][:1]]
    h_atoms = [wide.h_atoms[0][1:, :1], wide.h_atoms[0][:1]]
    heavy = (packed.pairs[0].i == 0) & (packed.pairs[0].j > 0)
    two = [wide.two[0][heavy][:, :, :1], wide.two[0][~heavy][:, :1, :1]]
    h_pairs = [wide.h_pairs[0][heavy].view(-1, 4, 4)[:, :, 0], wide.h_pairs[0][~heavy][:, :1]]
    narrow = Integrals(h_atoms, h_pairs, one, two, wide.core)
    D = torch.rand(1, 1, packed.size, packed.size, dtype=torch.float64, generator=generator)
    D = D + D.mT
    # ghosts carry density only through products with an s function, whose integrals vanish in a real Hamiltonian
    a, b, _ = packed_pairs(4)
    mixed = torch.from_numpy((a > 0) & (b == 0))
    wide.one[0][1:, mixed] = 0
    wide.one[0][1:, :, mixed] = 0
    wide.two[0][(~heavy).nonzero()[:, 0][:, None], mixed.nonzero()[:, 0][None]] = 0
    wide.two[0][:, :, mixed] = 0
    results = []
    for lay, integrals in ((packed, wide), (classes, narrow)):
        F = fock(lay, kernel(lay, integrals), one_electron(lay, integrals), D)
        results.append((electronic_energy(lay, integrals, D), F))
    assert torch.allclose(results[0][0], results[1][0], rtol=0, atol=1e-12)
    assert torch.allclose(results[0][1], results[1][1], rtol=0, atol=1e-12)
