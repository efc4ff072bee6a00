"""A step from 0 to 1 with every derivative.

It ends what a smooth Hamiltonian has to end at some distance. The published methods have cutoffs of their own, with corners
and jumps: those stay as they are.
"""

import torch
from torch import Tensor

END = 1e-3   # closer than this to either end the step is 0 or 1 in double precision anyway


def step(y: Tensor) -> Tensor:
    """0 for y <= 0, 1 for y >= 1, between  1/{1 + exp[1/y - 1/(1 - y)]}: all derivatives vanish at both ends."""
    y = y.clamp(END, 1.0 - END)
    return torch.sigmoid((2.0 * y - 1.0) / (y * (1.0 - y)))
