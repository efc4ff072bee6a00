"""States of any charge and spin: restricted, unrestricted, half-electron; and what a result says about them."""

import numpy as np
import pytest
import torch
from support.reference import KCAL, load

from nddo_ml import Hamiltonian, InvalidMolecule, Molecules, UnknownOption
from nddo_ml.scf.fock import kernel, two_electron
from nddo_ml.scf.half_electron import correction
from nddo_ml.scf.ladder import solve
from nddo_ml.scf.options import SCF
from nddo_ml.scf.problem import Problem

METHODS = ("MNDO", "AM1", "PM3", "RM1", "MNDO/d", "PM6", "PM7", "PM6-D3H4")
MODELS = {}
OCTAHEDRON = np.array([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1.0]])

WATER = [8, 1, 1], [[0.0, 0.0, 0.0], [0.0, 0.0, 0.96], [0.93, 0.0, -0.24]]
METHYL = [6, 1, 1, 1], [[0.0, 0.0, 0.05], [1.08, 0.0, 0.0], [-0.54, 0.935, 0.0], [-0.54, -0.935, 0.0]]
METHYLENE = [6, 1, 1], [[0.0, 0.0, 0.0], [0.98, 0.0, 0.5], [-0.98, 0.0, 0.5]]
FORMAMIDE = [7, 6, 8, 1, 1, 1], [[-1.22, 0.11, -0.07], [0.06, 0.0, 0.33], [0.79, -0.96, 0.3], [-1.63, 1.02, 0.02],
                                 [-1.78, -0.69, -0.3], [0.46, 0.98, 0.68]]
NITROGEN = [7, 7], [[0.0, 0.0, 0.0], [0.0, 0.0, 1.1]]
HYDROGEN = [1, 1], [[0.0, 0.0, 0.0], [0.0, 0.0, 0.74]]


def benzene():
    angle = np.pi / 3 * np.arange(6)
    circle = np.stack([np.cos(angle), np.sin(angle), 0 * angle], 1)
    return [6] * 6 + [1] * 6, np.vstack([1.395 * circle, 2.48 * circle])


def complex_of(metal, ligand, distance, directions=OCTAHEDRON):
    return [metal] + [ligand] * len(directions), np.vstack([np.zeros((1, 3)), distance * directions])


def calculate(method, structure, charge=0, multiplicity=1, **options):
    model = MODELS.setdefault(method, Hamiltonian(method))
    return model(Molecules.single(*structure, charge, multiplicity), **options)


def spin_squared(result):
    """<S^2> of a determinant from its densities: Sz(Sz + 1) + N_beta - tr D_alpha D_beta."""
    a, b = result.density()
    na, nb = a.trace(), b.trace()
    sz = (na - nb) / 2
    return float(sz * (sz + 1) + nb - (a * b).sum())


@pytest.mark.parametrize("charge", range(-3, 4))
@pytest.mark.parametrize("method", ["AM1", "PM6"])
def test_charges(method, charge):
    """Charges -3 to +3 of a closed and an open shell: electrons, charges and spins are what was asked for."""
    multiplicity = 1 + charge % 2
    result = calculate(method, FORMAMIDE, charge, multiplicity)
    assert abs(float(result.charges.sum()) - charge) < 1e-9
    assert float(result.spin_populations.sum()) == pytest.approx(multiplicity - 1, abs=1e-9)
    electrons = float(result.density().diagonal(dim1=1, dim2=2).sum()) * 2 / len(result.density())
    assert electrons == pytest.approx(18 - charge, abs=1e-9)


def test_ionisation_is_monotonic():
    """Each electron taken away costs more than the last."""
    energies = [float(calculate("AM1", FORMAMIDE, q, 1 + q % 2).energy) for q in range(4)]
    assert (np.diff(energies) > 5).all() and (np.diff(energies, 2) > 0).all()


