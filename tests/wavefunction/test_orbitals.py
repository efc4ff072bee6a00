"""The orbital ansatz: gradients by the Fock matrix, the upper bound, geometries not trained on, SCF iterations saved."""

import pytest
import torch

from nddo_ml import Hamiltonian, Molecules
from nddo_ml.errors import InvalidMolecule
from nddo_ml.scf.fock import electronic_energy
from nddo_ml.wavefunction.orbitals.ansatz import (
    OrbitalNetwork,
    aligned,
    density,
    energy_and_gradient,
    fit_network,
    reference_orbitals,
    rotated,
)
from nddo_ml.wavefunction.orbitals.energy_functionals import nddo_functional

FRAME = torch.tensor([[0.0, 0, 0], [1.0, 0, 0], [-0.25, 0.97, 0]], dtype=torch.float64)


def water(count, seed):
    """Water with O-H from 0.75 to 1.6 angstrom, each bond by itself, and angles from 95 to 120 degrees."""
    u = torch.rand(count, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    a, b, angle = 0.75 + 0.85 * u[:, 0], 0.75 + 0.85 * u[:, 1], torch.deg2rad(95 + 25 * u[:, 2])
    zero = torch.zeros_like(a)
    atoms = [(zero, zero, zero), (a, zero, zero), (b * angle.cos(), b * angle.sin(), zero)]
    return aligned(torch.stack([torch.stack(x, -1) for x in atoms], 1), FRAME)


def waters(positions):
    return Molecules.batch([[8, 1, 1]] * len(positions), list(positions))


def nddo(positions, method="PM6", numbers=(8, 1, 1), **options):
    molecules = Molecules.batch([list(numbers)] * len(positions), list(positions), options.pop("charge", 0),
                                options.pop("multiplicity", 1))
    return nddo_functional(Hamiltonian(method), molecules, **options)


def orbitals_near(functional, seed=0):
    """Random orthonormal occupied orbitals of each spin, asking for gradients."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for o in functional.occupied:
        M = torch.randn(functional.molecules, functional.size, functional.size, generator=generator, dtype=torch.float64)
        made.append(torch.linalg.qr(M)[0][..., :o].clone().requires_grad_())
    return made


@pytest.mark.parametrize("method", ["MNDO", "PM6"])
@pytest.mark.parametrize("case", ["restricted", "unrestricted", "cation"])
def test_fock_form_is_the_gradient_of_the_engine(method, case):
    """4 F C and 2 F C against automatic differentiation of the engine's energy, which builds no Fock matrix."""
    options = {"restricted": {}, "unrestricted": {"unrestricted": True}, "cation": {"charge": 1, "multiplicity": 2}}[case]
    functional = nddo(water(2, 0), method, **options)
    C = orbitals_near(functional)
    energy, slopes = energy_and_gradient(functional, C)
    problem = functional.problem
    direct = electronic_energy(problem.layout, problem.integrals, density(C))
    torch.testing.assert_close(energy - functional.constant, direct.detach(), rtol=1e-12, atol=1e-9)
    for slope, exact in zip(slopes, torch.autograd.grad(direct.sum(), C), strict=True):
        assert exact.abs().max() > 1
        torch.testing.assert_close(slope, exact, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("unrestricted", [False, True])
def test_fock_form_is_the_gradient_ab_initio(unrestricted):
    """Against automatic differentiation of the Hartree-Fock energy written with the integrals."""
    pytest.importorskip("pyscf")
    from nddo_ml.wavefunction.orbitals.pyscf_functional import pyscf_functional

    functional = pyscf_functional(waters(water(1, 3)), "sto-3g", unrestricted=unrestricted)
    C = orbitals_near(functional)
    energy, slopes = energy_and_gradient(functional, C)
    X, mol = functional.X[0], functional.fields[0].mol
    h, eri = torch.from_numpy(functional.fields[0].get_hcore()), torch.from_numpy(mol.intor("int2e"))
    scale = 2.0 / len(C)
    spins = [X @ (c[0] @ c[0].T) @ X for c in C]
    P = scale * sum(spins)
    J = torch.einsum("pqrs,rs->pq", eri, P)
    exchange = scale * sum((D * torch.einsum("prqs,rs->pq", eri, D)).sum() for D in spins)
    direct = (P * h).sum() + 0.5 * (P * J).sum() - 0.5 * exchange + mol.energy_nuc()
    assert float(energy[0]) == pytest.approx(float(direct.detach()), abs=1e-10)
    for slope, exact in zip(slopes, torch.autograd.grad(direct, C), strict=True):
        torch.testing.assert_close(slope, exact, rtol=1e-10, atol=1e-10)


def test_any_network_is_an_upper_bound():
    """Random weights, far from the minimum: never below the SCF by more than 1e-9 eV, and the reference alone is not it."""
    positions = water(12, 1)
    functional = nddo(positions)
    network = OrbitalNetwork(reference_orbitals(nddo(FRAME[None])), positions)
    exact, _, _ = functional.solve()
    for scale in (0.0, 0.05, 0.5):
        torch.nn.init.normal_(network.network[-1].weight, std=scale)
        with torch.no_grad():
            D = density(network(positions))
        torch.testing.assert_close(D @ D, D, rtol=0, atol=1e-12)
        assert (functional.evaluate(D)[0] - exact).min() > -1e-9
    assert (functional.evaluate(D)[0] - exact).max() > 0.1


def test_geometries_not_trained_on():
    """PM6 water: at most 1e-6 hartree above the SCF, and at least a quarter of the iterations saved as a guess."""
    train, unseen = water(120, 1), water(24, 2)
    functional = nddo(train)
    network = OrbitalNetwork(reference_orbitals(nddo(FRAME[None])), train, width=24)
    training = fit_network(network, functional, train, steps=40)
    assert training.history[-1] < training.history[0] - 0.05
    other = nddo(unseen)
    exact, _, plain = other.solve()
    with torch.no_grad():
        D = density(network(unseen))
    excess = other.evaluate(D)[0] - exact
    assert -1e-9 < excess.min() and excess.max() < 1e-6 * 27.2114
    again, _, helped = other.solve(D)
    torch.testing.assert_close(again, exact, rtol=0, atol=1e-8)
    assert helped.double().mean() < 0.75 * plain.double().mean()


@pytest.mark.slow
def test_geometries_not_trained_on_ab_initio():
    """The same for Hartree-Fock water in STO-3G."""
    pytest.importorskip("pyscf")
    from nddo_ml.wavefunction.orbitals.pyscf_functional import pyscf_functional

    train, unseen = water(120, 1), water(24, 2)
    network = OrbitalNetwork(reference_orbitals(pyscf_functional(waters(FRAME[None]), "sto-3g")), train, width=32)
    fit_network(network, pyscf_functional(waters(train), "sto-3g"), train, steps=150, tolerance=1e-13)
    other = pyscf_functional(waters(unseen), "sto-3g")
    exact, _, plain = other.solve()
    with torch.no_grad():
        D = density(network(unseen))
    excess = other.evaluate(D)[0] - exact
    assert -1e-9 / 27.2114 < excess.min() and excess.max() < 1e-6
    _, _, helped = other.solve(D)
    assert helped.double().mean() < 0.75 * plain.double().mean()


def test_rotations_are_orthonormal_and_zero_is_the_reference():
    U = torch.linalg.qr(torch.randn(5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64))[0]
    X = torch.randn(3, 3, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    C = rotated(U, X)
    torch.testing.assert_close(C.mT @ C, torch.eye(2, dtype=torch.float64).expand(3, 2, 2), rtol=0, atol=1e-12)
    torch.testing.assert_close(rotated(U, 0 * X)[0], U[:, :2], rtol=0, atol=1e-12)


def test_alignment_undoes_a_rotation():
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64))[0]
    turn = turn * torch.sign(torch.linalg.det(turn))
    moved = (FRAME @ turn.T + torch.tensor([1.0, -2.0, 3.0]))[None]
    torch.testing.assert_close(aligned(moved, FRAME)[0], FRAME - FRAME.mean(0), rtol=0, atol=1e-12)


def test_molecules_that_differ_are_refused():
    with pytest.raises(InvalidMolecule, match="one molecule at many geometries"):
        nddo_functional(Hamiltonian("PM6"), Molecules.batch([[8, 1, 1], [1, 1]], [FRAME, FRAME[:2]]))
