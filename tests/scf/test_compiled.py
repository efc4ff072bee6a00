"""The compiled first rung finds what the torch ladder finds, in as many iterations, and hands over what it is not sure of."""

import os
from dataclasses import replace

import numpy as np
import pytest
import torch

pytest.importorskip("numba")

from nddo_ml import Hamiltonian, Molecules, PointCharges, method
from nddo_ml.common import compiling
from nddo_ml.hamiltonian import starts, walk
from nddo_ml.integrals.topology import Topology
from nddo_ml.molecules import NOTHING, Surroundings
from nddo_ml.orbitals import PACKED_BELOW, layout
from nddo_ml.scf import compiled, rungs
from nddo_ml.scf.compiled import GAP, STEPS, Begun, Why, arranged, begun, first_rung, padded, plan, rules, taken
from nddo_ml.scf.density import diagonalise
from nddo_ml.scf.fock import fock, kernel
from nddo_ml.scf.ladder import CLEAR_GAP, climb, solve
from nddo_ml.scf.options import SCF, USUAL
from nddo_ml.scf.problem import FLOAT32_FROM
from nddo_ml.scf.records import Flat
from nddo_ml.scf.rungs import LADDER

pytestmark = pytest.mark.skipif(bool(compiling.unable()) or os.environ.get(compiling.SWITCH) == "0", reason="torch serves")


@pytest.fixture(autouse=True)
def kernels_serve():
    """And errors in them are errors."""
    with compiling.allowed():
        yield


# (numbers, positions in angstrom)
WATER = ([8, 1, 1], [[0.0, 0.0, 0.0], [0.0, 0.0, 0.96], [0.93, 0.0, -0.24]])
ETHANOL = ([6, 6, 8, 1, 1, 1, 1, 1, 1],
           [[1.19, -0.23, 0.01], [-0.09, 0.55, -0.02], [-1.2, -0.36, 0.02], [1.25, -0.89, -0.86], [1.24, -0.86, 0.9],
            [2.06, 0.43, 0.0], [-0.13, 1.18, -0.93], [-0.14, 1.22, 0.86], [-2.0, 0.18, 0.0]])
METHYL = ([6, 1, 1, 1], [[0.0, 0.0, 0.02], [1.08, 0.0, 0.0], [-0.54, 0.9353, 0.0], [-0.54, -0.9353, 0.0]])
HYDROXIDE = ([8, 1], [[0.0, 0.0, 0.0], [0.0, 0.1, 0.96]])
AMMONIUM = ([7, 1, 1, 1, 1], [[0.0, 0, 0], [0.6, 0.6, 0.6], [-0.6, -0.6, 0.6], [-0.6, 0.6, -0.6], [0.6, -0.6, -0.6]])
OXYGEN = ([8, 8], [[0.0, 0.0, 0.0], [0.0, 0.2, 1.2]])
SULFIDE = ([16, 1, 1], [[0.0, 0.0, 0.0], [0.0, 0.1, 1.34], [1.33, 0.0, -0.1]])
OCTAHEDRON = np.array([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1.0]])
HEXAFLUORIDE = ([16] + [9] * 6, np.vstack([[[0.0, 0.01, 0.02]], 1.56 * OCTAHEDRON]))
ZINC_CHLORIDE = ([30, 17, 17], [[0.0, 0.0, 0.0], [0.1, 0.0, 2.1], [0.0, 0.1, -2.1]])
TITANIUM_CHLORIDE = ([22] + [17] * 4, [[0.0, 0, 0], [1.25, 1.25, 1.25], [-1.25, -1.25, 1.25], [-1.25, 1.25, -1.25],
                                       [1.25, -1.25, -1.25]])
FAR_FLUORIDE = ([1, 9], [[0.0, 0.0, 0.0], [0.0, 0.0, 10.0]])     # an electron is exchanged: levels are inverted
STRETCHED = ([7, 7], [[0.0, 0.0, 0.0], [0.0, 0.0, 3.0]])         # a gap of 4.5 eV
AQUA = ([26] + [8, 1, 1] * 6,                                    # Fe(H2O)6, off its symmetry
        np.vstack([[[0.0, 0.0, 0.0]], *(np.stack([2.05 * a, 2.64 * a + 0.76 * np.roll(a, 1), 2.64 * a - 0.76 * np.roll(a, 1)])
                                        for a in OCTAHEDRON)]) + 0.1 * np.sin(np.arange(57.0)).reshape(19, 3))

