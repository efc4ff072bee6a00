"""The self-consistent field: the fixed point D = density(fock(D)), by a ladder of methods that needs no settings.

1. `diis`: extrapolation until the commutator is small (early iterations of large molecules in float32), then `newton`,
quadratic.
2. `ediis`: where that fails, energy-DIIS with damping and a level shift, then DIIS, then Newton.
3. `smearing`: Fermi occupations annealed to zero temperature, then Newton, which goes downhill from wherever that ends.

Every molecule of a batch climbs only as far as it must: those that a rung leaves behind are taken out and tried on the next,
and the report says which rung each one needed. Nothing here is on a tape; derivatives come from response.py.
"""

from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.utils import _pytree as pytree

from nddo_ml.common.struct import choose, ordinary, record, tensor_map
from nddo_ml.orbitals import Layout, layout
from nddo_ml.scf.accelerate import History, diis, energy_diis
from nddo_ml.scf.density import Orbitals, density, diagonalise, fermi
from nddo_ml.scf.fock import Integrals, Kernel, fock, kernel, one_electron
from nddo_ml.scf.newton import newton
from nddo_ml.scf.options import SCF
from nddo_ml.scf.rotations import levels, rotate, spaces

SWITCH = 0.1            # eV: commutator below which Newton's method takes over
FLOAT32_FROM = 60       # orbitals: from here on early iterations and inner solves run in float32
HISTORY = 8
DIIS_STEPS = 30
NEWTON_STEPS = 30
INVERTED = -0.01        # eV: an empty level this far below an occupied one of the same spin marks a saddle point
CLEAR_GAP = 1.0         # eV: beyond it the rough gap of the last step proves that nothing is inverted
# tangents of the angles by which inverted pairs are mixed, one attempt after another, and in how many pairs (None: all)
MIXING = ((1.0, None), (1.0, 1), (1.0, 1), (1.0, 1), (1.0, None), (0.3, 1), (0.3, None))
APART = 1.0e3           # eV by which levels of occupation 1 are lowered to be diagonalised apart from empty ones
RUNGS = ("diis", "ediis", "smearing")
TEMPERATURES = (1.0, 0.5, 0.25, 0.1, 0.03)      # eV, annealing


@record
class Problem:
    """What the solver needs: layout, integrals off the tape, core Hamiltonian h, occupations in ascending order (molecule,
    spin, level)."""

    layout: Layout
    integrals: Integrals
    h: Float[Tensor, "molecule orbital orbital"]
    occupations: Float[Tensor, "molecule spin level"]


@record
class Solution:
    """Densities D, Fock matrices F, electronic energy (eV) and convergence of each molecule: largest commutator element
    `residual` (eV), iterations in all, rung of the ladder (index into RUNGS); `gap`, roughly, between occupied and empty
    levels (eV).
    """

    D: Float[Tensor, "molecule spin orbital orbital"]
    F: Float[Tensor, "molecule spin orbital orbital"]
    energy: Float[Tensor, "molecule"]
    converged: Bool[Tensor, "molecule"]
    residual: Float[Tensor, "molecule"]
    iterations: Int[Tensor, "molecule"]
    rung: Int[Tensor, "molecule"]
    gap: Float[Tensor, "molecule"]


def problem(layout_: Layout, integrals: Integrals, occupations) -> Problem:
    """The problem of these integrals, off the tape."""
    detached = tensor_map(torch.Tensor.detach, integrals)
    bare = not layout_.atoms                                        # cores without orbitals alone
    h = occupations.new_zeros(layout_.molecules, layout_.size, layout_.size) if bare else one_electron(layout_, detached)
    return Problem(layout_, detached, h, occupations)


def solve(
    problem: Problem, start: Float[Tensor, "molecule spin orbital orbital"], tolerance: float = SCF.tolerance,
    max_steps: int = SCF.max_steps
) -> Solution:
    """The self-consistent field from the density `start`, each molecule to a commutator below `tolerance` (eV), or reported
    as not converged after `max_steps` iterations.
    """
    with torch.no_grad():
        return _climb(problem, start, tolerance, max_steps, 0) if problem.layout.atoms else _empty(problem)


def canonical(problem: Problem, solution: Solution) -> Orbitals:
    """Canonical orbitals of a solution, occupied before virtual.

    Spaces of different occupation are diagonalised apart, by lowering each level in proportion to its occupation, so that an
    excited state keeps the orbitals it occupies.
    """
    with ordinary(), torch.no_grad():          # a result keeps them
        padding = torch.diag_embed((1 - problem.layout.real) * 2 * APART)[:, None]
        eps, C = torch.linalg.eigh(solution.F - APART * solution.D + padding)
        return Orbitals(C, eps + APART * problem.occupations, problem.occupations)


