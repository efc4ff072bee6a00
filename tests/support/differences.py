"""Derivatives by extrapolated differences, and random weights to contract them with."""

import torch


def extrapolated(f, h):
    """Derivative of f at 0 from +-h, +-h/2."""
    coarse, fine = ((f(s) - f(-s)) / (2 * s) for s in (h, h / 2))
    return (4 * fine - coarse) / 3


def close(a, b, relative, absolute=0.0):
    error, size = (a - b).abs().max(), b.abs().max()
    assert error <= relative * size + absolute, f"{float(error):.2e} of {float(size):.2e}"


def weights(like, seed=0):
    return torch.randn(like.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