CASES = {
    "water": ("AM1", WATER, 0, 1), "ethanol": ("AM1", ETHANOL, 0, 1), "ethanol RM1": ("RM1", ETHANOL, 0, 1),
    "anion": ("PM6", HYDROXIDE, -1, 1), "cation": ("MNDO", AMMONIUM, 1, 1), "proton": ("AM1", ([1], [[0.0, 0, 0]]), 1, 1),
    "atom": ("AM1", ([1], [[0.0, 0, 0]]), 0, 2), "noble gas": ("PM6", ([2], [[0.0, 0, 0]]), 0, 1),
    "all levels full": ("AM1", ([1], [[0.0, 0, 0]]), -1, 1),
    "radical": ("AM1", METHYL, 0, 2), "triplet": ("PM6", OXYGEN, 0, 3), "radical anion": ("PM7", ETHANOL, -1, 2),
    "sulfur with d": ("PM6", SULFIDE, 0, 1), "hypervalent": ("PM7", HEXAFLUORIDE, 0, 1), "zinc": ("PM6", ZINC_CHLORIDE, 0, 1),
    "titanium": ("PM7", TITANIUM_CHLORIDE, 0, 1), "high spin": ("PM6", AQUA, 3, 6),
}


def water_cluster(side):
    """side^3 water molecules, 6 orbitals each, turned this way and that."""
    axes, sites = np.eye(3), []
    for k, place in enumerate(np.ndindex(side, side, side)):
        x = np.array(WATER[1]) @ np.roll(axes, k % 3, 0)
        sites.append(3.1 * np.array(place) + (x if k % 2 else -x) + 0.03 * np.sin(7.0 * k + np.arange(3)))
    return WATER[0] * side**3, np.vstack(sites)


def posed(name, molecules, unrestricted=None, surroundings=NOTHING, treated=None):
    """The problem of molecules by torch, and the density of neutral atoms. treated: in a layout other than the usual one."""
    how = method(name)
    with torch.no_grad():
        topology = walk.topology(how, molecules)
        if treated is not None:
            topology = with_layout(topology, how, molecules, treated)
        parameters = walk.parameters(topology, walk.rows(how))
        distances = walk.distances(topology, molecules.positions)
        integrals = walk.integrals(topology, molecules.positions, distances, parameters, surroundings)
        electrons = walk.electrons(topology, molecules, None if unrestricted is None else 1 + unrestricted)
        return walk.problem(topology, integrals, electrons), starts.neutral_atoms(topology, electrons).density


def with_layout(topology, how, molecules, treated) -> Topology:
    """The topology in a layout that treats the atoms so."""
    from nddo_ml.integrals import topology as topologies

    def chosen(*arguments):
        return layout(*arguments, treated=treated)

    before, topologies.layout = topologies.layout, chosen
    try:
        return topologies.topology(how.recipe, topology.rows, molecules)
    finally:
        topologies.layout = before


def alone(structure, charge=0, multiplicity=1):
    return Molecules.single(*structure, charge, multiplicity)


def by_torch(problem, start, scf=USUAL):
    with torch.no_grad():
        return climb(problem, start, scf, LADDER)


def compiled_alone(problem, start, scf=USUAL, followed=False, orbitals=None):
    """The solution of the kernels, whose molecules are not handed over."""
    solution, left = first_rung(problem, begun(problem, start, orbitals, followed), scf)
    assert not left
    return solution


def reasons(problem, start, scf=USUAL, **begin):
    """Why the molecules of a problem are handed over."""
    flat = Flat(plan(problem.layout), *(compiled._joined(blocks) for blocks in (problem.integrals.one, problem.integrals.two)))
    filled, special = compiled._filled(problem)
    start = Begun(taken(flat.plan, start), **begin)
    return compiled.solve(flat, taken(flat.plan, problem.h), start, filled, rules(scf.tolerance), special).why


def agree(solution, expected):
    """Energies to 1e-9 eV, densities to what a residual of 1e-7 eV and gaps of an eV leave open, and the same way there."""
    assert torch.allclose(solution.energy, expected.energy, rtol=0, atol=1e-9)
    assert torch.allclose(solution.D, expected.D, rtol=0, atol=1e-7)
    assert torch.allclose(solution.F, expected.F, rtol=0, atol=1e-5)
    assert torch.allclose(solution.gap, expected.gap, rtol=0, atol=1e-3)
    assert bool(solution.converged.all()) and torch.equal(solution.rung, expected.rung)
    assert float(solution.residual.max()) <= USUAL.tolerance


