"""What every correction looks at: elements, pairs and distances of a batch of molecules.

`Composition` is what does not depend on the positions; it is made once and may serve any number of geometries. `Geometry`
adds positions and pair distances, which carry the tape. Everything that selects (neighbours, candidates) is made from
detached numbers and is constant under differentiation.
"""

from dataclasses import dataclass, field
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nddo_ml.integrals.corrections import tables
from nddo_ml.molecules import Molecules


@dataclass(frozen=True, eq=False)
class Composition:
    """Elements (0 for species without element data), owners and pairs (each pair of atoms of a molecule once) of a batch."""

    numbers: Int[Tensor, "atom"]
    molecule: Int[Tensor, "atom"]
    molecules: int
    i: Int[Tensor, "pair"]
    j: Int[Tensor, "pair"]
    _found: dict = field(default_factory=dict, repr=False)

    @staticmethod
    def of(molecules: Molecules, i: Tensor | None = None, j: Tensor | None = None) -> "Composition":
        """The composition of a batch; `i`, `j`: its pairs if they are already at hand, each once, in any order."""
        numbers = molecules.numbers
        if i is None:
            i, j = all_pairs(molecules.molecule, len(molecules))
        return Composition(torch.where(numbers < tables.SIZE, numbers, 0), molecules.molecule, len(molecules), i, j)

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

    def between(self, first: frozenset[int], second: frozenset[int]) -> tuple[Tensor, Tensor, Tensor]:
        """(pair, a, b): the pairs of an atom `a` of the first elements with an atom `b` of the second."""
        if (first, second) not in self._found:
            self._found[first, second] = self._between(first, second)
        return self._found[first, second]

    def _between(self, first, second):
        device = self.numbers.device
        is_first = tables.members(first, device).index_select(0, self.numbers)
        is_second = tables.members(second, device).index_select(0, self.numbers)
        forward = is_first.index_select(0, self.i) & is_second.index_select(0, self.j)
        backward = is_second.index_select(0, self.i) & is_first.index_select(0, self.j)
        pair = (forward | backward).nonzero()[:, 0]
        i, j, straight = self.i[pair], self.j[pair], forward[pair]
        return pair, torch.where(straight, i, j), torch.where(straight, j, i)

    def is_element(self, atoms: Tensor, *elements: int) -> Tensor:
        """True where the atom (an index tensor of any shape) is one of the elements."""
        return tables.members(frozenset(elements), self.numbers.device)[self.numbers[atoms]]

    def per_molecule(self, energy: Tensor, atom: Int[Tensor, "row"]) -> Float[Tensor, "molecule"]:
        """Sum of row energies over the molecules that own `atom` of each row."""
        if self.molecules == 1:
            return energy.sum().reshape(1)
        return energy.new_zeros(self.molecules).index_add(0, self.molecule.index_select(0, atom), energy)


@dataclass(frozen=True, eq=False)
class Geometry:
    """A composition at given positions (angstrom): R (pair) is on the tape, `R_constant` and `x` are not."""

    composition: Composition
    positions: Float[Tensor, "atom 3"]
    R: Float[Tensor, "pair"]

    @staticmethod
    def of(composition: Composition, positions: Tensor, R: Tensor | None = None) -> "Geometry":
        """The geometry; `R`: the distances of the composition's pairs if they are already at hand."""
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

    def closer(self, first: frozenset[int], second: frozenset[int], limit: float) -> tuple[Tensor, Tensor, Tensor]:
        """`Composition.between`, of the pairs closer than `limit` (angstrom)."""
        pair, a, b = self.composition.between(first, second)
        chosen = (self.R_constant.index_select(0, pair) < limit).nonzero()[:, 0]
        return pair.index_select(0, chosen), a.index_select(0, chosen), b.index_select(0, chosen)

    @cached_property
    def bonded(self) -> tuple[Tensor, Tensor]:
        """(atom, neighbour) of every bond in both directions, sorted: r < f (r_A + r_B). A hydrogen atom with more than one
        neighbour loses its hydrogen neighbours; they keep it.
        """
        c = self.composition
        pair = (self.R_constant < c.bond_limit).nonzero()[:, 0]
        atom, neighbour = directed(c.i[pair], c.j[pair])
        lost = c.is_element(atom, 1) & c.is_element(neighbour, 1) & (torch.bincount(atom)[atom] > 1)
        return atom[~lost], neighbour[~lost]

    @cached_property
    def bond_count(self) -> Int[Tensor, "atom"]:
        """Number of bonded neighbours of each atom."""
        return torch.bincount(self.bonded[0], minlength=self.composition.numbers.shape[0])


def all_pairs(molecule: Int[Tensor, "atom"], molecules: int) -> tuple[Tensor, Tensor]:
    """i < j of every pair of atoms of the same molecule; atoms of a molecule lie together."""
    atoms = molecule.shape[0]
    index = torch.arange(atoms, device=molecule.device)
    end = torch.bincount(molecule, minlength=molecules).cumsum(0)
    i, offset = expand(end.index_select(0, molecule) - index - 1)
    return i, i + 1 + offset


def expand(counts: Int[Tensor, "row"]) -> tuple[Tensor, Tensor]:
    """(row, k) with k = 0 ... counts[row] - 1 for each row in turn."""
    row = torch.arange(counts.shape[0], device=counts.device).repeat_interleave(counts)
    start = counts.cumsum(0) - counts
    return row, torch.arange(row.shape[0], device=counts.device) - start.index_select(0, row)


def directed(i: Tensor, j: Tensor) -> tuple[Tensor, Tensor]:
    """Both directions of each pair, sorted by first and then by second atom."""
    a, b = torch.cat([i, j]), torch.cat([j, i])
    order = (a * (1 + b.amax() if b.numel() else 1) + b).argsort()
    return a[order], b[order]


def neighbour_table(atom: Tensor, neighbour: Tensor, atoms: int, width: int | None = None) -> Int[Tensor, "atom width"]:
    """Neighbours of each atom in the order of the (grouped) list, padded with -1; `width` keeps only the first ones."""
    count = torch.bincount(atom, minlength=atoms)
    width = (int(count.max()) if atom.numel() else 0) if width is None else width
    place = torch.arange(atom.shape[0], device=atom.device) - (count.cumsum(0) - count)[atom]
    kept = (place < width).nonzero()[:, 0]
    table = torch.full((atoms, width), -1, dtype=torch.long, device=atom.device)
    return table.index_put_((atom[kept], place[kept]), neighbour[kept])
