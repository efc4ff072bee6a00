"""The methods: one static record each, over the published tables.

A method is a base table, the constants it was fitted with and a core-core form; integrals.corrections says what is added to it.
`method("PM6-D3H4")` finds one by name; a new one is a table, a line here and at most a new core-core function.
"""

import difflib
from dataclasses import dataclass
from functools import cache

import torch
from jaxtyping import Int
from torch import Tensor

from nddo_ml.elements import SPECIES, symbol
from nddo_ml.errors import MissingParameter, UnknownOption
from nddo_ml.integrals.corrections import terms
from nddo_ml.integrals.nuclear import CoreForm, core_rules
from nddo_ml.methods import core_core
from nddo_ml.methods.parameters import AtomParameters, Elements, PairParameters
from nddo_ml.methods.tables import UNPUBLISHED, table
from nddo_ml.struct import tensor_map
from nddo_ml.units import CODATA_2018, MNDO_1977, Constants


@dataclass(frozen=True)
class Method:
    """A method: its name, base table, core-core form, citation, physical constants, and whether two-centre integrals join the
    point-charge limit at 7 angstrom (PM7).
    """

    name: str
    table: str
    core_core: CoreForm
    citation: str
    constants: Constants = CODATA_2018
    joins_point_charge: bool = False

    @property
    def corrections(self) -> tuple[str, ...]:
        """Names of the geometry-dependent corrections that belong to the method."""
        return tuple(terms(self.name))

    @property
    def elements(self) -> Elements:
        """Fixed data, one row per species: elements, then sparkles, then pseudo-atoms. Shared: do not modify."""
        return table(self.table).elements

    @property
    def parameters(self) -> AtomParameters:
        """Fitted parameters, one row per species. Shared: do not modify."""
        return table(self.table).parameters

    @property
    def pairs(self) -> PairParameters:
        """Fitted core-core parameters of pairs of species. Shared: do not modify."""
        return table(self.table).pairs

    @property
    def species(self) -> list[int]:
        """Species numbers the method covers, lanthanides that fall back to their sparkle included."""
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
        rows = row_of.index_select(0, numbers)
        if bool((rows < 0).any()):
            raise _missing(self, int(numbers[rows < 0][0]))
        return rows

    def core_rules(self, i: Int[Tensor, "pair"], j: Int[Tensor, "pair"]):
        """Static choices of the core-core terms of pairs whose atoms are rows i and j; fixed for a molecule, so keep them."""
        return core_rules(_core_table(self.table, i.device), self.elements.number.shape[0], i, j)


def method(name: "str | Method") -> Method:
    """The method of that name, upper or lower case (MNDOD and MNDO-d mean MNDO/d). UnknownOption lists the names there are."""
    if isinstance(name, Method):
        return name
    key = str(name).strip().lower()
    try:
        return _METHODS[_ALIASES.get(key, key)]
    except KeyError:
        close = difflib.get_close_matches(key, _METHODS, n=1, cutoff=0.4)
        hint = f" Did you mean {_METHODS[close[0]].name}?" if close else ""
        raise UnknownOption(f"There is no method {name!r}; available: {', '.join(methods())}.{hint}") from None


def methods() -> tuple[str, ...]:
    """Names of all methods."""
    return tuple(m.name for m in _METHODS.values())


@cache
def _row_of(name, device):
    return table(name).row_of.to(device)


@cache
def _core_table(name, device):
    """Rules of all pairs of rows of a base table."""
    form = next(m.core_core for m in _BASES if m.table == name)
    return tensor_map(lambda t: t.flatten(0, 1).contiguous().to(device), form.table(table(name)))


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
           "J.J.P. Stewart, J. Mol. Model. 19, 1 (2013)", joins_point_charge=True),
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
