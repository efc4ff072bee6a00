"""The methods: one static record each, over the published tables.

A method is a base table, the constants it was fitted with and a core-core form; integrals.corrections says what is added to it.
`method("PM6-D3H4")` finds one by name; a new one is a table, a line here and at most a new core-core function. `smooth` makes a
method the parent of a learned one, `Method.changed` one with other parameters under a name of its own:

    mine = method("AM1").changed("AM1-mine", {"U_pp": {"C": -38.7}}, "this work")
    Hamiltonian(mine)(molecules).method                                            # AM1-mine
    weights.save(Hamiltonian(mine), "am1-mine.safetensors")                        # for Hamiltonian, NDDO and the command
"""

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Int
from torch import Tensor

from nddo_ml.common.struct import cached, tensor_map
from nddo_ml.elements import SPECIES, number, symbol
from nddo_ml.errors import MissingParameter, UnknownOption
from nddo_ml.integrals.corrections import STEPS, Term, terms
from nddo_ml.integrals.nuclear import CoreForm, core_rules
from nddo_ml.integrals.overlap import fade
from nddo_ml.integrals.parameters import AtomParameters, Elements, PairParameters
from nddo_ml.integrals.recipe import Recipe
from nddo_ml.integrals.repulsion import published_join, smooth_join
from nddo_ml.methods import core_core, learned
from nddo_ml.methods.learned import Card
from nddo_ml.methods.tables import UNPUBLISHED, Table, table
from nddo_ml.units import CODATA_2018, MNDO_1977, Constants

SMOOTH = "-smooth"   # ends the names of smooth parents


@dataclass(frozen=True)
class Method:
    """A method: its name, base table, core-core form, citation and physical constants.

    parent: the method whose corrections it has, if that is another. own: its tables, if they are not the published ones.
    join: weight, as a function of R, of the two-centre integrals against their point-charge limit (PM7; None: no such limit).
    fade: factor of the resonance integrals as a function of R (None: they end at 15 angstrom as they are). corrected: whether
    the geometry-dependent corrections of that name are added. card: what the file of a learned method says (None: published).
    """

    name: str
    table: str
    core_core: CoreForm
    citation: str
    constants: Constants = CODATA_2018
    join: Callable | None = None
    fade: Callable | None = None
    corrected: bool = True
    card: Card | None = None
    parent: str | None = None
    own: Table | None = None

    @property
    def terms(self) -> Mapping[str, Term]:
        """The geometry-dependent corrections of the method: name -> term."""
        return terms(self.parent or self.name) if self.corrected else {}

    def changed(self, name: str, parameters: Mapping[str, Mapping] | None = None, citation: str | None = None) -> "Method":
        """This method with other parameters, under its own name and citation.

        parameters: column of the table -> {element: value}, {"U_pp": {"C": -38.7}}; of alpha_AB and x_AB {("C", "H"): value};
        of K, L and M four values. What is not named stays. UnknownOption, MissingParameter: there is no such column, pair or
        shape, or no such element in it.
        """
        if self.card is not None:
            raise UnknownOption(f"{self.name} is a learned method, whose parameters are in its file: change those of "
                                "Hamiltonian(file) and save it under another name.")
        here = self._tables
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
        pairs = PairParameters(columns.pop("alpha_AB"), columns.pop("x_AB"), here.pairs.index)
        said = "" if citation is None else f"{citation}; "
        return replace(self, name=name, parent=self.parent or self.name, card=None, citation=f"{said}parent {self.citation}",
                       own=replace(here, parameters=AtomParameters(**columns), pairs=pairs))

    def _place(self, column, key):
        """Row or entry of an element or a pair of them in a column. UnknownOption: there is none."""
        pair = column in ("alpha_AB", "x_AB")
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
        """What `method` finds it by: its name, or the file of a learned method that is not shipped."""
        return self.name if self.card is None or self.name.lower() in learned.shipped() else str(self.card.path)

    @property
    def corrections(self) -> tuple[str, ...]:
        """Names of the geometry-dependent corrections that belong to the method."""
        return tuple(self.terms)

    @property
    def steps(self) -> tuple[str, ...]:
        """Where the energy of the method has steps, in words: there forces are no derivative of a finite difference, and an
        optimisation may end at a higher energy than it passed."""
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
        return Recipe(self.constants, self.elements, self.parameters.rho_core, self.core_rules, self.core_core.energy,
                      self.join, self.fade)

    @property
    def published(self) -> "Method":
        """The published method, or its smooth form, that this one was made from; itself if from none."""
        return self if self.parent is None else method(self.parent)

    @property
    def _tables(self) -> Table:
        return table(self.table) if self.own is None else self.own

    @property
    def species(self) -> list[int]:
        """Species numbers the method covers, lanthanides that fall back to their sparkle included."""
        if self.card:
            return sorted(self.card.elements)
        return _row_of(self.table, torch.device("cpu")).ge(0).nonzero().flatten().tolist()

    def rows(self, numbers: Int[Tensor, "atom"]) -> Int[Tensor, "atom"]:
        """Row of each species number. A lanthanide without orbitals in this method becomes its sparkle (core charge +3).

        Raises MissingParameter for a species the method lacks, InvalidMolecule for a number that is no species.
        """
        row_of = _row_of(self.table, numbers.device)
        if numbers.numel() == 0:
            return numbers
        low, high = (int(bound) for bound in numbers.aminmax())
        if low < 1 or high >= SPECIES:
            symbol(low if low < 1 else high)   # raises
        if self.card and not set(numbers.tolist()) <= set(self.card.elements):
            raise _unlearned(self.card, numbers)
        rows = row_of.index_select(0, numbers)
        if bool((rows < 0).any()):
            raise _missing(self, int(numbers[rows < 0][0]))
        return rows

    def core_rules(self, i: Int[Tensor, "pair"], j: Int[Tensor, "pair"]):
        """Static choices of the core-core terms of pairs whose atoms are rows i and j; fixed for a molecule, so keep them."""
        return core_rules(_core_table(self.table, i.device), self.elements.number.shape[0], i, j)