def _climb(problem, start, tolerance, max_steps, rung):
    """One rung for all molecules of the problem, the next for those it leaves behind."""
    exact = kernel(problem.layout, problem.integrals)
    rough = kernel(problem.layout, problem.integrals, torch.float32) if problem.layout.size >= FLOAT32_FROM else exact
    orbitals, used = _RUNG[rung](problem, exact, rough, start, max_steps, SWITCH)
    limit = max(0, max_steps - used if rung + 1 == len(RUNGS) else min(NEWTON_STEPS, max_steps - used))
    found = newton(problem.layout, exact, rough, problem.h, spaces(orbitals, problem.layout.real), tolerance, limit)
    found = _past_saddles(problem, exact, rough, found, tolerance, max(0, max_steps - used - int(found.steps.max())))
    whole = bool(((problem.occupations == 0) | (problem.occupations == 1)).all())
    done = (found.residual <= tolerance) & ~((found.gap < INVERTED) & whole)
    steps = used + found.steps.to(torch.long)
    result = Solution(found.D, found.F, found.energy, done, found.residual, steps, torch.full_like(steps, rung), found.gap)
    left = (~done).nonzero()[:, 0].tolist()
    remaining = max_steps - max((int(steps[k]) for k in left), default=0)
    if not left or rung + 1 == len(RUNGS) or remaining <= 0:
        return result
    harder = subset(problem, left)
    again = _climb(harder, start[left][..., :harder.layout.size, :harder.layout.size], tolerance, remaining, rung + 1)
    earlier = result.iterations[torch.tensor(left, device=steps.device)]
    return replaced(result, replace(again, iterations=earlier + again.iterations), left)


def _empty(problem) -> Solution:
    """The solution of molecules without orbitals."""
    D = torch.zeros_like(problem.h)[:, None].expand(*problem.occupations.shape[:2], -1, -1)
    energy = torch.zeros_like(problem.integrals.core)
    none = torch.zeros_like(energy, dtype=torch.long)
    return Solution(D, D, energy, none == 0, energy, none, none, energy + torch.inf)


def _past_saddles(problem, exact, rough, found, tolerance, max_steps):
    """The states below those where an empty orbital lies under an occupied one: the two are mixed, and Newton's method goes
    downhill.

    No minimum has such orbitals (Bach, Lieb, Loss, Solovej, Phys. Rev. Lett. 72, 2981 (1994)), but between distant atoms that
    exchanged an electron the commutator vanishes all the same.
    """
    if bool((found.gap > CLEAR_GAP).all()) or bool(((problem.occupations > 0) & (problem.occupations < 1)).any()):
        return found
    for mixing, pairs in MIXING:
        s, gap, X = _inverted_pairs(problem, found, pairs)
        inverted = (gap < INVERTED) & (found.residual <= tolerance)
        if not bool(inverted.any()):
            return replace(found, gap=gap)
        start = rotate(s, mixing * X * inverted[:, None, None, None])
        again = newton(problem.layout, exact, rough, problem.h, start, tolerance, max_steps)
        again = replace(again, steps=found.steps + again.steps)
        found = choose(inverted & (again.energy < found.energy), again, found)
    return replace(found, gap=_inverted_pairs(problem, found, 1)[1])


def _inverted_pairs(problem, found, pairs):
    """Spaces of canonical orbitals, their smallest gap in each molecule and the rotation that mixes the highest occupied with
    the lowest empty level, the second highest with the second lowest and so on, where they are inverted; at most so many
    `pairs`.
    """
    s = spaces(canonical(problem, found), problem.layout.real)
    within = levels(found.F, s)
    gap = torch.where(s.weight > 0, within.gap, torch.inf).flatten(1)
    if gap.shape[1] == 0:
        return s, torch.full_like(found.residual, torch.inf), s.weight
    occupied, empty = s.weight.amax(2) > 0, s.weight.amax(3) > 0
    high = torch.where(occupied, within.F_oo.diagonal(dim1=-2, dim2=-1), -torch.inf).sort(-1, descending=True)
    low = torch.where(empty, within.F_vv.diagonal(dim1=-2, dim2=-1), torch.inf).sort(-1)
    count = min(high.values.shape[-1], low.values.shape[-1], pairs or torch.iinfo(torch.int).max)
    X = torch.zeros_like(s.weight)
    molecule, spin, k = (low.values[..., :count] < high.values[..., :count] + INVERTED).nonzero(as_tuple=True)
    X[molecule, spin, low.indices[molecule, spin, k], high.indices[molecule, spin, k]] = 1.0
    return s, gap.amin(1), X


def subset(problem: Problem, molecules: list[int]) -> Problem:
    """The problem of some of its molecules."""
    old = problem.layout
    keep = torch.zeros(old.molecules, dtype=torch.bool, device=problem.h.device)
    keep[molecules] = True
    atoms = keep[old.molecule]
    owner = (keep.long().cumsum(0) - 1)[old.molecule[atoms]]
    new = layout(old.n_ao[atoms].cpu(), owner.cpu(), len(molecules), problem.h.device, old.treated[atoms].cpu().numpy())

    def pick(groups, blocks):
        kept = [b[keep[g.molecule]] for g, b in zip(groups, blocks, strict=True)]
        return [b for b in kept if len(b)]

    whole = problem.integrals
    integrals = Integrals(pick(old.atoms, whole.h_atoms), pick(old.pairs, whole.h_pairs), pick(old.atoms, whole.one),
                          pick(old.pairs, whole.two), whole.core[keep])
    return Problem(new, integrals, one_electron(new, integrals), problem.occupations[keep][..., :new.size])


