"""How a wavefunction starts: envelopes of Slater's exponents, the orbitals of an NDDO calculation, and single precision."""

import math

import numpy as np
import pytest
import torch
from torch.nn.utils import parameters_to_vector

from nddo_ml import Hamiltonian, Molecules
from nddo_ml.errors import MissingParameter
from nddo_ml.wavefunction.determinants.second_quantisation import determinants, ground_state, matrix, nddo_hamiltonian
from nddo_ml.wavefunction.natural_gradient import Adam, Spring, limited
from nddo_ml.wavefunction.orbitals.energy_functionals import nddo_functional
from nddo_ml.wavefunction.real_space.ansatz import wavefunction
from nddo_ml.wavefunction.real_space.config import RealSpaceAnsatz, RealSpaceConfig, RealSpaceOptimiser
from nddo_ml.wavefunction.real_space.local_energy import local_energies
from nddo_ml.wavefunction.real_space.mean_field_start import FieldFit, MeanField, SlaterShell, angular, fit_to_field, mean_field
from nddo_ml.wavefunction.real_space.run import prepared
from nddo_ml.wavefunction.real_space.sampling import scattered, walk, walkers_at
from nddo_ml.wavefunction.real_space.systems import from_text, owners
from nddo_ml.wavefunction.real_space.variational import (
    Averaging,
    VariationalSettings,
    averaged,
    evaluate,
    in_double,
    initial_state,
    train,
)

LIH = "Li 0 0 0; H 0 0 3.015"


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("n", "l", "zeta"), [(1, 0, 2.7), (2, 0, 0.98), (2, 1, 1.3), (3, 1, 0.8), (3, 2, 1.1)])
def test_slater_functions_are_normalised(n, l, zeta):
    """By quadrature: a radial one, and all directions of a rule that is exact to l = 5."""
    field = MeanField(torch.zeros(1, 3).double(), (SlaterShell(0, n, l, zeta),), (torch.zeros(1, 2 * l + 1, 0),) * 2)
    t, w = np.polynomial.legendre.leggauss(120)
    r, w = torch.from_numpy(15 * (t + 1) / zeta), torch.from_numpy(15 * w / zeta)
    z, wz = (torch.from_numpy(x) for x in np.polynomial.legendre.leggauss(8))
    phi = torch.arange(12).double() * (2 * math.pi / 12)
    side = (1 - z * z).sqrt()
    u = torch.stack([side[:, None] * phi.cos(), side[:, None] * phi.sin(), z[:, None].expand(-1, 12)], -1).reshape(-1, 3)
    wu = (wz[:, None].expand(-1, 12) * (2 * math.pi / 12)).reshape(-1)
    values = field.functions(r[:, None, None] * u)
    overlap = torch.einsum("ruf,rug,r,u->fg", values, values, w * r * r, wu)
    torch.testing.assert_close(overlap, torch.eye(2 * l + 1).double(), rtol=0, atol=1e-8)
    assert angular(u, l).shape == (96, 2 * l + 1)


def test_orbitals_of_hydrogen_are_those_of_the_engine():
    """Both spins in the bonding orbital (a + b)/sqrt 2 of Slater functions."""
    field = mean_field(from_text("H 0 0 0; H 0 0 1.4"))
    for C in field.C:
        assert C.abs()[0, :, 0].tolist() == pytest.approx([0.5**0.5] * 2, abs=1e-8)
    M = field.matrices(torch.randn(5, 2, 3, generator=generator(), dtype=torch.float64))[:, 0]
    assert (M[:, 0, 1] == 0).all() and (M[:, 1, 0] == 0).all() and (M[:, 0, 0] != 0).all()


def test_core_orbitals_are_put_below_those_of_the_engine():
    field = mean_field(from_text(LIH))
    assert [c.shape for c in field.C] == [(1, 6, 2), (1, 6, 2)]
    assert field.C[0][0, :, 0].tolist() == [1, 0, 0, 0, 0, 0] and field.shells[0] == SlaterShell(0, 1, 0, 2.7)
    triplet = mean_field(from_text(LIH, multiplicity=3))
    assert [c.shape[2] for c in triplet.C] == [3, 1]
    with pytest.raises(MissingParameter):
        mean_field(from_text(LIH), "RM1")         # it has no lithium


def test_beryllium_starts_with_its_pairs_in_p():
    """2s^2 and the three 2p^2, all against its sign, with the weights of full CI in the valence space."""
    up, down = mean_field(from_text("Be 0 0 0"), determinants=4).C
    assert up.shape == down.shape == (4, 5, 2)                        # functions 1s; s, x, y, z of the valence
    weights = up[:, 0, 0] * down[:, 0, 0] * (up[:, :, 1] * down[:, :, 1]).sum(-1)
    assert all((up[k, :, 1] @ up[l, :, 1]).abs() < 1e-8 for k in range(4) for l in range(k))
    H = nddo_hamiltonian(nddo_functional(Hamiltonian("PM6"), Molecules.single([4], torch.zeros(1, 3))))
    _, vector = ground_state(matrix(H, determinants(H)))
    exact = vector[vector.abs().argsort(descending=True)[:4]]
    torch.testing.assert_close(weights, exact / exact[0], rtol=0, atol=1e-6)
    assert (weights[1:] < -0.2).all()


