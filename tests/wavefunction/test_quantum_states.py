"""Second quantisation, neural quantum states, selected determinants and the autoencoder, against full CI."""

import math
from itertools import pairwise

import pytest
import torch

from nddo_ml import Hamiltonian as NDDO
from nddo_ml import Molecules
from nddo_ml.errors import InvalidMolecule, UnknownOption
from nddo_ml.wavefunction.determinants.neural_states import (
    NeuralStateTraining,
    amplitudes,
    fit_selected,
    fit_state,
    in_order,
    neural_state,
    rayleigh,
)
from nddo_ml.wavefunction.determinants.second_quantisation import (
    SecondQuantisedHamiltonian,
    determinants,
    diagonal,
    ground_state,
    leading,
    matrix,
    nddo_hamiltonian,
    pairs,
    reference_determinant,
    singles_and_doubles,
    size,
    sparse_matrix,
)
from nddo_ml.wavefunction.determinants.selected_space import first_order, occupations, words
from nddo_ml.wavefunction.determinants.vector_autoencoder import (
    AutoencoderTraining,
    VectorAutoencoder,
    continuous,
    fit_autoencoder,
    heaviest,
    overlaps,
)
from nddo_ml.wavefunction.orbitals.energy_functionals import nddo_functional

WATER = [[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]]
EV = 27.2114


def valence(numbers=(8, 1, 1), positions=WATER, **options):
    return nddo_hamiltonian(nddo_functional(NDDO("PM6"), Molecules.single(list(numbers), positions)), **options)


def hydrogens(spacing, localised=False, count=4):
    pytest.importorskip("pyscf")
    from nddo_ml.wavefunction.determinants.pyscf_active_space import active_space

    chain = Molecules.single([1] * count, [[0, 0, spacing * k] for k in range(count)])
    return active_space(chain, localised=localised)


def test_the_reference_determinant_has_the_energy_of_the_engine():
    H = valence()
    exact = float(NDDO("PM6")(Molecules.single([8, 1, 1], WATER)).energy)
    assert float(diagonal(H, reference_determinant(H)[None])) == pytest.approx(exact, abs=1e-7)


def test_the_spectrum_does_not_depend_on_the_orbitals():
    """H2 and H2+ of the engine in atomic and in canonical orbitals; the exact answer of two orbitals by hand."""
    plain, canonical = (valence((1, 1), [[0, 0, 0], [0, 0, 0.9]], canonical=c) for c in (False, True))
    a, b = (torch.linalg.eigvalsh(matrix(H, determinants(H))) for H in (plain, canonical))
    torch.testing.assert_close(a, b, rtol=0, atol=1e-8)
    h, g = canonical.h, canonical.eri
    two = torch.stack([torch.stack([2 * h[0, 0] + g[0, 0, 0, 0], g[0, 1, 1, 0]]),
                       torch.stack([g[0, 1, 1, 0], 2 * h[1, 1] + g[1, 1, 1, 1]])])
    assert float(b[0]) == pytest.approx(float(torch.linalg.eigvalsh(two)[0]) + canonical.core, abs=1e-8)


@pytest.mark.parametrize("case", ["H2O NDDO", "H4", "OH"])
def test_the_matrix_has_the_energy_of_full_ci(case):
    pytest.importorskip("pyscf")
    from nddo_ml.wavefunction.determinants.pyscf_active_space import active_space, exact_energy

    H = {"H2O NDDO": valence, "H4": lambda: hydrogens(0.9),
         "OH": lambda: active_space(Molecules.single([8, 1], [[0, 0, 0], [0, 0, 0.97]], 0, 2), frozen=1)}[case]()
    energy, vector = ground_state(matrix(H, determinants(H)))
    assert energy == pytest.approx(exact_energy(H), abs=1e-8)
    assert float(vector.norm()) == pytest.approx(1.0)


def test_smaller_spaces_lie_above_larger_ones():
    """Pairs above singles and doubles above full CI, of water in its valence space; the heaviest determinants of the second."""
    H = valence()
    spaces = [reference_determinant(H)[None], pairs(H), singles_and_doubles(H), determinants(H)]
    assert [len(s) for s in spaces] == [1, 1 + 4 * 2, 1 + 2 * 8 + 8 * 8 + 2 * 6, 225]
    energies = [ground_state(matrix(H, s))[0] for s in spaces]
    assert all(a > b + 1e-3 for a, b in pairwise(energies))
    weights, rows = leading(H, 5)
    assert torch.equal(rows[0], reference_determinant(H)) and (weights.abs().diff() <= 0).all() and weights.abs()[0] > 0.9
    assert (rows.sum(1) == 8).all() and len(rows.unique(dim=0)) == 5


def empty(orbitals, pairs):
    """Integrals that are zero, of pairs of electrons."""
    n = orbitals
    return SecondQuantisedHamiltonian(torch.zeros(n, n), torch.zeros(1, 1, 1, 1).expand(n, n, n, n), 0.0, pairs, pairs)