@pytest.mark.parametrize("case", CASES)
def test_it_finds_what_the_ladder_finds(case):
    name, *molecule = CASES[case]
    problem, start = posed(name, alone(*molecule))
    solution, expected = compiled_alone(problem, start, followed=True), by_torch(problem, start)
    agree(solution, expected)
    assert solution.iterations.tolist() == expected.iterations.tolist()


@pytest.mark.parametrize("case", CASES)
def test_unrestricted(case):
    """Both spins apart, also where both are alike; the density of neutral atoms breaks the symmetry then."""
    name, *molecule = CASES[case]
    problem, start = posed(name, alone(*molecule), True)
    solution, expected = compiled_alone(problem, start, followed=True), by_torch(problem, start)
    agree(solution, expected)
    assert solution.iterations.tolist() == expected.iterations.tolist()


@pytest.mark.parametrize("name", ["AM1", "PM7"])
def test_single_precision(name):
    """From FLOAT32_FROM orbitals on: 27 water molecules have 162."""
    problem, start = posed(name, alone(water_cluster(3)))
    assert problem.layout.size >= 2 * FLOAT32_FROM and len(problem.layout.pairs[0].i) > PACKED_BELOW
    solution, expected = compiled_alone(problem, start), by_torch(problem, start)
    assert torch.allclose(solution.energy, expected.energy, rtol=1e-13, atol=0)
    assert torch.allclose(solution.D, expected.D, rtol=0, atol=1e-7)
    assert solution.iterations.tolist() == expected.iterations.tolist()


def test_single_precision_with_d_functions_and_two_spins():
    problem, start = posed("PM6", alone(AQUA, 3, 6))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiled, "FLOAT32_FROM", 1)
        solution = compiled_alone(problem, start, followed=True)
    assert torch.allclose(solution.energy, by_torch(problem, start).energy, rtol=0, atol=1e-9)
    C = solution.C[0]
    assert torch.allclose(C @ C.mT, torch.eye(C.shape[-1], dtype=C.dtype), rtol=0, atol=1e-12)


@pytest.mark.parametrize("treated", [[4, 4, 4], [4, 1, 1], [4, 4, 1], [9, 4, 4]])
def test_ghost_functions(treated):
    """Packed layouts treat hydrogen as an atom with p functions, whose integrals are there and count for nothing."""
    if treated[0] == 9:
        structure, name = ([1, 16, 1], np.array(SULFIDE[1])[[1, 0, 2]]), "PM6"
        treated = [4, 9, 4]
    else:
        structure, name = ([1, 8, 1], np.array(WATER[1])[[1, 0, 2]]), "AM1"
        treated = [treated[1], 4, treated[2]]
    problem, start = posed(name, alone(structure), treated=np.array(treated))
    assert problem.layout.treated.tolist() == treated
    agree(compiled_alone(problem, start), by_torch(problem, start))


@pytest.mark.parametrize("unrestricted", [False, True])
def test_a_batch_is_its_members(unrestricted):
    """Molecules of different sizes in padded matrices, some of them in single precision, one with all levels full."""
    members = [alone(s, q) for s, q in ((WATER, 0), (ETHANOL, 0), (([1], [[0.0, 0, 0]]), -1), (HYDROXIDE, -1), (AMMONIUM, 1),
                                        (water_cluster(3), 0), (SULFIDE, 0))]
    problem, start = posed("PM6", joined(members), unrestricted)
    solution = compiled_alone(problem, start, followed=True)
    for k, member in enumerate(members):
        own = compiled_alone(*posed("PM6", member, unrestricted), followed=True)
        n = own.D.shape[-1]
        assert abs(float(solution.energy[k] - own.energy[0])) < 1e-9 * max(1.0, 1e-4 * abs(float(own.energy[0])))
        assert torch.allclose(solution.D[k, :, :n, :n], own.D[0], rtol=0, atol=1e-7)
        assert not solution.D[k, :, n:].any() and not solution.F[k, :, n:].any() and not solution.C[k, :, n:].any()
        assert solution.iterations[k] == own.iterations[0]


def joined(members):
    """Molecules as one batch."""
    return Molecules.batch([m.numbers.tolist() for m in members], [m.positions.tolist() for m in members],
                           [int(m.charge[0]) for m in members], [int(m.unpaired[0]) + 1 for m in members])


