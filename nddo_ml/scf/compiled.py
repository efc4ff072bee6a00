"""The self-consistent field, compiled: the first rung of the ladder for every molecule of a batch by itself, in one call.

The kernels (folder `kernels`) take the decisions of the torch ladder with its constants, so they need its iterations; molecules
that they do not bring to a clear end within STEPS are handed over, with the reason. A `Plan` says where the integrals of a
batch lie in flat arrays; it is made from a layout, or from atoms whose blocks lie pair after pair. Call these functions where
kernels are ready (common/compiling.py).
"""

import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import Enum
from functools import cache
from types import ModuleType

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nddo_ml.common.threads import blas_threads, one_blas_thread
from nddo_ml.orbitals import DISTRIBUTIONS, Layout, first_orbitals, one_centre_places
from nddo_ml.scf import accelerate, newton, rungs
from nddo_ml.scf.flat import padded, taken
from nddo_ml.scf.options import SCF
from nddo_ml.scf.problem import FLOAT32_FROM, Problem, Solution
from nddo_ml.scf.records import Ends, Flat, Indices, Plan, Rules, Whole, folded

STEPS = 15              # iterations in all, beyond which a case counts as difficult
# eV: below, there may be several states, and which one is found a matter of rounding: torch is to find its own. For what
# follows an earlier state, and for molecules that would take long (from FLOAT32_FROM orbitals on), below 1 eV alone: levels
# may be inverted there (ladder.CLEAR_GAP)
GAP, GAP_FOLLOWED = 5.0, 1.0
WORTH = 3e6             # cubes of orbitals, summed over molecules, from which on threads share them (some milliseconds)


class Why(Enum):
    """Why a molecule is handed over to the torch ladder."""

    STEPS = f"not converged within {STEPS} iterations"
    GAP = "the gap is small"
    OCCUPATIONS = "levels are half filled, or not in ascending order"
    FINITE = "numbers are not finite"


@dataclass(frozen=True, eq=False)
class Begun:
    """What molecules begin with: matrices of one molecule after the other, (spin, orbital, orbital) each."""

    matrices: Float[np.ndarray, "element"]
    orbitals: bool = False      # whether they are orbitals (rows, occupied ones first), from which Newton's method begins, or
    #                             densities
    followed: bool = False      # whether they are those of an earlier state


@dataclass(frozen=True, eq=False)
class Climbed:
    """Where molecules ended, and which of them are handed over."""

    ends: Ends
    why: list[Why | None]       # of each molecule; None: it is solved


def arranged(n_ao: Whole, molecule: Whole, places: tuple[Whole, Whole], pairs: tuple[Whole, Whole, Whole, Whole],
             size: int | None = None) -> Plan:
    """The plan of atoms with `n_ao` orbitals each, owned by `molecule` (non-decreasing).

    places: where the one-centre blocks begin, and from row to row there. pairs: first atom (the one with more orbitals), second
    atom, where the block begins and from row to row there; in any order, those of a molecule together. size: of the padded
    matrices.
    """
    count = int(molecule[-1]) + 1 if len(molecule) else 0
    orbitals = np.bincount(molecule, weights=n_ao, minlength=count).astype(np.int64)
    elements = np.concatenate([[0], np.cumsum(orbitals**2)])
    first = first_orbitals(n_ao, molecule)
    bounds = np.arange(count + 1)
    atoms = np.searchsorted(molecule, bounds)
    i, j, at, stride = pairs
    owner = molecule[i]
    indices = Indices(atoms, np.searchsorted(owner, bounds), elements, orbitals, first, n_ao, *places, i - atoms[owner],
                      j - atoms[owner], at, stride)
    size = int(orbitals.max(initial=1)) if size is None else size
    inside = None
    if int(elements[-1]) != count * size * size:
        real = np.arange(size)[None] < orbitals[:, None]
        inside = np.flatnonzero(real[:, :, None] & real[:, None, :])
    return Plan(folded(indices), orbitals, size, inside)


_plans: "weakref.WeakKeyDictionary[Layout, Plan]" = weakref.WeakKeyDictionary()     # layouts are kept while atoms move