def random_hamiltonian(orbitals, up, down):
    """Integrals with the symmetries of real ones."""
    g = torch.Generator().manual_seed(orbitals)
    h, e = (torch.randn((orbitals,) * k, generator=g, dtype=torch.float64) for k in (2, 4))
    e = e + e.transpose(0, 1)
    e = e + e.transpose(2, 3)
    return SecondQuantisedHamiltonian(h + h.T, e + e.permute(2, 3, 0, 1), 0.3, up, down)


@pytest.mark.parametrize(("orbitals", "up", "down"), [(6, 3, 2), (6, 4, 0), (5, 1, 4), (4, 4, 3), (36, 3, 2)])
def test_first_order_amplitudes_are_those_of_the_matrix(orbitals, up, down):
    """Of all determinants that couple to a state, and of no others; beyond 64 spin orbitals, of those found."""
    H = random_hamiltonian(orbitals, up, down)
    g = torch.Generator().manual_seed(1)
    if orbitals > 8:
        near = singles_and_doubles(H)
        state = near[torch.randperm(len(near), generator=g)[:3]]
        psi = torch.randn(3, generator=g, dtype=torch.float64)
        others, weights = first_order(H, state, psi, -50.0, 400)
        space = torch.cat([state, others])
    else:
        space = determinants(H)
        inside = torch.randperm(len(space), generator=g)[:max(1, len(space) // 5)]
        state, psi = space[inside], torch.randn(len(inside), generator=g, dtype=torch.float64)
        others, weights = first_order(H, state, psi, -50.0, 10**6)
        listed = {tuple(row) for row in others.tolist()}
        assert not listed & {tuple(row) for row in state.tolist()}
        couples = (matrix(H, space)[:, inside] != 0).any(1)
        couples[inside] = False
        assert listed == {tuple(row) for row in space[couples].tolist()}
        space = torch.cat([state, others])
    M = sparse_matrix(H, space).to_dense()
    exact = ((M[len(state):, :len(state)] @ psi) / (-50.0 - M.diagonal()[len(state):])).abs()
    torch.testing.assert_close(weights, exact, rtol=1e-7, atol=1e-12)
    assert torch.equal(torch.from_numpy(occupations(words(space.numpy()), 2 * orbitals)), space)
    assert (others.reshape(-1, 2, orbitals).sum(2) == torch.tensor([up, down])).all()


def test_determinants_have_one_order():
    space = determinants(random_hamiltonian(5, 2, 3))
    assert torch.equal(in_order(space[torch.randperm(len(space), generator=torch.Generator().manual_seed(0))]), space)


RING = [(math.cos(a), math.sin(a)) for a in (math.pi / 3 * k for k in range(6))]
LARGE = {"benzene": ([6] * 6 + [1] * 6, [[r * x, r * y, 0] for r in (1.395, 2.48) for x, y in RING]),
         "ethanol": ([6, 6, 8, 1, 1, 1, 1, 1, 1], [
             [-0.89, -0.19, 0.01], [0.45, 0.36, -0.09], [1.43, -0.63, 0.14], [-1.03, -1.00, -0.73], [-1.63, 0.59, -0.14],
             [-1.06, -0.64, 1.0], [0.58, 1.18, 0.64], [0.6, 0.82, -1.08], [1.3, -1.36, -0.49]])}


@pytest.mark.parametrize("molecule", LARGE)
def test_large_spaces_are_counted_before_anything_is_built(molecule):
    """2.4e16 determinants of benzene: named, with the limit and what to do; what is selected lies below the SCF."""
    H = valence(*LARGE[molecule])
    n = 30 if molecule == "benzene" else 18
    assert H.orbitals == n and size(H) == math.comb(n, H.up) ** 2
    for refused in (lambda: determinants(H), lambda: fit_state(neural_state(H, "rbm"), H),
                    lambda: fit_selected(neural_state(H), H, 30_000)):
        with pytest.raises(InvalidMolecule, match=r"limit is 20000; take those that matter \(neural_states.fit_selected\) or"):
            refused()
    if molecule == "benzene":
        with pytest.raises(InvalidMolecule, match=r"48264 weights of the network: 1\.9 GB of derivatives.*at most 2780"):
            fit_selected(neural_state(H), H, 5000)
        with pytest.raises(InvalidMolecule, match=r"7\.31e"):
            singles_and_doubles(H)
    fit = fit_selected(neural_state(H), H, 12, 2, NeuralStateTraining(steps=4, unit=EV))
    lowest, _ = ground_state(matrix(H, fit.space))
    scf = float(diagonal(H, reference_determinant(H)[None]))
    assert len(fit.space) == 12 and lowest - 1e-8 < fit.energy < scf - 0.1


def test_the_exact_energy_is_counted_first():
    pytest.importorskip("pyscf")
    from nddo_ml.wavefunction.determinants.pyscf_active_space import exact_energy

    with pytest.raises(InvalidMolecule, match=r"2\.41e\+16 determinants .* smaller active space"):
        exact_energy(empty(30, 15))


@pytest.mark.parametrize("kind", ["backflow", "rbm"])
def test_an_untrained_state_is_an_upper_bound(kind):
    H = valence()
    space = determinants(H)
    M = matrix(H, space)
    lowest, _ = ground_state(M)
    for seed in range(3):
        assert float(rayleigh(M, amplitudes(neural_state(H, kind, seed), space)).detach()) > lowest


@pytest.mark.parametrize("kind", ["backflow", "rbm"])
@pytest.mark.parametrize("seed", [0, 1])
def test_neural_states_of_h4(kind, seed):
    """Within 1e-4 hartree of full CI, from above; no step raises the energy."""
    H = hydrogens(0.9)
    exact, _ = ground_state(matrix(H, determinants(H)))
    fit = fit_state(neural_state(H, kind, seed), H, training=NeuralStateTraining(steps=300))
    assert -1e-9 < fit.energy - exact < 1e-4
    assert all(b < a + 1e-12 for a, b in pairwise(fit.history))


@pytest.mark.slow
@pytest.mark.parametrize("case", ["LiH", "H2O NDDO"])
def test_neural_states_reach_full_ci(case):
    """LiH within 1e-4 hartree; the valence space of PM6 water within 1e-3 eV."""
    if case == "LiH":
        pytest.importorskip("pyscf")
        from nddo_ml.wavefunction.determinants.pyscf_active_space import active_space
        H, unit, tolerance = active_space(Molecules.single([3, 1], [[0, 0, 0], [0, 0, 1.6]])), 1.0, 1e-4
    else:
        H, unit, tolerance = valence(), EV, 1e-3
    exact, _ = ground_state(matrix(H, determinants(H)))
    fit = fit_state(neural_state(H), H, training=NeuralStateTraining(steps=400, unit=unit))
    assert -1e-8 < fit.energy - exact < tolerance


@pytest.mark.slow
def test_selected_determinants():
    """A tenth of the determinants of water in STO-3G: within 1.6 mHa of full CI."""
    pytest.importorskip("pyscf")
    from nddo_ml.wavefunction.determinants.pyscf_active_space import active_space

    H = active_space(Molecules.single([8, 1, 1], WATER))
    exact, _ = ground_state(matrix(H, determinants(H)))
    fit = fit_selected(neural_state(H), H, 44)
    assert len(fit.space) == 44 and 0 < fit.energy - exact < 1.6e-3


@pytest.mark.slow
def test_autoencoder_along_a_dissociation():
    """H4 from 0.7 to 2.2 angstrom: overlap at least 0.999 and energies within 1 mHa with two latent numbers, at geometries
    between those trained on; the two heaviest determinants miss by far."""
    spacings = torch.linspace(0.7, 2.2, 31).tolist()
    spaces = [hydrogens(s, localised=True) for s in spacings]
    matrices = [matrix(H, determinants(H)) for H in spaces]
    states = [ground_state(M) for M in matrices]
    vectors = continuous(torch.stack([v for _, v in states]))
    model = VectorAutoencoder(vectors.shape[1])
    fit_autoencoder(model, vectors[::2], AutoencoderTraining(steps=2000))
    with torch.no_grad():
        decoded = model(vectors[1::2])
    assert overlaps(decoded, vectors[1::2]).min() > 0.999
    few = heaviest(vectors[::2], 2)
    for k, v in zip(range(1, 31, 2), decoded, strict=True):
        exact = states[k][0]
        assert -1e-9 < float(rayleigh(matrices[k], v)) - exact < 1e-3
        assert float(torch.linalg.eigvalsh(matrices[k][few][:, few])[0]) - exact > 1e-2


def test_refusals():
    pytest.importorskip("pyscf")
    from nddo_ml.wavefunction.determinants.pyscf_active_space import active_space

    with pytest.raises(UnknownOption, match="rbm, backflow"):
        neural_state(valence(), "boltzmann")
    with pytest.raises(UnknownOption, match="size = 0"):
        fit_selected(neural_state(valence()), valence(), 0)
    molecules = Molecules.batch([[1, 1]] * 2, [[[0, 0, 0], [0, 0, 0.8]], [[0, 0, 0], [0, 0, 0.9]]])
    with pytest.raises(InvalidMolecule, match="is of one"):
        nddo_hamiltonian(nddo_functional(NDDO("PM6"), molecules))
    with pytest.raises(InvalidMolecule, match="determinants"):
        matrix(empty(12, 6), determinants(empty(12, 3))[:20_001])
    with pytest.raises(InvalidMolecule, match="is of one"):
        active_space(molecules)
