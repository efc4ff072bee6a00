"""Drawings on paper: molecules given in a plane that their bonds do not allow.

In an exact plane no force points out of it, so an optimisation stays on the saddle point it was drawn on: flat ethane would be
"converged" 9 eV too high. Atoms of such a drawing are lifted a little before the first step.
"""

import torch

from nddo_ml.elements import covalent_radii
from nddo_ml.molecules import Molecules

FLAT = 1e-4         # angstrom out of the plane
BOND = 1.3          # of the sum of covalent radii
BONDS = 4           # neighbours that no plane holds ...
LAST = 18           # ... around elements up to argon; square planar centres are heavier
LIFT = 0.05         # angstrom, standard deviation of the heights


def lifted(molecules: Molecules) -> Molecules:
    """The molecules; where one is flat although an atom of it has four neighbours, at random heights above and below its
    plane, the same in every run."""
    x = molecules.positions.clone()
    for place in torch.arange(len(x), device=x.device).split(molecules.sizes):
        normal = _normal(molecules.numbers[place], x[place].detach())
        if normal is not None:
            heights = LIFT * torch.randn(len(place), generator=torch.Generator().manual_seed(0), dtype=x.dtype)
            x[place] = x[place] + heights.to(x.device)[:, None] * normal
    return molecules.with_positions(x)


def _normal(numbers, x):
    """The normal of the plane of a drawing, None for anything else."""
    if len(x) <= BONDS:
        return None
    centred = x - x.mean(0)
    values, axes = torch.linalg.eigh(centred.T @ centred)
    if float(values[0].clamp(min=0).sqrt()) > FLAT:
        return None
    radii = covalent_radii(numbers)
    near = torch.cdist(x, x) < BOND * (radii[:, None] + radii)
    crowded = (near.sum(1) - 1 >= BONDS) & (numbers <= LAST)
    return axes[:, 0] if bool(crowded.any()) else None
