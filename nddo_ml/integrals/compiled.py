"""The integrals of a batch and their derivatives at a fixed density, compiled: what torch does on its tape, in one sweep over
the pairs of atoms and without a tape.

An `IntegralPlan` holds what does not depend on the positions. It is made from the topology and the parameters of the torch
path, so that nothing is fitted or looked up twice; kernels (folder `kernels`) do the rest. Call these functions where kernels
are ready (common/compiling.py).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from threading import local
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from nddo_ml.common.struct import ordinary
from nddo_ml.integrals import nuclear
from nddo_ml.integrals.blocks import Integrals
from nddo_ml.integrals.pair_species import HELIUM, has_own_core
from nddo_ml.integrals.placed import Parameters
from nddo_ml.integrals.records import ROOM, Adjoint, Array, Atoms, Cores, Folded, Indices, Pairs, Scaling, Sites, folded
from nddo_ml.integrals.sparse import FEATURES, KINDS, ORBITALS, PACKED, Class, constants
from nddo_ml.integrals.topology import Topology
from nddo_ml.molecules import PointCharges, Surroundings
from nddo_ml.orbitals import DISTRIBUTIONS, first_orbitals, one_centre_places

IS_HELIUM, IS_METAL, HAS_OWN_CORE = 1, 2, 4         # bits of Atoms.special, as the kernels read them
EXPONENTIAL, DAMPED = 0, 1                          # forms of the core-core repulsion
ZETA, BETA = (tuple(f"{name}_{shell}" for shell in "spd") for name in ("zeta", "beta"))     # of AtomIntegrals
BROUGHT = (*FEATURES, *ZETA, *BETA, "core")
NOT_ANY = np.zeros(0)
NO_ROWS = np.zeros((0, 2))


@dataclass(frozen=True, eq=False)
class IntegralPlan:
    """What the integrals of a batch are made from, but for the positions."""

    atoms: Atoms
    pairs: Pairs
    cores: Cores
    scaling: Scaling        # but for what depends on the positions
    constants: Folded       # of the method (records.Sparse)
    batch: Folded           # the atoms, pairs, cores and scaling above
    one: Array              # one-centre two-electron blocks of the atoms, eV
    one_at: Indices         # where that of an atom begins
    one_stride: Indices     # from one of its rows to the next
    orbitals: Indices       # (molecule)
    size: int               # orbitals of the padded matrices
    two_size: int
    join: Callable[[Tensor], Tensor] | None     # of the recipe: of distances in angstrom
    fade: Callable[[Tensor], Tensor] | None


@dataclass(frozen=True, eq=False)
class Blocks:
    """The integrals of a batch, eV."""

    h: Float[np.ndarray, "molecule orbital orbital"]
    two: Float[np.ndarray, "element"]
    gamma: Float[np.ndarray, "pair"]        # interaction of unit cores, in the order of the topology
    core: Float[np.ndarray, "molecule"]     # energy of the cores, with each other and with what surrounds them
    closest: float                          # smallest distance between two atoms, angstrom
    near: float                             # and between an atom and a point charge
    scaling: Scaling                        # at these positions


def plan(topology: Topology, parameters: Parameters, cores: bool = True) -> IntegralPlan:
    """The plan of a batch. cores: whether the repulsion of the cores is part of it; forms that are not those of
    `integrals.nuclear` never are, and `IntegralPlan.cores.charge` is empty then.
    """
    layout, recipe = topology.layout, topology.recipe
    n_ao, molecule = _n(layout.n_ao), _n(layout.molecule)
    one_at, one_stride = one_centre_places(layout)
    elements = topology.elements
    own = _n(has_own_core(recipe.rho_core, recipe.elements))[_n(topology.rows)]
    special = (IS_HELIUM * (_n(elements.number) == HELIUM) + IS_METAL * (_n(elements.occ_d) > 0) + HAS_OWN_CORE * own)
    places = np.searchsorted(ORBITALS, n_ao)
    made = Atoms(n_ao, places, first_orbitals(n_ao, molecule), molecule, special.astype(np.int64), *_brought(parameters),
                 _places_of_U(topology))
    i, j = _n(topology.i), _n(topology.j)
    swap = n_ao[i] < n_ao[j]
    order = np.argsort(_n(topology.molecule), kind="stable")
    i, j = np.where(swap, j, i)[order], np.where(swap, i, j)[order]
    kind, (slater, classes) = _kinds(n_ao, i, j), _classes(topology, n_ao, i, j)
    packed = PACKED[places]
    sizes = packed[i] * packed[j]
    needed = set(np.unique(kind[n_ao[j] > 0]).tolist()) | {KINDS.index((n, "core")) for n in set(n_ao.tolist()) - {0}}
    separate = (own[i] | own[j] | (n_ao[j] == 0)).astype(np.int64)
    pairs = Pairs(i, j, order, places[i], places[j], kind, slater, separate, np.cumsum(sizes) - sizes)
    repulsion, scaling = _cores(topology, parameters) if cores else NO_CORES, _scaling(topology, parameters, swap[order], order)
    return IntegralPlan(
        made, pairs, repulsion, scaling, constants(tuple(sorted(needed)), classes, recipe.constants),
        folded(made, pairs, repulsion, scaling[3:]),
        _flat(parameters.one), one_at, one_stride, _n(layout.orbitals), layout.size, int(sizes.sum()), recipe.join, recipe.fade)


def with_parameters(plan: IntegralPlan, parameters: Parameters) -> IntegralPlan:
    """The plan of the same batch with other parameters of its atoms and factors of its resonance integrals; the repulsion of
    the cores is no part of it."""
    held = plan.atoms
    atoms = Atoms(*held[:5], *_brought(parameters), held.U_at)
    factors = NOT_ANY if parameters.resonance is None else _flat(parameters.resonance)
    reals = folded(atoms, NO_CORES, plan.scaling[3:])
    batch = plan.batch._replace(reals=reals.reals, reals_at=reals.reals_at)
    return replace(plan, atoms=atoms, cores=NO_CORES, scaling=plan.scaling._replace(factors=factors), batch=batch,
                   one=_flat(parameters.one))


@cache
def _kernels() -> tuple[ModuleType, ModuleType, ModuleType]:
    """The kernels of pairs, of what surrounds molecules, and of gradients, imported when they are first needed."""
    from nddo_ml.integrals.kernels import external, gradients, pairs

    return pairs, external, gradients


class _Scratch(local):
    """Where the kernels of a thread work."""

    def __init__(self) -> None:
        self.room = np.empty(ROOM)


_scratch = _Scratch()


def integrals(plan: IntegralPlan, x: Float[np.ndarray, "atom 3"], surroundings: "Placed | None" = None) -> Blocks:
    """The integrals at the positions x (angstrom)."""
    pairs, external, _ = _kernels()
    molecules, batch, tables = len(plan.orbitals), plan.batch, plan.constants
    h, two = np.zeros((molecules, plan.size, plan.size)), np.empty(plan.two_size)
    gamma, potential, energy = np.empty(len(plan.pairs.i)), np.zeros((len(x), 45)), np.zeros(molecules)
    scaling, room, near = scaled(plan, x), _scratch.room, np.inf
    closest = pairs.pair_integrals(0, len(plan.pairs.i), x, tables, batch, *scaling[:3], room, h, two, gamma, potential, energy)
    if surroundings is not None and surroundings.field is not None:
        external.field_potential(x, surroundings.field, tables, batch, potential, energy)
    if surroundings is not None and surroundings.sites is not None:
        near = external.charge_potential(0, len(x), x, surroundings.sites, tables, batch, plan.join is not None, room,
                                         potential, energy)
    pairs.one_centre_blocks(batch, potential, h)
    return Blocks(h, two, gamma, energy, closest, near, scaling)


class Placed(NamedTuple):
    """What surrounds a batch."""

    field: Array | None             # (molecule, 3), V/angstrom
    sites: Sites | None


def placed(surroundings: Surroundings, molecules: int) -> Placed | None:
    """What surrounds so many molecules; None: nothing."""
    if not surroundings:
        return None
    charges: PointCharges | None = surroundings.charges
    field = None if surroundings.field is None else np.ascontiguousarray(_n(surroundings.field))
    sites = None if charges is None else Sites(
        np.ascontiguousarray(_n(charges.positions)), np.ascontiguousarray(_n(charges.charges)),
        np.ascontiguousarray(_n(charges.rho)), np.searchsorted(_n(charges.molecule), np.arange(molecules + 1)))
    return Placed(field, sites)


NO_ADJOINT = Adjoint(NO_ROWS, NO_ROWS, NO_ROWS, NOT_ANY, NOT_ANY)        # no derivatives by parameters


def adjoint(plan: IntegralPlan) -> Adjoint:
    """Zeros, to which derivatives by parameters are added."""
    atoms = len(plan.atoms.n_ao)
    return Adjoint(np.zeros((atoms, len(FEATURES))), np.zeros((atoms, 3)), np.zeros((atoms, 3)), np.zeros(atoms),
                   np.zeros_like(plan.scaling.factors))


def gradient(plan: IntegralPlan, x: Float[np.ndarray, "atom 3"], densities: Float[np.ndarray, "molecule spin orbital orbital"],
             blocks: Blocks, surroundings: Placed | None = None, gamma_weights: Array = NOT_ANY, to: Adjoint | None = None
             ) -> tuple[Float[np.ndarray, "atom 3"], Float[np.ndarray, "site 3"] | None]:
    """dE/dx on the atoms and on the point charges (eV/angstrom) at fixed densities, without the force of a field on the charges
    of the atoms; blocks: the integrals there.

    gamma_weights: derivatives of further energies by blocks.gamma. to: takes the derivatives by the parameters of the atoms.
    """
    _, external, gradients = _kernels()
    room, slopes, on_sites = _scratch.room, np.zeros(x.shape), None
    to = NO_ADJOINT if to is None else to
    gradients.pair_gradient(0, len(plan.pairs.i), x, densities, plan.constants, plan.batch, *blocks.scaling[:3], room,
                            blocks.two, blocks.gamma, gamma_weights, slopes, to)
    if surroundings is not None and surroundings.sites is not None:
        on_sites = np.zeros_like(surroundings.sites.x)
        external.charge_gradient(0, len(x), x, densities, surroundings.sites, plan.constants, plan.batch,
                                 plan.join is not None, room, slopes, on_sites, to)
    return slopes, on_sites


class Populations(NamedTuple):
    """What a density says of the atoms and the molecules."""

    charges: Float[np.ndarray, "atom"]              # Coulson, e
    dipole: Float[np.ndarray, "molecule 3"]         # e angstrom, about the origin
    spin_populations: Float[np.ndarray, "atom"]
    s2: Float[np.ndarray, "molecule"]


def populations(plan: IntegralPlan, x: Float[np.ndarray, "atom 3"],
                densities: Float[np.ndarray, "molecule spin orbital orbital"], s2: Float[np.ndarray, "molecule"]
                ) -> Populations:
    """`properties.populations` of densities at the positions x (angstrom); s2: S_z (S_z + 1)."""
    made = Populations(np.empty(len(x)), np.zeros((len(densities), 3)), np.empty(len(x)), s2.copy())
    _kernels()[1].populations(x, densities, plan.constants, plan.batch, np.empty(45), *made)
    return made


def blocks_of_groups(plan: IntegralPlan, topology: Topology, blocks: Blocks) -> Integrals:
    """The integrals in the blocks of the layout's groups, for what works on them with torch; zeros for ghost functions."""
    layout, h = topology.layout, torch.from_numpy(blocks.h).view(-1)
    h_atoms = [h[group.packed] for group in layout.atoms]
    h_pairs = [h[group.block] if group.mask is None else h[group.block] * group.mask for group in layout.pairs]
    one = [torch.from_numpy(plan.one[plan.one_at[group.atoms[0]]:][:len(group.atoms) * m * m].reshape(-1, m, m))
           for group in layout.atoms for m in (DISTRIBUTIONS[group.orbitals],)]
    place = np.empty_like(plan.pairs.order)
    place[plan.pairs.order] = np.arange(len(place))
    packed = PACKED[plan.atoms.shell]
    values = np.append(blocks.two, 0.0)
    two, start = [], 0
    for group in layout.pairs:
        k = place[start:start + len(group.i)]
        start += len(k)
        i, j = _n(group.i), _n(group.j)
        swapped = plan.pairs.i[k] != i
        row, column = np.where(swapped, 1, packed[j]), np.where(swapped, packed[i], 1)
        x, y = (np.arange(DISTRIBUTIONS[n]) for n in group.shells)
        at = (plan.pairs.two_at[k][:, None, None] + row[:, None, None] * x[None, :, None]
              + column[:, None, None] * y[None, None, :])
        real = (x[None, :, None] < packed[i][:, None, None]) & (y[None, None, :] < packed[j][:, None, None])
        two.append(torch.from_numpy(values[np.where(real, at, -1)]))
    return Integrals(h_atoms, h_pairs, one, two, torch.from_numpy(blocks.core))


