"""Geometry-dependent corrections: values against MOPAC, derivatives, invariances, and silence where they do not apply."""

import json
import math
import pathlib
from itertools import pairwise

import pytest
import torch

from nddo_ml.errors import UnknownOption
from nddo_ml.integrals.corrections import GROUPS, TERMS, Composition, Geometry, corrections, tables, terms
from nddo_ml.integrals.corrections.peptide import claims
from nddo_ml.molecules import Molecules
from nddo_ml.units import CODATA_2018

KCAL = CODATA_2018.kcal_mol
GOLDEN = json.loads((pathlib.Path(__file__).parents[1] / "data" / "corrections.json").read_text())
STRUCTURES = GOLDEN["structures"]
EVERY_TERM = {name: (method, term) for method, chosen in TERMS.items() for name, term in chosen.items()}
EVERY_TERM["hydrogen_bond_dh of DH+"] = ("PM6-DH+", TERMS["PM6-DH+"]["hydrogen_bond_dh"])

ETHANOL = ([6, 6, 8, 1, 1, 1, 1, 1, 1], [[1.168, -0.392, 0.0], [0.0, 0.556, 0.0], [-1.19, -0.215, 0.0], [-1.947, 0.382, 0.0],
           [2.115, 0.157, 0.0], [1.128, -1.035, 0.887], [1.128, -1.035, -0.887], [0.04, 1.21, 0.886], [0.04, 1.21, -0.886]])
WHERE = {   # a structure in which the term is at work
    "peptide": "N-methylacetamide", "triple_bond": "alkyne", "nonplanar_nitrogen": "CH3COOH+CH3NO2#47", "si_o_h": "silanol",
    "halogen_d3h4x": "CH3I+NH4+NH4#164", "h4": "formic_acid_dimer at 1.25",
}
OWN = {
    "alkyne": ([6, 6, 1, 1], [[0, 0, 0], [1.25, 0, 0.0], [-1.06, 0.1, 0], [2.3, 0.03, 0.2]]),
    "silanol": ([14, 8, 1, 1, 1, 1], [[0, 0, 0], [1.71, 0, 0], [2.1, 0.95, 0.1], [-0.5, 1.38, 0], [-0.5, -0.7, 1.2],
                                      [-0.5, -0.7, -1.2]]),
    "N-methylacetamide": ([6, 8, 7, 1, 6, 6, 1, 1, 1, 1, 1, 1],
                          [[0, 0, 0], [1.23, 0, 0.02], [-0.7, 1.15, 0.1], [-0.2, 2.03, 0.3], [-2.15, 1.2, -0.1],
                           [-0.8, -1.3, 0], [-0.5, -1.9, 0.87], [-0.5, -1.9, -0.87], [-1.88, -1.1, 0], [-2.5, 2.23, 0.1],
                           [-2.6, 0.55, 0.66], [-2.45, 0.9, -1.1]]),
}


def structure(name):
    """(numbers, positions) of a structure of the golden file or of this one."""
    return OWN[name] if name in OWN else (STRUCTURES[name]["numbers"], STRUCTURES[name]["positions"])


def kcal(method, numbers, positions):
    """Corrections of one molecule, kcal/mol, by group."""
    m = Molecules.single(numbers, positions)
    return {k: v.item() * KCAL for k, v in corrections(terms(method), Composition.of(m), m.positions).items()}


def displaced(name, size=0.04, seed=1):
    """(composition, positions): the structure out of every symmetry."""
    numbers, positions = structure(name)
    generator = torch.Generator().manual_seed(seed)
    x = torch.tensor(positions, dtype=torch.float64)
    x = x + size * torch.randn(x.shape, generator=generator, dtype=torch.float64)
    return Composition.of(Molecules.single(numbers, x)), x


def energy_of(term, composition):
    """Positions -> total energy of a term, kcal/mol."""
    def energy(x):
        value = term(Geometry.of(composition, x), CODATA_2018)
        return x.sum() * 0.0 if value is None else value.sum()
    return energy


def tolerance(method, group, decimals):
    """1e-8 kcal/mol, but where MOPAC seems less exact itself: an older bohr in the D3 radii of its hydrogen bonds,
    single-precision r2r4, and torsions of planar amides that miss 180 degrees by 1e-5.
    """
    own = {("PM6-D3", "hydrogen_bond"): 5e-6, ("PM6-D3", "dispersion"): 3e-7, ("PM7", "hydrogen_bond"): 2e-7,
           ("PM6-DH+", "hydrogen_bond"): 6e-7}.get((method, group), 1e-8)
    return own + (5.01e-6 if decimals == 5 else 0.0)


