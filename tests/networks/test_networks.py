"""Networks on top of a parent method: nothing at the start, the symmetries, the limits and the derivatives for any weights."""

import pytest
import torch
from support import physics_models as physics
from support.networks import shaken, shifts_of
from support.physics_models import MOLECULES, molecule, rotation

from nddo_ml import Hamiltonian, Molecules, PointCharges
from nddo_ml.common import compiling
from nddo_ml.errors import MissingParameter, UnknownOption
from nddo_ml.hamiltonian import walk
from nddo_ml.integrals.corrections.d3 import OMEGA_B97X_D3BJ
from nddo_ml.networks import build
from nddo_ml.networks.environment import PairGeometry, environment, switch
from nddo_ml.networks.shifts import BLOCK_BOUND, BOUND, CHANNELS, CHARGE_BOUND, CORE_BOUNDS, U_BOUND
from nddo_ml.units import CODATA_2018

CONFIGS = {
    "default": {},
    "symmetry functions": {"features": "symmetry functions"},
    "everything": {"heads": ["atom", "pair", "charge", "block", "local"], "degree": 2},
    "one-centre": {"heads": ["atom"], "layers": 1},
    "delta": {"heads": ["local"]},
}
each = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)






@each
@pytest.mark.parametrize("parent", ["AM1", "PM6", "PM7"])
def test_new_network_is_the_parent_to_the_last_bit(config, parent):
    learned, published = Hamiltonian(parent, network=build(config).requires_grad_(False)), Hamiltonian(parent)
    for name in MOLECULES:
        with compiling.off():
            a, b = learned(molecule(name), forces=True), published(molecule(name), forces=True)
        assert float(a.energy) == float(b.energy)
        assert torch.equal(a.dipole, b.dipole)
        assert float((a.forces - b.forces).abs().max()) < 1e-12      # sums over pairs in another order
        a, b = learned(molecule(name), forces=True), published(molecule(name), forces=True)
        assert float(a.energy) == pytest.approx(float(b.energy), rel=1e-14)     # kernels repel the cores of published methods
        assert float((a.dipole - b.dipole).abs().max()) < 1e-12      # multipoles solved with another last step
        assert float((a.forces - b.forces).abs().max()) < 1e-12


@each
def test_invariances(config):
    H = Hamiltonian("PM6", network=shaken(config, size=0.05))   # a wilder one gives nitrogen a charge of -2.4: refused
    for name in ("thiol", "formamide water", "hydroxymethyl"):
        numbers, positions, q, m = MOLECULES[name]
        x, z = torch.tensor(positions, dtype=torch.float64), torch.tensor(numbers)
        here = H(Molecules.single(z, x, q, m), forces=True, tolerance=1e-10)
        published = Hamiltonian("PM6")(molecule(name))
        assert abs(float(here.energy - published.energy)) > 1e-3       # the network does something
        Q = -rotation(3)                                               # a reflection too
        turned = H(Molecules.single(z, x @ Q.T + 7.0, q, m), forces=True, tolerance=1e-10)
        assert abs(float(here.energy - turned.energy)) < 1e-9
        assert torch.allclose(here.forces @ Q.T, turned.forces, atol=1e-7)
        assert torch.allclose(here.charges, turned.charges, atol=1e-8)
        order = torch.randperm(len(z), generator=torch.Generator().manual_seed(1))
        mixed = H(Molecules.single(z[order], x[order], q, m), forces=True, tolerance=1e-10)
        assert abs(float(here.energy - mixed.energy)) < 1e-9
        assert torch.allclose(here.forces[order], mixed.forces, atol=1e-7)


@each
def test_forces_are_derivatives(config):
    H = Hamiltonian("PM6", network=shaken(config))
    numbers, positions, q, m = MOLECULES["thiol"]
    x = torch.tensor(positions, dtype=torch.float64)
    d = torch.randn(x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    forces = H(Molecules.single(numbers, x, q, m), forces=True, tolerance=1e-10).forces
    h = 1e-3
    e = [float(H(Molecules.single(numbers, x + k * h * d, q, m), tolerance=1e-10).energy) for k in (-2, -1, 1, 2)]
    slope = (e[0] - 8 * e[1] + 8 * e[2] - e[3]) / (12 * h)
    assert abs(float(-(forces * d).sum()) - slope) < 1e-6


@pytest.mark.parametrize("config", ["everything", "symmetry functions"])
def test_gradients_of_losses_by_weights(config):
    network = shaken(CONFIGS[config]).requires_grad_(True)
    H = Hamiltonian("PM6", network=network)
    batch = physics.batch(["water", "thiol"])
    weight = torch.randn(9, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))

    def loss():
        r = H(batch, forces=True, order=2, tolerance=1e-11)
        return (r.forces * weight).sum() + r.dipole.square().sum() + r.energy.sum() + r.charges[0]

    weights = list(network.parameters())
    gradient = torch.autograd.grad(loss(), weights)
    generator = torch.Generator().manual_seed(3)
    direction = [torch.randn(p.shape, dtype=p.dtype, generator=generator) for p in weights]
    exact, h, values = sum((g * d).sum() for g, d in zip(gradient, direction, strict=True)), 1e-4, []
    for k in (-2, -1, 1, 2):
        with torch.no_grad():
            for p, d in zip(weights, direction, strict=True):
                p.add_(d, alpha=k * h)
        values.append(float(loss().detach()))
        with torch.no_grad():
            for p, d in zip(weights, direction, strict=True):
                p.sub_(d, alpha=k * h)
    slope = (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * h)
    assert abs(float(exact) - slope) < 1e-6 * abs(slope)


