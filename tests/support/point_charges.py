"""Point charges around the molecules of physics_models.py, and differences to check derivatives by them."""

from collections.abc import Callable

import torch
from torch import Tensor

from nddo_ml import Molecules, PointCharges

PLACES, VALUES = [[0.3, 0.2, 3.1], [-2.5, 1.9, 0.4]], [0.5, -0.8]    # two charges around water, angstrom and e


def weights(like: Tensor, seed: int = 0) -> Tensor:
    """Random numbers in the shape of a tensor."""
    return torch.randn(like.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def around(here: Molecules, count: int = 5, seed: int = 3) -> PointCharges:
    """Charges around one molecule, at random directions from its atoms."""
    g = torch.Generator().manual_seed(seed)
    u = torch.randn(count, 3, dtype=torch.float64, generator=g)
    R = 4.5 + torch.linspace(0, 2, count, dtype=torch.float64)[:, None]
    x = here.positions.mean(0) + R * u / u.norm(dim=1, keepdim=True)
    return PointCharges.single(x, torch.randn(count, dtype=torch.float64, generator=g))


def extrapolated(f: Callable[[float], Tensor], h: float) -> Tensor:
    """Derivative of f at 0 from +-h, +-h/2."""
    coarse, fine = ((f(s) - f(-s)) / (2 * s) for s in (h, h / 2))
    return (4 * fine - coarse) / 3