@pytest.mark.parametrize("structure, charge, multiplicity", [
    (complex_of(25, 9, 2.1), -4, 6), (complex_of(26, 9, 1.95), -3, 6), (complex_of(26, 17, 2.15, OCTAHEDRON[:4]), -2, 5),
    (complex_of(24, 9, 1.9), -3, 4), (complex_of(25, 17, 2.2, OCTAHEDRON[:2]), 0, 6), (([25], [[0, 0, 0]]), 0, 6),
    (([24], [[0, 0, 0]]), 0, 7), (([26], [[0, 0, 0]]), 0, 5), (complex_of(24, 1, 1.7, OCTAHEDRON[:1]), 0, 6),
    (([6, 6], [[0, 0, 0], [0, 0, 1.5]]), 0, 7), (complex_of(28, 9, 2.0, OCTAHEDRON), -4, 3),
], ids=["MnF6", "FeF6", "FeCl4", "CrF6", "MnCl2", "Mn", "Cr", "Fe", "CrH", "C2", "NiF6"])
@pytest.mark.parametrize("method", ["PM6", "PM7"])
def test_high_spin(method, structure, charge, multiplicity):
    """Multiplicities up to 7: nearly pure spins, the unpaired electrons counted, most of them on the metal."""
    result = calculate(method, structure, charge, multiplicity)
    unpaired, pure = multiplicity - 1, (multiplicity**2 - 1) / 4
    assert float(result.spin_populations.sum()) == pytest.approx(unpaired, abs=1e-9)
    assert float(result.s2) == pytest.approx(spin_squared(result), abs=1e-9)
    assert pure - 1e-9 < float(result.s2) < pure + 1.1
    if len(structure[0]) > 2:
        assert float(result.spin_populations[0]) > 0.5 * unpaired
    alpha, beta = result.occupations().sum(1).tolist()
    assert alpha - beta == unpaired


@pytest.mark.parametrize("method", METHODS)
def test_unrestricted_equals_restricted_for_a_closed_shell(method):
    """Two channels find the same energy, forces and charges; alpha equals beta."""
    for structure in (WATER, FORMAMIDE):
        one, two = (calculate(method, structure, unrestricted=u, forces=True, tolerance=1e-9) for u in (None, True))
        assert abs(float(one.energy - two.energy)) < 1e-9
        assert (one.forces - two.forces).abs().max() < 1e-7 and (one.charges - two.charges).abs().max() < 1e-7
        assert two.spin_populations.abs().max() < 1e-6 and abs(float(two.s2)) < 1e-6
        assert (two.density()[0] - two.density()[1]).abs().max() < 1e-6 and len(one.density()) == 1


@pytest.mark.parametrize("method", ["AM1", "PM6"])
def test_alpha_and_beta_are_equivalent(method):
    """Exchanging the two channels gives the same energy and opposite spin: +M_S and -M_S are one state."""
    for structure, multiplicity in ((METHYL, 2), (METHYLENE, 3)):
        result = calculate(method, structure, 0, multiplicity, tolerance=1e-9)
        problem = result.states[0].problem
        mirrored = Problem(problem.layout, problem.integrals, problem.h, problem.occupations.flip(1))
        start = torch.diag_embed(mirrored.occupations.mean(-1, keepdim=True) * problem.layout.real[:, None])
        found = solve(mirrored, start, SCF(tolerance=1e-9))
        assert abs(float(found.energy - result.states[0].solution.energy)) < 1e-9
        assert (found.D.flip(1)[0] - result.density()).abs().max() < 1e-6


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("structure, multiplicity", [(METHYL, 2), (METHYLENE, 3), (([7], [[0, 0, 0]]), 4)])
def test_spin_contamination(method, structure, multiplicity):
    """<S^2> is that of the densities, at least the pure value, and close to it for simple radicals."""
    result = calculate(method, structure, 0, multiplicity)
    pure = (multiplicity**2 - 1) / 4
    assert float(result.s2) == pytest.approx(spin_squared(result), abs=1e-9)
    assert pure - 1e-9 <= float(result.s2) < pure + 0.05
    assert float(result.spin_populations.sum()) == pytest.approx(multiplicity - 1, abs=1e-9)


