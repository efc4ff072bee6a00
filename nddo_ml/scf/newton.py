"""Second-order convergence: truncated Newton steps in the space of orbital rotations.

Each step solves J X = -r by conjugate gradients preconditioned with orbital-energy gaps, loosely while far from the solution. Where
the curvature is negative the iteration stops with the descent direction it has, and a step is shortened until the energy falls, so the
method goes downhill from any start and converges quadratically at the end. The solves may run in float32: the residual of the
outer step is always float64, so that only the number of steps can change, not the result.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from nddo_ml.scf.rotations import Spaces, gaps, occupied_virtual, response, rotate
from nddo_ml.struct import record, tensor_map

LARGEST_ANGLE = 0.5     # radians: no single rotation of a step exceeds it
SHORTENINGS = 6         # halvings (by 4) of a step before it is given up


@record
class Converged:
    """Where Newton's method ended: spaces, density D, Fock matrix F, electronic energy, largest |r| and steps of each molecule."""

    spaces: Spaces
    D: Float[Tensor, "molecule spin orbital orbital"]
    F: Float[Tensor, "molecule spin orbital orbital"]
    energy: Float[Tensor, "molecule"]
    residual: Float[Tensor, "molecule"]
    steps: Float[Tensor, "molecule"]


def conjugate_gradients(apply, b, precondition, tolerance, iterations: int):
    """x with apply(x) = b to the relative `tolerance` (molecule) of the residual norm; a vector per molecule and right-hand side.

    b is (molecule, vector, ...). Where the curvature along a direction is not positive the solution so far is kept, or the
    preconditioned right-hand side if there is none.
    """
    flat = (lambda t: t.flatten(2))
    x = torch.zeros_like(b)
    r, z = b, b / precondition
    p, rz = z, (flat(b) * flat(b / precondition)).sum(-1)
    goal = tolerance * flat(b).norm(dim=-1)
    running = flat(b).norm(dim=-1) > 0
    shape = (*b.shape[:2], *[1] * (b.dim() - 2))
    for k in range(iterations):
        Ap = apply(p)
        curvature = (flat(p) * flat(Ap)).sum(-1)
        positive = curvature > 0
        if k == 0:
            x = torch.where((running & ~positive).view(shape), z, x)
        running = running & positive
        alpha = torch.where(running, rz / torch.where(positive, curvature, torch.ones_like(curvature)), torch.zeros_like(rz)).view(shape)
        x = x + alpha * p
        r = r - alpha * Ap
        running = running & (flat(r).norm(dim=-1) > goal)
        if not bool(running.any()):
            break
        z = r / precondition
        new = (flat(r) * flat(z)).sum(-1)
        p = z + (new / torch.where(rz == 0, torch.ones_like(rz), rz)).view(shape) * p
        rz = new
    return x


def newton(layout, kernel, rough_kernel, h, start: Spaces, tolerance: float, max_steps: int):
    """Converged states from the orbitals `start`; stops when every |r| is below `tolerance` (eV) or after `max_steps`.

    kernel: float64; rough_kernel: the precision of the inner solves.
    """
    from nddo_ml.scf.fock import fock

    spin_factor = 2.0 / start.C_o.shape[1]

    def evaluate(s):
        D = (s.C_o * s.f_o[..., None, :]) @ s.C_o.mT
        F = fock(layout, kernel, h, D)
        return D, F, 0.5 * spin_factor * (D * (F + h[:, None])).sum((1, 2, 3))

    s = start
    D, F, energy = evaluate(s)
    steps = torch.zeros_like(energy)
    stuck = torch.zeros_like(energy, dtype=torch.bool)
    rough = rough_kernel.coulomb_atoms[0].dtype
    for _ in range(max_steps + 1):
        r = occupied_virtual(F, s)
        residual = r.abs().flatten(1).amax(1) if r[0].numel() else torch.zeros_like(energy)
        active = (residual > tolerance) & ~stuck
        if not bool(active.any()) or int(steps.max()) >= max_steps:
            break
        gap = gaps(F, s).clamp(min=0.5)
        small = tensor_map(lambda t: t.to(rough), s)
        apply = response(layout, rough_kernel, small, gaps(F, s).to(rough))
        loose = residual.clamp(max=0.1, min=1e-4)[:, None].to(rough)
        X = conjugate_gradients(apply, (-r * active[:, None, None, None])[:, None].to(rough), gap[:, None].to(rough), loose, 40)
        X = X[:, 0].to(r.dtype)
        X = X * (LARGEST_ANGLE / X.abs().flatten(1).amax(1).clamp(min=LARGEST_ANGLE))[:, None, None, None]
        trial, (D_new, F_new, E_new) = _step(s, X, evaluate)
        for _ in range(SHORTENINGS):
            worse = active & (E_new > energy + 1e-9 * energy.abs().clamp(min=1.0) * 0.1)
            if not bool(worse.any()):
                break
            X = torch.where(worse[:, None, None, None], 0.25 * X, X)
            trial, (D_new, F_new, E_new) = _step(s, X, evaluate)
        else:
            stuck = stuck | (active & (E_new > energy))
        s, D, F, energy = trial, D_new, F_new, E_new
        steps = steps + active
    return Converged(s, D, F, energy, residual, steps)


def _step(s, X, evaluate):
    C_o, C_v = rotate(s, X)
    moved = Spaces(C_o, C_v, s.f_o, s.weight)
    return moved, evaluate(moved)
