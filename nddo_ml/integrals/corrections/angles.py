"""Angles and torsions as cosines and sines, finite and differentiable at every geometry.

acos and the torsion angle have infinite or undefined derivatives at collinear atoms, so terms are written in the cosine and
the sine; where an angle itself is needed it comes from atan2 of both. At a kink the slope returned is the mean of the two
one-sided ones, which is zero for |x|.
"""

import torch
from jaxtyping import Float
from torch import Tensor

KINK = 1e-9        # |x| below this is taken as the kink itself: rounding must not pick a side
COLLINEAR = 1e-6   # angstrom; a torsion is not defined if an outer atom is closer than this to the axis


def dot(a: Float[Tensor, "*row n"], b: Float[Tensor, "*row n"]) -> Float[Tensor, "*row"]:
    """Scalar products of rows of vectors."""
    return (a * b).sum(-1)


def length(a: Float[Tensor, "*row n"]) -> Float[Tensor, "*row"]:
    """Norms of rows of vectors; the derivative at a zero vector is zero."""
    square = dot(a, a)
    zero = square <= 0.0
    return torch.where(zero, 0.0, torch.where(zero, 1.0, square).sqrt())


def magnitude(x: Float[Tensor, "*row"]) -> Float[Tensor, "*row"]:
    """|x|, with slope 0 at 0 (within rounding)."""
    size = x.abs()
    return torch.where(size > KINK, size, size.detach())


def cosine_sine(
    a: Float[Tensor, "*row 3"], b: Float[Tensor, "*row 3"]
) -> tuple[Float[Tensor, "*row"], Float[Tensor, "*row"]]:
    """Cosine and sine (>= 0) of the angle between vectors; a zero vector makes an angle of 0 with anything."""
    c, s = dot(a, b), length(torch.linalg.cross(a, b))
    norm = length(torch.stack([c, s], -1))
    undefined = norm <= 0.0
    norm = torch.where(undefined, 1.0, norm)
    return torch.where(undefined, 1.0, c / norm), s / norm


def angle(a: Float[Tensor, "*row 3"], b: Float[Tensor, "*row 3"]) -> Float[Tensor, "*row"]:
    """Angle between vectors in radians, 0 to pi; at 0 and pi, where it has a kink, its slope is 0."""
    c, s = cosine_sine(a, b)
    collinear = s <= 0.0
    turned = torch.atan2(torch.where(collinear, 1.0, s), c)
    return torch.where(collinear, torch.pi * (c.detach() <= 0).to(turned.dtype), turned)


def torsion(
    a: Float[Tensor, "row 3"], b: Float[Tensor, "row 3"], c: Float[Tensor, "row 3"], d: Float[Tensor, "row 3"]
) -> tuple[Float[Tensor, "row"], Float[Tensor, "row"]]:
    """Cosine and sine of the torsion a-b-c-d (0: cis); where it is not defined 1 and 0, with zero derivative."""
    ab, bc, cd = b - a, c - b, d - c
    first, second = torch.linalg.cross(ab, bc), torch.linalg.cross(bc, cd)
    middle = length(bc)
    x, y = dot(first, second), dot(ab, second) * middle
    defined = torch.minimum(length(first), length(second)).detach() >= COLLINEAR * middle.detach()
    defined &= middle.detach() > 0.0
    x, y = torch.where(defined, x, 1.0), torch.where(defined, y, 0.0)
    norm = length(torch.stack([x, y], -1))
    return x / norm, y / norm
