"""What a network sees of a batch of molecules: elements, and the pairs of atoms within a cutoff.

Everything is a function of distances and directions, so features made from it do not know where a molecule lies. Neighbours
enter and leave through `switch`, which is smooth to any order: so is everything built on it. Atoms nearer than any bond close
through `open`: no network has seen them, and the parent has a wall there.
"""

from collections.abc import Sequence
from math import pi, sqrt

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nddo_ml.common.struct import record
from nddo_ml.elements import symbol
from nddo_ml.errors import MissingParameter, UnknownOption
from nddo_ml.integrals.switch import step
from nddo_ml.pairs import near

# of the sum of covalent radii: where edges are shut and open; the labels begin at 0.7, RM1 repels everywhere below 0.6
CLOSING = (0.45, 0.70)


@record
class PairGeometry:
    """All pairs of atoms of a batch, each once, and where their atoms lie from each other."""

    i: Int[Tensor, "pair"]              # first atom
    j: Int[Tensor, "pair"]              # second atom
    R: Float[Tensor, "pair"]            # distance, angstrom
    u: Float[Tensor, "pair 3"]          # unit vector from i to j


@record
class Environment:
    """Atoms and their neighbours. Edges have a direction: first those of all near pairs i -> j, then the same j -> i."""

    kind: Int[Tensor, "atom"]           # place of the atom's element in the network's list of species
    centre: Int[Tensor, "edge"]         # atom that sees
    neighbour: Int[Tensor, "edge"]      # atom that is seen
    R: Float[Tensor, "edge"]            # length, angstrom
    u: Float[Tensor, "edge 3"]          # unit vector from centre to neighbour
    pairs: Int[Tensor, "near"]          # place of each near pair among all pairs of the batch; there are twice as many edges
    open: Float[Tensor, "edge"]         # 1, but falling to 0 where two atoms are nearer than any bond and see nothing

    def summed(self, values: Float[Tensor, "edge ..."]) -> Float[Tensor, "atom ..."]:
        """The sum over the neighbours of each atom."""
        return values.new_zeros(len(self.kind), *values.shape[1:]).index_add(0, self.centre, values)

    def free(self) -> Float[Tensor, "atom"]:
        """1 for atoms that no other comes too near, 0 for those that one has; with every derivative."""
        return step(1.0 - self.summed(1.0 - self.open))


def environment(kind: Int[Tensor, "atom"], geometry: PairGeometry, cutoff: float,
                radii: Float[Tensor, "atom"] | None = None, closing: Sequence[float] = CLOSING) -> Environment:
    """The environment of atoms from all pairs of a batch: those nearer than the cutoff (angstrom).

    Edges close between the two fractions `closing` of the sum of the covalent radii (angstrom; None: they never close).
    """
    reached = near(geometry.R, cutoff)      # which pairs are near is not differentiated: the switch is
    i, j, R, u = (t.index_select(0, reached) for t in (geometry.i, geometry.j, geometry.R, geometry.u))
    open = torch.ones_like(R)
    if radii is not None:
        closed, opened = closing
        open = step((R / (radii.index_select(0, i) + radii.index_select(0, j)) - closed) / (opened - closed))
    return Environment(kind, torch.cat((i, j)), torch.cat((j, i)), torch.cat((R, R)), torch.cat((u, -u)), reached,
                       torch.cat((open, open)))


def kinds(species: Sequence[int], numbers: Int[Tensor, "atom"], table: Int[Tensor, "number"]) -> Int[Tensor, "atom"]:
    """The place of each atomic number in `species`, by the `table` of `places`.

    Raises:
        MissingParameter: an atomic number is not among the species.
    """
    known = (numbers < len(table)) & (table[numbers.clamp(0, len(table) - 1)] >= 0)
    if not bool(known.all()):
        missing = ", ".join(symbol(n) for n in sorted(set(numbers[~known].tolist())))
        raise MissingParameter(f"This network was made for {' '.join(symbol(z) for z in species)} and knows nothing of "
                               f"{missing}: use a published method (`nddo-ml methods`) for molecules that contain it.")
    return table[numbers]


def places(species: Sequence[int]) -> Int[Tensor, "number"]:
    """Table from atomic number to the place in `species`, -1 elsewhere."""
    table = torch.full((max(species) + 1,), -1)
    table[torch.tensor(list(species))] = torch.arange(len(species))
    return table


def check_sizes(cutoff: float, shortest: float, **counts: int) -> None:
    """Refuse sizes of features that cannot be.

    Raises:
        UnknownOption: the cutoff (angstrom) is below the shortest that makes sense or beyond 100, or one of the counts is no
            integer from 1 to 4096.
    """
    if not (isinstance(cutoff, int | float) and shortest <= cutoff <= 100):
        raise UnknownOption(f"cutoff = {cutoff!r} of the features: expected a length from {shortest} to 100 angstrom.")
    for name, value in counts.items():
        if type(value) is not int or not 1 <= value <= 4096:
            raise UnknownOption(f"{name} = {value!r} of the features: expected an integer from 1 to 4096.")


def switch(R: Float[Tensor, "edge"], cutoff: float) -> Float[Tensor, "edge"]:
    """exp[1 - 1/(1 - x^2)], x = R/cutoff < 1: 1 at R = 0 and 0 with all derivatives at the cutoff."""
    x = R / cutoff
    return torch.exp(1.0 - 1.0 / (1.0 - x * x).clamp_min(1e-12))


def radial_functions(R: Float[Tensor, "edge"], cutoff: float, count: int) -> Float[Tensor, "edge function"]:
    """Spherical Bessel functions sqrt(2/c) sin(n pi R/c)/R, n = 1 ... count, times the switch; c is the cutoff, angstrom.

    J. Gasteiger, J. Gross, S. Guennemann, ICLR 2020 (DimeNet), eq. 7
    """
    n = torch.arange(1, count + 1, dtype=R.dtype, device=R.device) * (pi / cutoff)
    return torch.sin(R[:, None] * n) * (sqrt(2.0 / cutoff) * switch(R, cutoff) / R)[:, None]
