"""Is a self-consistent state a minimum, and if not, what lies below?

The lowest eigenvalue of the response operator J tells: negative means that rotating the orbitals along its eigenvector lowers
the energy. Seen with two spin channels, a restricted state is tested against breaking its spin symmetry too (stretched bonds,
biradicals). Seeger, Pople, J. Chem. Phys. 66, 3045 (1977).
"""

from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from nddo_ml.common.struct import choose, record, tensor_map
from nddo_ml.orbitals import Layout
from nddo_ml.scf.density import Orbitals
from nddo_ml.scf.flat import FlatKernel
from nddo_ml.scf.fock import Kernel
from nddo_ml.scf.newton import newton
from nddo_ml.scf.options import SCF
from nddo_ml.scf.problem import FLOAT32_FROM, Prepared, Problem, Solution, canonical, kernel_of, replaced, selected, subset
from nddo_ml.scf.rotations import Levels, Operator, Spaces, levels, response, rotate, spaces

UNSTABLE = -1e-4        # eV: an eigenvalue below is an instability, above it is noise or a symmetry's zero mode
DENSE, DENSE_VECTORS = 200, 40000   # rotations of a molecule, of all, up to which the whole matrix is made
CHUNK = 64              # of its columns at once
STARTS = 8              # vectors of Davidson's method at the start
BARRED = 1e6            # eV: where no rotation exists
STEPS = 40              # of Davidson's method
AT_LEAST = 8            # of them before its residual is believed
CLEAR = 0.05            # eV: an eigenvalue beyond has the same sign in either precision
WINDOW_FROM = 400       # orbitals from which on the search begins among frontier orbitals
WINDOW = 128            # of them, occupied ones and as many empty ones
ROUGH_SIGN = 0.3        # the same as SIGN for what begins there
SIGN = 0.1              # residual, as a fraction of the eigenvalue, that settles its sign
FINE = 1e-5             # eV: residual of an eigenvalue of zero
ANGLES = (0.3, 1.0, 0.05)   # radians along the eigenvector, to leave the stationary point, one after another
ROUNDS = 8              # instabilities left one after another


@record
class Stability:
    """The lowest eigenvalue of the orbital Hessian of each molecule."""

    eigenvalue: Float[Tensor, "molecule"]                           # eV
    rotation: Float[Tensor, "molecule spin virtual occupied"]       # that belongs to it
    spaces: Spaces                                                  # between which it rotates


def stability(problem: Problem, solution: Solution) -> Stability:
    """The lowest orbital rotation of a solution, by Davidson's method started from the smallest gaps; its sign is certain, its
    value good to a tenth.
    """
    with torch.no_grad():
        own = spaces(_orbitals(problem, solution), problem.layout.real)
        allowed = own.weight > 0
        if not bool(allowed.any()):
            return Stability(solution.energy.new_full((len(allowed),), torch.inf), torch.zeros_like(own.weight), own)
        count, large = allowed[0].numel(), problem.layout.size >= FLOAT32_FROM
        if large and (count > DENSE or len(allowed) * count > DENSE_VECTORS):
            return _in_single_precision(problem, solution, own, allowed)
        within = levels(solution.F, own)
        exact = response(problem.layout, kernel_of(problem), own, within)
        if count <= DENSE and len(allowed) * count <= DENSE_VECTORS:
            return Stability(*_dense(exact, allowed), own)
        return Stability(*_davidson(exact, torch.where(allowed, within.gap, torch.inf), allowed), own)


def _in_single_precision(problem: Problem, solution: Solution, own: Spaces, allowed: Tensor) -> Stability:
    """The search in float32; a verdict that is not clear there is given in float64."""
    small, two = tensor_map(torch.Tensor.float, own), kernel_of(problem, torch.float32)
    within = levels(solution.F.float(), small)
    rough, gap = response(problem.layout, two, small, within), torch.where(allowed, within.gap, torch.inf)
    begun = None
    if problem.layout.size >= WINDOW_FROM and len(gap) == 1:
        begun = _frontier(problem.layout, two, small, within)
    value, vector = (values.double() for values in _davidson(rough, gap, allowed, begun))
    if bool((value.abs() > CLEAR).all()):
        return Stability(value, vector, own)
    exact = response(problem.layout, kernel_of(problem), own, levels(solution.F, own))
    vector = vector / vector.flatten(1).norm(dim=1)[:, None, None, None].clamp(min=1e-14)
    return Stability((vector * exact(vector[:, None])[:, 0]).sum((1, 2, 3)), vector, own)


