"""Derivatives through the self-consistent field, to any order, from one constant linear solve inside the energy.

At convergence the orbitals C, the density D0 and the response operator J0 are constants; everything else, phi (positions,
parameters, fields), may be on a tape. The rotation that keeps the state self-consistent is, to first order,

    X1 = -J0^-1 (r - r0),     r(phi) = C_v^T F(D0, phi) C_o,  r0 its value

zero in value, so the forward pass solves nothing; its derivatives are those of the orbitals. With it

    order 1:  E(D0, phi)                                  exact first derivatives (forces), no solve
    order 2:  E(D0, phi) + c/2 <r - r0, X1>               exact second derivatives: Hessian, dipole derivatives, gradients of
    force losses
    order 3:  E(D(X1), phi)                               exact third derivatives (2n+1 rule)

What is not stationary in the density (dipole, charges, levels) has one derivative less: it is read from D(X1) at order 2 and at
order 3 from D(X2), X2 = X1 - J0^-1 (g(X1, phi) - g0), g(X, phi) = (C_v - C_o X^T)^T F(D(X), phi) (C_o + C_v X) the whole
gradient: a step with constant J0 makes a rotation that is exact in n derivatives exact in n + 1.

c = 4 restricted, 2 per spin channel. Nothing is divided by a difference inside the occupied or the virtual space, so
degenerate levels do no harm, and the eigenvectors themselves are never differentiated. Rotations that cost nothing, in which J0
is singular, are left out (scf.zero_modes). Derivation: docs/derivatives.md.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from nddo_ml.common.struct import record
from nddo_ml.errors import SCFNotConverged
from nddo_ml.orbitals import Layout
from nddo_ml.scf.density import Matrices, Orbitals
from nddo_ml.scf.fock import Integrals, Kernel, electronic_energy, fock, kernel, one_electron
from nddo_ml.scf.newton import conjugate_gradients
from nddo_ml.scf.problem import Problem, Solution
from nddo_ml.scf.rotations import (
    Levels,
    Operator,
    Rotation,
    Rotations,
    Spaces,
    levels,
    occupied_virtual,
    response,
    spaces,
)
from nddo_ml.scf.zero_modes import generators, without, zero_modes

TOLERANCE = 1e-10       # relative residual of the linear solves
WORST = 0.1             # relative residual beyond which no conjugate gradients are believed, however loose the tolerance
ITERATIONS = 200
SMALLEST_GAP = 1e-6     # eV
DENSE_ELEMENTS = 4e7    # largest dense response matrix, for states where conjugate gradients cannot work
SINGULAR = 1e-7         # eV: a solution longer than |b| divided by this comes from a singular matrix
NOISE = 1e-9            # of what the SCF leaves of a perturbation that has no component
COUPLED = 1e-4          # part of a perturbation along rotations that cost nothing, above which it cannot be left out


@record
class Reference:
    """A converged state as a constant."""

    layout: Layout
    spaces: Spaces
    D: Matrices                     # density
    kernel: Kernel
    levels: Levels                  # the Fock matrix within the spaces
    tolerance: float = TOLERANCE    # relative residual to which its response is solved
    # orthonormal rotations that cost nothing, if there are any
    costless: Float[Tensor, "molecule axis spin virtual occupied"] | None = None


def reference(problem: Problem, orbitals: Orbitals, state: Solution, tolerance: float = TOLERANCE,
              axes: Float[Tensor, "molecule axis 3"] | None = None) -> Reference:
    """The constant part of every derivative of a state, from its canonical orbitals; axes: see zero_modes.free_axes.

    Raises:
        SCFNotConverged: the gap vanishes; such a state has no response.
    """
    with torch.no_grad():
        layout = problem.layout
        own = spaces(orbitals, layout.real)
        within = levels(state.F, own)
        gap = within.gap
        smallest = torch.where(own.weight > 0, gap.abs(), torch.full_like(gap, torch.inf)).flatten(1)
        if smallest.shape[1] and bool((smallest.amin(1) < SMALLEST_GAP).any()):
            k = int(smallest.amin(1).argmin())
            raise SCFNotConverged(
                f"Molecule {k} of the batch has no gap between occupied and empty orbitals ({float(smallest.amin()):.1e} eV): "
                "its response to a perturbation is not defined. Use unrestricted=True or another multiplicity."
            )
        two = kernel(layout, problem.integrals)
        costless = None if axes is None else zero_modes(generators(layout, axes), own, response(layout, two, own, within))
        return Reference(layout, own, state.D, two, within, tolerance, costless)


def rotation(ref: Reference, integrals: Integrals) -> tuple[Rotation, Rotation]:
    """(r - r0, X1) of the state under perturbed integrals: zero in value, exact in their first derivatives."""
    F = fock(ref.layout, kernel(ref.layout, integrals), one_electron(ref.layout, integrals), ref.D)
    r = occupied_virtual(F, ref.spaces)
    r = r - r.detach()
    return r, -_Inverse.apply(r[:, None], ref)[:, 0]


def perturbed_density(ref: Reference, X: Rotation) -> Matrices:
    """D after the rotation X, idempotent to fourth order: Y (1 - X^T X) Y^T, Y = C_o + C_v X (whole occupations)."""
    Y = ref.spaces.C_o + ref.spaces.C_v @ X
    identity = torch.diag_embed(ref.spaces.f_o)
    return Y @ (identity - X.mT @ X) @ Y.mT


def energy(ref: Reference, integrals: Integrals, order: int) -> tuple[Float[Tensor, "molecule"], Matrices]:
    """Electronic energy of each molecule (eV), exact in its derivatives up to `order`, and a density that is exact in one
    derivative less.
    """
    if order == 1:
        return electronic_energy(ref.layout, integrals, ref.D), ref.D
    r, X = rotation(ref, integrals)
    if order == 2:
        c = 4.0 / ref.D.shape[1]
        E = electronic_energy(ref.layout, integrals, ref.D) + 0.5 * c * (ref.spaces.weight * r * X).sum((1, 2, 3))
        return E, ref.D + linear_change(ref, X)
    D = perturbed_density(ref, X)
    return electronic_energy(ref.layout, integrals, D), perturbed_density(ref, _once_more(ref, integrals, X, D))


def _once_more(ref: Reference, integrals: Integrals, X: Rotation, D: Matrices) -> Rotation:
    """The rotation X, exact in one derivative more; D is its density."""
    F, own = fock(ref.layout, kernel(ref.layout, integrals), one_electron(ref.layout, integrals), D), ref.spaces
    C_o, C_v = own.C_o + own.C_v @ X, own.C_v - own.C_o @ X.mT
    g = (C_v.mT @ (F @ C_o)) * (own.weight > 0)
    return X - _Inverse.apply((g - g.detach())[:, None], ref)[:, 0]


def linear_change(ref: Reference, X: Rotation) -> Matrices:
    """dD of a rotation to first order."""
    half = ref.spaces.C_v @ (X * ref.spaces.weight) @ ref.spaces.C_o.mT
    return half + half.mT


def solve(ref: Reference, b: Rotations) -> Rotations:
    """J0^-1 b for several right-hand sides per molecule, to the relative `tolerance` of the reference in each residual.

    Conjugate gradients; where J0 is not positive definite (a state that is not a minimum) the dense matrix instead. Both
    without the rotations that cost nothing, in b and in the solution.

    Raises:
        SCFNotConverged: neither reaches the tolerance.
    """
    tolerance = ref.tolerance
    with torch.no_grad():
        weight = ref.spaces.weight[:, None]
        allowed = (weight > 0).to(b.dtype)
        operator = response(ref.layout, ref.kernel, ref.spaces, ref.levels)

        def scaled(v: Tensor) -> Tensor:
            return weight * operator(v)

        def weighted(v: Tensor) -> Tensor:
            return without(ref.costless, scaled(without(ref.costless, v)))

        rhs = without(ref.costless, b * weight)
        limit = torch.full(b.shape[:2], tolerance, dtype=b.dtype, device=b.device)
        scale = torch.where(weight > 0, weight * ref.levels.gap[:, None].abs().clamp(min=0.1), torch.ones_like(weight))
        x, _ = conjugate_gradients(weighted, rhs, scale, limit, ITERATIONS)
        x = without(ref.costless, x)
        norm = (b * weight).flatten(2).norm(dim=-1)
        if bool(((weighted(x) - rhs).flatten(2).norm(dim=-1) > min(1e2 * tolerance, WORST) * norm).any()):
            x = _dense(scaled, rhs, allowed, ref.costless)
        return x


def _dense(operator: Operator, b: Tensor, allowed: Tensor, costless: Tensor | None) -> Tensor:
    """The solution of `operator` x = b, a symmetric matrix for each molecule, by elimination."""
    molecules = len(b)
    n = b[0, 0].numel()
    if molecules * n * n > DENSE_ELEMENTS:
        raise SCFNotConverged(f"The response equations did not converge and are too large for a direct solution ({n} "
                              "rotations): the SCF state is not a minimum. Try stability=True, or unrestricted=True.")
    unit = torch.eye(n, dtype=b.dtype, device=b.device).view(1, n, *b.shape[2:]) * allowed
    columns = torch.cat([operator(chunk).flatten(2) for chunk in unit.split(256, 1)], 1)
    matrix = columns.mT + torch.diag_embed(1 - allowed.flatten(1))
    if costless is not None:
        matrix = matrix + costless.flatten(2).mT @ costless.flatten(2)
    x, info = torch.linalg.solve_ex(matrix, b.flatten(2).mT)
    if bool((info > 0).any()) or bool((x.norm(dim=1) * SINGULAR > b.flatten(2).norm(dim=-1)).any()):
        x = _without_null_space(matrix, b.flatten(2).mT)
    return x.mT.reshape(b.shape)


def _without_null_space(matrix: Tensor, b: Tensor) -> Tensor:
    """The solution without rotations that cost nothing, of degenerate fragments far from the rest for one; SCFNotConverged
    where the perturbation asks for them."""
    values, vectors = torch.linalg.eigh(matrix)
    c, null = vectors.mT @ b, (values.abs() < SINGULAR)[..., None]
    along = torch.where(null, c, 0.0).norm(dim=1)
    if bool((along > (COUPLED * b.norm(dim=1)).clamp(min=NOISE)).any()):
        raise SCFNotConverged("The state can turn at no cost (a degenerate state of a fragment that is far from the rest), and "
                              "the perturbation turns it: its response is not defined. Calculate the fragments on their own.")
    return vectors @ torch.where(null, 0.0, c / torch.where(null, 1.0, values[..., None]))


class _Inverse(torch.autograd.Function):
    """J0^-1 as a linear function: its transpose is W J0^-1 W^-1, W the differences of occupations, so its backward is the same
    solve."""

    @staticmethod
    def forward(b: Tensor, ref: Reference) -> Tensor:
        return solve(ref, b)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.ref = inputs[1]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        weight = ctx.ref.spaces.weight[:, None]
        safe = torch.where(weight > 0, weight, torch.ones_like(weight))
        return weight * _Inverse.apply(grad / safe, ctx.ref), None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], b: Tensor, ref: Reference) -> tuple[Tensor, int]:
        b = b.movedim(in_dims[0], 1)
        solved = _Inverse.apply(b.flatten(1, 2), ref).unflatten(1, b.shape[1:3])
        return solved, 1