@pytest.mark.parametrize("record", GOLDEN["records"], ids=lambda r: f"{r['method']} {r['structure']}")
def test_mopac(record):
    """Each printed term, and the heat of formation relative to plain PM6."""
    method, expected, decimals = record["method"], dict(record["kcal_mol"]), record["decimals"]
    numbers, positions = structure(record["structure"])
    by_group = kcal(method, numbers, positions)
    total = sum(by_group.values())
    by_group["dispersion"] = by_group.get("dispersion", 0.0) + by_group.pop("halogen", 0.0)   # MOPAC prints their sum
    by_group.pop("triple_bond", None)
    for group in by_group.keys() | expected.keys():
        limit = tolerance(method, group, decimals) if group in expected else 1.01e-5   # MOPAC leaves smaller ones out
        assert by_group.get(group, 0.0) == pytest.approx(expected.get(group, 0.0), abs=limit, rel=1e-11), group
    if "heat_minus_PM6" in record:
        base = sum(kcal("PM6", numbers, positions).values())
        assert total - base == pytest.approx(record["heat_minus_PM6"], abs=2e-6)


def test_triple_bond_is_the_smooth_one():
    """12 kcal/mol below 1.21 A, falling to 0 at 1.33 A, as MOPAC 23; the heats it comes from are good to 2e-5."""
    for r, expected in GOLDEN["triple_bond"]:
        assert kcal("PM6", [6, 6, 1, 1], [[0, 0, 0], [r, 0, 0], [-1.06, 0.02, 0], [r + 1.06, 0.03, 0.01]])["triple_bond"] \
            == pytest.approx(expected, abs=4e-5)
    x = [kcal("PM7", [6, 6], [[0, 0, 0], [r, 0, 0]])["triple_bond"] for r in (1.0, 1.21, 1.21 + 1e-4, 1.33 - 1e-4, 1.33, 1.4)]
    assert x == pytest.approx([12.0, 12.0, 12.0, 0.0, 0.0, 0.0], abs=1e-4)


@pytest.mark.parametrize("name", EVERY_TERM)
def test_derivatives(name):
    """First and second derivatives agree with finite differences, and are not zero."""
    composition, x = displaced(WHERE.get(name, "formamide_dimer at 0.9"))
    energy = energy_of(EVERY_TERM[name][1], composition)
    x.requires_grad_(True)
    gradient, = torch.autograd.grad(energy(x), x, create_graph=True)
    assert gradient.abs().max() > 1e-4
    assert torch.autograd.gradcheck(energy, (x,), eps=1e-6, atol=1e-6, rtol=1e-6)
    assert gradient.sum(0).abs().max() < 1e-10
    assert torch.linalg.cross(x, gradient).sum(0).abs().max() < 1e-9
    if gradient.requires_grad:
        direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)

        def along(step):
            y = (x.detach() + step * direction).requires_grad_(True)
            return torch.autograd.grad(energy(y), y)[0]

        product, = torch.autograd.grad(gradient, x, direction)
        assert torch.allclose(product, (along(1e-5) - along(-1e-5)) / 2e-5, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("method", TERMS)
@pytest.mark.parametrize("name", ["formamide_dimer at 0.9", "CH3I+diformamide+C6H6#241", "HCOOH+HCN+H2O2#17", "NO2+NH3#225"])
def test_symmetry(method, name):
    """Translation, rotation, reflection and order of the atoms; the peptide term takes C in index order, here one way only."""
    composition, x = displaced(name)
    generator = torch.Generator().manual_seed(5)
    Q, _ = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64))
    before = corrections(terms(method), composition, x)
    order = torch.randperm(len(x), generator=generator)
    shuffled = Composition.of(Molecules.single(composition.numbers[order], x[order]))
    for other, y in ((composition, x + 100.0), (composition, x @ Q), (composition, -x), (shuffled, x[order])):
        after = corrections(terms(method), other, y)
        assert all(torch.allclose(before[k], after[k], atol=1e-10, rtol=0) for k in before)