def method(name: "str | Method") -> Method:
    """The method of that name, upper or lower case (MNDOD and MNDO-d mean MNDO/d; PM7-smooth is smooth("PM7")), or of a file of
    trained weights. UnknownOption lists the names there are, IncompatibleFile says what is wrong with a file.
    """
    if isinstance(name, Method):
        return name
    found = learned.find(str(name).strip())
    if found:
        return replace(method(found.parent), name=found.name, card=found, parent=found.parent,
                       citation=found.citation or
                       f"nddo_ml, trained on {found.level}; parent {method(found.parent).citation}")
    key = str(name).strip().lower()
    if key.endswith(SMOOTH):
        return smooth(key.removesuffix(SMOOTH))
    try:
        return _METHODS[_ALIASES.get(key, key)]
    except KeyError:
        known = {**{k: m.name for k, m in _METHODS.items()}, **{k: k for k in learned.shipped()}}
        close = difflib.get_close_matches(key, known, n=1, cutoff=0.4)
        hint = f" Did you mean {known[close[0]]}?" if close else ""
        names = ", ".join((*methods(), *learned.shipped()))
        raise UnknownOption(f"There is no method {name!r}; available: {names}, or a file of weights (.safetensors).{hint}"
                            ) from None


def smooth(name: "str | Method") -> Method:
    """The base of a method as a function of the positions that has every derivative: the parent of a learned Hamiltonian.

    Resonance integrals end at 15 angstrom by `fade` (from 12 on) instead of a step, PM7's integrals reach their point charges
    by `smooth_join`, and all corrections are left out: they count neighbours or have kinks. PM6-D3H4 and the like become PM6
    here. The name ends in -smooth, and `method` finds it by that.
    """
    given = method(name)
    base = next(m for m in _BASES if m.table == given.table)
    found = replace(base, name=base.name + SMOOTH, join=base.join and smooth_join, fade=fade, corrected=False)
    if given.own is None:
        return found
    return replace(found, name=given.name + SMOOTH, parent=found.name, own=given.own, citation=given.citation)


def methods() -> tuple[str, ...]:
    """Names of all published methods; `learned.shipped()` has the trained ones."""
    return tuple(m.name for m in _METHODS.values())