def selected(solution: Solution, molecules: list[int], size: int) -> Solution:
    """The solution of some of its molecules, in matrices of `size` orbitals."""
    index = torch.tensor(molecules, device=solution.energy.device)

    def pick(t):
        t = t.index_select(0, index)
        return t[..., :size, :size] if t.dim() == 4 else t

    return tensor_map(pick, solution)


def replaced(first: Solution, second: Solution, molecules: list[int]) -> Solution:
    """`first` with the given molecules replaced by `second`, whose matrices may be smaller."""
    index = torch.tensor(molecules, device=first.energy.device)

    def put(a, b):
        wide = a[index].clone().zero_()
        wide[tuple(slice(n) for n in b.shape)] = b
        return a.index_copy(0, index, wide)

    return pytree.tree_map(put, first, second)


def _diis_rung(problem, exact, rough, start, max_steps, goal):
    return _iterate(problem, rough, start, min(DIIS_STEPS, max_steps), goal, diis)


def _ediis_rung(problem, exact, rough, start, max_steps, goal):
    orbitals, used = _iterate(problem, exact, start, min(30, max_steps), goal, energy_diis, shift=2.0, damping=0.3)
    orbitals, more = _iterate(problem, exact, density(orbitals), min(40, max_steps - used), goal, diis)
    return orbitals, used + more


def _smearing_rung(problem, exact, rough, start, max_steps, goal):
    used, D = 0, start
    for temperature in TEMPERATURES:
        orbitals, more = _iterate(problem, exact, D, min(15, max_steps - used), goal, diis, temperature=temperature)
        D, used = density(orbitals), used + more
    orbitals, more = _iterate(problem, exact, D, min(20, max_steps - used), goal, diis)
    return orbitals, used + more


_RUNG = (_diis_rung, _ediis_rung, _smearing_rung)


def _iterate(problem, kernel: Kernel, start, iterations, goal, coefficients, shift=0.0, damping=0.0, temperature=None):
    """Orbitals and iterations used: fixed-point steps with extrapolation until every commutator is below `goal`.

    The first diagonalisation precedes any test: a start density proportional to 1 commutes with everything. A molecule that
    is done waits for the others unchanged. One that has climbed is handed on with the lowest state it passed through:
    extrapolation of far apart fragments can end in absurd charges, and what comes next only goes downhill.
    """
    dtype = kernel.coulomb_atoms[0].dtype
    lay, real, occupations = problem.layout, problem.layout.real, problem.occupations.to(dtype)
    top = None if temperature is not None else _highest(occupations)
    h, D = problem.h.to(dtype), start.to(dtype)
    spin_factor, history, orbitals, lowest = 2.0 / occupations.shape[1], History(HISTORY), None, None
    done = torch.zeros(lay.molecules, dtype=torch.bool, device=h.device)
    for k in range(max(iterations, 1)):
        F = fock(lay, kernel, h, D)
        if orbitals is not None:
            FD = F @ D
            error = FD - FD.mT
            energy = 0.5 * spin_factor * (D * (F + h[:, None])).sum((1, 2, 3))
            lowest = _lower_of(lowest, (energy, orbitals))
            done = done | (error.abs().flatten(1).amax(1) < goal)
            if bool(done.all()):
                break
            history.add(F, D, error, energy)
            F = history.combine(coefficients(history)) if k > 1 else F
        new = diagonalise(F - shift * D if shift else F, real, occupations)
        if temperature is not None:
            new = replace(new, f=fermi(new.eps, occupations.sum(-1), temperature, real))
        orbitals = choose(done, orbitals, new) if bool(done.any()) else new
        made = density(orbitals, top)
        D = made if not damping or k == 0 else (1 - damping) * made + damping * D
    if lowest is not None and temperature is None and not damping:
        slack = 1e-3 + torch.finfo(dtype).eps * 10 * energy.abs()
        climbed = energy > lowest[0] + slack
        orbitals = choose(climbed, lowest[1], orbitals) if bool(climbed.any()) else orbitals
    return _double(orbitals), k + 1


def _lower_of(lowest, found):
    """The lower of two (energy, orbitals), molecule by molecule."""
    if lowest is None:
        return found
    better = found[0] < lowest[0]
    if bool(better.all()):
        return found
    return choose(better, found, lowest)


def _highest(occupations):
    """Levels that can be occupied: all beyond are empty in every molecule."""
    return int((occupations > 0).flatten(0, 1).any(0).sum())


def _double(orbitals):
    """Orbitals in float64, orthonormal to float64: one Newton-Schulz step removes the rounding of float32."""
    if orbitals.C.dtype == torch.float64:
        return orbitals
    C = orbitals.C.to(torch.float64)
    return Orbitals(1.5 * C - 0.5 * C @ (C.mT @ C), orbitals.eps.to(C.dtype), orbitals.f.to(C.dtype))