@each
def test_free_atom_keeps_its_parameters(config):
    H, published = Hamiltonian("PM6", network=shaken(config)), Hamiltonian("PM6")
    for z, m in ((1, 2), (6, 3), (7, 4), (8, 3), (9, 2), (15, 4), (16, 3), (17, 2)):
        atom = Molecules.single([z], [[0.0, 0.0, 0.0]], 0, m)
        assert float(H(atom).energy) == float(published(atom).energy)
    far = Molecules.single([8, 1, 1, 18 - 1], [[0.0, 0.0, 0.0], [5.0, 0.0, 0.0], [-5.0, 0.1, 0.0], [0.0, 60.0, 0.0]], 0, 2)
    assert float((H(far).energy - published(far).energy).abs()) < 1e-12


@each
def test_shifts_are_bounded_and_end_smoothly(config):
    network = shaken(config, size=3.0)
    shifts = shifts_of(network, physics.batch(["water", "thiol", "formamide water"]))
    for values, bound in ((shifts.U, U_BOUND), (shifts.factors, BOUND), (shifts.resonance, BOUND), (shifts.block, BLOCK_BOUND),
                          (shifts.charges, CHARGE_BOUND)):
        if values is not None:
            assert float(values.abs().max()) <= bound
    if shifts.core is not None:
        assert bool((shifts.core.abs() <= torch.tensor(CORE_BOUNDS) + 1e-12).all())
    # towards the cutoff everything vanishes faster than any power, so that no derivative jumps there
    for r, limit in ((4.99, 1e-9), (4.999, 1e-60), (5.0 + 1e-9, 0.0)):
        said = shifts_of(network, Molecules.single([6, 8], [[0.0, 0.0, 0.0], [0.0, 0.0, r]]))
        sizes = [float(x.abs().max()) for x in (said.U, said.factors, said.resonance, said.core, said.local)
                 if x is not None and x.numel()]
        assert max(sizes, default=0.0) <= limit * 100


def test_switch_is_smooth():
    R = torch.linspace(0.5, 5.0 - 1e-6, 2001, dtype=torch.float64, requires_grad=True)
    f, value = switch(R, 5.0), None
    assert float(switch(torch.zeros(1, dtype=torch.float64), 5.0)) == 1.0
    for _ in range(3):
        value = torch.autograd.grad(f.sum() if value is None else value.sum(), R, create_graph=True)[0]
        assert bool(torch.isfinite(value).all())
        assert abs(float(value[-1].detach())) < 1e-30


def test_pair_channels_follow_the_order_of_the_atoms():
    """s of A with p of B is p of B with s of A: exchanging the atoms exchanges the ordered channels."""
    network = shaken({})
    x = torch.tensor([[0.0, 0.0, 0.0], [0.3, 0.4, 1.1], [1.5, -0.4, 0.2]], dtype=torch.float64)
    both = [shifts_of(network, Molecules.single([z[k] for k in order], x[list(order)], 0, 1))
             for z in [[6, 8, 16]] for order in ((0, 1, 2), (2, 1, 0))]
    swapped = [CHANNELS.index((b, a, m)) for a, b, m in CHANNELS]
    rows = {frozenset(p): k for k, p in enumerate(_pairs(both[1], [6, 8, 16][::-1]))}
    for k, pair in enumerate(_pairs(both[0], [6, 8, 16])):
        other = rows[frozenset(pair)]
        same = _pairs(both[1], [6, 8, 16][::-1])[other] == pair
        values = both[1].resonance[other] if same else both[1].resonance[other][swapped]
        assert torch.allclose(both[0].resonance[k], values, atol=1e-12)
        assert torch.allclose(both[0].core[k], both[1].core[other], atol=1e-12)


