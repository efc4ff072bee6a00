"""The compiled integrals against torch's: blocks, derivatives by positions and by all that atoms bring, at a fixed density.

Both are sums of the same terms in another order, in double precision: SAME, relative to the largest number of its kind. That of
overlaps is what is left of their quadratures (overlap.POINTS), which torch chooses for a group of pairs and kernels for a pair.
"""

import os
import subprocess
import sys
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from nddo_ml import Molecules, PointCharges, method, orbitals
from nddo_ml.common import compiling
from nddo_ml.elements import number, symbol
from nddo_ml.hamiltonian import shifted, walk
from nddo_ml.integrals import compiled, nuclear, sparse
from nddo_ml.integrals.overlap import POINTS, REACH, reach
from nddo_ml.integrals.pair_species import SlaterClasses, has_own_core
from nddo_ml.integrals.records import ROOM, folded
from nddo_ml.integrals.sparse import KINDS, ORBITALS
from nddo_ml.molecules import COINCIDENT, NOTHING, Surroundings
from nddo_ml.networks.shifts import CHANNELS, FACTOR_NAMES, Shifts
from nddo_ml.orbitals import DISTRIBUTIONS
from nddo_ml.properties.populations import populations
from nddo_ml.scf.fock import electronic_energy, one_electron

SAME = 1e-11
INTERPRETED = os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0")     # kernels run as the Python that they are written in
EU = number("Eu:sparkle")

CASES = {       # method, species of each molecule, distance of neighbours in angstrom
    "an atom": ("PM6", [[26]], 1.0),
    "atoms": ("AM1", [[6], [1], [8]], 1.0),
    "s": ("MNDO", [[1, 1, 1]], 1.0),
    "sp": ("AM1", [[8, 6, 7, 1, 1, 9]], 1.6),
    "boron": ("AM1", [[5, 6, 1, 9, 8]], 1.6),
    "heavy sp": ("PM3", [[53, 35, 82, 6, 1, 12]], 2.0),
    "d": ("PM6", [[16, 17, 14, 8, 6, 1, 1]], 1.8),
    "d, cores of their own": ("MNDO/d", [[16, 17, 11, 8, 1, 30, 14]], 1.8),
    "d without s": ("PM6", [[16, 35]], 2.0),
    "metals": ("PM6", [[26, 22, 17, 6, 1, 1]], 2.0),
    "joined metals": ("PM7", [[26, 22, 17, 6, 8, 1, 30]], 2.0),
    "joined": ("PM7", [[6, 16, 8, 1, 1, 17, 7, 6]], 3.1),
    "helium": ("PM6", [[2, 26, 16, 2, 6, 1]], 1.9),
    "joined helium": ("PM7", [[2, 26, 16, 2, 6, 1]], 1.9),
    "noble gases": ("PM6", [[10, 18, 36, 54, 1]], 2.2),
    "sparkles": ("PM6", [[EU, 8, 1, EU, number("+"), 16]], 2.0),
    "sparkles of AM1": ("AM1", [[EU, 8, 1, number("+"), number("-")]], 2.0),
    "joined bare cores": ("PM7", [[26, EU, 8, 1, number("+"), 16]], 2.2),
    "bare cores alone": ("PM6", [[EU, number("+")]], 2.0),
    "smooth": ("RM1-smooth", [[6, 1, 8, 7, 16, 1]], 6.5),
    "smooth and joined": ("PM7-smooth", [[6, 1, 8, 16, 17, 1, 26]], 5.0),
    "a batch": ("AM1", [[8, 1, 1], [6, 1, 1, 1, 1], [1, 1], [9], [1]], 1.4),
    "a batch with d": ("PM6", [[1, 1], [16, 8, 8], [26, 17], [8, 1, 1], [EU], [6, 17, 1]], 1.8),
    "a joined batch": ("PM7", [[30, 8, 1], [1, 17], [26, 26], [2, 6]], 2.4),
}
SMALL = ("s", "joined metals", "sparkles", "a batch")       # what is interpreted too


