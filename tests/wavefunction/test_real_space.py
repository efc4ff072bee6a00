"""The real-space ansatz and its Monte Carlo: symmetry, cusps, exact cases, statistics."""

import math

import pytest
import torch

from nddo_ml.errors import InvalidMolecule, UnknownOption
from nddo_ml.wavefunction.natural_gradient import Adam, Spring
from nddo_ml.wavefunction.real_space.ansatz import wavefunction
from nddo_ml.wavefunction.real_space.local_energy import clipped, local_energies, local_energy
from nddo_ml.wavefunction.real_space.sampling import Walkers, healed, leap, scattered, walk, walkers_at
from nddo_ml.wavefunction.real_space.statistics import reblocked
from nddo_ml.wavefunction.real_space.systems import electron_system, from_text
from nddo_ml.wavefunction.real_space.variational import (
    Averaging,
    SamplingFailed,
    VariationalSettings,
    WalkerState,
    derivatives,
    evaluate,
    initial_state,
    iteration,
    train,
)

KINDS = ("ferminet", "psiformer")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def positions(electrons, walkers, seed=0):
    return torch.randn(walkers, electrons, 3, dtype=torch.float64, generator=generator(seed))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("multiplicity", [1, 3, 5])
def test_exchange_of_equal_spins_changes_the_sign(kind, multiplicity):
    molecule = from_text("Li 0 0 0; H 0 0 3.015", multiplicity=multiplicity)
    psi = wavefunction(molecule, kind)
    r = positions(4, 20)
    sign, log = psi(r)
    for spin in (range(molecule.up), range(molecule.up, 4)):
        for a, b in zip(spin, list(spin)[1:], strict=False):
            order = list(range(4))
            order[a], order[b] = b, a
            other, same = psi(r[:, order])
            assert torch.equal(other, -sign)
            torch.testing.assert_close(same, log, rtol=0, atol=1e-11)


@pytest.mark.parametrize("kind", KINDS)
def test_electrons_of_opposite_spin_are_not_exchanged(kind):
    """Otherwise the test above would pass with a wavefunction that knows no spin."""
    psi = wavefunction(from_text("Li 0 0 0; H 0 0 3.015"), kind)
    r = positions(4, 20)
    assert (psi(r[:, [2, 1, 0, 3]])[1] - psi(r)[1]).abs().min() > 1e-6


def slope(psi, r, electron, direction, centre):
    """d ln|psi| / d distance just off a coincidence, averaged over the sphere (both ends of each direction)."""
    h = 1e-5
    slopes = []
    for sign in (1.0, -1.0):
        points = []
        for distance in (h, 2 * h):
            x = r.clone()
            x[:, electron] = centre + sign * distance * direction
            points.append(psi(x)[1])
        slopes.append((points[1] - points[0]) / h)
    return 0.5 * (slopes[0] + slopes[1])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", ["nucleus Li", "nucleus H", "antiparallel"])
def test_cusps(kind, case):
    """Kato: -Z at a nucleus, 1/2 at an electron of the other spin; any weights."""
    psi = wavefunction(from_text("Li 0 0 0; H 0 0 3.015"), kind, seed=2).requires_grad_(False)
    r = positions(4, 30, seed=1)
    direction = torch.nn.functional.normalize(positions(1, 30, seed=2)[:, 0], dim=-1)
    centre = {"nucleus Li": psi.nuclei[0], "nucleus H": psi.nuclei[1], "antiparallel": r[:, 2]}[case]
    expected = {"nucleus Li": -3.0, "nucleus H": -1.0, "antiparallel": 0.5}[case]
    cusp = slope(psi, r, 0, direction, centre)
    assert (cusp - expected).abs().median() < 1e-3     # the quadratic term times the distance; some walkers sit near a node


