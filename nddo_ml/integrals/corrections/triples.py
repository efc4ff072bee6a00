"""Candidates for hydrogen bonds X-H...Y between nitrogen and oxygen, found from pair distances without loops."""

import torch
from jaxtyping import Int
from torch import Tensor

from nddo_ml.integrals.corrections.geometry import Geometry, expand

Atoms = Int[Tensor, "triple"]

H, NITROGEN_OXYGEN = frozenset({1}), frozenset({7, 8})


def hydrogen_bonds(geometry: Geometry, r_XH: float, r_XY: float) -> tuple[Atoms, Atoms, Atoms] | None:
    """(X, H, Y) of every X-H...Y with X, Y = N or O, H within r_XH of X, Y within r_XY of X (angstrom) and the angle above 90
    degrees; None if there is none. Where H is within r_XH of both, the triple is listed once, with X the first atom.
    """
    composition = geometry.composition
    if 1 not in composition.elements or not composition.elements & NITROGEN_OXYGEN:
        return None
    _, x, y = geometry.closer(NITROGEN_OXYGEN, NITROGEN_OXYGEN, r_XY)
    if x.numel() == 0:
        return None
    _, heavy, h = geometry.closer(NITROGEN_OXYGEN, H, r_XH)
    if heavy.numel() == 0:
        return None
    order = heavy.argsort(stable=True)
    heavy, h = heavy[order], h[order]
    count = torch.bincount(heavy, minlength=composition.numbers.shape[0])
    start = count.cumsum(0) - count
    x, y = torch.cat([x, y]), torch.cat([y, x])
    row, k = expand(count[x])
    x, y = x[row], y[row]
    h = h[start[x] + k]
    R_HX, R_HY = geometry.x[x] - geometry.x[h], geometry.x[y] - geometry.x[h]
    second = (x > y) & ((R_HY * R_HY).sum(-1) < r_XH * r_XH)
    kept = (((R_HX * R_HY).sum(-1) < 0.0) & ~second).nonzero()[:, 0]
    return (x[kept], h[kept], y[kept]) if kept.numel() else None