def test_threads_share_a_batch():
    members = [alone(water_cluster(2)) for _ in range(5)] + [alone(water_cluster(3)), alone(WATER)]
    problem, start = posed("AM1", joined(members))
    expected = compiled_alone(problem, start)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "get_num_threads", lambda: 3)
        patch.setattr(compiled, "WORTH", 0.0)
        shared = compiled_alone(problem, start)
    assert torch.allclose(shared.energy, expected.energy, rtol=1e-13, atol=0)
    assert torch.equal(shared.iterations, expected.iterations)


def test_what_surrounds_a_molecule_is_in_h():
    charges = PointCharges.single([[0.0, 0.5, 3.0], [3.0, 0.0, 0.3]], [0.4, -0.4])
    field = torch.tensor([[0.1, 0.2, 0.3]], dtype=torch.float64)
    problem, start = posed("AM1", alone(ETHANOL), surroundings=Surroundings(field, charges))
    solution = compiled_alone(problem, start)
    agree(solution, by_torch(problem, start))
    assert float((solution.energy - compiled_alone(*posed("AM1", alone(ETHANOL))).energy).abs()) > 0.01


def test_fock_matrices_of_any_density():
    """One iteration hands back the Fock matrix of its density: every class of pairs, both orders of their atoms."""
    from nddo_ml.scf.kernels import fock as compiled_fock
    from nddo_ml.scf.kernels.places import places, widest

    structure = ([1, 16, 6, 1, 30, 8, 17], [[0.0, 0, 0], [1.3, 0.2, 0], [2.9, 0.9, 0.3], [3.2, 2.0, 0.4], [3.6, -0.9, 2.0],
                                            [5.2, 0.3, 1.8], [2.9, -1.1, 4.1]])
    problem, start = posed("PM6", alone(structure, 0, 2))
    torch.manual_seed(0)
    D = torch.rand_like(start)
    D = D + D.mT
    expected = fock(problem.layout, kernel(problem.layout, problem.integrals), problem.h, D)[0]
    one, two = (compiled._joined(blocks) for blocks in (problem.integrals.one, problem.integrals.two))
    own = places(plan(problem.layout).indices, 0)
    for kind, tolerance in ((np.float64, 1e-12), (np.float32, 1e-5)):
        q, J = (np.empty((len(structure[0]), widest(own)), kind) for _ in range(2))
        F, upper = np.full(D.shape[1:], np.nan, kind), np.triu(D[0].numpy()).astype(kind)
        compiled_fock.fock(problem.h[0].numpy().astype(kind), upper, own, one.astype(kind), two.astype(kind), q, J, F)
        assert np.abs(F - expected.numpy()).max() < tolerance * float(expected.abs().max())


def test_blocks_pair_after_pair():
    """The plan of the compiled integrals: true orbitals, larger atoms first, one block after another."""
    molecules = joined([alone(WATER), alone(SULFIDE)])
    problem, start = posed("PM6", molecules)
    n_ao, owner = problem.layout.n_ao.numpy(), problem.layout.molecule.numpy()
    m = n_ao * (n_ao + 1) // 2
    columns, blocks, at = [], [], 0
    for group, w in zip(problem.layout.pairs, problem.integrals.two, strict=True):
        for i, j, block in zip(group.i.tolist(), group.j.tolist(), w.numpy(), strict=True):
            block = block[:m[i], :m[j]]
            i, j, block = (j, i, block.T) if n_ao[i] < n_ao[j] else (i, j, block)
            columns.append((i, j, at, m[j]))
            blocks.append(block.ravel())
            at += block.size
    order = np.argsort(owner[[i for i, *_ in columns]], kind="stable")
    pairs = tuple(np.array(columns)[order].T)
    one = [None] * len(n_ao)
    for group, w in zip(problem.layout.atoms, problem.integrals.one, strict=True):
        for atom, block in zip(group.atoms.tolist(), w.numpy(), strict=True):
            one[atom] = block[:m[atom], :m[atom]].ravel()
    one_at = np.cumsum(m**2) - m**2
    flat = Flat(arranged(n_ao, owner, (one_at, m), pairs, problem.layout.size), np.concatenate(one), np.concatenate(blocks))
    agree(compiled_alone(replace(problem, flat=flat), start), by_torch(problem, start))