@pytest.mark.parametrize("kind", KINDS)
def test_cusp_of_parallel_electrons(kind):
    """psi = odd function x exp(r/4): the slope of ln|psi|/r is 1/4 once the odd part is divided out."""
    psi = wavefunction(from_text("Li 0 0 0; H 0 0 3.015"), kind, seed=2).requires_grad_(False)
    r = positions(4, 30, seed=1)
    direction = torch.nn.functional.normalize(positions(1, 30, seed=2)[:, 0], dim=-1)
    middle = 0.5 * (r[:, 0] + r[:, 1])

    def log(distance):
        x = r.clone()
        x[:, 0], x[:, 1] = middle + 0.5 * distance * direction, middle - 0.5 * distance * direction
        return psi(x)[1] - math.log(distance)

    h = 1e-4
    assert ((log(2 * h) - log(h)) / h - 0.25).abs().median() < 1e-2


def test_local_energy_stays_finite_where_particles_meet():
    """Without the exact cusp it would be of the order of Z / distance = 3e6."""
    psi = wavefunction(from_text("Li 0 0 0; H 0 0 3.015"), seed=2)
    r = positions(4, 20, seed=1)
    close = r.clone()
    close[:, 0] = psi.nuclei[0] + torch.tensor([1e-6, 0, 0], dtype=torch.float64)
    together = r.clone()
    together[:, 0] = r[:, 2] + torch.tensor([1e-6, 0, 0], dtype=torch.float64)
    for x in (close, together):
        assert local_energies(psi, x).abs().median() < 300


def test_hydrogen_exactly():
    """One electron, no spin-down: exp(-r) has E_L = -1/2 everywhere."""
    psi = wavefunction(from_text("H 0 0 0")).requires_grad_(False)

    class Exact(torch.nn.Module):
        nuclei, charges, determinants = psi.nuclei, psi.charges, 1

        def jets(self, r):
            from nddo_ml.wavefunction.real_space.features import nucleus_vectors, square_length
            from nddo_ml.wavefunction.real_space.jets import mapped, spread, sqrt
            length = sqrt(square_length(nucleus_vectors(r, self.nuclei, True)))
            return None, -1.0 * mapped(spread(mapped(length, lambda t: t.sum(-2))), lambda t: t.sum((-2, -1)))

    torch.testing.assert_close(local_energy(Exact(), positions(1, 50)), torch.full((50,), -0.5, dtype=torch.float64))


@pytest.mark.parametrize("kind", KINDS)
def test_derivatives_by_the_parameters(kind):
    psi = wavefunction(from_text("He 0 0 0"), kind)
    r = positions(2, 5)
    rows = derivatives(psi, r)
    for k in range(5):
        one = torch.cat([g.flatten() for g in torch.autograd.grad(psi(r[k])[1], list(psi.parameters()))])
        torch.testing.assert_close(rows[k], one, rtol=1e-10, atol=1e-10)


def test_sampling_reproduces_a_known_density():
    """Walkers of a gaussian have its second moment."""
    def psi(r):
        return torch.ones(len(r)), -0.5 * r.square().sum((-2, -1))

    walkers = walkers_at(psi, positions(2, 2000), 1.0)
    squares = []
    for _ in range(30):
        walkers = walk(psi, walkers, 10, generator(len(squares)))
        squares.append(walkers.r.square().mean())
    moments = torch.stack(squares[5:])
    assert abs(float(moments.mean()) - 0.5) < 4 * 0.5 / (2000 * 6 * 25 / 4) ** 0.5
    assert 0.35 < walkers.acceptance < 0.65