def scaled(plan: IntegralPlan, x: Float[np.ndarray, "atom 3"]) -> Scaling:
    """The factors of the integrals at the positions x (angstrom), with their derivatives by the distance."""
    if plan.join is None and plan.fade is None:
        return plan.scaling
    i, j, order = plan.pairs.i, plan.pairs.j, plan.pairs.order
    r = np.empty(len(i))
    r[order] = np.sqrt(np.square(x[j] - x[i]).sum(1))
    join, fade = (NO_ROWS if function is None else _with_slope(function, r) for function in (plan.join, plan.fade))
    return plan.scaling._replace(join=join, fade=fade)


def _with_slope(function: Callable[[Tensor], Tensor], r: Array) -> Float[np.ndarray, "pair 2"]:
    """A function of distances and its derivative."""
    with ordinary(), torch.enable_grad():
        R = torch.from_numpy(r).requires_grad_()
        values = function(R)
        slopes, = torch.autograd.grad(values.sum(), R)
    return np.stack([values.detach().numpy(), slopes.numpy()], 1)


def _n(tensor: Tensor) -> NDArray[Any]:
    return tensor.detach().numpy()


def _flat(blocks: Sequence[Tensor]) -> Array:
    """The numbers of several tensors, one after another."""
    return np.concatenate([*(_n(block).ravel() for block in blocks), NOT_ANY])


