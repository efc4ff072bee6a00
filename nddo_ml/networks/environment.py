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

# of the sum of covalent radii: where edges are shut and open; the labels begin at 0.7, RM1 repels everywhere below 0.6
CLOSING = (0.45, 0.70)


@record
class Environment:
    """Atoms and their neighbours: `kind` (atom), the place of each element in the network's list; directed edges from `centre`
    to `neighbour`, first all pairs i -> j, then the same j -> i: length R (angstrom) and direction u; `pairs`, the place of
    each undirected pair among all pairs of the batch; `open` (edge): 1, but falling to 0 where two atoms are nearer than any
    bond, so that neither is to be seen by the other.
    """

    kind: Int[Tensor, "atom"]
    centre: Int[Tensor, "edge"]
    neighbour: Int[Tensor, "edge"]
    R: Float[Tensor, "edge"]
    u: Float[Tensor, "edge 3"]
    pairs: Int[Tensor, "near"]
    open: Float[Tensor, "edge"]

    def summed(self, values: Float[Tensor, "edge ..."]) -> Float[Tensor, "atom ..."]:
        """The sum over the neighbours of each atom."""
        return values.new_zeros(len(self.kind), *values.shape[1:]).index_add(0, self.centre, values)

    def free(self) -> Float[Tensor, "atom"]:
        """1 for atoms that no other comes too near, 0 for those that one has; with every derivative."""
        return step(1.0 - self.summed(1.0 - self.open))


def environment(kind: Int[Tensor, "atom"], i: Int[Tensor, "pair"], j: Int[Tensor, "pair"], R: Float[Tensor, "pair"],
                u: Float[Tensor, "pair 3"], cutoff: float, radii: Float[Tensor, "atom"] | None = None,
                closing: tuple[float, float] = CLOSING) -> Environment:
    """The environment of atoms from all pairs of a batch (R in angstrom, u from i to j). Edges close between the fractions
    `closing` of the sum of the covalent radii (angstrom; None: never)."""
    near = (R.detach() < cutoff).nonzero()[:, 0]     # which pairs are neighbours is not differentiated: the switch is
    i, j, R, u = (t.index_select(0, near) for t in (i, j, R, u))
    open = torch.ones_like(R)
    if radii is not None:
        closed, opened = closing
        open = step((R / (radii.index_select(0, i) + radii.index_select(0, j)) - closed) / (opened - closed))
    return Environment(kind, torch.cat((i, j)), torch.cat((j, i)), torch.cat((R, R)), torch.cat((u, -u)), near,
                       torch.cat((open, open)))


def kinds(species: Sequence[int], numbers: Int[Tensor, "atom"], table: Int[Tensor, "number"]) -> Int[Tensor, "atom"]:
    """The place of each atomic number in `species`, by the `table` of `places`; MissingParameter for any other."""
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
    """UnknownOption names a size of features that cannot be: a cutoff (angstrom) below the shortest that makes sense or beyond
    100, a count that is no integer from 1 to 4096."""
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
    """Spherical Bessel functions sqrt(2/c) sin(n pi R/c)/R, n = 1 ... count (Gasteiger, Gross, Guennemann, ICLR 2020), times
    the switch."""
    n = torch.arange(1, count + 1, dtype=R.dtype, device=R.device) * (pi / cutoff)
    return torch.sin(R[:, None] * n) * (sqrt(2.0 / cutoff) * switch(R, cutoff) / R)[:, None]