def test_a_square_of_hydrogens_starts_with_both_ways_to_pair():
    """Turned by a quarter, the determinants of a square are of the same state but for quadruples. (Whether a single one is
    depends on which of the square's states the SCF finds.)
    """
    text = "H 2.3 2.3 0; H 2.3 -2.3 0; H -2.3 -2.3 0; H -2.3 2.3 0"
    molecule = from_text(text)
    r = scattered(molecule, 50, generator())
    quarter = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]], dtype=torch.float64)
    field = mean_field(molecule, determinants=16)
    (sign, log), (other, turned) = field(r), field(r @ quarter.T)
    assert abs(abs(float((sign * other * torch.exp(turned - log)).median())) - 1) < 0.01


def test_pairs_where_singles_and_doubles_are_too_many():
    """Benzene: 15 pairs into 15 orbitals, 226 determinants instead of 60,000; all of them keep the spin zero."""
    ring = [(1.39 * math.cos(a), 1.39 * math.sin(a)) for a in (math.pi / 3 * k for k in range(6))]
    text = "; ".join(f"C {x:.4f} {y:.4f} 0; H {1.78 * x:.4f} {1.78 * y:.4f} 0" for x, y in ring)
    field = mean_field(from_text(text, unit="angstrom"), determinants=3)
    assert [c.shape for c in field.C] == [(3, 36, 21)] * 2
    assert torch.equal(field.C[0][1:].abs(), field.C[1][1:].abs())


def test_determinants_of_no_weight_are_parts_of_the_first():
    """Hydrogen has two of weight; five are asked for."""
    molecule = from_text("H 0 0 0; H 0 0 1.4")
    two, five = (mean_field(molecule, determinants=n) for n in (2, 5))
    r = scattered(molecule, 10, generator())
    (sign, log), (other, same) = two(r), five(r)
    assert torch.equal(sign, other)
    torch.testing.assert_close(same - math.log(4), log)               # four equal parts, one of which has the weight 1
    assert torch.equal(five.C[0][0], five.C[0][3]) and not torch.equal(five.C[0][0], five.C[0][4])


def test_an_ansatz_is_fitted_to_the_orbitals():
    """Little of the square is left, and the variance of the local energy falls far below that of the start."""
    molecule = from_text("H 0 0 0; H 0 0 1.4")
    field, psi = mean_field(molecule), wavefunction(molecule, sizes={"width": 16, "layers": 2}).float()
    before = fit_to_field(psi, molecule, field, FieldFit(iterations=1))
    assert fit_to_field(psi, molecule, field, FieldFit(iterations=120)) < 0.02 < before / 2


def test_electrons_of_an_atom_are_owned_by_it():
    assert sorted(owners(from_text(LIH))) == [0, 0, 0, 1]
    assert sorted(owners(from_text("N 0 0 0; N 0 0 2.1"))) == [0] * 7 + [1] * 7
    assert owners(from_text("H 0 0 0; H 0 0 9")) == [0, 1]


@pytest.mark.parametrize("text", ["Be 0 0 0", LIH, "H 0 0 0; H 0 0 2; H 0 2 0; H 0 2 2"])
def test_a_start_has_no_columns_alike(text):
    """Unlike orbitals: the determinants of the start are those of full rank, not of noise."""
    molecule = from_text(text)
    psi = wavefunction(molecule)
    r = scattered(molecule, 40, generator())
    with torch.no_grad():
        M = psi.matrices(r)
    rows = M / M.norm(dim=-2, keepdim=True)
    log = torch.linalg.slogdet(rows)[1].median()
    assert log > -4.0 * math.log(2) * molecule.electrons / 2


def test_the_first_energies_are_near_a_mean_field():
    """Before any training, lithium hydride lies within 2.5 hartree of its energy; random orbitals miss it by far more."""
    molecule = from_text(LIH)
    psi = wavefunction(molecule)
    state = initial_state(psi, molecule, VariationalSettings(walkers=64, burn_in=100))
    assert float(local_energies(psi, state.walkers.r).mean()) < -8.07 + 2.5


def test_single_precision_leads_walkers_and_double_measures():
    molecule = from_text(LIH)
    double = wavefunction(molecule)
    single = wavefunction(molecule).float()
    r = walk(double, walkers_at(double, scattered(molecule, 64, generator()), 0.3), 100, generator()).r
    exact, rough = local_energies(double, r), local_energies(single, r.float())
    assert rough.dtype == torch.float32 and (exact - rough.double()).abs().median() < 1e-3
    again = in_double(single)
    assert again.nuclei.dtype == torch.float64 and in_double(double) is double
    assert (local_energies(again, r) - exact).abs().median() < 1e-5       # weights of eight digits
    assert single.nuclei.dtype == torch.float32
    state = initial_state(single, molecule, VariationalSettings(walkers=16, burn_in=20))
    assert state.walkers.r.dtype == torch.float32 and state.memory["phi"].dtype == torch.float64
    averages = evaluate(single, state, Averaging(2, 1, 1))
    assert averages.energies.dtype == torch.float64