def plan(layout: Layout) -> Plan:
    """The plan of a batch whose integrals lie in the blocks of the layout's groups, one group after another."""
    if layout not in _plans:
        _plans[layout] = _plan(layout)
    return _plans[layout]


def _plan(layout: Layout) -> Plan:
    n_ao, molecule = layout.n_ao.numpy(), layout.molecule.numpy()
    columns, start = [np.zeros((4, 0), dtype=np.int64)], 0
    for group in layout.pairs:
        i, j, (m_i, m_j) = group.i.numpy(), group.j.numpy(), (DISTRIBUTIONS[n] for n in group.shells)
        at, stride = start + m_i * m_j * np.arange(len(i)), np.full(len(i), m_j)
        start += m_i * m_j * len(i)
        swap = n_ao[i] < n_ao[j]        # an s atom treated as sp, before a real one: its distributions are the rows
        columns.append(np.stack([np.where(swap, j, i), np.where(swap, i, j), at, np.where(swap, 1, stride)]))
    pairs = np.concatenate(columns, 1)
    pairs = pairs[:, np.argsort(molecule[pairs[0]], kind="stable")]
    return arranged(n_ao, molecule, one_centre_places(layout), (pairs[0], pairs[1], pairs[2], pairs[3]), layout.size)


def rules(tolerance: float, steps: int = STEPS) -> Rules:
    """The constants of the first rung of the torch ladder."""
    return Rules(tolerance, steps, rungs.SWITCH, accelerate.RIDGE, rungs.HISTORY, newton.RADIUS, newton.LARGEST_RADIUS,
                 newton.SHORTENINGS, newton.NEAR, newton.COARSE, newton.FINEST, newton.LAST_FRACTION, newton.INNER,
                 newton.SMALLEST_PIVOT)


def solve(flat: Flat, h: Float[np.ndarray, "element"], start: Begun, filled: Int[np.ndarray, "molecule spin"],
          rules: Rules, special: Bool[np.ndarray, "molecule"] | None = None) -> Climbed:
    """The self-consistent field of every molecule from `start`; the energy counts no cores. h: core Hamiltonians of one
    molecule after the other, eV; filled: electrons of each spin; special: molecules that are handed over for their occupations.
    """
    count = len(filled)
    made = _ends(count, len(h) * filled.shape[1])
    (made.C if start.orbitals else made.D)[:] = start.matrices
    chosen = np.arange(count)
    if special is not None:
        made.residual[special] = np.inf
        chosen = chosen[~special]
    _share(flat, h, start.orbitals, filled, rules, made, chosen)
    followed, sizes = start.orbitals or start.followed, flat.plan.orbitals.tolist()
    why: list[Why | None] = []
    for k, (residual, gap) in enumerate(zip(made.residual.tolist(), made.gap.tolist(), strict=True)):
        if special is not None and special[k]:
            why.append(Why.OCCUPATIONS)
        elif residual != residual:
            why.append(Why.FINITE)
        elif residual > rules.tolerance:
            why.append(Why.STEPS)
        else:
            clear = GAP_FOLLOWED if followed or sizes[k] >= FLOAT32_FROM else GAP
            why.append(None if gap > clear else Why.GAP)
    return Climbed(made, why)


def _ends(molecules: int, elements: int) -> Ends:
    """Room for so many molecules whose matrices have so many elements, nothing of them solved."""
    matrices, numbers = np.empty(3 * elements), np.zeros(4 * molecules)
    gap = numbers[2 * molecules:3 * molecules]
    gap[:] = np.inf
    return Ends(matrices[:elements], matrices[elements:2 * elements], matrices[2 * elements:], numbers[:molecules],
                numbers[molecules:2 * molecules], gap, numbers[3 * molecules:])


def _filled(problem: Problem) -> tuple[Int[np.ndarray, "molecule spin"], Bool[np.ndarray, "molecule"] | None]:
    """The electrons of each spin, and which molecules have half-filled levels, or levels not in ascending order; None: none."""
    if problem.filled is not None:
        return problem.filled, None
    occupations = problem.occupations.numpy()
    filled = occupations.sum(-1).round().astype(np.int64)
    special = (occupations != (np.arange(occupations.shape[-1]) < filled[..., None])).any((1, 2))
    return filled, special if bool(special.any()) else None