@pytest.fixture(autouse=True)
def with_kernels():
    if not (INTERPRETED or compiling.ready()):
        pytest.skip("there are no compiled kernels here")


@pytest.fixture(params=(True, False), ids=("packed", "unpacked"))
def packed(request, monkeypatch):
    """Whether atoms with only an s function are treated like the others."""
    monkeypatch.setattr(orbitals, "PACKED_BELOW", 10**6 if request.param else 0)
    return request.param


def cluster(species, spacing, seed=1):
    """Atoms near the points of a cubic lattice, in random order."""
    random = np.random.default_rng([seed, *species])
    side = int(np.ceil(len(species) ** (1 / 3)))
    points = np.stack(np.meshgrid(*[np.arange(side)] * 3), -1).reshape(-1, 3)
    chosen = points[random.permutation(len(points))[:len(species)]]
    return (spacing * (chosen + random.uniform(-0.15, 0.15, chosen.shape))).tolist()


@dataclass(frozen=True, eq=False)
class Case:
    molecules: Molecules
    topology: object
    parameters: object
    D: torch.Tensor
    around: Surroundings = NOTHING

    @property
    def x(self):
        return self.molecules.positions.numpy()


def case(name, channels=1, around=NOTHING):
    """A case with a random density, which no atom has."""
    method_name, species, spacing = CASES[name]
    return made(method_name, species, [cluster(s, spacing) for s in species], channels, around)


def made(method_name, species, positions, channels=1, around=NOTHING):
    m = method(method_name)
    molecules = Molecules.batch(species, positions, [0] * len(species), [1] * len(species))
    topology = walk.topology(m, molecules)
    layout = topology.layout
    random = torch.randn(layout.molecules, channels, layout.size, layout.size, dtype=torch.float64,
                         generator=torch.Generator().manual_seed(7))
    D = (random + random.mT) / 4 * layout.real[:, None, :, None] * layout.real[:, None, None, :]
    return Case(molecules, topology, walk.parameters(topology, walk.rows(m)), D.contiguous(), around)


def energy(here, positions, parameters=None, around=None):
    """Of the electrons and the cores of each molecule, by torch."""
    parameters = here.parameters if parameters is None else parameters
    around = here.around if around is None else around
    topology = here.topology
    distances = walk.distances(topology, positions)
    blocks = walk.integrals(topology, positions, distances, parameters, around)
    return electronic_energy(topology.layout, blocks, here.D) + blocks.core


def same(ours, theirs, tolerance=SAME, about=""):
    """Equal to so much of the largest number."""
    ours, theirs = (values.detach().numpy() if isinstance(values, torch.Tensor) else values for values in (ours, theirs))
    assert ours.shape == theirs.shape and np.isfinite(ours).all(), about
    if ours.size:
        difference, scale = np.abs(ours - theirs).max(), max(1.0, np.abs(theirs).max())
        assert difference <= tolerance * scale, f"{about} {difference:.1e} of {scale:.1e}"


def without_ghosts(here, blocks):
    """Two-electron blocks of pairs with zeros for the functions that atoms do not have."""
    layout, kept = here.topology.layout, []
    for group, w in zip(layout.pairs, blocks, strict=True):
        m_i, m_j = (torch.tensor([DISTRIBUTIONS[n] for n in layout.n_ao[atoms].tolist()]) for atoms in (group.i, group.j))
        rows, columns = torch.arange(w.shape[1]), torch.arange(w.shape[2])
        kept.append(w * (rows < m_i[:, None])[:, :, None] * (columns < m_j[:, None])[:, None, :])
    return kept


