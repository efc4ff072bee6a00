"""Which pairs of atoms there are. They are enumerated here and nowhere else.

Atoms of a batch lie end to end and pairs belong to one molecule: i < j, every pair once, those of an atom i together. How far
apart the two atoms are is a matter of the positions (`Distances`); `near` picks the pairs within a cutoff.
"""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from nddo_ml.common.struct import record
from nddo_ml.molecules import COINCIDENT, coinciding

Owners = Int[np.ndarray, "atom"]


def all_pairs(molecule: Owners) -> tuple[Int[np.ndarray, "pair"], Int[np.ndarray, "pair"]]:
    """(i, j) of all pairs i < j of atoms of one molecule; owners in non-decreasing order."""
    atoms = len(molecule)
    end = np.searchsorted(molecule, molecule, side="right")
    counts = end - np.arange(atoms) - 1
    i = np.repeat(np.arange(atoms), counts)
    j = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts) + i + 1
    return i, j


@record
class Distances:
    """How far apart the atoms of each pair are, and in which direction."""

    R: Float[Tensor, "pair"]        # angstrom
    u: Float[Tensor, "pair 3"]      # unit vectors from i to j


def distances(positions: Float[Tensor, "atom 3"], i: Int[Tensor, "pair"], j: Int[Tensor, "pair"], molecule: Int[Tensor, "atom"],
              names: list[int] | None = None) -> Distances:
    """The distances of pairs of atoms at `positions` (angstrom), on their tape; molecule: the owner of each atom.

    Raises:
        InvalidMolecule: two atoms lie on one spot. It calls the molecules by their `names`, if there are several.
    """
    d = positions.index_select(0, j) - positions.index_select(0, i)
    R = d.square().sum(1).sqrt()
    if len(R) and not float(R.detach().min()) >= COINCIDENT:
        k = int(R.detach().argmin())
        raise coinciding(molecule, names, int(i[k]), int(j[k]), float(R.detach()[k]))
    return Distances(R, d / R[:, None])


def near(R: Float[Tensor, "pair"], cutoff: float) -> Int[Tensor, "near"]:
    """Which pairs are closer than `cutoff`, in the units of R."""
    return (R.detach() < cutoff).nonzero()[:, 0]


def tensors(pairs: tuple[np.ndarray, np.ndarray], device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """(i, j) as tensors."""
    i, j = (torch.from_numpy(np.ascontiguousarray(k)).to(device) for k in pairs)
    return i, j
