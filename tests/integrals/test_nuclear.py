"""Core-core repulsion: against MOPAC, by limits and by differentiation."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.atom_records import core_interaction

from nddo_ml.common.struct import tensor_map
from nddo_ml.elements import covalent_radii, number
from nddo_ml.integrals.multipole import atom_integrals
from nddo_ml.integrals.nuclear import CoreParameters, PairValues, core_parameters, pair_values
from nddo_ml.integrals.parameters import gather
from nddo_ml.methods import method

RECORDS = json.loads((Path(__file__).parents[1] / "data" / "core_core.json").read_text())   # made by data/make_core_core.py
METHODS = ("MNDO", "AM1", "PM3", "RM1", "MNDO/d", "PM6", "PM7")


def atoms(m, rows, rho_core):
    """AtomIntegrals of the rows of a method; rho_core: {element: additive term} of a record, instead of the table's."""
    A, number = (gather(x, rows) for x in (atom_integrals(m.parameters, m.elements, m.constants), m.elements))
    rho = A.rho_core.clone()
    for z, value in rho_core.items():
        rho[number.number == int(z)] = value
    return replace(A, rho_core=rho)


def energies(m, rows, i, j, r, rho_core=None):
    """Core-core energy of pairs (i, j) of the rows of a method at distances r, and gamma of each pair."""
    A, E, P = atoms(m, rows, rho_core or {}), gather(m.elements, rows), core_parameters(gather(m.parameters, rows))
    gamma = core_interaction(m, gather(A, i), gather(A, j), (gather(E, i), gather(E, j)), r)
    rules = m.core_rules(rows[i], rows[j])
    return m.core_core.energy(rules, r, gamma, gather(P, i), gather(P, j), pair_values(m.pairs, rules)), gamma


@pytest.mark.parametrize("name", METHODS)
def test_mopac(name):
    """Sum over the pairs of a molecule, to the digits MOPAC gives (1e-9 eV, or half of the fifth decimal and some rounding)."""
    records = [r for r in RECORDS if r["method"] == name]
    assert len(records) >= 4
    for r in records:
        x, rows = torch.tensor(r["positions"], dtype=torch.float64), method(name).rows(torch.tensor(r["numbers"]))
        i, j = torch.triu_indices(len(rows), len(rows), 1)
        energy = float(energies(method(name), rows, i, j, (x[i] - x[j]).norm(dim=1), r["rho_core"])[0].sum())
        assert energy == pytest.approx(r["core_repulsion_eV"], abs=r["tolerance"], rel=0), r["name"]


def couple(name, first, second, r):
    """Energy of one pair at the distances r, with everything it depends on; gamma."""
    m = method(name)
    i, j = torch.zeros(len(r), dtype=torch.long), torch.ones(len(r), dtype=torch.long)
    return energies(m, m.rows(torch.tensor([number(first), number(second)])), i, j, r)


PAIRS = [("MNDO", "N", "H"), ("MNDO", "Na", "O"), ("AM1", "B", "Cl"), ("AM1", "Mo", "H"), ("AM1", "O", "H"), ("AM1", "Eu", "O"),
         ("PM3", "C", "O"), ("RM1", "N", "H"), ("MNDO/d", "Al", "Al"), ("MNDO/d", "Mg", "C"), ("PM6", "C", "C"),
         ("PM6", "O", "H"), ("PM6", "Si", "O"), ("PM6", "Tc", "Tc"), ("PM6", "Eu", "N"), ("PM7", "O", "H"), ("PM7", "Si", "O"),
         ("PM7", "Eu", "O"), ("PM7", "+", "O"), ("PM7", "C", "H")]


@pytest.mark.parametrize("name, first, second", PAIRS)
def test_symmetric(name, first, second):
    r = torch.linspace(0.6, 4.0, 9, dtype=torch.float64)
    assert torch.allclose(couple(name, first, second, r)[0], couple(name, second, first, r)[0], rtol=1e-14, atol=0)


@pytest.mark.parametrize("name, first, second", PAIRS)
def test_long_range(name, first, second):
    """Only Z_A Z_B gamma is left: the other terms are below 1e-8 eV at 20 angstrom."""
    m = method(name)
    r = torch.tensor([20.0], dtype=torch.float64)
    rows = m.rows(torch.tensor([number(first), number(second)]))
    energy, gamma = couple(name, first, second, r)
    assert float(energy - m.elements.core[rows].prod() * gamma) == pytest.approx(0.0, abs=1e-8)


@pytest.mark.parametrize("name, first, second", PAIRS)
def test_derivatives(name, first, second):
    """By r, gamma, alpha, x, K, L, M and the atoms' alpha, first and second order."""
    m = method(name)
    i, j = m.rows(torch.tensor([number(first), number(second)])).split(1)
    i, j = i.expand(2), j.expand(2)
    rules = m.core_rules(i, j)
    value = pair_values(m.pairs, rules)
    A, B = (core_parameters(gather(m.parameters, k)) for k in (i, j))
    r, g = torch.tensor([[1.1, 1.9], [9.0, 6.0]], dtype=torch.float64)
    inputs = [r, g, value.alpha, value.x, A.alpha, B.alpha, A.K, A.L, A.M, B.K]

    def energy(r, g, alpha, x, alpha_i, alpha_j, K, L, M, K_j):
        first, second = CoreParameters(alpha_i, K, L, M), replace(B, alpha=alpha_j, K=K_j)
        return m.core_core.energy(rules, r, g, first, second, PairValues(alpha, x))

    inputs = [t.detach().clone().requires_grad_() for t in inputs]
    assert torch.autograd.gradcheck(energy, inputs)
    assert torch.autograd.gradgradcheck(energy, inputs)


@pytest.mark.parametrize("name", ("AM1", "PM6", "PM7"))
def test_table_gradient(name):
    """The published entries themselves are differentiable; PM7 reaches both homonuclear entries of an unlisted pair."""
    m = method(name)
    pairs = tensor_map(lambda t: t.clone().requires_grad_() if t.is_floating_point() else t, m.pairs)
    i, j = m.rows(torch.tensor([number(s) for s in ("Mo", "Cs") if name != "AM1"] or [42, 1])).split(1)
    value = pair_values(pairs, m.core_rules(i, j))
    (value.alpha + value.x).sum().backward()
    reached = int(pairs.alpha.grad.count_nonzero())
    assert reached == {"AM1": 1, "PM6": 0, "PM7": 2}[name]


@pytest.mark.parametrize("name", METHODS)
def test_wall(name):
    """No hole at short range: the energy of organic elements falls from 0.2 angstrom to 0.6 of the sum of covalent radii."""
    species = ("H", "C", "N", "O", "F", "P", "S", "Cl", "Br", "I")
    radius = dict(zip(species, covalent_radii(torch.tensor([number(s) for s in species])).tolist(), strict=True))
    for a in species:
        for b in species:
            r = torch.linspace(0.2, 0.6 * (radius[a] + radius[b]), 40, dtype=torch.float64)
            e, _ = couple(name, a, b, r)
            assert bool((e[1:] < e[:-1]).all()) and bool((e > 0).all()), (a, b)