def test_matrices_are_taken_and_padded():
    molecules = joined([alone(WATER), alone(ETHANOL)])
    problem, start = posed("AM1", molecules, True)
    own = plan(problem.layout)
    real = problem.layout.real[:, None, :, None] * problem.layout.real[:, None, None, :]
    matrices = torch.rand_like(start)
    assert torch.equal(padded(own, taken(own, matrices), 2), matrices * real)
    assert len(taken(own, problem.h)) == 6**2 + 18**2 and plan(problem.layout) is own


def test_from_orbitals():
    """What follows an earlier state begins with its orbitals: Newton's method at once, and no step where nothing moved."""
    problem, start = posed("PM6", alone(ETHANOL))
    first = compiled_alone(problem, start)
    again = compiled_alone(problem, start, orbitals=first.C)
    assert again.iterations.tolist() == [0] and torch.equal(again.C, first.C)
    assert abs(float(again.energy - first.energy)) < 1e-10
    moved = np.array(ETHANOL[1]) + 0.02 * np.sin(np.arange(27.0)).reshape(9, 3)
    problem, start = posed("PM6", alone((ETHANOL[0], moved)))
    expected = by_torch(problem, start)
    followed = compiled_alone(problem, start, orbitals=first.C)
    assert torch.allclose(followed.energy, expected.energy, rtol=0, atol=1e-9)
    assert torch.allclose(followed.D, expected.D, rtol=0, atol=1e-7)
    assert 1 <= int(followed.iterations) < int(expected.iterations)


def test_orbitals_are_those_of_the_state():
    problem, start = posed("AM1", alone(METHYL, 0, 2))
    solution = compiled_alone(problem, start)
    filled = problem.occupations[0].sum(-1).long().tolist()
    for D, F, C, n in zip(solution.D[0], solution.F[0], solution.C[0], filled, strict=True):
        assert torch.allclose(C @ C.mT, torch.eye(len(C), dtype=C.dtype), rtol=0, atol=1e-12)
        assert torch.allclose(C[:n].mT @ C[:n], D, rtol=0, atol=1e-12)
        assert float((C[n:] @ F @ C[:n].mT).abs().max()) <= USUAL.tolerance


def test_the_lowest_state_passed_through_is_handed_on(monkeypatch):
    """Extrapolation of a stretched bond ends higher than it was before, and what follows depends on that."""
    problem, start = posed("PM6", alone(([1, 9], [[0.0, 0.0, 0.0], [0.0, 0.0, 2.0]])))
    chosen, choose = [], rungs.choose

    def count(*arguments):
        chosen.append(arguments)
        return choose(*arguments)

    monkeypatch.setattr(rungs, "choose", count)
    solution, expected = compiled_alone(problem, start), by_torch(problem, start)
    assert len(chosen) == 1                             # in torch: a lower state in place of the last one
    agree(solution, expected)
    assert solution.iterations.tolist() == expected.iterations.tolist()


@pytest.mark.parametrize(("structure", "why"), [(FAR_FLUORIDE, Why.GAP), (STRETCHED, Why.GAP), (WATER, None)])
def test_small_gaps_are_handed_over(structure, why):
    problem, start = posed("AM1", alone(structure))
    assert reasons(problem, start) == [why]


def test_what_follows_may_have_a_smaller_gap():
    problem, start = posed("AM1", alone(STRETCHED))
    gap = float(by_torch(problem, start).gap)
    assert CLEAR_GAP == compiled.GAP_FOLLOWED < gap < GAP
    assert reasons(problem, start, followed=True) == [None]
    assert reasons(*posed("AM1", alone(FAR_FLUORIDE)), followed=True) == [Why.GAP]
    orbitals = compiled_alone(problem, start, followed=True).C
    assert reasons(problem, orbitals, orbitals=True) == [None]


def test_large_molecules_may_have_a_smaller_gap(monkeypatch):
    problem, start = posed("AM1", alone(STRETCHED))
    for size, why in ((problem.layout.size, None), (problem.layout.size + 1, Why.GAP)):
        monkeypatch.setattr(compiled, "FLOAT32_FROM", size)
        assert reasons(problem, start) == [why]


def test_what_takes_long_is_handed_over():
    problem, start = posed("AM1", alone(ETHANOL))
    needed = int(compiled_alone(problem, start).iterations)
    assert needed < STEPS
    for allowed, left in ((needed, []), (needed - 1, [0]), (2, [0]), (1, [0])):
        assert first_rung(problem, begun(problem, start, None, False), SCF(max_steps=allowed))[1] == left
    assert reasons(problem, start, SCF(tolerance=1e-30)) == [Why.STEPS]        # beyond rounding


