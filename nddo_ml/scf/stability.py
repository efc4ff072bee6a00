"""Is a self-consistent state a minimum, and if not, what lies below?

The lowest eigenvalue of the response operator J tells: negative means that rotating the orbitals along its eigenvector lowers
the energy. Seen with two spin channels, a restricted state is tested against breaking its spin symmetry too (stretched bonds,
biradicals). Seeger, Pople, J. Chem. Phys. 66, 3045 (1977).
"""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from nddo_ml.scf.fock import kernel
from nddo_ml.scf.newton import newton
from nddo_ml.scf.rotations import Spaces, levels, response, rotate, spaces
from nddo_ml.scf.solve import NEWTON_STEPS, Problem, Solution, canonical
from nddo_ml.struct import choose, record

UNSTABLE = -1e-4        # eV: an eigenvalue below is an instability, above it is noise or a symmetry's zero mode
GROSSLY_UNSTABLE = -0.1 # eV
SUBSPACE = 40
ANGLE = 0.3             # radians along the eigenvector, to leave the stationary point


@record
class Stability:
    """Lowest eigenvalue of the orbital Hessian (eV) of each molecule and the rotation that belongs to it."""

    eigenvalue: Float[Tensor, "molecule"]
    rotation: Float[Tensor, "molecule spin virtual occupied"]
    spaces: Spaces


def stability(problem: Problem, solution: Solution) -> Stability:
    """The lowest orbital rotation of a solution, by Davidson's method started from the smallest gaps."""
    with torch.no_grad():
        s = spaces(canonical(problem, solution), problem.layout.real)
        within = levels(solution.F, s)
        gap = within.gap
        allowed = s.weight > 0
        if not bool(allowed.any()):
            return Stability(gap.new_full((len(gap),), torch.inf), torch.zeros_like(gap), s)
        operator = response(problem.layout, kernel(problem.layout, problem.integrals), s, within)
        value, vector = _davidson(operator, torch.where(allowed, gap, torch.inf), allowed)
        return Stability(value, vector, s)


def lower(problem: Problem, solution: Solution, tolerance: float, rounds: int = 4) -> tuple[Solution, Tensor]:
    """The solution after leaving every instability found, and by how much each energy fell (eV, >= 0). A state that is grossly
    unstable and cannot be left is no longer called converged.
    """
    with torch.no_grad():
        return _lower(problem, solution, tolerance, rounds)


def _lower(problem, solution, tolerance, rounds):
    first = solution.energy
    for _ in range(rounds):
        found = stability(problem, solution)
        unstable = (found.eigenvalue < UNSTABLE) & solution.converged
        if not bool(unstable.any()):
            break
        X = found.rotation / found.rotation.abs().flatten(1).amax(1).clamp(min=1e-12)[:, None, None, None] * ANGLE
        left = torch.zeros_like(unstable)
        for sign in (1.0, -1.0):                                    # the two ways off a saddle may lead to different places
            still = unstable & ~left
            again = _downhill(problem, found.spaces, sign * X * still[:, None, None, None], solution, tolerance)
            better = still & again.converged & (again.energy < solution.energy - 1e-9)
            solution, left = choose(better, again, solution), left | better
            if bool((left | ~unstable).all()):
                break
        if not bool(left.any()):
            trapped = unstable & (found.eigenvalue < GROSSLY_UNSTABLE)
            return replace(solution, converged=solution.converged & ~trapped), first - solution.energy
    return solution, first - solution.energy


def _downhill(problem, s, X, before: Solution, tolerance) -> Solution:
    """Newton's method from orbitals rotated by X."""
    exact = kernel(problem.layout, problem.integrals)
    found = newton(problem.layout, exact, exact, problem.h, rotate(s, X), tolerance, 2 * NEWTON_STEPS)
    return Solution(found.D, found.F, found.energy, found.residual <= tolerance, found.residual,
                    before.iterations + found.steps.to(torch.long), before.rung, found.gap)


def _davidson(operator, gap, allowed):
    """Lowest eigenvalue and eigenvector of `operator` for each molecule; `gap` (infinite where not allowed) preconditions."""
    molecules, shape, size = len(gap), gap.shape[1:], gap[0].numel()
    flat = gap.flatten(1)
    count = min(4, size)
    lowest = flat.topk(count, largest=False).indices
    start = torch.zeros(molecules, count, size, dtype=flat.dtype, device=flat.device).scatter(2, lowest[..., None], 1.0)
    start = start + 1e-2 * torch.sin(torch.arange(size, device=flat.device, dtype=flat.dtype) + 1.0)   # no symmetry
    V = torch.linalg.qr((start * allowed.flatten(1)[:, None]).mT)[0].mT
    diagonal = torch.where(allowed.flatten(1), flat, torch.ones_like(flat))
    W = operator(V.reshape(molecules, -1, *shape)).flatten(2)
    for _ in range(SUBSPACE):
        value, c = torch.linalg.eigh(V @ W.mT)
        value, c = value[:, 0], c[:, :, 0]
        vector, image = (torch.einsum("mk,mkn->mn", c, x) for x in (V, W))
        residual = image - value[:, None] * vector
        if bool((residual.norm(dim=1) < 1e-5).all()) or V.shape[1] >= size:
            break
        denominator = diagonal - value[:, None]
        new = residual / torch.where(denominator.abs() < 0.1, torch.full_like(denominator, 0.1), denominator)
        for _ in range(2):
            new = new - torch.einsum("mk,mkn->mn", torch.einsum("mkn,mn->mk", V, new), V)
        new = new / new.norm(dim=1, keepdim=True).clamp(min=1e-14)
        V = torch.cat([V, new[:, None]], 1)
        W = torch.cat([W, operator(new.view(molecules, 1, *shape)).flatten(2)], 1)
    return value, vector.view(molecules, *shape)


def two_channels(problem: Problem, solution: Solution) -> tuple[Problem, Solution]:
    """A restricted problem and its solution with alpha and beta orbitals apart."""
    def double(t):
        return torch.cat([t, t], 1)

    return (Problem(problem.layout, problem.integrals, problem.h, double(problem.occupations)),
            Solution(double(solution.D), double(solution.F), solution.energy, solution.converged, solution.residual,
                     solution.iterations, solution.rung, solution.gap))