def _brought(parameters: Parameters) -> tuple[Array, Array, Array, Array, Array, Array]:
    """What atoms bring to the integrals: features, zeta, beta, core, rho_core and U of records.Atoms."""
    columns = [getattr(parameters.atoms, name) for name in BROUGHT]
    table = _n(torch.stack(columns))
    features, zeta, beta = (np.ascontiguousarray(table[part].T) for part in (slice(0, 16), slice(16, 19), slice(19, 22)))
    return features, zeta, beta, table[22], np.ascontiguousarray(features[:, FEATURES.index("rho_core")]), _flat(parameters.U)


def _places_of_U(topology: Topology) -> Indices:
    """Where the packed one-electron block of each atom begins in the blocks of the groups one after another."""
    at, start = np.zeros(len(topology.layout.n_ao), dtype=np.int64), 0
    for group in topology.layout.atoms:
        here, m = _n(group.atoms), DISTRIBUTIONS[group.orbitals]
        at[here] = start + m * np.arange(len(here))
        start += m * len(here)
    return at


def _kinds(n_ao: Indices, i: Indices, j: Indices) -> Indices:
    """The kind of charge distributions of each pair (sparse.KINDS); 0 where j has none."""
    table = np.zeros((10, 10), dtype=np.int64)
    for number, (n_i, n_j) in enumerate(KINDS):
        if isinstance(n_j, int):
            table[n_i, n_j] = number
    return table[n_ao[i], n_ao[j]]


