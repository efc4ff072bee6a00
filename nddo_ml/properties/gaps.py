"""Frontier orbitals: the highest occupied and the lowest empty level, and the gap between them.

Levels are the orbital energies of one molecule; occupations are 0 to 2 in a restricted state, whose one spin channel holds both
electrons of an orbital, and 0 or 1 per channel in an unrestricted one.
"""

import torch
from jaxtyping import Float
from torch import Tensor

Levels = Float[Tensor, "spin orbital"]


def occupied_levels(levels: Levels, occupations: Levels) -> Float[Tensor, "occupied"]:
    """The levels (eV) that hold electrons, of all spin channels."""
    return levels[occupations > 0]


def empty_levels(levels: Levels, occupations: Levels) -> Float[Tensor, "empty"]:
    """The levels (eV) that have room for electrons, of all spin channels; half-filled ones hold electrons and have room."""
    return levels[occupations < 2.0 / len(occupations)]


def homo_lumo(levels: Levels, occupations: Levels) -> tuple[float, float]:
    """Highest occupied and lowest empty level over both spins, eV; -inf and inf where there is none."""
    below, above = occupied_levels(levels, occupations), empty_levels(levels, occupations)
    return (float(below.detach().max()) if len(below) else -torch.inf, float(above.detach().min()) if len(above) else torch.inf)


def has_gap(occupations: Levels) -> bool:
    """Whether there are both a level that holds electrons and one that has room for them."""
    return bool((occupations > 0).any()) and bool((occupations < 2.0 / len(occupations)).any())


def gap(levels: Levels, occupations: Levels) -> Float[Tensor, ""]:
    """Lowest empty less highest occupied level over both spins, eV, on the tape of the levels; 0 for half-filled levels.

    Raises: RuntimeError, if there is no such pair of levels (`has_gap`).
    """
    return empty_levels(levels, occupations).min() - occupied_levels(levels, occupations).max()
