"""A batch is nothing but its molecules: same numbers, any order, no influence of one on another."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from nddo_ml import Hamiltonian, Molecules, SCFNotConverged
from nddo_ml.elements import number
from nddo_ml.scf.problem import subset
from nddo_ml.scf.rungs import LADDER, Rapid

PER_MOLECULE = ("energy", "heat_of_formation", "dipole", "s2")
PER_ATOM = ("forces", "charges", "spin_populations")
TIGHT = 1e-10     # eV, commutator: what is left of the freedom of an SCF solution is below the tolerances here

WATER = [8, 1, 1], [[0.0, 0.0, 0.0], [0.0, 0.0, 0.96], [0.93, 0.0, -0.24]]
METHYL = [6, 1, 1, 1], [[0.0, 0.0, 0.05], [1.08, 0.0, 0.0], [-0.54, 0.935, 0.0], [-0.54, -0.935, 0.0]]
CORNERS = np.array([[1, 1, 1], [-1, -1, 1], [-1, 1, -1], [1, -1, -1]])
METHANE = [6, 1, 1, 1, 1], [[0.0, 0.0, 0.0], *(0.63 * CORNERS)]
HYDROGEN = [1, 1], [[0.0, 0.0, 0.0], [0.0, 0.0, 0.75]]
SO2 = [16, 8, 8], [[0.0, 0.0, 0.0], [1.24, 0.0, 0.73], [-1.24, 0.0, 0.73]]
ETHENE = [6, 6, 1, 1, 1, 1], [[0.0, 0.0, 0.66], [0.0, 0.0, -0.66], [0.0, 0.92, 1.23], [0.0, -0.92, 1.23],
                              [0.0, 0.92, -1.23], [0.0, -0.92, -1.23]]
TICL4 = [22, 17, 17, 17, 17], [[0.0, 0.0, 0.0], *(1.25 * CORNERS)]
FECL2 = [26, 17, 17], [[0.0, 0.0, 0.0], [0.0, 0.0, 2.15], [0.0, 0.0, -2.15]]
ZINC = [30, 8, 1, 1], [[0.0, 0.0, 0.0], [0.0, 0.0, 1.95], [0.77, 0.0, 2.53], [-0.77, 0.0, 2.53]]
EUROPIUM = [number("Eu:sparkle"), 8, 1, 1], [[0.0, 0.0, 0.0], [0.0, 0.0, 2.4], [0.77, 0.0, 3.0], [-0.77, 0.0, 3.0]]
CHARGE = [number("+"), 8, 1, 1], [[0.0, 0.0, -2.8], [0.0, 0.0, 0.0], [0.76, 0.0, 0.59], [-0.76, 0.0, 0.59]]


def atom(z):
    return [z], [[0.1, 0.2, 0.3]]


# (structure, charge, multiplicity)
MEMBERS = [
    (WATER, 0, 1), (METHYL, 0, 2), (METHANE, 0, 1), (HYDROGEN, 0, 1), (HYDROGEN, 1, 2), (atom(1), 0, 2), (atom(1), 1, 1),
    (atom(1), -1, 1), (atom(9), -1, 1), (atom(7), 0, 4), (atom(10), 0, 1), (WATER, 1, 2), (METHYL, -1, 1), (METHYL, 1, 1),
    (ETHENE, 0, 3), (WATER, 0, 1), (SO2, -1, 2), (TICL4, 0, 1), (FECL2, 0, 5), (ZINC, 2, 1), (EUROPIUM, 3, 1), (CHARGE, 1, 1),
    (atom(25), 0, 6),
]
METHODS = {"AM1": [m for m in MEMBERS if not set(m[0][0]) & {22, 25, 26}], "PM6-D3H4": MEMBERS, "PM7": MEMBERS}


def batch(members, order=None):
    chosen = members if order is None else [members[k] for k in order]
    structures, charges, multiplicities = zip(*chosen, strict=True)
    return Molecules.batch([numbers for numbers, _ in structures], [x for _, x in structures], charges, multiplicities)


def of_member(result, name, k):
    values = getattr(result, name).detach()
    return values[k] if name in PER_MOLECULE else values[result.molecules.molecule == k]


@pytest.fixture(scope="module", params=METHODS)
def computed(request):
    """A method, its members, the result of the whole batch and of each member alone."""
    model, members = Hamiltonian(request.param), METHODS[request.param]
    singles = [model(batch([m]), forces=True, tolerance=TIGHT) for m in members]
    return model, members, model(batch(members), forces=True, tolerance=TIGHT), singles


def test_batch_equals_singles(computed):
    _, members, together, singles = computed
    assert together.converged.all()
    for k, single in enumerate(singles):
        assert abs(together.energy[k] - single.energy[0]) < 1e-10, members[k]
        for name in PER_MOLECULE + PER_ATOM:
            deviation = (of_member(together, name, k) - of_member(single, name, 0)).abs().max()
            assert deviation < 1e-8, f"{members[k]} {name} {deviation:.1e}"
        for part, value in single.energies.items():
            assert abs(together.energies[part][k] - value[0]) < 1e-8, part
        assert together.density(k).shape == single.density().shape
        assert (together.density(k) - single.density()).abs().max() < 1e-7
        assert (together.orbital_energies(k) - single.orbital_energies()).abs().max() < 1e-7
        assert (together.bond_orders(k) - single.bond_orders()).abs().max() < 1e-7


def test_order_does_not_matter(computed):
    model, members, together, _ = computed
    order = np.random.default_rng(4).permutation(len(members))
    shuffled = model(batch(members, order), forces=True, tolerance=TIGHT)
    for new, old in enumerate(order):
        for name in PER_MOLECULE + PER_ATOM:
            deviation = (of_member(shuffled, name, new) - of_member(together, name, old)).abs().max()
            assert deviation < (1e-10 if name == "energy" else 1e-8), f"{members[old]} {name} {deviation:.1e}"


def test_atoms_may_come_in_any_order(computed):
    """Charges and forces permute with the atoms."""
    model, members, together, _ = computed
    generator = np.random.default_rng(5)
    orders = [generator.permutation(len(m[0][0])) for m in members]
    mixed = [((np.array(n)[o], np.array(x)[o]), q, s) for ((n, x), q, s), o in zip(members, orders, strict=True)]
    found = model(batch(mixed), forces=True, tolerance=TIGHT)
    for k, o in enumerate(orders):
        assert abs(found.energy[k] - together.energy[k]) < 1e-10
        for name in PER_ATOM:
            assert (of_member(found, name, k) - of_member(together, name, k)[o]).abs().max() < 1e-8, (members[k], name)


def test_copies_are_equal(computed):
    """Equal molecules in different company give equal results."""
    _, members, together, _ = computed
    first, second = (k for k, m in enumerate(members) if m[0] is WATER and m[1] == 0)
    assert abs(together.energy[first] - together.energy[second]) < 1e-11
    assert (of_member(together, "forces", first) - of_member(together, "forces", second)).abs().max() < 1e-9


@pytest.mark.parametrize("order", [1, 2, 3])
def test_no_gradient_crosses_molecules(order):
    """dE_k/dx is exactly zero, not just small, for the atoms of every other molecule; so is that of a dipole, or of forces."""
    model, members = Hamiltonian("AM1"), [(WATER, 0, 1), (METHANE, 0, 1), (HYDROGEN, 0, 1), (SO2, 0, 1), (METHYL, 0, 2)]
    molecules = batch(members)
    x = molecules.positions.clone().requires_grad_()
    result = model(molecules.with_positions(x), order=order, forces=order > 1)
    for values in [result.energy] if order == 1 else [result.energy, result.dipole.square().sum(1)]:
        for k in range(len(molecules)):
            gradient, = torch.autograd.grad(values[k], x, retain_graph=True)
            own = molecules.molecule == k
            assert gradient[own].abs().max() > 1e-3 or values is not result.energy      # CH4 and H2 have no dipole
            assert gradient[~own].abs().max() == 0.0
    if order > 1:
        second, = torch.autograd.grad(result.forces[molecules.molecule == 1].square().sum(), x)
        assert second[molecules.molecule == 1].abs().max() > 1e-3 and second[molecules.molecule != 1].abs().max() == 0.0


HARD = (TICL4, 0, 1)


@pytest.mark.parametrize("place", [0, 2, 4])
def test_a_member_that_does_not_converge_is_nan_and_alone(place):
    """Within 5 steps H2 and Ne converge, TiCl4 cannot: NaN, flagged, with its residual; the others are as in better company."""
    model = Hamiltonian("PM6")
    easy = [(HYDROGEN, 0, 1), (atom(10), 0, 1), (atom(9), -1, 1), (atom(1), 0, 2)]
    members = easy[:place] + [HARD] + easy[place:]
    result = model(batch(members), forces=True, max_steps=5)
    calm = model(batch(easy), forces=True, max_steps=5)
    others = [k for k in range(len(members)) if k != place]
    assert result.converged.tolist() == [k != place for k in range(len(members))]
    assert result.energy[place].isnan() and result.heat_of_formation[place].isnan() and result.residual[place] > 1e-3
    assert result.iterations[place] >= 5
    for new, old in zip(others, range(len(easy)), strict=True):
        for name in PER_MOLECULE + PER_ATOM:
            assert (of_member(result, name, new) - of_member(calm, name, old)).abs().max() < 1e-12, name
    with pytest.raises(SCFNotConverged, match=f"1 of 5 molecules did not converge: molecule {place}"):
        model(batch(members), max_steps=5, raise_unconverged=True)


def test_failure_within_a_bucket_leaves_the_others_alone():
    """The same for members that are solved together, some of them out of reach."""
    model = Hamiltonian("AM1")
    members = [(WATER, 0, 1), (HYDROGEN, 0, 1), (atom(10), 0, 1), (([7, 7], [[0, 0, 0], [0, 0, 1.1]]), 0, 1), (atom(9), -1, 1)]
    whole = model(batch(members), forces=True)
    assert any({0, 1} <= set(s.index) for s in whole.states)
    result = model(batch(members), forces=True, max_steps=2)
    assert result.converged.tolist() == [False, True, True, False, True]
    for k, (done, n) in enumerate(zip(result.converged.tolist(), result.iterations.tolist(), strict=True)):
        if done:
            for name in PER_MOLECULE + PER_ATOM:
                assert (of_member(result, name, k) - of_member(whole, name, k)).abs().max() < 1e-9, (members[k], name)
        else:
            assert result.energy[k].isnan() and result.residual[k] > 1e-7 and n >= 2


def test_training_survives_a_failed_member():
    """The gradient of a sum over the converged members is finite and that of these members alone."""
    model = Hamiltonian("PM6").requires_grad_(True)
    members = [(HYDROGEN, 0, 1), HARD]
    result = model(batch(members), max_steps=5)
    result.energy[result.converged].sum().backward()
    alone = Hamiltonian("PM6").requires_grad_(True)
    alone(batch(members[:1])).energy.sum().backward()
    for (name, p), q in zip(model.named_parameters(), alone.parameters(), strict=True):
        g = torch.zeros_like(p) if p.grad is None else p.grad
        assert torch.isfinite(g).all(), name
        assert (g - (torch.zeros_like(q) if q.grad is None else q.grad)).abs().max() < 1e-9, name


def test_a_batch_climbs_the_ladder_one_by_one():
    """With a first rung too short for some members, these alone are taken to the next; what they find there is the same."""
    model = Hamiltonian("PM6")
    members = [(HYDROGEN, 0, 1), (WATER, 1, 2), (WATER, 0, 1), (TICL4, 0, 1), (ZINC, 2, 1), (atom(9), -1, 1)]
    whole = model(batch(members))
    assert not any("energy-DIIS" in r for r in whole.route)
    short = replace(LADDER[0], climb=Rapid(2), newton_steps=2), replace(LADDER[1], newton_steps=2), LADDER[2]
    result = model(batch(members), tolerance=1e-5, ladder=short)
    climbed = ["energy-DIIS" in r for r in result.route]
    assert result.converged.all() and True in climbed and not climbed[0] and not climbed[5]
    assert (result.energy - whole.energy).abs().max() < 1e-8
    assert (result.charges - whole.charges).abs().max() < 1e-5
    for k, (n, harder) in enumerate(zip(result.iterations.tolist(), climbed, strict=True)):
        assert (n > 4) == harder, members[k]


def test_subset_of_a_problem_is_the_problem_of_a_subset():
    """Blocks, matrices and layout of some molecules, cut out of a batch, are those they have alone."""
    model = Hamiltonian("PM6")
    members = [(TICL4, 0, 1), (SO2, 0, 1), (WATER, 0, 1), (ETHENE, 0, 1)]
    state = next(s for s in model(batch(members)).states if len(s.index) > 1)
    problem, chosen = state.problem, [len(state.index) - 1]
    part = subset(problem, chosen)
    size = part.layout.size
    assert part.layout.molecules == 1
    assert torch.equal(part.h[0], problem.h[chosen[0]][:size, :size])
    assert torch.equal(part.occupations[0], problem.occupations[chosen[0]][..., :size])
    assert [g.shells for g in part.layout.pairs] and part.layout.orbitals.tolist() == [size]


def test_select_and_sizes():
    """Selecting molecules keeps each with its charge, spin and atoms."""
    molecules = batch(MEMBERS)
    chosen = [5, 0, 17, 3]
    part = molecules.select(chosen)
    assert part.sizes == [molecules.sizes[k] for k in chosen] and len(part) == 4
    for new, old in enumerate(chosen):
        for name in ("numbers", "positions"):
            assert torch.equal(getattr(part, name)[part.molecule == new], getattr(molecules, name)[molecules.molecule == old])
        assert part.charge[new] == molecules.charge[old] and part.unpaired[new] == molecules.unpaired[old]
    assert molecules.select([]).sizes == []