def test_broken_symmetry_singlets():
    """A stretched bond as an unrestricted singlet: opposite spins on its ends, below the restricted energy, <S^2> near 1."""
    stretched = [1, 1], [[0.0, 0.0, 0.0], [0.0, 0.0, 3.0]]
    one, two = (calculate("AM1", stretched, unrestricted=u) for u in (None, True))
    assert float(two.energy) < float(one.energy) - 2 and 0.9 < float(two.s2) < 1.001
    a, b = two.spin_populations.tolist()
    assert a == pytest.approx(-b, abs=1e-9) and abs(a) > 0.9
    triplet = calculate("AM1", stretched, 0, 3)
    assert abs(float(triplet.energy - two.energy)) < 0.05 and float(triplet.s2) == pytest.approx(2.0, abs=1e-9)
    methylene = calculate("AM1", METHYLENE, unrestricted=True)
    assert float(methylene.energy) <= float(calculate("AM1", METHYLENE).energy) + 1e-8


@pytest.mark.parametrize("multiplicity", [2, 3])
def test_half_electron_states_against_mopac(multiplicity):
    """Heats of formation of MOPAC 22.0.6, input in the record; test_parity has all of them."""
    records = [r for r in load("goldens.jsonl.gz") if r["kind"] == "half_electron" and r["multiplicity"] == multiplicity]
    assert len(records) > 5
    for r in [r for r in records if len(r["numbers"]) < 8 and "singlet" not in r["name"]][::2]:
        structure = r["numbers"], r["coordinates_angstrom"]
        result = calculate(r["method"], structure, r["charge"], multiplicity, unrestricted=False)
        heat = r["results"]["heat_of_formation_kcal_mol"]
        if r["name"] != "vinyl":          # two states within 1.6 kcal/mol of each other
            assert float(result.heat_of_formation) < heat + 2e-3, f"{r['name']} {r['method']}"
        assert len(result.density()) == 1 and result.spin_populations.abs().max() == 0
        assert float(result.s2) == (multiplicity**2 - 1) / 4


def test_half_electron_correction_by_its_formula():
    """What is taken out is -(mm|mm)/4 for a doublet, -(mm|mm)/4 - (nn|nn)/4 - (mn|mn)/2 for a triplet, integral by integral."""
    for structure, multiplicity in ((METHYL, 2), (METHYLENE, 3)):
        result = calculate("AM1", structure, 0, multiplicity, unrestricted=False)
        state = result.states[0]
        lay, k = state.problem.layout, kernel(state.problem.layout, state.problem.integrals)
        half = (result.occupations()[0] - 1).abs() < 1e-9
        open_ = result.coefficients()[0][:, half]
        assert open_.shape[1] == multiplicity - 1

        def integral(p, q, lay=lay, k=k):
            """sum p_ij q_kl (ij|kl): the Coulomb matrix of q is what a spin that holds nothing feels."""
            one = two_electron(lay, k, q[None, None, None])[0, 0, 0]
            both = two_electron(lay, k, torch.stack([q, 0 * q])[None, None])[0, 0]
            assert torch.allclose(one, both[0] + both[1], atol=1e-9)
            return float((p * both[1]).sum())

        m = open_[:, 0]
        expected = -0.25 * integral(torch.outer(m, m), torch.outer(m, m))
        if multiplicity == 3:
            n = open_[:, 1]
            mn = (torch.outer(m, n) + torch.outer(n, m)) / 2
            expected += -0.25 * integral(torch.outer(n, n), torch.outer(n, n)) - 0.5 * integral(mn, mn)
        columns = torch.nn.functional.pad(open_, (0, 2 - open_.shape[1]))
        singlet = torch.tensor([False])
        found, added = correction(lay, k, columns[None], state.solution.F[:, 0], singlet)
        assert float(found) == pytest.approx(expected, abs=1e-9) and expected < -1 and not added.any()
        assert float(result.energies["electronic"] - state.solution.energy) == pytest.approx(expected, abs=1e-8)


