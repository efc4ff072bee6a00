"""The record of a method: a table of parameters, the constants it was fitted with, and a form of the core-core repulsion.

The geometry-dependent corrections that a method of that name has are those of `integrals.corrections`. Other records are made
with `dataclasses.replace` (another form) or `Method.changed` (other parameters).
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from nddo_ml.common.struct import cached, tensor_map
from nddo_ml.elements import ELEMENTS, SPECIES, number, symbol
from nddo_ml.errors import MissingParameter, UnknownOption
from nddo_ml.integrals.corrections import STEPS, Term, terms
from nddo_ml.integrals.nuclear import CoreForm, core_rules
from nddo_ml.integrals.parameters import AtomParameters, Elements, PairParameters
from nddo_ml.integrals.recipe import CoreRules, OfDistance, Recipe
from nddo_ml.methods import learned
from nddo_ml.methods.learned import Card
from nddo_ml.methods.tables import UNPUBLISHED, Table, having, table
from nddo_ml.units import CODATA_2018, Constants

OF_PAIRS = ("alpha_AB", "x_AB")     # the columns with one value for each published pair of species


@dataclass(frozen=True)
class Method:
    """A method of the NDDO family; `nddo_ml.method` finds one by its name."""

    name: str
    table: str                              # name of its base table (tables.table)
    core_core: CoreForm                     # form of the core-core repulsion
    citation: str
    constants: Constants = CODATA_2018      # the physical constants it was fitted with
    join: OfDistance | None = None          # weight of two-centre integrals against their point-charge limit (PM7); None: 1
    fade: OfDistance | None = None          # factor of the resonance integrals; None: they end at 15 angstrom with a step
    corrected: bool = True                  # whether the geometry-dependent corrections of its name are added
    card: Card | None = None                # what its file says, if it is a learned method
    parent: "Method | None" = None          # the published or smooth method that it was made from
    own: Table | None = None                # its tables, if they are not the published ones

    @property
    def terms(self) -> Mapping[str, Term]:
        """The geometry-dependent corrections of the method: name -> term."""
        return terms(self.published.name) if self.corrected else {}

    def changed(self, name: str, parameters: Mapping[str, Mapping[Any, Any]] | None = None,
                citation: str | None = None) -> "Method":
        """This method with other parameters, under its own name and citation.

        parameters: column of the table -> {element: value}, as in {"U_pp": {"C": -38.7}}. In `alpha_AB` and `x_AB` the keys are
        pairs, {("C", "H"): value}; in `K`, `L` and `M` each value is four numbers. What is not named stays as it is.

        Raises:
            UnknownOption: a column or a pair does not exist, a value has the wrong number of entries, or the method is a
                learned one, whose parameters stand in its file.
            MissingParameter: the method has no parameters for an element.
        """
        if self.card is not None:
            raise UnknownOption(f"{self.name} is a learned method, whose parameters are in its file: change those of "
                                "Hamiltonian(file) and save it under another name.")
        columns = {column: values.clone() for column, values in self.columns.items()}
        for column, values in (parameters or {}).items():
            if column not in columns:
                near = difflib.get_close_matches(column, columns, n=1)
                raise UnknownOption(f"{self.name} has no parameter {column!r}{f': did you mean {near[0]}?' if near else '.'}")
            for key, value in values.items():
                place = self._place(column, key)
                try:
                    columns[column][place] = torch.as_tensor(value, dtype=torch.float64).reshape(columns[column][place].shape)
                except (TypeError, ValueError, RuntimeError):
                    raise UnknownOption(f"{column} of {key} takes {columns[column][place].numel()} numbers; given: {value!r}."
                                        ) from None
        here = self._tables
        pairs = PairParameters(columns.pop("alpha_AB"), columns.pop("x_AB"), here.pairs.index)
        said = "" if citation is None else f"{citation}; "
        return replace(self, name=name, parent=self.published, citation=f"{said}parent {self.citation}",
                       own=replace(here, parameters=AtomParameters(**columns), pairs=pairs))

    def _place(self, column: str, key: Any) -> int:
        """The row of an element, or the entry of a pair of them, in a column. Raises UnknownOption where there is none."""
        pair = column in OF_PAIRS
        names = tuple(key) if isinstance(key, tuple | list) else (key,)
        if len(names) != 1 + pair:
            raise UnknownOption(f"{column} belongs to {'pairs of elements' if pair else 'elements'}; given: {key!r}.")
        rows = self.rows(torch.tensor([number(n) for n in names])).tolist()
        place = int(self.pairs.index[rows[0], rows[1]]) if pair else rows[0]
        if place < 0:
            raise UnknownOption(f"{self.name} has no pair {'-'.join(map(str, names))}: only published pairs can be changed.")
        return place

    @property
    def key(self) -> str:
        """What `nddo_ml.method` finds it by: its name, or the file of a learned method that is not shipped."""
        return self.name if self.card is None or self.name.lower() in learned.shipped() else str(self.card.path)

    @property
    def corrections(self) -> tuple[str, ...]:
        """Names of the geometry-dependent corrections that belong to the method."""
        return tuple(self.terms)

    @property
    def steps(self) -> tuple[str, ...]:
        """Where the energy of the method has steps, in words.

        At a step the forces are not what a finite difference of the energy gives, and an optimisation may end at a higher
        energy than it passed.
        """
        return tuple(STEPS[name] for name in self.corrections if name in STEPS)

    @property
    def elements(self) -> Elements:
        """Fixed data, one row per species: elements, then sparkles, then pseudo-atoms. Shared: do not modify."""
        return self._tables.elements

    @property
    def parameters(self) -> AtomParameters:
        """Fitted parameters, one row per species. Shared: do not modify."""
        return self._tables.parameters

    @property
    def pairs(self) -> PairParameters:
        """Fitted core-core parameters of pairs of species. Shared: do not modify."""
        return self._tables.pairs

    @property
    def columns(self) -> dict[str, Tensor]:
        """The fitted parameters by the names they have in a Hamiltonian. Shared: do not modify."""
        return {**vars(self.parameters), "alpha_AB": self.pairs.alpha, "x_AB": self.pairs.x}

    @property
    def recipe(self) -> Recipe:
        """What the integrals need to know of the method."""
        return Recipe(constants=self.constants, elements=self.elements, rho_core=self.parameters.rho_core,
                      core_rules=self.core_rules, core_energy=self.core_core.energy, join=self.join, fade=self.fade)

    @property
    def published(self) -> "Method":
        """The published method, or its smooth form, that this one was made from; itself if from none."""
        return self if self.parent is None else self.parent

    @property
    def _tables(self) -> Table:
        return table(self.table) if self.own is None else self.own

    @property
    def species(self) -> list[int]:
        """Species numbers the method covers, lanthanides that fall back to their sparkle included."""
        return sorted(self.card.elements) if self.card else table(self.table).species

    def rows(self, numbers: Int[Tensor, "atom"]) -> Int[Tensor, "atom"]:
        """Row of each species number. A lanthanide without orbitals in this method becomes its sparkle (core charge +3).

        Raises:
            MissingParameter: the method lacks one of the species.
            InvalidMolecule: one of the numbers is no species at all.
        """
        if numbers.numel() == 0:
            return numbers
        low, high = (int(bound) for bound in numbers.aminmax())
        if low < 1 or high >= SPECIES:
            symbol(low if low < 1 else high)   # raises
        if self.card and not set(numbers.tolist()) <= set(self.card.elements):
            raise _unlearned(self.card, numbers)
        rows = _row_of(self.table, numbers.device).index_select(0, numbers)
        if bool((rows < 0).any()):
            raise _missing(self, int(numbers[rows < 0][0]))
        return rows

    def core_rules(self, i: Int[Tensor, "pair"], j: Int[Tensor, "pair"]) -> CoreRules:
        """Static choices of the core-core terms of pairs whose atoms are rows i and j; fixed for a molecule, so keep them."""
        return core_rules(_core_table(self.table, self.core_core, i.device), self.elements.number.shape[0], i, j)


@cached
def _row_of(name: str, device: torch.device) -> Tensor:
    return table(name).row_of.to(device)


@cached
def _core_table(name: str, form: CoreForm, device: torch.device) -> CoreRules:
    """Rules of all pairs of rows of a base table."""
    return tensor_map(lambda t: t.to(device), form.table(table(name)))


def _unlearned(card: Card, numbers: Tensor) -> MissingParameter:
    """The error for elements that a learned method has not seen."""
    missing = ", ".join(symbol(n) for n in sorted(set(numbers.tolist()) - set(card.elements)))
    seen = " ".join(symbol(n) for n in sorted(card.elements))
    return MissingParameter(f"{card.name} was trained on {seen} and knows nothing of {missing}: use a published method "
                            "(`nddo-ml methods`) for molecules that contain it.")


def _missing(method: Method, species: int) -> MissingParameter:
    """The error for a species the method lacks, naming the base methods that have it."""
    name = symbol(species)
    label = name if species > ELEMENTS else f"{name} (Z={species})"
    others = having(species)
    advice = f"methods that do: {', '.join(others)}." if others else "no method here does."
    if species in UNPUBLISHED.get(method.table, ()):
        return MissingParameter(f"{method.name} has no usable parameters for {label}: values circulate, but no publication of "
                                f"them is known and MOPAC refuses them too; {advice}")
    return MissingParameter(f"{method.name} has no parameters for {label}; {advice}")