def _orbitals(problem: Problem, solution: Solution) -> Orbitals:
    """Orbitals of a solution, occupied before virtual: those that it kept, which need not be canonical, or canonical ones."""
    if solution.C is None or problem.filled is None:
        return canonical(problem, solution.D, solution.F)
    return Orbitals(solution.C.mT, torch.zeros_like(problem.occupations), problem.occupations)


def _frontier(layout: Layout, two: Kernel | FlatKernel, own: Spaces, within: Levels) -> Float[Tensor, "1 spin empty occupied"]:
    """The lowest rotation of a large molecule among its frontier orbitals, in the orbitals of `own`: applying the operator to
    them costs a fraction of what it costs in the whole space."""
    occupied, virtual = torch.linalg.eigh(within.F_oo), torch.linalg.eigh(within.F_vv)
    count_o, count_v = (min(WINDOW, values.shape[-1]) for values in (occupied.eigenvalues, virtual.eigenvalues))
    turn_o, turn_v = occupied.eigenvectors[..., -count_o:], virtual.eigenvectors[..., :count_v]
    near = Spaces(own.C_o @ turn_o, own.C_v @ turn_v, own.f_o[..., -count_o:], own.weight[..., :count_v, -count_o:])
    F_oo, F_vv = (torch.diag_embed(x) for x in (occupied.eigenvalues[..., -count_o:], virtual.eigenvalues[..., :count_v]))
    gap = virtual.eigenvalues[..., :count_v, None] - occupied.eigenvalues[..., None, -count_o:]
    allowed = near.weight > 0
    operator = response(layout, two, near, Levels(F_oo, F_vv, gap))
    _, vector = _davidson(operator, torch.where(allowed, gap, torch.inf), allowed)
    return turn_v @ vector @ turn_o.mT


@record
class Lowered:
    """A solution after leaving what instabilities it had."""

    solution: Solution                      # no longer called converged where an instability could not be left
    fall: Float[Tensor, "molecule"]         # of the energy, eV, not negative
    trapped: Float[Tensor, "molecule"]      # eigenvalue of an instability that could not be left, eV; 0 where there is none


def lower(problem: Problem, solution: Solution, scf: SCF, doubted: Bool[Tensor, "molecule"]) -> Lowered:
    """The solution after leaving every instability of the `doubted` molecules, in at most `scf.max_steps` iterations each."""
    with torch.no_grad():
        if bool(doubted.all()):
            return _lower(problem, solution, scf)
        some, none = doubted.nonzero()[:, 0].tolist(), torch.zeros_like(solution.energy)
        part = subset(problem, some)
        lowered = _lower(part, selected(solution, some, part.layout.size), scf)
        return Lowered(replaced(solution, lowered.solution, some), none.index_put((doubted,), lowered.fall),
                       none.index_put((doubted,), lowered.trapped))


def _lower(problem: Problem, solution: Solution, scf: SCF) -> Lowered:
    first, trapped = solution.energy, torch.zeros_like(solution.energy)
    for k in range(ROUNDS + 1):
        lowest = stability(problem, solution)
        unstable = (lowest.eigenvalue < UNSTABLE) & solution.converged
        left = torch.zeros_like(unstable)
        if k < ROUNDS and bool(unstable.any()):
            solution = replace(solution, C=None)
            solution, left = _leave(problem, solution, lowest, unstable, scf)
        stays = unstable & ~left
        trapped = torch.where(stays, lowest.eigenvalue, trapped)
        solution = replace(solution, converged=solution.converged & ~stays)
        if not bool(left.any()):
            break
    return Lowered(solution, first - solution.energy, trapped)


def _leave(problem: Problem, solution: Solution, saddle: Stability, unstable: Bool[Tensor, "molecule"], scf: SCF
           ) -> tuple[Solution, Bool[Tensor, "molecule"]]:
    """The solutions below the unstable ones, and which of them were left: downhill from both sides of the saddle, which may
    lead to different places, and from further away where neither leads down.
    """
    X = saddle.rotation / saddle.rotation.abs().flatten(1).amax(1).clamp(min=1e-12)[:, None, None, None]
    lowest, left = solution, torch.zeros_like(unstable)
    for angle in ANGLES:
        still = unstable & ~left
        for turn in (angle, -angle):
            start = rotate(saddle.spaces, turn * X * still[:, None, None, None])
            again = _downhill(problem, start, solution, scf)
            better = still & again.converged & (again.energy < lowest.energy - 1e-9)
            lowest, left = choose(better, again, lowest), left | better
        if bool((left | ~unstable).all()):
            break
    return lowest, left


