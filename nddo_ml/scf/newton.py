"""Second-order convergence: trust-region Newton steps in the space of orbital rotations.

Each step minimises the quadratic model c (<r, X> + 1/2 <X, J X>) by conjugate gradients preconditioned with orbital-energy
gaps, loosely while far from the solution, and no further than a radius in which the model has proved right; along a direction
of negative curvature it goes to that radius (Steihaug, SIAM J. Numer. Anal. 20, 626 (1983)). The energy falls in every step,
so the method goes downhill from any start, passes saddle points, and converges quadratically at the end. The solves may run
in float32: the residual of the outer step is always float64, so that only the number of steps can change, not the result.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from nddo_ml.common.struct import record, tensor_map
from nddo_ml.scf.fock import fock
from nddo_ml.scf.problem import Prepared
from nddo_ml.scf.rotations import Operator, Spaces, levels, occupied_virtual, response, rotate

RADIUS, LARGEST_RADIUS = 1.0, 4.0    # radians, norm of a whole rotation
SHORTENINGS = 8                      # by 4 each, before a step is given up
NEAR = 1e-2                          # eV: below, a step is solved well enough to be the last one
COARSE, FINEST, LAST_FRACTION = 0.01, 3e-5, 0.3    # relative tolerances of the inner solves (float32 reaches the finest)
INNER = 40                           # iterations of one solve
SMALLEST_PIVOT = 0.5                 # eV, in the preconditioner

Vectors = Float[Tensor, "molecule vector *unknown"]


@record
class Converged:
    """Where Newton's method ended, for each molecule."""

    spaces: Spaces
    D: Float[Tensor, "molecule spin orbital orbital"]       # densities
    F: Float[Tensor, "molecule spin orbital orbital"]       # Fock matrices, eV
    energy: Float[Tensor, "molecule"]                       # electronic energy, eV
    residual: Float[Tensor, "molecule"]                     # largest |r|, eV
    steps: Float[Tensor, "molecule"]
    gap: Float[Tensor, "molecule"]      # smallest difference of an empty and an occupied level as of the last step, eV


def conjugate_gradients(apply: Operator, b: Vectors, precondition: Tensor, tolerance: Float[Tensor, "molecule vector"],
                        iterations: int, radius: Float[Tensor, "molecule vector"] | None = None) -> tuple[Tensor, Tensor]:
    """x with apply(x) = b to the relative `tolerance`, and the residual b - apply(x); both have the shape of b.

    Every vector of b is its own problem. precondition: the diagonal of `apply`, of a shape that expands to that of b.
    radius: x stops at that norm, and goes there along a direction of non-positive curvature; without it x stays where it was
    when such a direction appeared.
    """
    shape, tiny = b.shape, torch.finfo(b.dtype).tiny
    b = b.flatten(2)
    M = precondition.expand(shape).flatten(2)
    x, r, z = torch.zeros_like(b), b, b / M
    p, rz = z, (b * z).sum(-1)
    goal = tolerance.square() * b.square().sum(-1)
    running = rz > 0
    for _ in range(iterations):
        Ap = apply(p.view(shape)).flatten(2)
        curvature = (p * Ap).sum(-1)
        ended = curvature <= 0
        alpha = torch.where(running & ~ended, rz / curvature, 0.0)
        new = torch.addcmul(x, alpha[..., None], p)
        if radius is not None:
            ended = ended | (new.square().sum(-1) > radius.square())
            if bool((ended & running).any()):
                alpha = torch.where(ended & running, _to_border(x, p, radius, tiny), alpha)
                new = torch.addcmul(x, alpha[..., None], p)
        x, r = new, torch.addcmul(r, alpha[..., None], Ap, value=-1)
        running = running & ~ended & (r.square().sum(-1) > goal)
        if not bool(running.any()):
            break
        z = r / M
        before, rz = rz, (r * z).sum(-1)
        p = torch.addcmul(z, (rz / before.clamp(min=tiny))[..., None], p)
    return x.view(shape), r.view(shape)


def _to_border(x: Tensor, p: Tensor, radius: Tensor, tiny: float) -> Tensor:
    """The step along p from x that ends at the norm `radius`."""
    xp, pp = (x * p).sum(-1), p.square().sum(-1).clamp(min=tiny)
    return (-xp + (xp.square() + pp * (radius.square() - x.square().sum(-1)).clamp(min=0)).sqrt()) / pp