def test_core_charge_that_moves_is_seen_by_everything():
    """The total charge stays; the dipole answers a field; far away a point charge and another molecule see charges alone."""
    heads = ["atom", "pair"]
    plain, moved = (Hamiltonian("PM6", network=shaken({"heads": h})) for h in (heads, [*heads, "charge"]))
    water = molecule("water")
    a, b = (H(water, tolerance=1e-10) for H in (plain, moved))
    assert float((a.charges - b.charges).abs().max()) > 1e-3
    assert abs(float(b.charges.sum())) < 1e-12
    field = torch.zeros(1, 3, dtype=torch.float64, requires_grad=True)
    slope, = torch.autograd.grad(moved(water, field=field, tolerance=1e-10).energy.sum(), field)
    assert torch.allclose(-slope, b.dipole, atol=1e-8)
    assert float((a.dipole - b.dipole).norm()) > 0.05 * float(b.dipole.norm())
    R, x = 500.0, water.positions
    expected = -CODATA_2018.coulomb * b.dipole[0] / R**2         # of a charge of +1 at -R, by components
    ammonium = molecule("ammonium")
    alone = float(moved(ammonium, tolerance=1e-10).energy + b.energy)
    for axis in range(3):
        along = R * torch.eye(3, dtype=torch.float64)[axis]
        site = moved(water, point_charges=PointCharges.single([-along], [1.0]), tolerance=1e-10)
        pair = Molecules.single(torch.cat((ammonium.numbers, water.numbers)), torch.cat((ammonium.positions - along, x)), 1, 1)
        assert abs(float(site.energy - b.energy - expected[axis])) < 0.02 * float(expected.norm())
        assert abs(float(moved(pair, tolerance=1e-10).energy) - alone - float(expected[axis])) < 0.02 * float(expected.norm())


def _pairs(shifts, numbers):
    """Elements (i, j) of the pairs, in the order of the layout."""
    top = walk.topology(Hamiltonian("PM6").method, Molecules.single(numbers, [[k * 1.0, 0.0, 0.0] for k in range(3)]))
    return [(numbers[i], numbers[j]) for i, j in zip(top.i.tolist(), top.j.tolist(), strict=True)]


def test_features_turn_with_the_molecule():
    torch.manual_seed(0)
    network = build({"degree": 2, "layers": 2})
    m = molecule("formamide water")
    i, j = torch.triu_indices(len(m.numbers), len(m.numbers), 1)

    def features(x):
        d = x[j] - x[i]
        R = d.norm(dim=1)
        env = environment(network.table[m.numbers], PairGeometry(i, j, R, d / R[:, None]), 5.0)
        return network.features(env)

    Q = -rotation(5)
    here, turned = features(m.positions), features(m.positions @ Q.T)
    assert torch.allclose(here.s, turned.s, atol=1e-12)
    assert torch.allclose(torch.einsum("xy,ayc->axc", Q, here.v), turned.v, atol=1e-12)
    assert float(here.v.detach().abs().max()) > 1e-3


def test_whitening_gives_unit_variance():
    network = build({"features": "symmetry functions", "species": [1, 6, 7, 8]})
    parts = []
    for name in ("water", "formamide water", "formate", "hydroxymethyl"):
        m = molecule(name)
        i, j = torch.triu_indices(len(m.numbers), len(m.numbers), 1)
        d = m.positions[j] - m.positions[i]
        R = d.norm(dim=1)
        env = environment(network.table[m.numbers], PairGeometry(i, j, R, d / R[:, None]), 5.0)
        parts.append(network.features.descriptors(env))
    descriptors = torch.cat(parts)
    network.features.whiten(descriptors)
    white = (descriptors - network.features.mean) @ network.features.whitening
    kept = white.square().mean(0) > 1e-8
    assert 3 < int(kept.sum()) < len(descriptors)
    covariance = white[:, kept].T @ white[:, kept] / len(descriptors)
    assert torch.allclose(covariance, torch.eye(int(kept.sum()), dtype=torch.float64), atol=1e-6)


def test_dispersion_is_added_once():
    m = molecule("formamide water")
    with_it, without = Hamiltonian("PM6", dispersion=OMEGA_B97X_D3BJ)(m), Hamiltonian("PM6")(m)
    assert float(with_it.energy - without.energy) == pytest.approx(float(with_it.energies["dispersion"]), abs=1e-9)
    assert float(with_it.energies["dispersion"]) < -1e-3
    with pytest.raises(UnknownOption, match="dispersion of its own"):
        Hamiltonian("PM6-D3H4", dispersion=OMEGA_B97X_D3BJ)


def test_unknown_elements_and_settings_are_refused():
    with pytest.raises(MissingParameter, match="H C N O F P S Cl and knows nothing of Br"):
        Hamiltonian("PM6", network=build({}))(Molecules.single([35, 1], [[0.0, 0.0, 0.0], [0.0, 0.0, 1.41]]))
    for wrong, said in (({"features": "graph"}, "message passing or symmetry"),
                        ({"heads": ["atoms"]}, "atom, pair, charge, block, local"),
                        ({"degree": 3}, "degree=3"), ({"colour": 1}, "colour"),
                        ({"features": "symmetry functions", "heads": ["block"]}, "vectors")):
        with pytest.raises(UnknownOption, match=said):
            build(wrong)
