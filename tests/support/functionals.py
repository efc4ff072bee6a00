"""Functionals with weights of no meaning."""

import torch


def randomised(functional, scale=0.6, seed=5):
    """The functional itself, its parameters moved by normal numbers times `scale`."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in functional.parameters():
            weight.add_(scale * torch.randn(weight.shape, generator=g, dtype=weight.dtype))
    return functional
