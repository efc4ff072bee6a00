"""Bonds of a structure, by the distances between its atoms, and the two parts of a molecule that one of them joins."""

import numpy as np
from ase.data import covalent_radii

from nddo_ml.labels.structures import Structure

BONDED = 1.25       # times the sum of two covalent radii: atoms that are nearer are bonded


def bonds(structure: Structure) -> list[tuple[int, int]]:
    """Pairs of bonded atoms i < j, by their places in the structure."""
    d = np.linalg.norm(structure.positions[:, None] - structure.positions[None], axis=-1)
    r = covalent_radii[structure.numbers]
    i, j = np.nonzero(np.triu(d < BONDED * (r[:, None] + r[None]), 1))
    return list(zip(i.tolist(), j.tolist(), strict=True))


def beyond(structure: Structure, i: int, j: int) -> list[int] | None:
    """The atoms on j's side of the bond i-j, in order; None where the bond is in a ring."""
    joined, side = bonds(structure), {j}
    while new := {b for p, q in joined for a, b in ((p, q), (q, p)) if a in side and b not in side and {a, b} != {i, j}}:
        side |= new
    return None if i in side else sorted(side)


def outside_rings(structure: Structure) -> list[tuple[int, int, list[int]]]:
    """The bonds i-j outside rings, each with the atoms on j's side of it."""
    sides = [(i, j, beyond(structure, i, j)) for i, j in bonds(structure)]
    return [(i, j, side) for i, j, side in sides if side is not None]