def newton(ready: Prepared, start: Spaces, tolerance: float, max_steps: int) -> Converged:
    """Converged states from the orbitals `start`; stops when every |r| is below `tolerance` (eV) or after `max_steps`."""
    layout, h = ready.problem.layout, ready.problem.h
    c = 4.0 / start.C_o.shape[1]
    rough = ready.rough.dtype

    def evaluate(own: Spaces) -> tuple[Tensor, Tensor, Tensor]:
        D = (own.C_o * own.f_o[..., None, :]) @ own.C_o.mT
        F = fock(layout, ready.exact, h, D)
        return D, F, 0.25 * c * (D * (F + h[:, None])).sum((1, 2, 3))

    own, (D, F, energy) = start, evaluate(start)
    within, residual = None, torch.zeros_like(energy)
    steps, radius = torch.zeros_like(energy), torch.full_like(energy, RADIUS)
    stuck = torch.zeros_like(energy, dtype=torch.bool)
    for taken in range(max_steps + 1):
        r = occupied_virtual(F, own)
        residual = r.abs().flatten(1).amax(1) if r[0].numel() else torch.zeros_like(energy)
        active = (residual > tolerance) & ~stuck
        if taken == max_steps or not bool(active.any()):
            break
        small = own if rough is F.dtype else _in_precision(own, rough)
        within = levels(F.to(rough), small)
        operator = response(layout, ready.rough, small, within)
        if own.C is not None:                                         # the Hessian of fractional occupations is weighted
            operator, r = _weighted(operator, small.weight), r * own.weight
        b = (-r * active[:, None, None, None])[:, None]
        last = (LAST_FRACTION * tolerance / residual.clamp(min=1e-30)).clamp(FINEST, COARSE)
        loose = torch.where(residual > NEAR, torch.full_like(residual, COARSE), last)[:, None]
        pivots = within.gap.abs().clamp(min=SMALLEST_PIVOT)[:, None]
        X, left = conjugate_gradients(operator, b.to(rough), pivots, loose.to(rough), INNER, radius[:, None].to(rough))
        X, left = X[:, 0].to(r.dtype), left[:, 0].to(r.dtype)
        model = c * (0.5 * (X * (b[:, 0] - left)) - X * b[:, 0]).sum((1, 2, 3))      # predicted change of the energy, < 0
        trial = rotate(own, X)
        D_new, F_new, E_new = evaluate(trial)
        noise = 1e-11 * energy.abs() + 1e-9
        factor = torch.ones_like(energy)
        for _ in range(SHORTENINGS):
            worse = active & (E_new > energy + noise)
            if not bool(worse.any()):
                break
            factor = torch.where(worse, 0.25 * factor, factor)
            trial = rotate(own, X * factor[:, None, None, None])
            D_new, F_new, E_new = evaluate(trial)
        stuck = stuck | (active & (E_new > energy + noise))
        length = X.square().sum((1, 2, 3)).sqrt() * factor
        trusted = (E_new - energy) < 0.75 * model
        grown = torch.where(trusted & (length > 0.9 * radius), 2 * radius, radius)
        radius = torch.where(factor < 1, length, grown).clamp(1e-3, LARGEST_RADIUS)
        own, D, F, energy, steps = trial, D_new, F_new, E_new, steps + active
    within = levels(F, own) if within is None else within
    smallest = torch.where(own.weight > 0, within.gap.to(energy.dtype), torch.inf).flatten(1)
    gap = smallest.amin(1) if smallest.shape[1] else torch.full_like(energy, torch.inf)
    return Converged(own, D, F, energy, residual, steps, gap)


def _in_precision(spaces: Spaces, dtype: torch.dtype) -> Spaces:
    """The spaces in another precision."""
    def convert(values: Tensor) -> Tensor:
        return values.to(dtype)

    return tensor_map(convert, spaces)


def _weighted(operator: Operator, weight: Tensor) -> Operator:
    """X -> weight J X: symmetric where occupations are fractional."""
    def apply(X: Tensor) -> Tensor:
        return weight[:, None] * operator(X)

    return apply
