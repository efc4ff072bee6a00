"""No holes: what a network says ends where atoms come too near, the core charge it moves is bounded, and a state that no
molecule is in is an error from every door."""

import pytest
import torch
from ase import Atoms
from support import physics_models as physics
from support.networks import shaken, shifts_of
from support.physics_models import MOLECULES, molecule
from torch import nn

from nddo_ml import NDDO, Hamiltonian, Molecules, relax
from nddo_ml.elements import covalent_radii
from nddo_ml.errors import ImplausibleState, UnknownOption
from nddo_ml.geometry.flat import lifted
from nddo_ml.hamiltonian import walk
from nddo_ml.hamiltonian.plausibility import implausible
from nddo_ml.interfaces.qcschema import compute
from nddo_ml.interfaces.stream import records
from nddo_ml.networks import build
from nddo_ml.networks.heads import BENT, MOVED, saturation
from nddo_ml.networks.shifts import LARGEST_MOVED, Shifts

HEADS = {"heads": ["atom", "pair", "charge", "local"]}
FLAT_ETHANE = ([6, 6] + [1] * 6, [[0, 0, 0], [1.5, 0, 0], [-0.5, 0.87, 0], [-0.5, -0.87, 0], [-1, 0, 0], [2, 0.87, 0],
                                  [2, -0.87, 0], [2.5, 0, 0]])
ROUGH_BENZENE = ([6] * 6 + [1] * 6, [
    [0.371180, 1.475375, 0.104994], [2.311045, 1.235070, 0.145939], [1.286221, -1.672197, 0.347576],
    [-0.336909, -1.316168, 0.043934], [-0.776162, 0.216102, 0.442621], [-0.635493, 0.592080, 0.205098],
    [0.346162, 1.834527, 0.918694], [1.828096, 0.666285, 0.735320], [3.103084, -1.557578, -0.275989],
    [1.400361, -2.431682, -0.892826], [-2.425308, -0.340227, 0.296606], [-1.811343, 1.792231, 0.304100]])
# two more starts of tools/rough_starts.py; neural-3 ended 87 and 461 eV below the molecules
ROUGH_AMINOMETHANOL = ([7, 6, 8, 1, 1, 1, 1, 1], [
    [-1.41, 0.11, -0.53], [0.69, -0.33, 0.04], [0.20, -0.68, 0.47], [-0.88, 1.61, -0.68], [-1.66, -0.03, -0.56],
    [-0.36, -1.80, -0.98], [1.59, -0.23, -0.88], [2.85, 0.01, 0.33]])
ROUGH_CYCLOBUTANE = ([6] * 4 + [1] * 8, [
    [0.67, -0.10, -1.56], [0.01, -0.58, -0.17], [-1.54, -0.04, -0.57], [0.22, 0.97, 0.38], [1.12, -0.25, 0.79],
    [0.98, 0.23, -1.20], [-0.28, -1.37, -1.69], [0.20, -1.49, 0.44], [-1.56, 0.20, -0.22], [-1.79, 0.19, 0.64],
    [-0.27, 1.46, 0.29], [-0.06, 2.01, -1.27]])


class Says(nn.Module):
    """A network that anyone might write: U of the heavy atoms moved (eV), core charge moved from hydrogen in every pair."""

    def __init__(self, U=0.0, moved=0.0):
        super().__init__()
        self.U, self.moved, self.species = U, moved, (1, 6, 7, 8)

    def forward(self, numbers, i, j, R, u):
        heavy = (numbers > 1).to(R.dtype)
        U = self.U * heavy[:, None].expand(-1, 3)
        charges = self.moved * (heavy[i] - heavy[j])
        return Shifts(U, None, torch.arange(len(i)), None, None, None, None, charges)


def moved_charges(network, molecules):
    """Core charge each atom of the molecules gives and takes: net, and summed over its pairs without sign."""
    topology = walk.topology(Hamiltonian("PM6").method, molecules)
    found = shifts_of(network, molecules)
    i, j, zero = topology.i[found.pairs], topology.j[found.pairs], torch.zeros(len(molecules.numbers), dtype=torch.float64)
    net = zero.index_add(0, i, found.charges).index_add(0, j, -found.charges)
    return net, zero.index_add(0, i, found.charges.abs()).index_add(0, j, found.charges.abs())