@pytest.mark.parametrize("method", ["AM1", "PM6"])
@pytest.mark.parametrize("structure, multiplicity", [(METHYL, 2), (METHYLENE, 3)])
def test_half_electron_forces(method, structure, multiplicity):
    """Forces are the derivative of the energy, response of the open orbitals included: five points, error 1e-6."""
    numbers, places = structure[0], np.array(structure[1])
    options = {"unrestricted": False, "tolerance": 1e-10}
    result = calculate(method, structure, 0, multiplicity, forces=True, **options)
    step = np.random.default_rng(0).normal(size=places.shape)
    energies = [float(calculate(method, (numbers, places + t * step), 0, multiplicity, **options).energy)
                for t in (-2e-3, -1e-3, 1e-3, 2e-3)]
    slope = (energies[0] - 8 * energies[1] + 8 * energies[2] - energies[3]) / 12e-3
    assert slope == pytest.approx(-float((result.forces.numpy() * step).sum()), abs=2e-6)


def test_only_what_a_half_electron_state_can_be():
    with pytest.raises(InvalidMolecule, match="two open orbitals"):
        calculate("AM1", ([7], [[0, 0, 0]]), 0, 4, unrestricted=False)
    closed, half = (calculate("AM1", WATER, unrestricted=u) for u in (None, False))
    assert abs(float(closed.energy - half.energy)) < 1e-10


# what a result says


@pytest.mark.parametrize("method", METHODS)
def test_bond_orders_of_textbooks(method):
    """H2 1, N2 3, O2 2 (triplet, Mayer's sum over spins), benzene's CC 1.42 and CH near 1; diagonal: valences."""
    assert float(calculate(method, HYDROGEN).bond_orders()[0, 1]) == pytest.approx(1.0, abs=1e-9)
    assert float(calculate(method, NITROGEN).bond_orders()[0, 1]) == pytest.approx(3.0, abs=1e-3)
    oxygen = [8, 8], [[0.0, 0.0, 0.0], [0.0, 0.0, 1.2]]
    assert float(calculate(method, oxygen, 0, 3).bond_orders()[0, 1]) == pytest.approx(2.0, abs=0.01)
    orders = calculate(method, benzene()).bond_orders()
    ring = orders[range(6), [1, 2, 3, 4, 5, 0]]
    assert (ring - ring.mean()).abs().max() < 1e-6 and 1.38 < float(ring.mean()) < 1.45
    assert (orders[range(6), range(6, 12)] - 0.96).abs().max() < 0.03
    assert (orders - orders.T).abs().max() < 1e-12
    off = orders - torch.diag(orders.diagonal())
    assert (off.sum(1) - orders.diagonal()).abs().max() < 1e-12
    assert (orders.diagonal()[:6] - 3.97).abs().max() < 0.05


def test_bond_orders_of_both_channels_agree():
    one, two = (calculate("AM1", FORMAMIDE, unrestricted=u, tolerance=1e-9).bond_orders() for u in (None, True))
    assert (one - two).abs().max() < 1e-7


@pytest.mark.parametrize("structure, charge, multiplicity, unrestricted", [
    (WATER, 0, 1, None), (METHYL, 0, 2, None), (METHYL, 0, 2, False), (FORMAMIDE, 1, 2, None), (WATER, 0, 1, True),
    (complex_of(26, 17, 2.15, OCTAHEDRON[:2]), 0, 5, None),
])
def test_orbitals(structure, charge, multiplicity, unrestricted):
    """C is orthonormal, F C = C eps, eps ascends, and occupations give back the density and the electrons."""
    result = calculate("PM6", structure, charge, multiplicity, unrestricted=unrestricted)
    C, eps, f = result.coefficients(), result.orbital_energies(), result.occupations()
    D, F = result.density(), result.fock()
    identity = torch.eye(C.shape[-1], dtype=C.dtype)
    assert (C.mT @ C - identity).abs().max() < 1e-10
    assert (F @ C - C * eps[:, None]).abs().max() < 1e-6          # the commutator that is left
    assert bool((eps.diff(dim=-1) >= 0).all())
    per_spin = f / 2 if len(f) == 1 else f
    assert ((C * per_spin[:, None]) @ C.mT - D).abs().max() < 1e-7
    electrons = float(f.sum())
    cores = MODELS["PM6"].method.elements.core[MODELS["PM6"].method.rows(result.molecules.numbers)]
    assert electrons == pytest.approx(float(cores.sum()) - charge, abs=1e-9)
    assert set(f.unique().tolist()) <= ({0.0, 1.0, 2.0} if len(f) == 1 else {0.0, 1.0})