@cached
def _row_of(name, device):
    return table(name).row_of.to(device)


@cached
def _core_table(name, device):
    """Rules of all pairs of rows of a base table."""
    form = next(m.core_core for m in _BASES if m.table == name)
    return tensor_map(lambda t: t.flatten(0, 1).contiguous().to(device), form.table(table(name)))


def _unlearned(card, numbers) -> MissingParameter:
    """The error for elements that a learned method has not seen."""
    missing = ", ".join(symbol(n) for n in sorted(set(numbers.tolist()) - set(card.elements)))
    seen = " ".join(symbol(n) for n in sorted(card.elements))
    return MissingParameter(f"{card.name} was trained on {seen} and knows nothing of {missing}: use a published method "
                            "(`nddo-ml methods`) for molecules that contain it.")


def _missing(method, number) -> MissingParameter:
    """The error for a species the method lacks, naming the base methods that have it."""
    name = symbol(number)
    label = name if number > 118 else f"{name} (Z={number})"
    others = [m.name for m in _BASES if number in m.species]
    advice = f"methods that do: {', '.join(others)}." if others else "no method here does."
    if number in UNPUBLISHED.get(method.table, ()):
        return MissingParameter(f"{method.name} has no usable parameters for {label}: values circulate, but no publication of "
                                f"them is known and MOPAC refuses them too; {advice}")
    return MissingParameter(f"{method.name} has no parameters for {label}; {advice}")


_STEWART_2007 = "J.J.P. Stewart, J. Mol. Model. 13, 1173 (2007)"
_REZAC_2012 = "J. Rezac, P. Hobza, J. Chem. Theory Comput. 8, 141 (2012)"
_GRIMME_2010 = "S. Grimme, J. Antony, S. Ehrlich, H. Krieg, J. Chem. Phys. 132, 154104 (2010)"


def _pm6(name, *citations):
    return Method(name, "pm6", core_core.PM6, "; ".join((_STEWART_2007, *citations)))


_BASES = (
    Method("MNDO", "mndo", core_core.EXPONENTIAL,
           "M.J.S. Dewar, W. Thiel, J. Am. Chem. Soc. 99, 4899 and 4907 (1977)"),
    Method("AM1", "am1", core_core.AM1,
           "M.J.S. Dewar, E.G. Zoebisch, E.F. Healy, J.J.P. Stewart, J. Am. Chem. Soc. 107, 3902 (1985)"),
    Method("PM3", "pm3", core_core.EXPONENTIAL,
           "J.J.P. Stewart, J. Comput. Chem. 10, 209 and 221 (1989), 12, 320 (1991)"),
    Method("RM1", "rm1", core_core.EXPONENTIAL,
           "G.B. Rocha, R.O. Freire, A.M. Simas, J.J.P. Stewart, J. Comput. Chem. 27, 1101 (2006)"),
    Method("MNDO/d", "mndod", core_core.MNDOD,
           "W. Thiel, A.A. Voityuk, J. Phys. Chem. 100, 616 (1996); Theor. Chim. Acta 81, 391 (1992), 93, 315 (1996)",
           constants=MNDO_1977),
    _pm6("PM6"),
    Method("PM7", "pm7", core_core.PM7,
           "J.J.P. Stewart, J. Mol. Model. 19, 1 (2013)", join=published_join),
)
_METHODS = {m.name.lower(): m for m in (
    *_BASES,
    _pm6("PM6-DH+", "M. Korth, J. Chem. Theory Comput. 6, 3808 (2010)"),
    _pm6("PM6-D3", _GRIMME_2010),
    _pm6("PM6-D3(H4)", _GRIMME_2010, _REZAC_2012),
    _pm6("PM6-D3H4", _GRIMME_2010, _REZAC_2012),
    _pm6("PM6-D3H4X", _GRIMME_2010, _REZAC_2012,
         "P.S. Brahmkshatriya et al., Curr. Comput.-Aided Drug Des. 9, 118 (2013)"),
)}
_ALIASES = {"mndod": "mndo/d", "mndo-d": "mndo/d"}