@pytest.mark.parametrize("method", TERMS)
def test_batch_equals_single(method):
    """Every structure alone and in one batch, energies and gradients; pairs in another order change nothing."""
    chosen = list(STRUCTURES)[::3]
    single, gradients = [], []
    for name in chosen:
        numbers, positions = structure(name)
        m = Molecules.single(numbers, torch.tensor(positions, dtype=torch.float64).requires_grad_(True))
        e = corrections(terms(method), Composition.of(m), m.positions)
        single.append({k: v.detach() for k, v in e.items()})
        total = sum(v.sum() for v in e.values()) + 0.0 * m.positions.sum()
        gradients.append(torch.autograd.grad(total, m.positions)[0])
    x = [structure(name)[1] for name in chosen]
    batch = Molecules.batch([structure(name)[0] for name in chosen], x)
    plain = Composition.of(batch)
    order = torch.randperm(plain.i.shape[0], generator=torch.Generator().manual_seed(2))
    i, j = plain.i[order], plain.j[order]
    half = order.shape[0] // 2
    mixed = Composition.of(batch, torch.cat([i[:half], j[half:]]), torch.cat([j[:half], i[half:]]))
    for composition in (plain, mixed):
        x = batch.positions.clone().requires_grad_(True)
        together = corrections(terms(method), composition, x)
        for k, v in together.items():
            assert torch.allclose(v, torch.cat([s[k] for s in single]), atol=1e-11, rtol=1e-12), k
        total = sum(v.sum() for v in together.values()) + 0.0 * x.sum()
        assert torch.allclose(torch.autograd.grad(total, x)[0], torch.cat(gradients), atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("method", TERMS)
def test_silent_where_they_do_not_apply(method):
    """Zeros of the right shape for an atom, and for ethanol but for dispersion and H-H repulsion."""
    batch = Molecules.batch([[10], ETHANOL[0], [1, 1]], [[[0.0, 0, 0]], ETHANOL[1], [[0.0, 0, 0], [0.74, 0, 0]]])
    by_group = corrections(terms(method), Composition.of(batch), batch.positions)
    assert by_group.keys() == {GROUPS[name] for name in TERMS[method]}
    for group, energy in by_group.items():
        assert energy.shape == (3,) and energy[0] == 0.0
        assert bool(energy[1] == 0.0) == (group not in ("dispersion", "hh_repulsion"))
    atom = Molecules.single([6], [[0.0, 0, 0]])
    assert all(v.item() == 0.0 for v in corrections(terms(method), Composition.of(atom), atom.positions).values())


@pytest.mark.parametrize("method", TERMS)
@pytest.mark.parametrize("name", ["planar dimer", "linear", "eclipsed"])
def test_finite_where_angles_are_singular(method, name):
    """No NaN in the first and second derivative at planar, collinear and symmetric structures."""
    numbers, positions = {
        "planar dimer": ([6, 8, 7, 1, 1, 1] * 2, None),
        "linear": ([1, 6, 7, 1, 8, 14, 1, 6, 6, 1], [[0, 0, z] for z in (-2.2, -1.15, 0, 2.0, 3.0, 4.6, 6.0, 8, 9.25, 10.3)]),
        "eclipsed": ([7, 1, 1, 1, 7, 1, 1, 1], None),
    }[name]
    if name == "planar dimer":
        one = torch.tensor([[0, 0, 0], [1.22, 0, 0], [-0.7, 1.15, 0], [-1.7, 1.1, 0], [-0.2, 2.02, 0], [-0.55, -0.95, 0.0]],
                           dtype=torch.float64)
        positions = torch.cat([one, torch.tensor([1.6, 4.1, 0.0]) - one])
    elif name == "eclipsed":
        ring = [[0.94 * math.cos(t), 0.94 * math.sin(t), 0.36] for t in (0.0, 2 * math.pi / 3, 4 * math.pi / 3)]
        positions = torch.tensor([[0, 0, 0.0], *ring, [0, 0, 3.2], *[[a, b, 3.2 + c] for a, b, c in ring]])
    m = Molecules.single(numbers, torch.as_tensor(positions, dtype=torch.float64).requires_grad_(True))
    energy = sum(v.sum() for v in corrections(terms(method), Composition.of(m), m.positions).values()) + 0.0 * m.positions.sum()
    gradient, = torch.autograd.grad(energy, m.positions, create_graph=True)
    second, = torch.autograd.grad(gradient.square().sum() + 0.0 * m.positions.sum(), m.positions)
    assert torch.isfinite(gradient).all() and torch.isfinite(second).all()


@pytest.mark.parametrize("method", ["PM7", "PM6-DH+"])
def test_slope_at_a_kink_is_the_mean_of_both_sides(method):
    """Out of the plane of the planar formamide dimer the energy has a kink: by symmetry the mean slope is zero."""
    numbers, positions = structure("formamide_dimer at 0.9")
    x = torch.tensor(positions, dtype=torch.float64)
    assert x[:, 2].abs().max() == 0.0
    m = Molecules.single(numbers, x.requires_grad_(True))
    energy = energy_of(terms(method)["hydrogen_bond_dh"], Composition.of(m))
    assert torch.autograd.grad(energy(x), x)[0][:, 2].abs().max() < 1e-12
    up = torch.zeros_like(x)
    hydrogen = numbers.index(1)
    up[hydrogen, 2] = 1e-5
    with torch.no_grad():
        assert energy(x + up) - energy(x) == pytest.approx(float(energy(x - up) - energy(x)), abs=1e-11)


def test_peptide_claims():
    """A nitrogen belongs to the first carbon that wants it; a carbon takes its first free nitrogen."""
    def greedy(edges):
        taken, done, kept = set(), set(), []
        for k, (c, n) in enumerate(edges):
            if c not in done and n not in taken:
                taken.add(n), done.add(c), kept.append(k)
        return kept

    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        edges = sorted(set(map(tuple, torch.randint(0, 7, (12, 2), generator=generator).tolist())))
        c, n = torch.tensor(edges).T
        assert claims(c, n, 7).tolist() == greedy(edges)


def test_dispersion_tail():
    """Two distant molecules: -C6/R^6 of their atom pairs (PM7, no cutoff), and exactly nothing from D3 beyond 15 A."""
    def between(method, R):
        apart = kcal(method, [18, 18], [[0, 0, 0], [R, 0, 0]])["dispersion"]
        return apart
    for a, b in pairwise((20.0, 30.0, 60.0)):
        slope = math.log(between("PM7", b) / between("PM7", a)) / math.log(b / a)
        assert slope == pytest.approx(-6.0, abs=1e-6)
    assert between("PM6-D3", 15.01) == 0.0 != between("PM6-D3", 14.99)


def test_hydrogen_repulsion_joins():
    """The three branches of the H-H repulsion meet at 1 and 1.5 A within the digits of the published polynomial."""
    for r in (1.0, 1.5):
        left, right = (kcal("PM6-D3H4", [1, 1], [[0, 0, 0], [r + d, 0, 0]])["hh_repulsion"] for d in (-1e-7, 1e-7))
        assert left == pytest.approx(right, abs=1e-4)


def test_d3_data_are_those_of_tad_dftd3():
    """Reference data up to Rn against the package of the D3 authors' group, where it is installed."""
    tad = pytest.importorskip("tad_dftd3")
    from tad_mctc.data import radii

    c6, cn, r0 = tables.d3_reference(torch.device("cpu"))
    double = {"dtype": torch.float64}
    reference = tad.reference.Reference(**double)
    assert torch.equal(c6[1:87, 1:87], reference.c6[1:87, 1:87, :5, :5])
    assert torch.allclose(cn[1:87], reference.cn[1:87, :5], atol=5e-4, rtol=0)   # three metals differ in the fourth decimal
    bohr = CODATA_2018.bohr
    assert torch.allclose(r0[1:87, 1:87], radii.VDW_PAIRWISE(**double)[1:87, 1:87] * bohr, atol=1e-6, rtol=0)
    rcov = tables.column("rcov", torch.device("cpu"))
    assert torch.allclose(rcov[1:87] * 4 / 3, radii.COV_D3(**double)[1:87] * bohr, atol=1e-8, rtol=0)


@pytest.mark.parametrize("method", TERMS)
def test_species_without_element_data_are_left_out(method):
    """Sparkles and pseudo-atoms have no corrections: the molecule beside them keeps its own (D3: but for 1e-7 in the CN)."""
    numbers, positions = structure("formamide_dimer at 0.9")
    alone = kcal(method, numbers, positions)
    x = torch.tensor([*positions, [0.0, 0.0, 9.0], [0.0, 3.0, 9.0]], dtype=torch.float64).requires_grad_(True)
    m = Molecules.single([*numbers, 1063, 2001], x)
    energies = corrections(terms(method), Composition.of(m), x)
    assert {k: v.item() * KCAL for k, v in energies.items()} == pytest.approx(alone, abs=1e-6)
    assert torch.isfinite(torch.autograd.grad(sum(v.sum() for v in energies.values()) + 0.0 * x.sum(), x)[0]).all()


def test_unknown_method():
    """A name without entry is refused with the list of methods."""
    with pytest.raises(UnknownOption, match="PM6-D3H4"):
        terms("PM8")