def test_half_filled_and_excited_levels_are_handed_over():
    problem, start = posed("AM1", alone(METHYL, 0, 2), False)
    assert reasons(problem, start) == [Why.OCCUPATIONS]
    problem, start = posed("AM1", joined([alone(WATER), alone(AMMONIUM, 1)]))
    occupations = problem.occupations.clone()
    occupations[0, 0, 3:5] = torch.tensor([0.0, 1.0])
    assert reasons(replace(problem, occupations=occupations), start) == [Why.OCCUPATIONS, None]


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e300])
@pytest.mark.parametrize("where", ["h", "one", "two", "start", "orbitals"])
def test_numbers_that_are_not_finite_are_handed_over(where, bad):
    """And nobody else in their batch."""
    problem, start = posed("AM1", joined([alone(WATER), alone(ETHANOL)]))
    begin, given = {}, start.clone()
    if where == "h":
        h = problem.h.clone()
        h[0, 1, 2] = h[0, 2, 1] = bad
        problem = replace(problem, h=h)
    elif where in ("one", "two"):
        integrals = problem.integrals
        blocks = [block.clone() for block in getattr(integrals, where)]
        group = (problem.layout.atoms if where == "one" else problem.layout.pairs)[-1]
        blocks[-1][(group.molecule == 0).nonzero()[0, 0]] = bad
        problem = replace(problem, blocks=replace(integrals, **{where: blocks}))
    elif where == "start":
        given[0, 0, 1, 1] = bad
    else:
        given = compiled_alone(problem, start).C.clone()
        given[0, 0, 1, 1], begin = bad, {"orbitals": True}
    first, second = reasons(problem, given, **begin)
    assert second is None
    assert first is Why.FINITE or (bad == 1e300 and (first is Why.STEPS or where == "start"))    # which is but far away


def test_single_precision_that_overflows_is_handed_over():
    problem, start = posed("AM1", alone(water_cluster(3)))
    h = problem.h.clone()
    h[0, 0, 0] = 1e200
    assert reasons(replace(problem, h=h), start) == [Why.FINITE]


def test_the_ladder_solves_what_is_handed_over():
    """Members of a batch that the kernels do not solve climb the torch ladder from the same start, the others keep theirs."""
    members = [alone(s) for s in (WATER, STRETCHED, ETHANOL, FAR_FLUORIDE)]
    problem, start = posed("AM1", joined(members))
    solution = solve(problem, start)
    for k, member in enumerate(members):
        own, begin = posed("AM1", member)
        expected = by_torch(own, begin)
        n = own.layout.size
        assert abs(float(solution.energy[k] - expected.energy[0])) < 1e-9
        assert torch.allclose(solution.D[k, :, :n, :n], expected.D[0], rtol=0, atol=1e-7)
        assert bool(solution.converged[k])
    only, begin = posed("AM1", alone(STRETCHED))
    assert solve(only, begin).C is None and torch.allclose(solve(only, begin).D, by_torch(only, begin).D, rtol=0, atol=1e-12)


def test_other_ladders_and_builders_go_by_torch():
    """What they are asked for is what they do."""
    problem, start = posed("AM1", alone(WATER))
    asked = []

    def build(F, real, occupations):
        asked.append(len(F))
        return diagonalise(F, real, occupations)

    assert bool(solve(problem, start, SCF(density=build)).converged) and asked
    assert solve(problem, start, SCF(ladder=(LADDER[1],))).C is None and solve(problem, start).C is not None
    with compiling.off():
        assert solve(problem, start).C is None


def test_constants_are_those_of_torch(monkeypatch):
    """A rung that switches to Newton's method earlier needs fewer fixed-point steps on both paths."""
    problem, start = posed("AM1", alone(ETHANOL))
    usual = compiled_alone(problem, start)
    monkeypatch.setattr(rungs, "SWITCH", 3.0)
    early, expected = compiled_alone(problem, start), by_torch(problem, start)
    assert int(early.iterations) == int(expected.iterations) != int(usual.iterations)


def test_the_model_reports_the_same_route():
    model, molecules = Hamiltonian("AM1"), alone(ETHANOL)
    here = model(molecules)
    with compiling.off():
        there = model(molecules)
    assert here.route == there.route and float(here.energy - there.energy) == pytest.approx(0.0, abs=1e-9)