def interaction_of_cores(here):
    """gamma (pair) of torch: what the repulsion of the cores is handed."""
    seen = []

    def note(rules, R, gamma, *_):
        seen.append(gamma)
        return gamma

    topology = replace(here.topology, recipe=replace(here.topology.recipe, core_energy=note))
    walk.integrals(topology, here.molecules.positions, walk.distances(topology, here.molecules.positions), here.parameters)
    return seen[0] if seen else torch.zeros(0, dtype=torch.float64)     # torch does not ask where there are no pairs


def compare_blocks(here, tolerance=SAME):
    topology, layout, x = here.topology, here.topology.layout, here.molecules.positions
    theirs = walk.integrals(topology, x, walk.distances(topology, x), here.parameters, here.around)
    plan = compiled.plan(topology, here.parameters)
    around = compiled.placed(here.around, layout.molecules)
    ours = compiled.integrals(plan, here.x, around)
    if layout.atoms:
        same(ours.h, one_electron(layout, theirs), tolerance, "h")
    groups = compiled.blocks_of_groups(plan, topology, ours)
    for kind, a, b in (("h_atoms", groups.h_atoms, theirs.h_atoms), ("h_pairs", groups.h_pairs, theirs.h_pairs),
                       ("one", groups.one, theirs.one), ("two", groups.two, without_ghosts(here, theirs.two))):
        for group, p, q in zip(layout.pairs if "pairs" in kind or kind == "two" else layout.atoms, a, b, strict=True):
            if kind == "h_atoms":
                p, q = p * (group.weight > 0), q * (group.weight > 0)
            if kind == "h_pairs" and group.mask is not None:
                q = q * group.mask
            same(p, q, tolerance, kind)
    same(ours.gamma, interaction_of_cores(here), tolerance, "gamma")
    same(ours.core, theirs.core, tolerance, "core")
    R = walk.distances(topology, x).R
    assert ours.closest == pytest.approx(float(R.min()), rel=1e-14) if len(R) else ours.closest >= COINCIDENT


def compare_gradient(here, tolerance=SAME):
    leaf = here.molecules.positions.detach().clone().requires_grad_()
    charges, around = here.around.charges, here.around
    if charges is not None:
        charges = replace(charges, positions=charges.positions.clone().requires_grad_())
        around = replace(around, charges=charges)
    leaves = [leaf] if charges is None else [leaf, charges.positions]
    slopes = torch.autograd.grad(energy(here, leaf, around=around).sum() + 0 * leaf.sum(), leaves)
    plan = compiled.plan(here.topology, here.parameters)
    placed = compiled.placed(here.around, here.topology.layout.molecules)
    blocks = compiled.integrals(plan, here.x, placed)
    on_atoms, on_sites = compiled.gradient(plan, here.x, here.D.numpy(), blocks, placed)
    if here.around.field is not None:
        on_atoms = on_atoms - populations_of(here)["charges"][:, None] * here.around.field[here.molecules.molecule].numpy()
    same(on_atoms, slopes[0], tolerance, "by atoms")
    assert (on_sites is None) == (charges is None)
    if on_sites is not None:
        same(on_sites, slopes[1], tolerance, "by sites")


def populations_of(here):
    made = compiled.populations(compiled.plan(here.topology, here.parameters), here.x, here.D.numpy(),
                                np.zeros(here.topology.layout.molecules))
    return made._asdict()


