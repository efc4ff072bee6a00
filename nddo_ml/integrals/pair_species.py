"""What the elements of two atoms decide about their integrals, for a group of pairs at once.

Pairs are evaluated in groups whose atoms have the same numbers of orbitals. The elements also decide which quantum numbers the
overlaps have and whether the cores need integrals of their own. None of this depends on the positions or on the parameters
that a network may shift: make it once per group of pairs and keep it while the atoms move.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nddo_ml.common.struct import record
from nddo_ml.integrals.frame import SHELLS
from nddo_ml.integrals.parameters import Elements

HELIUM = 2     # its p functions take no part in integrals with d functions, and feel no other core


@record
class SlaterClasses:
    """Which quantum numbers the Slater functions of a group of pairs have."""

    numbers: tuple[tuple[int, ...], ...]                # distinct (n_s, n_p, n_d of i, then of j) of treated shells
    excluded: Float[Tensor, "pair condition"] | None    # 1 for each class a pair is not of, then where i, j lack p; None: all 0
    pairs: Int[Tensor, "pair"]                          # 0, 1, 2, ...


@record
class PairSpecies:
    """What the elements of a group of pairs decide."""

    shells: tuple[int, int]         # orbitals (n_i, n_j) that the atoms are treated with, n_i >= n_j, each 0, 1, 4 or 9
    elements_i: Elements            # of atom i of each pair
    elements_j: Elements            # of atom j of each pair
    separate_core: bool             # whether any atom has a core of its own; otherwise cores take integrals of s distributions
    slater: SlaterClasses           # quantum numbers of the overlaps


def pair_species(shells: tuple[int, int], elements_i: Elements, elements_j: Elements, separate_core: bool) -> PairSpecies:
    """The record of pairs whose atoms i and j are treated with `shells` orbitals; separate_core: see `has_own_core`."""
    return PairSpecies(shells, elements_i, elements_j, separate_core, slater_classes(shells, elements_i, elements_j))


def has_own_core(rho_core: Float[Tensor, "row"], elements: Elements) -> Bool[Tensor, "row"]:
    """True where the core of an atom is not seen like its s distribution.

    That is where rho_core (bohr) is fitted and not 0, where integrals with d functions have additive terms of their own (rho1c,
    rho2c) or PM7 equalises those of d electrons, and for helium.
    """
    transition_metal = (elements.main_group == 0) & (elements.n_ao == 9)
    return (rho_core > 0) | transition_metal | (elements.occ_d > 0) | (elements.number == HELIUM)


def slater_classes(shells: tuple[int, int], elements_i: Elements, elements_j: Elements) -> SlaterClasses:
    """The classes of quantum numbers of pairs whose atoms are treated with `shells` orbitals."""
    pairs = torch.arange(len(elements_i.number), device=elements_i.number.device)
    if shells[1] == 0:
        return SlaterClasses((), None, pairs)
    columns: list[Tensor] = []
    absent: list[Tensor] = []
    for elements, n in zip((elements_i, elements_j), shells, strict=True):
        without_p = (elements.n_ao < 4) & (n >= 4)
        # where there are no p functions n_p is free: n_s makes fewer classes
        columns += [elements.n_s, torch.where(without_p, elements.n_s, elements.n_p), elements.n_d][:len(SHELLS[n])]
        absent.append(without_p)
    # no quantum number exceeds 7
    code = sum((n * 8**k for k, n in enumerate(columns)), torch.zeros_like(pairs))
    distinct = torch.unique(code)
    numbers = tuple(tuple(key // 8**k % 8 for k in range(len(columns))) for key in distinct.tolist())
    other = code[:, None] != distinct
    excluded = torch.cat((other, torch.stack(absent, 1)), 1)
    return SlaterClasses(numbers, excluded.to(torch.float64) if bool(excluded.any()) else None, pairs)