def _classes(topology: Topology, n_ao: Indices, i: Indices, j: Indices) -> tuple[Indices, tuple[Class, ...]]:
    """The class of quantum numbers of each pair, and what these classes are."""
    elements = topology.elements
    n = np.stack([_n(elements.n_s), _n(elements.n_p), _n(elements.n_d)], 1)
    n = np.where(np.arange(3)[None] < np.searchsorted((1, 4, 9), n_ao, side="right")[:, None], n, 0)
    own = (n_ao * 512 + n[:, 0] * 64 + n[:, 1] * 8 + n[:, 2])
    codes, numbers = np.unique(own[i] * 8192 + own[j], return_inverse=True)

    def described(code: int) -> tuple[int, tuple[int, ...]]:
        return code // 512, tuple(k for k in (code // 64 % 8, code // 8 % 8, code % 8) if k)

    classes: list[Class] = []
    for code in codes.tolist():
        (n_i, first), (n_j, second) = described(code // 8192), described(code % 8192)
        classes.append((n_i, n_j, first + second))
    return numbers.astype(np.int64), tuple(classes)


NO_CORES = Cores(EXPONENTIAL, NOT_ANY, np.zeros((0, 7)), np.zeros(1, dtype=np.int64), np.zeros((0, 3)))


def _cores(topology: Topology, parameters: Parameters) -> Cores:
    """The repulsion of the cores, if it has one of the two forms of `integrals.nuclear` and nothing is added to it."""
    rules, energy = topology.rules, topology.recipe.core_energy
    first, second, pair = parameters.core_i, parameters.core_j, parameters.pairs
    alpha, x = _n(pair.alpha), _n(pair.x)
    if parameters.moved is not None:
        return NO_CORES
    if energy is nuclear.exponential and isinstance(rules, nuclear.ExponentialRules):
        form = EXPONENTIAL
        exponents = np.where(_n(rules.shared), alpha[:, None], np.stack([_n(first.alpha), _n(second.alpha)], 1))
        values = np.concatenate([exponents, _n(rules.constant) + _n(rules.slope) * x[:, None], _n(rules.linear),
                                 np.zeros((len(x), 1))], 1)
        special = rules.special
    elif energy is nuclear.damped and isinstance(rules, nuclear.DampedRules):
        form, special = DAMPED, None
        values = np.column_stack((alpha, x, _n(rules.square), _n(rules.extra), _n(rules.wall)))
    else:
        return NO_CORES
    half = rules.count.shape[1] // 2
    K, L, M = (np.concatenate([_n(a)[:, :half], _n(b)[:, :half]], 1) for a, b in (
        (first.K, second.K), (first.L, second.L), (first.M, second.M)))
    K = K * _n(rules.count)
    if special is not None:
        K, L, M = (np.concatenate([a, _n(b)], 1) for a, b in ((K, special.K), (L, special.L), (M, special.M)))
    held = K != 0
    return Cores(form, np.ascontiguousarray(_n(rules.charge)), np.ascontiguousarray(values, dtype=float),
                 np.concatenate([[0], np.cumsum(held.sum(1))]).astype(np.int64), np.stack([K[held], L[held], M[held]], 1))


def _scaling(topology: Topology, parameters: Parameters, swapped: NDArray[np.bool_], order: Indices) -> Scaling:
    """The factors that do not depend on the positions. swapped: which pairs of a plan have the two atoms of the topology's pair
    in the other order."""
    at, strides, start = [np.zeros(0, dtype=np.int64)], [np.zeros((0, 2), dtype=np.int64)], 0
    for group in topology.layout.pairs:
        count, elements = len(group.i), group.shells[0] * group.shells[1]
        at.append(start + elements * np.arange(count))
        strides.append(np.tile([[group.shells[1], 1]], (count, 1)))
        start += count * elements
    both, turned = np.concatenate(strides), np.zeros(len(order), dtype=bool)
    turned[order] = swapped
    both = np.where(turned[:, None], both[:, ::-1], both)
    factors = NOT_ANY if parameters.resonance is None else _flat(parameters.resonance)
    return Scaling(NO_ROWS, NO_ROWS, factors, topology.recipe.constants.coulomb, np.concatenate(at), np.ascontiguousarray(both))
