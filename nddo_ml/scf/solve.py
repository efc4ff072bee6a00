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

from nddo_ml.orbitals import Layout, layout
from nddo_ml.scf.accelerate import History, diis, energy_diis
from nddo_ml.scf.density import Orbitals, density, diagonalise, fermi
from nddo_ml.scf.fock import Integrals, Kernel, fock, kernel, one_electron
from nddo_ml.scf.newton import newton
from nddo_ml.scf.rotations import spaces
from nddo_ml.struct import record, tensor_map

SWITCH = 0.1            # eV: commutator below which Newton's method takes over
SWITCH_ALONE = 1e-3     # eV: the same for a small molecule on its own, where a diagonalisation costs less than a Newton step
FLOAT32_FROM = 60       # orbitals: from here on early iterations and inner solves run in float32
HISTORY = 8
DIIS_STEPS = 30
NEWTON_STEPS = 30
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
    `residual` (eV), iterations in all, rung of the ladder (index into RUNGS).
    """

    D: Float[Tensor, "molecule spin orbital orbital"]
    F: Float[Tensor, "molecule spin orbital orbital"]
    energy: Float[Tensor, "molecule"]
    converged: Bool[Tensor, "molecule"]
    residual: Float[Tensor, "molecule"]
    iterations: Int[Tensor, "molecule"]
    rung: Int[Tensor, "molecule"]


def problem(layout_: Layout, integrals: Integrals, occupations) -> Problem:
    """The problem of these integrals, off the tape."""
    detached = tensor_map(torch.Tensor.detach, integrals)
    return Problem(layout_, detached, one_electron(layout_, detached), occupations)


def solve(
    problem: Problem, start: Float[Tensor, "molecule spin orbital orbital"], tolerance: float = 1e-7, max_steps: int = 300
) -> Solution:
    """The self-consistent field from the density `start`, each molecule to a commutator below `tolerance` (eV), or reported
    as not converged after `max_steps` iterations.
    """
    with torch.no_grad():
        return _climb(problem, start, tolerance, max_steps, 0)


def canonical(problem: Problem, solution: Solution) -> Orbitals:
    """Canonical orbitals of a solution, occupied before virtual.

    Spaces of different occupation are diagonalised apart, by lowering each level in proportion to its occupation, so that an
    excited state keeps the orbitals it occupies.
    """
    with torch.no_grad():
        padding = torch.diag_embed((1 - problem.layout.real) * 2 * APART)[:, None]
        eps, C = torch.linalg.eigh(solution.F - APART * solution.D + padding)
        return Orbitals(C, eps + APART * problem.occupations, problem.occupations)


def _climb(problem, start, tolerance, max_steps, rung):
    """One rung for all molecules of the problem, the next for those it leaves behind."""
    exact = kernel(problem.layout, problem.integrals)
    whole = bool(((problem.occupations == 0) | (problem.occupations == 1)).all())
    rough = kernel(problem.layout, problem.integrals, torch.float32) if whole and problem.layout.size >= FLOAT32_FROM else exact
    goal = tolerance if not whole else SWITCH_ALONE if exact is rough and problem.layout.molecules == 1 else SWITCH
    orbitals, used = _RUNG[rung](problem, exact, rough, start, max_steps, goal)
    found = newton(problem.layout, exact, rough, problem.h, spaces(orbitals, problem.layout.real), tolerance,
                   max(0, min(NEWTON_STEPS, max_steps - used)) if whole else 0)
    done = found.residual <= tolerance
    steps = used + found.steps.to(torch.long)
    result = Solution(found.D, found.F, found.energy, done, found.residual, steps, torch.full_like(steps, rung))
    if bool(done.all()) or rung + 1 == len(RUNGS) or used >= max_steps:
        return result
    left = (~done).nonzero()[:, 0].tolist()
    harder = subset(problem, left)
    again = _climb(harder, start[left][..., :harder.layout.size, :harder.layout.size], tolerance, max_steps - used, rung + 1)
    return _merge(result, again, left)


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

    The first diagonalisation precedes any test: a start density proportional to 1 commutes with everything.
    """
    dtype = kernel.coulomb_atoms[0].dtype
    lay, real, occupations = problem.layout, problem.layout.real, problem.occupations.to(dtype)
    top = None if temperature is not None else _highest(occupations)
    h, D = problem.h.to(dtype), start.to(dtype)
    spin_factor = 2.0 / occupations.shape[1]
    history, orbitals = History(HISTORY), None
    for k in range(max(iterations, 1)):
        F = fock(lay, kernel, h, D)
        if orbitals is not None:
            FD = F @ D
            error = FD - FD.mT
            if bool((error.abs().flatten(1).amax(1) < goal).all()):
                break
            history.add(F, D, error, 0.5 * spin_factor * (D * (F + h[:, None])).sum((1, 2, 3)))
            F = history.combine(coefficients(history)) if k > 1 else F
        orbitals = diagonalise(F - shift * D if shift else F, real, occupations)
        if temperature is not None:
            orbitals = replace(orbitals, f=fermi(orbitals.eps, occupations.sum(-1), temperature, real))
        new = density(orbitals, top)
        D = new if not damping or k == 0 else (1 - damping) * new + damping * D
    return _double(orbitals), k + 1


def _highest(occupations):
    """Levels that can be occupied: all beyond are empty in every molecule."""
    return int((occupations > 0).flatten(0, 1).any(0).sum())


def _double(orbitals):
    """Orbitals in float64, orthonormal to float64: one Newton-Schulz step removes the rounding of float32."""
    if orbitals.C.dtype == torch.float64:
        return orbitals
    C = orbitals.C.to(torch.float64)
    return Orbitals(1.5 * C - 0.5 * C @ (C.mT @ C), orbitals.eps.to(C.dtype), orbitals.f.to(C.dtype))


def _merge(first: Solution, second: Solution, left: list[int]) -> Solution:
    """`first` with the molecules `left` replaced by `second`, whose matrices may be smaller."""
    index = torch.tensor(left, device=first.energy.device)

    def put(a, b):
        wide = a[index].clone().zero_()
        wide[tuple(slice(n) for n in b.shape)] = b
        return a.index_copy(0, index, wide)

    merged = pytree.tree_map(put, first, second)
    return replace(merged, iterations=put(first.iterations, first.iterations[index] + second.iterations))