def test_leaps_bring_electrons_to_distant_nuclei_as_often_as_they_belong_there():
    """Gaussians at two places 20 bohr apart, the second three times as likely for a spin-up electron, a third for the other."""
    class TwoPlaces:
        nuclei, up, down = torch.tensor([[0.0, 0, 0], [0, 0, 20.0]], dtype=torch.float64), 1, 1

        def __call__(self, r):
            near = (-(r[..., None, :] - self.nuclei).square().sum(-1)).exp()
            share = torch.tensor([[0.25, 0.75], [0.75, 0.25]], dtype=torch.float64)
            return torch.ones(len(r)), 0.5 * (near * share).sum(-1).log().sum(-1)

    psi, far = TwoPlaces(), []
    walkers = walkers_at(psi, 0.1 * positions(2, 1000), 1.0)
    assert float((walk(psi, walkers, 50, generator()).r[..., 2] > 10).double().mean()) == 0
    for k in range(60):
        walkers = leap(psi, walk(psi, walkers, 2, generator(k)), generator(k))
        far.append((walkers.r[..., 2] > 10).double().mean(0))
    up, down = torch.stack(far[20:]).mean(0)
    assert abs(float(up) - 0.75) < 0.015 and abs(float(down) - 0.25) < 0.015
    assert float((walkers.r - psi.nuclei[(walkers.r[..., 2] > 10).long()]).square().mean()) == pytest.approx(0.5, rel=0.06)


def test_reblocking_of_a_correlated_series():
    """An autoregressive series has the error sqrt((1 + a)/(1 - a)/n): five times the naive one at a = 0.92."""
    a, steps, walkers = 0.92, 4096, 8
    noise = torch.randn(steps, walkers, generator=generator(), dtype=torch.float64) * (1 - a * a) ** 0.5
    rows = [noise[0] / (1 - a * a) ** 0.5]
    for k in range(1, steps):
        rows.append(a * rows[-1] + noise[k])
    estimate = reblocked(torch.stack(rows))
    expected = ((1 + a) / (1 - a) / (steps * walkers)) ** 0.5
    assert estimate.error == pytest.approx(expected, rel=0.2)
    assert estimate.correlation == pytest.approx((1 + a) / (1 - a), rel=0.4)
    assert abs(estimate.mean) < 4 * expected


def test_a_natural_step_solves_its_equations():
    """Without momentum: (O^T O + lambda) step = -O^T eps, solved by parameters instead of by samples."""
    O = torch.randn(40, 12, generator=generator(1), dtype=torch.float64)
    E = torch.randn(40, generator=generator(2), dtype=torch.float64)
    spring = Spring(rate=1.0, decay=1e30, momentum=0.0, damping=1e-2, norm=1e30)
    step, _ = spring.step(O, E, spring.start(12, O), 0)
    centred = (O - O.mean(0)) / 40**0.5
    direct = torch.linalg.solve(centred.T @ centred + 1e-2 * torch.eye(12).double(), centred.T @ (E.mean() - E) / 40**0.5)
    torch.testing.assert_close(step, direct, rtol=1e-9, atol=1e-11)
    short, _ = Spring(rate=1.0, norm=1e-4).step(O, E, spring.start(12, O), 0)
    assert float(short.norm()) == pytest.approx(1e-2)


def test_clipping_moves_only_outliers():
    E = torch.cat([torch.randn(100, generator=generator()), torch.tensor([1e6])]).double()
    moved = clipped(E)
    assert torch.equal(moved[:100], E[:100]) and moved[100] < E[100]


def test_lost_walkers_are_reset_and_counted():
    walkers = Walkers(positions(2, 10), torch.arange(10.0), 0.1)
    healthy = torch.ones(10, dtype=torch.bool)
    healthy[[2, 7]] = False
    whole, lost = healed(walkers, healthy, generator())
    assert lost == 2 and not torch.isin(whole.log, torch.tensor([2.0, 7.0])).any()
    assert torch.equal(whole.r[healthy], walkers.r[healthy])

    molecule = from_text("He 0 0 0")
    psi, settings = wavefunction(molecule), VariationalSettings(walkers=16, steps=1, burn_in=10)
    state = initial_state(psi, molecule, settings)
    broken = state.walkers.r.clone()
    broken[3] = math.nan
    state = WalkerState(0, Walkers(broken, state.walkers.log, 0.1), state.memory, state.generator)
    after, progress = iteration(psi, state, settings)
    assert progress.reset == 1 and torch.isfinite(after.walkers.r).all() and math.isfinite(progress.energy)