def compare_adjoint(here, parameters=None, tolerance=SAME):
    """Derivatives by what atoms bring, and by gamma through weights of its own."""
    parameters = here.parameters if parameters is None else parameters
    weights = torch.randn(len(here.topology.i), dtype=torch.float64, generator=torch.Generator().manual_seed(3))

    def weighted(rules, R, gamma, *_):
        return weights * gamma

    whole = weights if parameters.moved is None else weights + parameters.moved

    topology = replace(here.topology, recipe=replace(here.topology.recipe, core_energy=weighted))
    other = replace(here, topology=topology)
    leaves = {name: getattr(parameters.atoms, name).detach().clone().requires_grad_() for name in compiled.BROUGHT}
    taped = replace(parameters, atoms=replace(parameters.atoms, **leaves))
    x = here.molecules.positions.detach().clone().requires_grad_()
    resonance = [block.detach().clone().requires_grad_() for block in parameters.resonance or []]
    if resonance:
        taped = replace(taped, resonance=resonance)
    slopes = torch.autograd.grad(energy(other, x, taped).sum() + 0 * x.sum(), [*leaves.values(), x, *resonance],
                                 allow_unused=True, materialize_grads=True)
    plan = compiled.plan(topology, parameters, cores=False)
    assert len(plan.cores.charge) == 0
    placed = compiled.placed(here.around, topology.layout.molecules)
    blocks = compiled.integrals(plan, here.x, placed)
    to = compiled.adjoint(plan)
    on_atoms, _ = compiled.gradient(plan, here.x, here.D.numpy(), blocks, placed, whole.detach().numpy(), to)
    ours = np.concatenate([to.features, to.zeta, to.beta, to.core[:, None]], 1)
    theirs = torch.stack(slopes[:len(leaves)], 1).numpy()
    for values in (ours, theirs):       # a pair without own cores may be seen through these or through those
        for name, alias, factor in (("rho0", "rho_core", 1.0), ("rho1", "rho1c", 1.0), ("rho2", "rho2c", 1.0),
                                    ("Q", "D_pp", 2**0.5)):
            p, q = (compiled.BROUGHT.index(of) for of in (name, alias))
            alike = torch.isclose(factor * getattr(parameters.atoms, name), getattr(parameters.atoms, alias), 1e-14).numpy()
            values[alike, p] += factor * values[alike, q]
            values[alike, q] = 0.0
    for column, name in enumerate(compiled.BROUGHT):
        same(ours[:, column], theirs[:, column], tolerance, name)
    same(on_atoms, slopes[len(leaves)], tolerance, "by atoms")
    return to, slopes[len(leaves) + 1:]


@pytest.mark.parametrize("channels", (1, 2))
@pytest.mark.parametrize("name", CASES)
def test_blocks(name, channels, packed):
    compare_blocks(case(name, channels))


@pytest.mark.parametrize("channels", (1, 2))
@pytest.mark.parametrize("name", CASES)
def test_gradient(name, channels, packed):
    compare_gradient(case(name, channels))


@pytest.mark.parametrize("channels", (1, 2))
@pytest.mark.parametrize("name", CASES)
def test_adjoint(name, channels, packed):
    compare_adjoint(case(name, channels))


def test_every_class_of_pairs_is_among_the_cases():
    """By the orbitals of both atoms, with cores of their own and without, with and without a join; every kind of charges."""
    seen = set()
    for name in CASES:
        topology = case(name).topology
        n = topology.layout.n_ao.numpy()
        own = has_own_core(topology.recipe.rho_core, topology.recipe.elements)[topology.rows].numpy()
        for i, j in zip(topology.i.tolist(), topology.j.tolist(), strict=True):
            a, b = sorted((int(n[i]), int(n[j])), reverse=True)
            seen.add((a, b, bool(own[i] or own[j]), topology.recipe.join is not None))
    for a in ORBITALS:
        for b in ORBITALS:
            if b > a:
                continue
            assert (a, b) in {place[:2] for place in seen}, (a, b)
            if b >= 4 or a == 9:
                assert {own for *ab, own, _ in seen if ab == [a, b]} == {False, True}, (a, b)
            if b:
                assert (a, b) in {place[:2] for place in seen if place[3]}, (a, b)
    assert {pair for pair in KINDS if isinstance(pair[1], int)} <= {place[:2] for place in seen}


# --- what surrounds molecules