def test_saturation_keeps_totals_below_the_bound():
    total = torch.linspace(0.8 * BENT * MOVED, 2.0 * MOVED, 5001, dtype=torch.float64, requires_grad=True)
    value = total * saturation(total, MOVED)
    found, low = value.detach(), total.detach() <= BENT * MOVED
    assert torch.equal(found[low], total.detach()[low])                                   # left as it is, to the last bit
    assert float(found.max()) <= MOVED and bool((found <= total.detach()).all())
    assert bool((found.diff() >= -1e-12).all())
    for _ in range(3):
        value, = torch.autograd.grad(value.sum(), total, create_graph=True)
        assert float(value.detach().diff().abs().max()) < 0.05 * float(value.detach().abs().max())          # no jumps
    assert float(MOVED * 1e6 * saturation(torch.full((1,), MOVED * 1e6, dtype=torch.float64), MOVED)) == pytest.approx(MOVED)


def test_core_charges_move_by_the_bound_at_most():
    crowd = Molecules.single([6] * 5 + [1] * 8, 0.9 * torch.randn(13, 3, dtype=torch.float64,
                                                                generator=torch.Generator().manual_seed(4)))
    for seed in range(3):
        net, gross = moved_charges(shaken(HEADS, size=1.0, seed=seed), crowd)
        assert float(gross.max()) <= MOVED and abs(float(net.sum())) < 1e-12
        assert float(gross.max()) > 0.1 * MOVED
    net, gross = moved_charges(shaken({**HEADS, "moved": 0.05}, size=1.0), crowd)
    assert float(gross.max()) <= 0.05


@pytest.mark.parametrize("features", ["message passing", "symmetry functions"])
def test_ordinary_molecules_do_not_see_the_closing(features):
    config = {**HEADS, "features": features}
    closing, never = (shaken({**config, "closing": c}, size=0.05) for c in ((0.45, 0.7), (1e-6, 2e-6)))
    for name in MOLECULES:
        for a, b in zip(vars(shifts_of(closing, molecule(name))).values(), vars(shifts_of(never, molecule(name))).values(),
                        strict=True):
            assert (a is None) == (b is None) and (a is None or torch.equal(a, b))


@pytest.mark.parametrize("features", ["message passing", "symmetry functions"])
def test_atoms_nearer_than_any_bond_are_the_parents(features):
    """Shut below 0.45 of the sum of covalent radii, all of the shifts; other atoms keep theirs, every derivative is finite and
    forces are those of the energy on the way."""
    network = shaken({**HEADS, "features": features})
    bond = float(covalent_radii(torch.tensor([6, 8])).sum())

    def near(x):
        return Molecules.single([6, 8, 7, 1], torch.stack([torch.zeros(3, dtype=torch.float64), *(
            torch.tensor(p, dtype=torch.float64) for p in ([0.0, 0.0, x * bond], [0.0, 1.9, -2.0], [0.0, 2.7, -2.6]))]))

    topology = walk.topology(Hamiltonian("PM6").method, near(1.0))
    said = shifts_of(network, near(0.4))
    touched = [0, 1]
    for values in (said.U, said.factors, said.local):
        assert float(values[touched].abs().max()) == 0.0 and float(values[2:].abs().max()) > 1e-3
    pairs = [k for k, (a, b) in enumerate(zip(topology.i.tolist(), topology.j.tolist(), strict=True)) if {a, b} & set(touched)]
    for values in (said.resonance, said.core, said.charges):
        assert float(values[pairs].abs().max()) == 0.0
    H = Hamiltonian("PM6", network=network)
    d = torch.tensor([[0.0] * 3, [0.3, 0.1, 1.0], [0.0] * 3, [0.0] * 3], dtype=torch.float64)
    for x in (0.52, 0.62):
        m, h = near(x), 1e-4
        forces = H(m, forces=True, tolerance=1e-10, unrestricted=False).forces
        e = [float(H(m.with_positions(m.positions + k * h * d), tolerance=1e-10).energy) for k in (-2, -1, 1, 2)]
        slope = (e[0] - 8 * e[1] + 8 * e[2] - e[3]) / (12 * h)
        assert abs(float(-(forces * d).sum()) - slope) < 1e-5 * max(1.0, abs(slope))


