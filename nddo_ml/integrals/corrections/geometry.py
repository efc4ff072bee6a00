"""What every correction looks at: elements, pairs and distances of a batch of molecules.

`Composition` is what does not depend on the positions; it is made once and may serve any number of geometries, so the lists
of pairs that the terms ask for are kept in its `PairsByElement`. `Geometry` adds positions and pair distances, which carry the
tape. Everything that selects (neighbours, candidates) is made from detached numbers and is constant under differentiation.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nddo_ml.integrals.corrections import tables
from nddo_ml.molecules import Molecules
from nddo_ml.pairs import all_pairs, tensors

# (pair, a, b): places of pairs in a composition, their atoms a of some elements and b of others
Couples = tuple[Int[Tensor, "chosen"], Int[Tensor, "chosen"], Int[Tensor, "chosen"]]


class PairsByElement:
    """The pairs between two sets of elements: each list is made when it is first asked for, and kept."""

    def __init__(self, numbers: Int[Tensor, "atom"], i: Int[Tensor, "pair"], j: Int[Tensor, "pair"]) -> None:
        self.numbers, self.i, self.j = numbers, i, j
        self._kept: dict[tuple[frozenset[int], frozenset[int]], Couples] = {}

    def between(self, first: frozenset[int], second: frozenset[int]) -> Couples:
        """(pair, a, b): the pairs of an atom `a` of the first elements with an atom `b` of the second."""
        if (first, second) not in self._kept:
            self._kept[first, second] = self._between(first, second)
        return self._kept[first, second]

    def _between(self, first: frozenset[int], second: frozenset[int]) -> Couples:
        device = self.numbers.device
        is_first = tables.members(first, device).index_select(0, self.numbers)
        is_second = tables.members(second, device).index_select(0, self.numbers)
        forward = is_first.index_select(0, self.i) & is_second.index_select(0, self.j)
        backward = is_second.index_select(0, self.i) & is_first.index_select(0, self.j)
        pair = (forward | backward).nonzero()[:, 0]
        i, j, straight = self.i[pair], self.j[pair], forward[pair]
        return pair, torch.where(straight, i, j), torch.where(straight, j, i)


@dataclass(frozen=True, eq=False)
class Composition:
    """What the corrections look at in a batch of molecules that does not depend on the positions."""

    numbers: Int[Tensor, "atom"]        # atomic numbers; 0 for species without element data
    molecule: Int[Tensor, "atom"]       # owner of each atom
    molecules: int
    i: Int[Tensor, "pair"]              # atoms of the pairs: each pair of atoms of a molecule once
    j: Int[Tensor, "pair"]
    pairs: PairsByElement               # of the same numbers, i and j

    @staticmethod
    def of(
        molecules: Molecules, i: Int[Tensor, "pair"] | None = None, j: Int[Tensor, "pair"] | None = None
    ) -> "Composition":
        """The composition of a batch; `i`, `j`: its pairs if they are already at hand, each once, in any order."""
        numbers = torch.where(molecules.numbers < tables.SIZE, molecules.numbers, 0)
        if i is None or j is None:
            i, j = tensors(all_pairs(molecules.molecule.cpu().numpy()), numbers.device)
        return Composition(numbers, molecules.molecule, len(molecules), i, j, PairsByElement(numbers, i, j))

    @cached_property
    def elements(self) -> frozenset[int]:
        """The atomic numbers that occur."""
        return frozenset(self.numbers.tolist())

    @cached_property
    def species_pair(self) -> Int[Tensor, "pair"]:
        """Flat index of each pair into a table of element pairs."""
        return self.numbers.index_select(0, self.i) * tables.SIZE + self.numbers.index_select(0, self.j)

    @cached_property
    def bond_limit(self) -> Float[Tensor, "pair"]:
        """Largest distance at which each pair counts as bonded, angstrom."""
        return tables.bond_limits(self.numbers.device).index_select(0, self.species_pair)

    @cached_property
    def coordination_limit(self) -> Float[Tensor, "pair"]:
        """Largest distance at which each pair counts as neighbours in the hydrogen-bond terms, angstrom."""
        return tables.coordination_limits(self.numbers.device).index_select(0, self.species_pair)

    def is_element(self, atoms: Int[Tensor, "*row"], *elements: int) -> Bool[Tensor, "*row"]:
        """True where the atom (an index tensor of any shape) is one of the elements."""
        return tables.members(frozenset(elements), self.numbers.device)[self.numbers[atoms]]

    def per_molecule(self, energy: Float[Tensor, "row"], atom: Int[Tensor, "row"]) -> Float[Tensor, "molecule"]:
        """Sum of row energies over the molecules that own `atom` of each row."""
        if self.molecules == 1:
            return energy.sum().reshape(1)
        return energy.new_zeros(self.molecules).index_add(0, self.molecule.index_select(0, atom), energy)


@dataclass(frozen=True, eq=False)
class Geometry:
    """A composition at given positions; `positions` and `R` may be on the tape, `x` and `R_constant` are not."""

    composition: Composition
    positions: Float[Tensor, "atom 3"]      # angstrom
    R: Float[Tensor, "pair"]                # distances of the pairs of the composition, angstrom

    @staticmethod
    def of(
        composition: Composition, positions: Float[Tensor, "atom 3"], R: Float[Tensor, "pair"] | None = None
    ) -> "Geometry":
        """The geometry; `R`: the distances of the composition's pairs (angstrom) if they are already at hand."""
        if R is None:
            R = (positions.index_select(0, composition.j) - positions.index_select(0, composition.i)).norm(dim=-1)
        return Geometry(composition, positions, R)

    @cached_property
    def R_constant(self) -> Float[Tensor, "pair"]:
        """Distances without tape, for selections only."""
        return self.R.detach()

    @cached_property
    def x(self) -> Float[Tensor, "atom 3"]:
        """Positions without tape, for selections only."""
        return self.positions.detach()

    def at(self, atom: Int[Tensor, "row"]) -> Float[Tensor, "row 3"]:
        """Positions of atoms, on the tape."""
        return self.positions.index_select(0, atom)

    def closer(self, first: frozenset[int], second: frozenset[int], limit: float) -> Couples:
        """`PairsByElement.between`, of the pairs closer than `limit` (angstrom)."""
        pair, a, b = self.composition.pairs.between(first, second)
        chosen = (self.R_constant.index_select(0, pair) < limit).nonzero()[:, 0]
        return pair.index_select(0, chosen), a.index_select(0, chosen), b.index_select(0, chosen)

    @cached_property
    def bonded(self) -> tuple[Int[Tensor, "bond"], Int[Tensor, "bond"]]:
        """(atom, neighbour) of every bond in both directions, sorted: r < f (r_A + r_B). A hydrogen atom with more than one
        neighbour loses its hydrogen neighbours; they keep it.
        """
        composition = self.composition
        pair = (self.R_constant < composition.bond_limit).nonzero()[:, 0]
        atom, neighbour = directed(composition.i[pair], composition.j[pair])
        lost = composition.is_element(atom, 1) & composition.is_element(neighbour, 1) & (torch.bincount(atom)[atom] > 1)
        return atom[~lost], neighbour[~lost]

    @cached_property
    def bond_count(self) -> Int[Tensor, "atom"]:
        """Number of bonded neighbours of each atom."""
        return torch.bincount(self.bonded[0], minlength=self.composition.numbers.shape[0])