def charges_around(here, rho):
    """Two to four point charges around each molecule; none around the last of several."""
    random, sites, values, softness = np.random.default_rng(11), [], [], []
    count = len(here.molecules)
    for k in range(count):
        n = 0 if count > 1 and k == count - 1 else 2 + k % 3
        own = here.x[(here.molecules.molecule == k).numpy()]
        direction = random.normal(size=(n, 3))
        radius = np.abs(own - own.mean(0)).max() + random.uniform(2.0, 6.0, (n, 1))
        sites.append(own.mean(0) + 2 * radius * direction / np.linalg.norm(direction, axis=1, keepdims=True))
        values.append(random.normal(size=n))
        softness.append(random.uniform(0.2, 2.0, n) * rho)
    return PointCharges.batch(sites, values, softness)


def field_on(here):
    return torch.randn(len(here.molecules), 3, dtype=torch.float64, generator=torch.Generator().manual_seed(5)) / 10


SURROUNDED = ("s", "sp", "d", "joined metals", "joined helium", "sparkles", "smooth and joined", "a batch", "a batch with d")


@pytest.mark.parametrize("rho", (0.0, 1.0), ids=("bare", "softened"))
@pytest.mark.parametrize("name", SURROUNDED)
def test_point_charges(name, rho, packed):
    here = case(name, 2)
    here = replace(here, around=Surroundings(None, charges_around(here, rho)))
    compare_blocks(here)
    compare_gradient(here)
    compare_adjoint(here)


@pytest.mark.parametrize("beside", (False, True), ids=("alone", "beside charges"))
@pytest.mark.parametrize("name", SURROUNDED)
def test_field(name, beside, packed):
    here = case(name)
    here = replace(here, around=Surroundings(field_on(here), charges_around(here, 0.5) if beside else None))
    compare_blocks(here)
    compare_gradient(here)


def test_the_nearest_point_charge_is_told():
    here = case("sp")
    site = here.x[2] + np.array([0.0, 0.3, -0.2])
    around = compiled.placed(Surroundings(None, PointCharges.single([site, site + 4.0], [0.1, 1.0])), 1)
    near = compiled.integrals(compiled.plan(here.topology, here.parameters), here.x, around).near
    assert near == pytest.approx(np.linalg.norm([0.3, 0.2]), rel=1e-12)


@pytest.mark.parametrize("channels", (1, 2))
@pytest.mark.parametrize("name", ("s", "sp", "d", "joined metals", "sparkles", "a batch with d"))
def test_populations(name, channels, packed):
    here = case(name, channels)
    theirs = populations(here.topology, here.D, here.molecules, here.parameters.atoms)
    for quantity, ours in populations_of(here).items():
        same(ours, theirs[quantity], about=quantity)


# --- parameters of a learned model


def shifts(here, seed=2):
    """Random shifts of everything, as a network would say them; of the pairs of every second place in the list."""
    def some(*shape, size):
        return size * torch.randn(*shape, dtype=torch.float64, generator=generator)
    generator = torch.Generator().manual_seed(seed)
    atoms, near = len(here.molecules.numbers), torch.arange(0, len(here.topology.i), 2)
    return Shifts(some(atoms, 3, size=0.5), some(atoms, len(FACTOR_NAMES), size=0.05), near,
                  some(len(near), len(CHANNELS), size=0.1), some(len(near), 2, size=0.05), some(atoms, 9, size=0.2),
                  some(atoms, size=0.1), some(len(near), size=0.02))


LEARNED = {name: CASES[name] for name in ("smooth", "smooth and joined")} | {
    "near": ("RM1-smooth", [[6, 1, 8, 7, 16, 1]], 1.5), "near with d": ("PM6", [[16, 1, 8, 26, 17, 1, 14]], 1.9),
    "a batch": ("AM1-smooth", [[8, 1, 1], [6, 1, 1, 1, 1], [1, 1], [9]], 1.4)}