def test_closing_ends_smoothly():
    """Towards both ends of the closing no derivative of what a network says jumps."""
    network, x = shaken({**HEADS, "channels": 8, "vectors": 4}), torch.linspace(0.40, 0.80, 401, dtype=torch.float64)
    x.requires_grad_()
    bond = covalent_radii(torch.tensor([6, 8])).sum()
    values = []
    for part in x.split(100):
        count = len(part)
        z = torch.zeros(count, dtype=torch.float64)
        positions = torch.stack((torch.stack((z, z, z), 1), torch.stack((z, z, part * bond), 1)), 1).flatten(0, 1)
        i = torch.arange(0, 2 * count, 2)
        u = torch.tensor([[0.0, 0.0, 1.0]], dtype=torch.float64).expand(count, 3)
        R = positions[i + 1, 2]
        values.append(network(torch.tensor([6, 8]).repeat(count), i, i + 1, R, u).resonance[:, 0])
    value = torch.cat(values)
    for _ in range(3):
        assert float(value.detach()[x < 0.45].abs().max()) == 0.0
        assert float(value.detach().diff().abs().max()) < 0.2 * float(value.detach().abs().max())
        value, = torch.autograd.grad(value.sum(), x, create_graph=True)


def test_settings_of_the_limits():
    network = build({})
    assert network.config["closing"] == [0.45, 0.7] and network.config["moved"] == MOVED
    again = build({**network.config, "closing": [0.3, 0.6], "moved": 0.2})
    assert again.config["closing"] == [0.3, 0.6] and again.config["moved"] == 0.2
    old = {key: value for key, value in network.config.items() if key not in ("closing", "moved")}
    assert build(old).config == network.config                     # a file from before them gets the safe ones
    for wrong, said in (({"closing": (0.7, 0.4)}, "growing fractions"), ({"moved": 2.0}, "at most 0.5"),
                        ({"moved": 0.0}, "at most 0.5")):
        with pytest.raises(UnknownOption, match=said):
            build(wrong)


# --- states that no molecule is in


@pytest.mark.parametrize(("model", "numbers", "positions", "said"), [
    ("neural", [1, 1], [[0, 0, 0], [0, 0, 0.12]], r"atoms H 0 \(counting from 0\) and H 1 .* are 0.120 angstrom apart"),
    ("neural", [6, 8, 1, 1], [[0, 0, 0], [0, 0, 0.3], [0.9, 0, -0.5], [-0.9, 0, -0.5]], r"0.21 of the sum of their covalent"),
    (Says(moved=0.3), *MOLECULES["ammonium"][:2], r"\+1.20 e moved to the core of atom N 0"),
    (Says(moved=0.6), *MOLECULES["water"][:2], r"\+1.20 e moved to the core of atom O 0"),
    (Says(U=-80.0), *physics.METHANE[:2], r"atom C 0 .* has a charge of -[23]"),
    (Says(U=-80.0), *MOLECULES["ammonium"][:2], r"atom N 0 .* has a charge of -[23]"),
])
def test_states_that_no_molecule_is_in_are_refused(model, numbers, positions, said):
    H = Hamiltonian(model) if isinstance(model, str) else Hamiltonian("PM6", network=model)
    charge = 1 if numbers[0] == 7 else 0                 # ammonium
    bad = Molecules.single(numbers, positions, charge)
    with pytest.raises(ImplausibleState, match=said + r"[\s\S]*better geometry[\s\S]*RM1, PM6"):
        H(bad)
    good = Molecules.single([1, 1], [[0, 0, 0], [0, 0, 0.74]])
    both = H(Molecules.batch([[1, 1], numbers], [good.positions.tolist(), positions], [0, charge]), forces=True)
    alone = H(good, forces=True)
    assert both.converged.tolist() == [True, False] and both.implausible[0] == "" and "of molecule 1" in both.implausible[1]
    assert abs(float(both.energy[0] - alone.energy)) < 1e-9
    assert all(bool(torch.isnan(values).all()) for values in (both.energy[1], both.forces[2:], both.charges[2:]))
    assert bool(torch.isfinite(both.forces[:2]).all())