def test_diverged_parameters_are_refused():
    molecule = from_text("He 0 0 0")
    psi, settings = wavefunction(molecule), VariationalSettings(walkers=8, steps=1, burn_in=0)
    state = initial_state(psi, molecule, settings)
    with torch.no_grad():
        psi.exponents.fill_(math.nan)
    with pytest.raises(SamplingFailed, match="diverged"):
        iteration(psi, state, settings)


def test_training_goes_on_exactly():
    """Ten iterations at once, and five and five from the stored state and weights: the same numbers."""
    molecule = from_text("He 0 0 0")
    settings = VariationalSettings(walkers=32, steps=3, burn_in=20)
    whole = wavefunction(molecule)
    train(whole, initial_state(whole, molecule, settings), settings, 6)
    half = wavefunction(molecule)
    state = train(half, initial_state(half, molecule, settings), settings, 3)
    fresh = wavefunction(molecule, seed=5)
    fresh.load_state_dict(half.state_dict())
    train(fresh, state, settings, 6)
    for a, b in zip(whole.parameters(), fresh.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("optimiser", [Spring(), Adam()])
def test_a_short_training_lowers_the_energy(optimiser):
    molecule = from_text("He 0 0 0")
    settings = VariationalSettings(walkers=48, steps=4, burn_in=50, optimiser=optimiser)
    psi, energies = wavefunction(molecule, determinants=2, sizes={"width": 12, "pair_width": 4, "layers": 2}), []
    with torch.no_grad():
        psi.exponents.mul_(0.4)                 # far too wide: the usual start is near a mean field already
    state = initial_state(psi, molecule, settings)
    train(psi, state, settings, 40, report=lambda p, s: energies.append(p.energy))
    assert sum(energies[-10:]) / 10 < sum(energies[:10]) / 10 - 0.1


def test_walkers_start_where_charges_ask_for_them():
    r = scattered(from_text("H 0 0 0; H 0 0 50"), 100, generator())
    assert (r[:, 0, 2] < 25).all() and (r[:, 1, 2] > 25).all()
    assert scattered(from_text("H 0 0 0", charge=-1), 5, generator()).shape == (5, 2, 3)


@pytest.mark.parametrize(("call", "words"), [
    (lambda: from_text("He 0 0 0", multiplicity=2), "Multiplicity 2 is impossible with 2 electrons: expected one of 1, 3"),
    (lambda: from_text("H 0 0 0", charge=1), "leaves 0 electrons"),
    (lambda: from_text("Fe 0 0 0"), "Fe .Z=26."),
    (lambda: from_text("H 0 0 0; H 0 0 0.01"), "0.01 bohr apart"),
    (lambda: from_text("H 0 0"), "not an atom"),
    (lambda: from_text("H 0 0 nan"), "not a finite number"),
    (lambda: from_text(""), "without atoms"),
    (lambda: electron_system([1], [[0, 0, 0], [0, 0, 1]]), "1 atoms but 2 positions"),
])
def test_impossible_molecules(call, words):
    with pytest.raises(InvalidMolecule, match=words):
        call()


def test_unknown_names():
    with pytest.raises(UnknownOption, match="ferminet, psiformer"):
        wavefunction(from_text("He 0 0 0"), "slater")
    with pytest.raises(UnknownOption, match="bohr, angstrom"):
        from_text("He 0 0 0", unit="nm")


def test_units_of_positions():
    assert from_text("H 0 0 0; H 0 0 1", unit="angstrom").positions[1][2] == pytest.approx(1.8897261246)


def test_evaluation_counts_everything_and_changes_nothing():
    molecule = from_text("He 0 0 0")
    psi = wavefunction(molecule)
    state = initial_state(psi, molecule, VariationalSettings(walkers=16, burn_in=20))
    before = [p.clone() for p in psi.parameters()]
    averages = evaluate(psi, state, Averaging(blocks=6, steps=2, burn_in=2))
    assert averages.energies.shape == (6, 16) and averages.energy.mean == pytest.approx(float(averages.energies.mean()))
    assert all(torch.equal(a, b) for a, b in zip(before, psi.parameters(), strict=True))