@pytest.mark.parametrize("name", LEARNED)
def test_shifted_parameters(name, packed):
    """Blocks and derivatives; those by the factors of the resonance integrals as derivatives by the shifts, for beside an s
    function several orbitals share one factor."""
    method_name, species, spacing = LEARNED[name]
    here = made(method_name, species, [cluster(s, spacing) for s in species], 2)
    said = shifts(here)
    said = replace(said, resonance=said.resonance.requires_grad_())
    parent = shifted.parent(here.topology, walk.rows(method(method_name)))
    parameters = shifted.shifted(here.topology, parent, said, 1)
    x = here.molecules.positions
    theirs = walk.integrals(here.topology, x, walk.distances(here.topology, x), parameters)
    plan = compiled.with_parameters(compiled.plan(here.topology, here.parameters), parameters)
    ours = compiled.integrals(plan, here.x)
    same(ours.h, one_electron(here.topology.layout, theirs), about="h")
    to, slopes = compare_adjoint(here, parameters)
    parts = torch.from_numpy(to.factors).split([block.numel() for block in parameters.resonance])
    parts = [part.view(block.shape) for part, block in zip(parts, parameters.resonance, strict=True)]
    a, b = (torch.autograd.grad(parameters.resonance, said.resonance, given, retain_graph=True)[0] for given in (parts, slopes))
    same(a, b, about="resonance")
    assert float(b.abs().max()) > 1e-6
    again = compiled.with_parameters(plan, here.parameters)     # and back
    same(compiled.integrals(again, here.x).h, compiled.integrals(compiled.plan(here.topology, here.parameters), here.x).h, 0.0)


# --- distances, exponents, directions

DISTANCES = (0.3, 0.7, 1.1, 1.9, 3.0, 5.2, 6.9, 7.1, 9.5, 11.9, 12.1, 14.2, 14.999, 15.001, 17.0, 40.0)


@cache
def directions(count):
    random = np.random.default_rng(13).normal(size=(count, 3))
    return random / np.linalg.norm(random, axis=1, keepdims=True)


def couples(method_name, pairs, distances, along=None):
    """Every pair of species at every distance: a batch of them."""
    species = [list(pair) for pair in pairs for _ in distances]
    r = np.array([R for _ in pairs for R in distances])
    u = directions(len(r)) if along is None else np.broadcast_to(along, (len(r), 3))
    return made(method_name, species, [[[0.1, -0.2, 0.3], (np.array([0.1, -0.2, 0.3]) + R * v).tolist()]
                                       for R, v in zip(r, u, strict=True)])


SCALES = (0.5, 1.0, 3.0, 8.0)       # of the exponents of one atom: zeta from 0.5 to 20 / bohr, ratios up to 40


@pytest.mark.parametrize(("method_name", "pair"), (("AM1", (6, 7)), ("AM1", (1, 53)), ("PM6", (16, 35)), ("PM6", (54, 26)),
                                                   ("PM6", (17, 1)), ("RM1-smooth", (8, 53))))
def test_overlaps_of_any_exponents(method_name, pair):
    """Far out too: resonance integrals and their derivatives by R and both exponents, by whatever quadrature each is given."""
    here = couples(method_name, [pair], [r for r in DISTANCES for _ in SCALES])
    scale = torch.tensor([[1.0, s] for _ in DISTANCES for s in SCALES], dtype=torch.float64).flatten()
    atoms = here.parameters.atoms
    atoms = replace(atoms, **{name: getattr(atoms, name) * scale for name in compiled.ZETA})
    here = replace(here, parameters=replace(here.parameters, atoms=atoms))
    compare_blocks(here)
    compare_gradient(here)
    compare_adjoint(here)