def test_every_door_refuses():
    numbers, positions = [8, 1, 1], [[0, 0, 0], [0, 0, 0.2], [0.9, 0, -0.3]]
    atoms = Atoms(numbers, positions)
    atoms.calc = NDDO("neural")
    with pytest.raises(ImplausibleState):
        atoms.get_potential_energy()
    answer = compute({"molecule": {"symbols": ["O", "H", "H"], "geometry": [x / 0.529177 for p in positions for x in p]},
                      "driver": "gradient", "model": {"method": "neural"}})
    assert not answer["success"] and "angstrom apart" in answer["error"]["error_message"]
    H, water = Hamiltonian("neural"), molecule("water")
    pair = Molecules.batch([numbers, numbers], [positions, water.positions.tolist()])
    first, second = records(H(pair))
    assert isinstance(first.error, ImplausibleState) and second.error is None
    found = relax(H, pair, fmax=0.05)
    assert found.failed.tolist() == [True, False] and found.converged.tolist() == [False, True]


def test_a_step_into_a_hole_is_taken_back():
    """The energy falls for ever as a bond grows, and so does the core charge that moves: the optimiser ends where it may."""
    class Falls(Says):
        def forward(self, numbers, i, j, R, u):
            local = torch.zeros(len(numbers), dtype=R.dtype).index_add(0, i, -20.0 * R)
            return Shifts(None, None, torch.arange(len(i)), None, None, None, local, 0.5 * R)

    refused = []
    H = Hamiltonian("PM6", network=Falls())
    start = Molecules.single([8, 1], [[0, 0, 0], [0, 0, 0.90]], -1)
    found = relax(H, start, steps=30, callback=lambda step: refused.append(bool(torch.isnan(step.energy).any())))
    assert any(refused) and not found.failed.any()
    assert float(found.energy) < float(H(start).energy) - 1.0
    assert float((found.molecules.positions[1] - found.molecules.positions[0]).norm()) < 1.0     # 0.5 e
    assert not any(H(found.molecules).implausible)


@pytest.mark.parametrize(("method", "symbols", "positions", "charge"), [
    ("PM6", [3], [[0, 0, 0]], 1), ("PM6", [4], [[0, 0, 0]], 2), ("PM6", [1], [[0, 0, 0]], 1), ("PM6", [8], [[0, 0, 0]], -2),
    ("PM6", [12, 8], [[0, 0, 0], [0, 0, 1.75]], 0), ("PM6", [4, 8], [[0, 0, 0], [0, 0, 1.33]], 0),
    ("PM6", [3, 9], [[0, 0, 0], [0, 0, 1.56]], 0), ("PM6", [8, 11, 11], [[0, 0, 0], [0, 0, 1.98], [0, 1.98, 0]], 0),
    ("PM6", [7, 3, 3, 3], [[0, 0, 0], [1.75, 0, 0], [-0.875, 1.516, 0], [-0.875, -1.516, 0]], 0),
    ("PM6", [6, 3, 3, 3, 3], [[0, 0, 0], [1.1, 1.1, 1.1], [-1.1, -1.1, 1.1], [-1.1, 1.1, -1.1], [1.1, -1.1, -1.1]], 0),
    ("RM1", [16] + [9] * 6, [[0, 0, 0], *([s * 1.56 * (k == a) for k in range(3)] for a in range(3) for s in (1, -1))], 0),
    ("PM7", [17, 8, 8, 8, 8], [[0, 0, 0], *([0.83 * a, 0.83 * b, 0.83 * a * b] for a in (1, -1) for b in (1, -1))], -1),
    ("AM1", [1063, 8, 1, 1], [[0, 0, 0], [0, 0, 2.4], [0.77, 0, 2.98], [-0.77, 0, 2.98]], 3),
    ("MNDO", [2004, 8, 1, 1], [[0, 0, -4], [0, 0, 0], [0.77, 0, 0.58], [-0.77, 0, 0.58]], -2),
])
def test_nothing_published_is_out_of_bounds(method, symbols, positions, charge):
    """Bare ions, salts, hypervalent atoms, a sparkle, a pseudo-atom: the bounds leave room for what molecules are."""
    H, m = Hamiltonian(method), Molecules.single(symbols, positions, charge)
    topology = walk.topology(H.method, m)
    assert implausible(topology, m, walk.distances(topology, m.positions).R, topology.elements.core, H(m).charges) == [""]
    assert H(m).implausible == [""]


