"""The self-consistent field: the fixed point D = density(fock(D)), by a ladder of methods that needs no settings.

Each rung (rungs.py) brings the density into the reach of Newton's method, which ends every calculation:

1. `diis`: extrapolation until the commutator is small (early iterations of large molecules in float32), then Newton,
quadratic.
2. `ediis`: where that fails, energy-DIIS with damping and a level shift, then DIIS, then Newton.
3. `smearing`: Fermi occupations annealed to zero temperature, then Newton, which goes downhill from wherever that ends.

Every molecule of a batch climbs only as far as it must: those that a rung leaves behind are taken out and tried on the next,
and the report says which rung each one needed. Nothing here is on a tape; derivatives come from response.py.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from nddo_ml.common import compiling
from nddo_ml.common.struct import choose
from nddo_ml.scf import compiled
from nddo_ml.scf.density import diagonalise
from nddo_ml.scf.newton import Converged, newton
from nddo_ml.scf.options import SCF, USUAL
from nddo_ml.scf.problem import Prepared, Problem, Solution, canonical, prepared, replaced, subset
from nddo_ml.scf.rotations import Spaces, levels, rotate, spaces
from nddo_ml.scf.rungs import LADDER, Rung

INVERTED = -0.01        # eV: an empty level this far below an occupied one of the same spin marks a saddle point
CLEAR_GAP = 1.0         # eV: beyond it the rough gap of the last step proves that nothing is inverted
# tangents of the angles by which inverted pairs are mixed, one attempt after another, and in how many pairs (None: all)
MIXING = ((1.0, None), (1.0, 1), (1.0, 1), (1.0, 1), (1.0, None), (0.3, 1), (0.3, None))


def solve(problem: Problem, start: Float[Tensor, "molecule spin orbital orbital"], scf: SCF = USUAL,
          orbitals: Float[Tensor, "molecule spin orbital orbital"] | None = None, followed: bool = False) -> Solution:
    """The self-consistent field from the density `start`, each molecule to a commutator below `scf.tolerance` (eV), or reported
    as not converged after `scf.max_steps` iterations. followed: whether the start is the density of an earlier state; orbitals:
    its orbitals, if they are known (Solution.C).

    Where kernels are ready, molecules climb the first rung compiled, and those with a clear end do without torch.
    """
    ladder = LADDER if scf.ladder is None else scf.ladder
    if not problem.layout.atoms:
        return _empty(problem)
    solution, left = None, list(range(len(start)))
    if _has_kernels(problem, scf):
        try:
            solution, left = compiled.first_rung(problem, compiled.begun(problem, start, orbitals, followed), scf)
        except Exception as error:
            compiling.broken(error)
    if solution is not None and not left:
        return solution
    with torch.no_grad():
        if solution is None or len(left) == len(start):
            return climb(problem, start, scf, ladder)
        harder = subset(problem, left)
        return replaced(solution, climb(harder, start[left][..., :harder.layout.size, :harder.layout.size], scf, ladder), left)


def _has_kernels(problem: Problem, scf: SCF) -> bool:
    """Whether kernels may climb the first rung."""
    if scf.ladder is not None or scf.density is not None or not problem.h.is_cpu or problem.h.dtype is not torch.float64:
        return False
    return problem.whole and compiling.serving()


def climb(problem: Problem, start: Float[Tensor, "molecule spin orbital orbital"], scf: SCF, ladder: Sequence[Rung],
          height: int = 0) -> Solution:
    """The first rung of `ladder` for all molecules of the problem, the next for those it leaves behind. height: how many rungs
    lie below."""
    ready, rung, build = prepared(problem), ladder[0], diagonalise if scf.density is None else scf.density
    orbitals, used = rung.climb(ready, start, scf.max_steps, build)
    most = scf.max_steps - used if rung.newton_steps is None else min(rung.newton_steps, scf.max_steps - used)
    ended = newton(ready, spaces(orbitals, problem.layout.real), scf.tolerance, max(0, most))
    ended = _past_saddles(ready, ended, scf.tolerance, max(0, scf.max_steps - used - int(ended.steps.max())))
    done = (ended.residual <= scf.tolerance) & ~((ended.gap < INVERTED) & problem.whole)
    steps = used + ended.steps.to(torch.long)
    result = Solution(ended.D, ended.F, ended.energy, done, ended.residual, steps, torch.full_like(steps, height), ended.gap)
    left: list[int] = (~done).nonzero()[:, 0].tolist()
    remaining = scf.max_steps - max((int(steps[k]) for k in left), default=0)
    if not left or len(ladder) == 1 or remaining <= 0:
        return result
    harder = subset(problem, left)
    cut = start[left][..., :harder.layout.size, :harder.layout.size]
    again = climb(harder, cut, replace(scf, max_steps=remaining), ladder[1:], height + 1)
    earlier = result.iterations[torch.tensor(left, device=steps.device)]
    return replaced(result, replace(again, iterations=earlier + again.iterations), left)


def _empty(problem: Problem) -> Solution:
    """The solution of molecules without orbitals."""
    D = torch.zeros_like(problem.h)[:, None].expand(*problem.occupations.shape[:2], -1, -1)
    energy = torch.zeros_like(problem.integrals.core)
    none = torch.zeros_like(energy, dtype=torch.long)
    return Solution(D, D, energy, none == 0, energy, none, none, energy + torch.inf)


def _past_saddles(ready: Prepared, ended: Converged, tolerance: float, max_steps: int) -> Converged:
    """The states below those where an empty orbital lies under an occupied one: the two are mixed, and Newton's method goes
    downhill.

    No minimum has such orbitals (Bach, Lieb, Loss, Solovej, Phys. Rev. Lett. 72, 2981 (1994)), but between distant atoms that
    exchanged an electron the commutator vanishes all the same.
    """
    problem = ready.problem
    if bool((ended.gap > CLEAR_GAP).all()) or bool(((problem.occupations > 0) & (problem.occupations < 1)).any()):
        return ended
    for mixing, pairs in MIXING:
        mixed, gap, X = _inverted_pairs(problem, ended, pairs)
        inverted = (gap < INVERTED) & (ended.residual <= tolerance)
        if not bool(inverted.any()):
            return replace(ended, gap=gap)
        start = rotate(mixed, mixing * X * inverted[:, None, None, None])
        again = newton(ready, start, tolerance, max_steps)
        again = replace(again, steps=ended.steps + again.steps)
        ended = choose(inverted & (again.energy < ended.energy), again, ended)
    return replace(ended, gap=_inverted_pairs(problem, ended, 1)[1])


def _inverted_pairs(problem: Problem, ended: Converged, pairs: int | None) -> tuple[Spaces, Tensor, Tensor]:
    """Spaces of canonical orbitals, their smallest gap in each molecule and the rotation that mixes the highest occupied with
    the lowest empty level, the second highest with the second lowest and so on, where they are inverted; at most so many
    `pairs`.
    """
    own = spaces(canonical(problem, ended.D, ended.F), problem.layout.real)
    within = levels(ended.F, own)
    gap = torch.where(own.weight > 0, within.gap, torch.inf).flatten(1)
    if gap.shape[1] == 0:
        return own, torch.full_like(ended.residual, torch.inf), own.weight
    occupied, empty = own.weight.amax(2) > 0, own.weight.amax(3) > 0
    high = torch.where(occupied, within.F_oo.diagonal(dim1=-2, dim2=-1), -torch.inf).sort(-1, descending=True)
    low = torch.where(empty, within.F_vv.diagonal(dim1=-2, dim2=-1), torch.inf).sort(-1)
    count = min(high.values.shape[-1], low.values.shape[-1], pairs or torch.iinfo(torch.int).max)
    X = torch.zeros_like(own.weight)
    molecule, spin, k = (low.values[..., :count] < high.values[..., :count] + INVERTED).nonzero(as_tuple=True)
    X[molecule, spin, low.indices[molecule, spin, k], high.indices[molecule, spin, k]] = 1.0
    return own, gap.amin(1), X