def _share(flat: Flat, h: Float[np.ndarray, "element"], from_orbitals: bool, filled: Whole, rules: Rules, made: Ends,
           chosen: Whole) -> None:
    """Solve the `chosen` molecules, in as many threads as torch has where there are several."""
    (fixed_point, newton), plan = _kernels(), flat.plan
    sizes = plan.orbitals[chosen]
    large = sizes >= FLOAT32_FROM
    some = np.count_nonzero(large)
    rough = (flat.one.astype(np.float32), flat.two.astype(np.float32)) if some else (flat.one, flat.two)

    def work(members: Whole, single: bool) -> None:
        one, two = rough if single else (flat.one, flat.two)
        if not from_orbitals:
            fixed_point.fixed_points(members, plan.indices, h, one, two, filled, rules, made)
        newton.newtons(members, plan.indices, h, flat.one, flat.two, one, two, single and not from_orbitals, filled, rules,
                       made)

    groups = [(chosen, False)] if not some else [
        (members, single) for members, single in ((chosen[~large], False), (chosen[large], True)) if len(members)]
    threads = torch.get_num_threads()
    if threads == 1 or len(chosen) == 1 or float((sizes.astype(float)**3).sum()) < WORTH:
        with blas_threads():
            for members, single in groups:
                work(members, single)
        return
    with one_blas_thread(), ThreadPoolExecutor(threads) as pool:
        shares = [(np.ascontiguousarray(members[t::threads]), single) for members, single in groups for t in range(threads)]
        for done in [pool.submit(work, members, single) for members, single in shares if len(members)]:
            done.result()


@cache
def _kernels() -> tuple[ModuleType, ModuleType]:
    """The kernels, imported when they are first needed."""
    from nddo_ml.scf.kernels import fixed_point, newton

    return fixed_point, newton


def first_rung(problem: Problem, start: Begun, scf: SCF) -> tuple[Solution, list[int]]:
    """The solution, and the molecules that are handed over to the torch ladder: whatever their part of the solution says, they
    are not solved."""
    flat = problem.flat
    if flat is None:
        flat = Flat(plan(problem.layout), _joined(problem.integrals.one), _joined(problem.integrals.two))
    places = flat.plan
    limits = rules(scf.tolerance, min(STEPS, scf.max_steps))
    filled, special = _filled(problem)
    climbed = solve(flat, taken(places, problem.h), start, filled, limits, special)
    ended, spins = climbed.ends, filled.shape[1]
    D, F, C = (padded(places, matrices, spins) for matrices in ended[:3])
    numbers = (ended.energy, ended.residual <= scf.tolerance, ended.residual, ended.iterations.astype(np.int64),
               np.zeros(len(filled), dtype=np.int64), ended.gap)
    energy, converged, residual, iterations, rung, gap = map(torch.from_numpy, numbers)
    solution = Solution(D, F, energy, converged, residual, iterations, rung, gap, C)
    return solution, [k for k, why in enumerate(climbed.why) if why is not None]


def begun(problem: Problem, density: Float[Tensor, "molecule spin orbital orbital"],
          orbitals: Float[Tensor, "molecule spin orbital orbital"] | None, followed: bool) -> Begun:
    """Where molecules begin, as the kernels take it. orbitals: padded (Solution.C); they come before the density."""
    places = plan(problem.layout) if problem.flat is None else problem.flat.plan
    given = density if orbitals is None else orbitals
    return Begun(taken(places, given), orbitals is not None, followed)


def _joined(blocks: list[Tensor]) -> Float[np.ndarray, "element"]:
    """Blocks of groups end to end."""
    flat = [block.reshape(-1) for block in blocks]
    return (flat[0] if len(flat) == 1 else torch.cat(flat) if flat else torch.zeros(0, dtype=torch.float64)).numpy()