def test_a_pair_has_the_quadrature_of_a_group_of_its_own():
    """At every b and every ratio of exponents, each of them somewhere."""
    from nddo_ml.integrals.kernels.overlaps import quadrature

    choose = getattr(quadrature, "py_func", quadrature)
    slater = SimpleNamespace(rules=np.array([rule[1:] for rule in POINTS]), nodes_at=np.zeros(len(POINTS) + 1))
    chosen = set()
    for n in (1, 3, 6):
        classes = SlaterClasses(((n, n),), None, torch.zeros(1, dtype=torch.long))
        for R in np.geomspace(0.3, 28.0, 12):
            for low in (0.4, 1.0, 2.5):
                for high in (1.0, 1.3, 3.0, 10.0, 60.0):
                    zeta = torch.tensor([[low, low * high]], dtype=torch.float64)
                    place = choose(R, low, low * high, 2.0 * n, slater)
                    chosen.add(place)
                    points = reach(torch.tensor([R], dtype=torch.float64), zeta, classes, REACH / 0.529167)[1]
                    assert points == POINTS[place][0], (n, R, low, high)
    assert chosen == set(range(len(POINTS)))


AXES = [sign * np.eye(3)[axis] for axis in (2, 0, 1) for sign in (1, -1)] + [
    np.array([1e-9, 0.0, sign]) for sign in (1.0, -1.0)] + [np.array([0.0, -1e-5, sign]) for sign in (1.0, -1.0)]


@pytest.mark.parametrize("axis", AXES, ids=[" ".join(f"{a:g}" for a in axis) for axis in AXES])
def test_pairs_along_the_axes_of_the_laboratory(axis, packed):
    """And opposite to them, and beside them by hardly anything: the frame of a pair has its poles somewhere."""
    for name, pairs in (("PM6", ((6, 8), (8, 6), (16, 26), (16, 6), (1, 16), (6, 1), (1, 1))),
                        ("PM7", ((26, 2), (26, 17), (30, 6)))):
        here = couples(name, pairs, (1.9,), axis / np.linalg.norm(axis))
        compare_blocks(here)
        compare_gradient(here)
        compare_adjoint(here)


@pytest.mark.parametrize("name", ("MNDO", "AM1", "PM3", "RM1", "MNDO/d", "PM6", "PM7", "AM1-smooth", "PM7-smooth"))
def test_every_species_of_a_method(name):
    """Beside hydrogen and carbon, chlorine and itself, from where repulsion has its walls to where nothing overlaps."""
    species = [z for z in method(name).species if symbol(z) not in ("Cb", )]
    partners = [[z, p] for z in species for p in (1, 6, 17, z)]
    r = np.resize(DISTANCES, len(partners))
    x = [[[0.0, 0.0, 0.0], (R * u).tolist()] for R, u in zip(r, directions(len(r)), strict=True)]
    here = made(name, partners, x)
    compare_blocks(here)
    compare_gradient(here)


def test_walls_of_the_repulsion():
    """Gaussians that vanish, walls that are capped: everywhere between 0.06 and 9 angstrom."""
    for name, pairs in (("AM1", ((6, 6), (7, 1), (5, 1), (5, 9), (42, 1))), ("PM6", ((8, 1), (6, 6), (14, 8), (26, 17))),
                        ("PM7", ((8, 1), (6, 6), (14, 8), (17, 17))), ("MNDO", ((7, 1), (11, 8)))):
        here = couples(name, pairs, np.geomspace(0.06, 9.0, 40).tolist())
        x = here.molecules.positions.clone().requires_grad_()
        distances = walk.distances(here.topology, x)
        core = walk.integrals(here.topology, x, distances, here.parameters).core
        plan = compiled.plan(here.topology, here.parameters)
        blocks = compiled.integrals(plan, here.x)
        same(blocks.core / core.detach().numpy(), np.ones(len(core)), about=name)
        slope, = torch.autograd.grad(core.sum(), x)
        ours = compiled.gradient(plan, here.x, np.zeros_like(here.D.numpy()), blocks)[0]
        scale = slope.norm(dim=1).numpy()[:, None] + 1e-6
        same(ours / scale, slope.numpy() / scale, about=name)