def _downhill(problem: Problem, start: Spaces, before: Solution, scf: SCF) -> Solution:
    """Newton's method from the orbitals `start`."""
    exact = kernel_of(problem)
    ended = newton(Prepared(problem, exact, exact), start, scf.tolerance, scf.max_steps)
    return Solution(ended.D, ended.F, ended.energy, ended.residual <= scf.tolerance, ended.residual,
                    before.iterations + ended.steps.to(torch.long), before.rung, ended.gap)


def _dense(operator: Operator, allowed: Tensor) -> tuple[Tensor, Tensor]:
    """Lowest eigenvalue and eigenvector of the explicit matrix of each molecule."""
    n = allowed[0].numel()
    unit = torch.eye(n, dtype=torch.float64, device=allowed.device).view(1, n, *allowed.shape[1:]) * allowed[:, None]
    matrix = torch.cat([operator(chunk.expand(len(allowed), -1, -1, -1, -1)).flatten(2) for chunk in unit.split(CHUNK, 1)], 1)
    barred = torch.diag_embed(torch.where(allowed.flatten(1), 0.0, BARRED))
    value, vector = torch.linalg.eigh(0.5 * (matrix + matrix.mT) + barred)
    return value[:, 0], vector[:, :, 0].reshape(allowed.shape)


def _davidson(operator: Operator, gap: Tensor, allowed: Tensor, begun: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Lowest eigenvalue and eigenvector of `operator` for each molecule, as far as SIGN and FINE ask; `gap` (infinite where not
    allowed) preconditions. begun: a vector to start from, which is believed to be near: its sign alone is asked for then.
    """
    molecules, shape, size = len(gap), gap.shape[1:], gap[0].numel()
    flat, allowed = gap.flatten(1), allowed.flatten(1)[:, None]
    at_least, sign = (AT_LEAST, SIGN) if begun is None else (1, ROUGH_SIGN)
    if begun is None:
        count = min(STARTS, size)
        start = torch.zeros(molecules, count, size, dtype=flat.dtype, device=flat.device)
        start = start.scatter(2, flat.topk(count, largest=False).indices[..., None], 1.0)
        start = start + 3e-2 * torch.sin(torch.arange(size, device=flat.device, dtype=flat.dtype) + 1.0)   # no symmetry
    else:
        start = begun.flatten(1)[:, None]
    V = torch.linalg.qr((start * allowed).mT)[0].mT * allowed
    diagonal = torch.where(allowed[:, 0], flat, 1.0)
    W = operator(V.reshape(molecules, -1, *shape)).flatten(2)
    best, done = (flat[:, 0], flat), torch.zeros(molecules, dtype=torch.bool, device=flat.device)
    for step in range(STEPS):
        missing = torch.diag_embed((V.square().sum(-1) < 0.5) * BARRED)       # vectors that a small molecule has no room for
        value, c = torch.linalg.eigh(V @ W.mT + missing)
        value, c = value[:, 0], c[:, None, :, 0]
        vector, image = (c @ V)[:, 0], (c @ W)[:, 0]
        residual = image - value[:, None] * vector
        best = choose(done, best, (value, vector))                            # what is settled stays, while others go on
        norm = residual.norm(dim=1)
        done = done | (norm < FINE) | ((norm < sign * value.abs()) & (step >= at_least))
        if bool(done.all()) or V.shape[1] >= size:
            break
        denominator = diagonal - value[:, None]
        new = residual / torch.where(denominator.abs() < 0.1, torch.full_like(denominator, 0.1), denominator)
        for _ in range(2):
            new = new / new.norm(dim=1, keepdim=True).clamp(min=1e-14)
            new = new - ((new[:, None] @ V.mT) @ V)[:, 0]
        new = new / new.norm(dim=1, keepdim=True).clamp(min=1e-14)
        V = torch.cat([V, new[:, None]], 1)
        W = torch.cat([W, operator(new.view(molecules, 1, *shape)).flatten(2)], 1)
    value, vector = best
    return value, vector.view(molecules, *shape)