def expand(counts: Int[Tensor, "row"]) -> tuple[Int[Tensor, "entry"], Int[Tensor, "entry"]]:
    """(row, k) with k = 0 ... counts[row] - 1 for each row in turn."""
    row = torch.arange(counts.shape[0], device=counts.device).repeat_interleave(counts)
    start = counts.cumsum(0) - counts
    return row, torch.arange(row.shape[0], device=counts.device) - start.index_select(0, row)


def directed(i: Int[Tensor, "pair"], j: Int[Tensor, "pair"]) -> tuple[Int[Tensor, "both"], Int[Tensor, "both"]]:
    """Both directions of each pair, sorted by first and then by second atom."""
    a, b = torch.cat([i, j]), torch.cat([j, i])
    order = (a * (1 + b.amax() if b.numel() else 1) + b).argsort()
    return a[order], b[order]


def neighbour_table(
    atom: Int[Tensor, "link"], neighbour: Int[Tensor, "link"], atoms: int, width: int | None = None
) -> Int[Tensor, "atom width"]:
    """Neighbours of each atom in the order of the (grouped) list, padded with -1; `width` keeps only the first ones."""
    count = torch.bincount(atom, minlength=atoms)
    width = (int(count.max()) if atom.numel() else 0) if width is None else width
    place = torch.arange(atom.shape[0], device=atom.device) - (count.cumsum(0) - count)[atom]
    kept = (place < width).nonzero()[:, 0]
    table = torch.full((atoms, width), -1, dtype=torch.long, device=atom.device)
    return table.index_put_((atom[kept], place[kept]), neighbour[kept])