def test_the_equations_of_a_step_are_solved_in_double_precision():
    O = torch.randn(60, 400, generator=generator(1), dtype=torch.float64)
    E = torch.randn(60, generator=generator(2), dtype=torch.float64)
    spring = Spring(norm=1e30)
    exact, _ = spring.step(O, E, spring.start(400, O), 0)
    rough, memory = spring.step(O.float(), E.float(), spring.start(400, O.float()), 0)
    assert memory["phi"].dtype == torch.float64
    assert (rough - exact).norm() < 1e-4 * exact.norm()


def test_the_damping_grows_to_its_limit():
    """At t = 9 growth a hundredfold; from there on it stays, and a larger one of the user's own is kept."""
    O = torch.randn(60, 400, generator=generator(1), dtype=torch.float64)
    E = torch.randn(60, generator=generator(2), dtype=torch.float64)

    def step(t, **settings):
        spring = Spring(**{"norm": 1e30, "decay": math.inf, "growth": math.inf, **settings})
        return spring.step(O, E, spring.start(400, O), t)[0]

    assert torch.equal(step(180, growth=20.0), step(0, damping=0.1))
    assert torch.equal(step(1800, growth=20.0), step(180, growth=20.0))
    torch.testing.assert_close(step(20, growth=20.0), step(0, damping=4e-3))
    assert torch.equal(step(1000), step(0)) and torch.equal(step(50, damping=0.5, growth=20.0), step(0, damping=0.5))


def test_a_start_where_pm6_has_no_orbitals():
    """Its neon has other electrons than the atom: exponents by default in a molecule, an error where PM6 is asked for."""
    assert prepared(RealSpaceConfig("Be 0 0 0")).start.field.C[0].shape == (4, 5, 2)
    assert prepared(RealSpaceConfig("Be 0 0 0", ansatz=RealSpaceAnsatz(start=""))).start.field is None
    assert prepared(RealSpaceConfig("Ne 0 0 0; H 0 0 2", charge=1)).start.field is None
    with pytest.raises(MissingParameter, match="start without its orbitals"):
        prepared(RealSpaceConfig("Ne 0 0 0", ansatz=RealSpaceAnsatz(start="PM6")))


def test_rates_suit_the_heaviest_nucleus():
    """So that no configuration needs one; a rate of the user's goes before."""
    def rate(text, **optimiser):
        return prepared(RealSpaceConfig(text, optimiser=RealSpaceOptimiser(**optimiser))).settings.optimiser.rate

    assert rate("H 0 0 0; H 0 0 1.4") == 0.5 and rate("Be 0 0 0") == rate("Be 0 0 0; H 0 0 2.5; H 0 0 -2.5") == 2 / 16
    assert rate("Be 0 0 0", rate=0.3) == 0.3 and rate("Be 0 0 0", kind="adam") == Adam().rate


def test_a_walker_near_a_node_does_not_decide_a_step():
    """Derivatives diverge there; products of them are no positive matrix any more, whatever the precision (found at LiH)."""
    O = torch.randn(256, 300, generator=generator(1), dtype=torch.float32)
    E = torch.randn(256, generator=generator(2), dtype=torch.float32)
    spring = Spring(momentum=0.0, norm=1e30)
    plain, _ = spring.step(O, E, spring.start(300, O), 0)
    for factor in (1e5, 1e9, math.inf):
        wild = O.clone()
        wild[7] *= factor
        step, _ = spring.step(wild, E, spring.start(300, O), 0)
        assert torch.isfinite(step).all() and (step - plain).norm() < 0.5 * plain.norm()
    assert torch.equal(limited(O), O)


def test_parameters_are_averaged_over_the_last_fifth():
    """The mean lies among the late parameters, far from the first ones; the wavefunction itself is left alone."""
    molecule = from_text("He 0 0 0")
    psi, seen = wavefunction(molecule, determinants=1, sizes={"width": 8, "pair_width": 4, "layers": 2}).float(), []
    settings = VariationalSettings(walkers=16, steps=1, burn_in=10)
    state = train(psi, initial_state(psi, molecule, settings), settings, 30,
                  report=lambda p, s: seen.append(parameters_to_vector(psi.parameters()).detach().double()))
    mean = parameters_to_vector(averaged(psi, state).parameters()).detach().double()
    expected = seen[0]
    for k, theta in enumerate(seen):
        expected = expected + (theta - expected) / max(1.0, 0.2 * k)
    torch.testing.assert_close(mean, expected, rtol=1e-5, atol=1e-6)
    assert (mean - seen[-1]).norm() < 0.3 * (seen[0] - seen[-1]).norm()
    assert torch.equal(parameters_to_vector(psi.parameters()).detach().double(), seen[-1])