def test_atoms_on_one_spot_are_seen():
    here = case("sp")
    x = here.x.copy()
    x[3] = x[0] + np.array([0.0, 0.01, 0.0])
    closest = compiled.integrals(compiled.plan(here.topology, here.parameters), x).closest
    assert closest == pytest.approx(0.01) and closest < COINCIDENT
    x[3] = x[0]
    assert compiled.integrals(compiled.plan(here.topology, here.parameters), x).closest == 0.0


def test_the_repulsion_of_cores_of_another_form_is_left_to_torch():
    here = case("sp")

    def doubled(rules, R, gamma, i, j, pairs):
        return 2 * nuclear.exponential(rules, R, gamma, i, j, pairs)

    topology = replace(here.topology, recipe=replace(here.topology.recipe, core_energy=doubled))
    plan = compiled.plan(topology, here.parameters)
    assert len(plan.cores.charge) == 0 and not compiled.integrals(plan, here.x).core.any()
    assert not compiled.integrals(compiled.plan(here.topology, here.parameters, cores=False), here.x).core.any()
    moved = replace(here.parameters, moved=torch.full((len(topology.i),), 0.1, dtype=torch.float64))
    assert len(compiled.plan(here.topology, moved).cores.charge) == 0


# --- what the kernels are written in


def leaves(tree):
    """The arrays and numbers of records, one after another."""
    return [leaf for member in tree for leaf in leaves(member)] if isinstance(tree, tuple) else [np.asarray(tree)]


@pytest.mark.skipif(not INTERPRETED, reason="by test_interpreted_kernels, in a process of its own")
@pytest.mark.parametrize("name", ("sp", "joined metals", "sparkles", "bare cores alone", "a batch with d"))
def test_unfolding_is_the_inverse_of_folding(name, monkeypatch):
    from nddo_ml.integrals.kernels import unfold

    seen = []

    def noted(*trees):
        seen.append(trees)
        return folded(*trees)

    here = case(name)
    sparse.constants.cache_clear()
    monkeypatch.setattr(sparse, "folded", noted)
    plan = compiled.plan(here.topology, here.parameters)
    scaling = plan.scaling
    pairs = [(seen[-1][0], unfold.constants(plan.constants))]
    pairs += [(plan.atoms, unfold.atoms(plan.batch)), (plan.pairs, unfold.pairs(plan.batch)),
              (plan.cores, unfold.cores(plan.batch)),
              (scaling, unfold.scaling(plan.batch, scaling.join, scaling.fade, scaling.factors))]
    for before, after in pairs:
        assert type(before) is type(after)
        for a, b in zip(leaves(before), leaves(after), strict=True):
            assert a.shape == b.shape and np.array_equal(a, b)
    room = np.arange(ROOM, dtype=float)
    ends = np.cumsum([0, *(view.size for view in unfold.scratch(room))])
    assert ends[-1] == ROOM and all(view.flat[0] == start for view, start in zip(unfold.scratch(room), ends, strict=False))


@pytest.mark.skipif(not INTERPRETED, reason="by test_interpreted_kernels, in a process of its own")
@pytest.mark.parametrize("name", SMALL)
def test_nothing_is_read_beyond_the_end_of_an_array(name):
    """numba does not look, numpy does."""
    here = case(name, 2)
    here = replace(here, around=Surroundings(field_on(here), charges_around(here, 1.0)))
    compare_blocks(here)
    compare_gradient(here)
    compare_adjoint(replace(here, around=Surroundings(None, here.around.charges)))
    populations_of(here)


@pytest.mark.skipif(INTERPRETED, reason="this is what it starts")
def test_interpreted_kernels():
    """The tests above that ask for it, in a process in which kernels are plain Python."""
    done = subprocess.run([sys.executable, "-m", "pytest", "-k", "inverse or beyond", str(Path(__file__))], capture_output=True,
                          text=True, env={**os.environ, "NUMBA_DISABLE_JIT": "1"}, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert f"{5 + len(SMALL)} passed" in done.stdout