def test_bounds_of_one_state():
    m = molecule("water")
    topology, q = walk.topology(Hamiltonian("PM6").method, m), torch.tensor([-0.6, 0.3, 0.3], dtype=torch.float64)
    R, core = walk.distances(topology, m.positions).R, topology.elements.core
    assert implausible(topology, m, R, core, q) == [""]
    shift = torch.tensor([1.0, -1.0, 0.0], dtype=torch.float64)
    assert implausible(topology, m, R, core + LARGEST_MOVED * shift, q) == [""]
    assert "moved to the core of atom O 0" in implausible(topology, m, R, core + (LARGEST_MOVED + 0.01) * shift, q)[0]
    for charges, said in (([-2.2, 1.0, 1.0], "O 0"), ([-1.4, 1.2, 0.2], "H 1")):
        assert said in implausible(topology, m, R, core, torch.tensor(charges, dtype=torch.float64))[0]
    anion = Molecules.single(m.numbers, m.positions, -1, 2)
    assert implausible(topology, anion, R, core, torch.tensor([-2.2, 0.6, 0.6], dtype=torch.float64)) == [""]


# --- rough starts


def bonds(molecules):
    """Neighbours of every atom within 1.25 times the sum of covalent radii."""
    r = covalent_radii(molecules.numbers)
    return (torch.cdist(molecules.positions, molecules.positions) < 1.25 * (r[:, None] + r)).sum(1) - 1


def test_flat_ethane_becomes_ethane():
    H = Hamiltonian("neural")
    found = relax(H, Molecules.single(*FLAT_ETHANE), fmax=0.02)
    assert found.converged.all()
    assert float(H(found.molecules).atomization_energy) == pytest.approx(30.75, abs=0.15)     # the barrier is 0.12 eV
    assert bonds(found.molecules).tolist() == [4, 4, 1, 1, 1, 1, 1, 1]


def test_rough_starts_become_molecules():
    """Whatever isomer each ends as, it is not bound by more than its isomers are, and no atom holds a
    charge."""
    H, starts = Hamiltonian("neural"), (ROUGH_BENZENE, ROUGH_AMINOMETHANOL, ROUGH_CYCLOBUTANE)
    found = relax(H, Molecules.batch(*zip(*starts, strict=True)), fmax=0.1)
    assert found.converged.all()
    result = H(found.molecules)
    for energy, low, high in zip(result.atomization_energy.tolist(), (50.0, 26.0, 46.0), (59.6, 30.5, 51.0), strict=True):
        assert low < energy < high                  # benzene, aminomethanol, 2-methylpropene: 59.2, 29.0, 50.0
    assert float(result.charges.abs().max()) < 0.6
    for k in range(3):
        assert bonds(found.molecules.select([k])).min() >= 1


def test_drawings_leave_their_plane():
    methane = Molecules.single([6, 1, 1, 1, 1], [[0, 0, 0], [1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0]])
    found = relax(Hamiltonian("AM1"), methane)
    assert found.converged.all()
    assert float(Hamiltonian("AM1")(found.molecules).heat_of_formation) == pytest.approx(-8.8, abs=0.2)   # tetrahedral
    turned = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))[0]
    assert not torch.equal(lifted(methane.with_positions(methane.positions @ turned)).positions, methane.positions @ turned)
    assert torch.equal(lifted(methane).positions, lifted(methane).positions)
    batch = Molecules.batch([methane.numbers, physics.BENZENE[0]], [methane.positions, physics.BENZENE[1]])
    assert torch.equal(lifted(batch).positions[5:], batch.positions[5:])                 # benzene is flat
    assert torch.equal(lifted(batch).positions[:5], lifted(methane).positions)
    for name in MOLECULES:
        assert torch.equal(lifted(molecule(name)).positions, molecule(name).positions)