def test_homo_and_lumo():
    """Over both spins; infinite where there is no such level; of a half-electron state both are the open orbital."""
    water = calculate("AM1", WATER)
    eps = water.orbital_energies()[0]
    assert water.homo_lumo() == (float(eps[3]), float(eps[4])) and -13 < eps[3] < -11 and 3 < eps[4] < 6
    radical = calculate("AM1", METHYL, 0, 2)
    a, b = radical.orbital_energies()
    assert radical.homo_lumo() == (max(float(a[3]), float(b[2])), min(float(a[4]), float(b[3])))
    half = calculate("AM1", METHYL, 0, 2, unrestricted=False)
    assert half.homo_lumo()[0] == half.homo_lumo()[1]
    assert calculate("AM1", ([9], [[0, 0, 0]]), -1).homo_lumo()[1] == float("inf")
    assert calculate("AM1", ([1], [[0, 0, 0]]), 1).homo_lumo()[0] == -float("inf")


def test_energies_add_up():
    """The parts by name are the total; the heat of formation follows from it."""
    for method in METHODS:
        result = calculate(method, FORMAMIDE)
        assert float(sum(result.energies.values()) - result.energy) == pytest.approx(0, abs=1e-10)
        m = MODELS[method].method
        rows = m.rows(result.molecules.numbers)
        atoms = m.elements.EHEAT[rows].sum() - m.constants.kcal_mol * MODELS[method].rows().atoms.EISOL[rows].sum()
        assert float(result.heat_of_formation - m.constants.kcal_mol * result.energy - atoms) == pytest.approx(0, abs=1e-8)
        assert abs(m.constants.kcal_mol - KCAL) < 0.1


def test_dipoles():
    """Neutral: independent of the origin; an ion: about its centre of mass, so it does not move with the molecule either."""
    for charge, multiplicity in ((0, 1), (1, 2)):
        here, there = (calculate("AM1", (WATER[0], np.array(WATER[1]) + d), charge, multiplicity).dipole for d in (0.0, 50.0))
        assert (here - there).abs().max() < 1e-8
    result = calculate("AM1", WATER)
    assert float(result.dipole_debye.norm()) == pytest.approx(1.86, abs=0.03)
    assert float(result.dipole_debye.norm() / result.dipole.norm()) == pytest.approx(4.803, abs=1e-3)


def test_molecules_that_do_not_exist():
    with pytest.raises(IndexError, match="no molecule 1"):
        calculate("AM1", WATER).density(1)


def test_biradicals():
    """Twisted ethene: its open-shell singlet lies far below the closed shell, beside the triplet; forces are its derivative."""
    z, places = [6, 6, 1, 1, 1, 1], np.array([[0, 0, 0], [1.42, 0, 0], [-0.56, 0.93, 0.0], [-0.56, -0.93, 0.02],
                                              [1.98, 0.05, 0.93], [1.98, -0.02, -0.93]], float)
    closed, triplet = (float(calculate("PM6", (z, places), 0, m, unrestricted=False).energy) for m in (1, 3))
    found = calculate("PM6", (z, places), 0, 1, biradical=True, forces=True, tolerance=1e-10)
    assert float(found.energy) < closed - 0.5 and abs(float(found.energy) - triplet) < 0.3
    assert float(found.s2) == 0 and abs(float(found.charges.sum())) < 1e-9
    step, values = 1e-4, []
    for sign in (1, -1):
        moved = places.copy()
        moved[2, 1] += sign * step
        values.append(float(calculate("PM6", (z, moved), 0, 1, biradical=True, tolerance=1e-10).energy))
    assert abs(float(found.forces[2, 1]) + (values[0] - values[1]) / (2 * step)) < 1e-6
    with pytest.raises(UnknownOption, match="choose one"):
        calculate("PM6", (z, places), 0, 1, biradical=True, unrestricted=True)
