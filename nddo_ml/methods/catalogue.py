"""The methods there are, and how they are found by name.

A method is a base table, the constants it was fitted with and a form of the core-core repulsion; a new one is a table of
parameters, an entry here and at most a new form in core_rules.py. Learned methods are found here too, by the name of a shipped
model or by their file; they take the form of their parent.
"""

import difflib
from dataclasses import replace

from nddo_ml.errors import UnknownOption
from nddo_ml.integrals.overlap import fade
from nddo_ml.integrals.repulsion import published_join, smooth_join
from nddo_ml.methods import core_rules, learned
from nddo_ml.methods.learned import Card
from nddo_ml.methods.method import Method
from nddo_ml.methods.tables import BASES
from nddo_ml.units import MNDO_1977

SMOOTH = "-smooth"   # ends the names of smooth parents


def method(name: str | Method) -> Method:
    """The method of a name, in upper or lower case, or of a file of trained weights; a Method is handed back as it is.

    MNDOD and MNDO-d mean MNDO/d, and PM7-smooth is smooth("PM7").

    Raises:
        UnknownOption: there is no such method; the message lists the names there are.
        IncompatibleFile: the file holds no weights; the message says what is wrong with it.
    """
    if isinstance(name, Method):
        return name
    key = str(name).strip().lower()
    card = learned.find(str(name).strip())
    if card:
        return _learned(card)
    if key.endswith(SMOOTH):
        return smooth(key.removesuffix(SMOOTH))
    try:
        return _METHODS[_ALIASES.get(key, key)]
    except KeyError:
        raise _unknown(name, key) from None


def smooth(name: str | Method) -> Method:
    """The base of a method as a function of the positions that has every derivative: the parent of a learned Hamiltonian.

    Resonance integrals end at 15 angstrom by `fade` (from 12 on) instead of a step, PM7's integrals reach their point charges
    by `smooth_join`, and all corrections are left out: they count neighbours or have kinks. PM6-D3H4 and the like become PM6
    here. The name ends in -smooth, and `method` finds it by that.

    Raises:
        UnknownOption: there is no such method.
    """
    given = method(name)
    base = _METHODS[BASES[given.table].lower()]
    parent = replace(base, name=base.name + SMOOTH, join=base.join and smooth_join, fade=fade, corrected=False)
    if given.own is None:
        return parent
    return replace(parent, name=given.name + SMOOTH, parent=parent, own=given.own, citation=given.citation)


def methods() -> tuple[str, ...]:
    """Names of all published methods; `learned.shipped()` has the trained ones."""
    return tuple(m.name for m in _METHODS.values())


def _learned(card: Card) -> Method:
    """The method of a file of weights: its parent's form under its own name."""
    parent = method(card.parent)
    citation = card.citation or f"nddo_ml, trained on {card.level}; parent {parent.citation}"
    return replace(parent, name=card.name, card=card, parent=parent, citation=citation)


def _unknown(name: object, key: str) -> UnknownOption:
    """The error for a name that means no method."""
    known = {**{k: m.name for k, m in _METHODS.items()}, **{k: k for k in learned.shipped()}}
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.4)
    hint = f" Did you mean {known[close[0]]}?" if close else ""
    names = ", ".join((*methods(), *learned.shipped()))
    return UnknownOption(f"There is no method {name!r}; available: {names}, or a file of weights (.safetensors).{hint}")


_STEWART_2007 = "J.J.P. Stewart, J. Mol. Model. 13, 1173 (2007)"
_REZAC_2012 = "J. Rezac, P. Hobza, J. Chem. Theory Comput. 8, 141 (2012)"
_GRIMME_2010 = "S. Grimme, J. Antony, S. Ehrlich, H. Krieg, J. Chem. Phys. 132, 154104 (2010)"


def _pm6(name: str, *citations: str) -> Method:
    """PM6, or PM6 with the corrections that belong to another name."""
    return Method(name, "pm6", core_rules.PM6, "; ".join((_STEWART_2007, *citations)))


_METHODS = {m.name.lower(): m for m in (
    Method("MNDO", "mndo", core_rules.EXPONENTIAL,
           "M.J.S. Dewar, W. Thiel, J. Am. Chem. Soc. 99, 4899 and 4907 (1977)"),
    Method("AM1", "am1", core_rules.AM1,
           "M.J.S. Dewar, E.G. Zoebisch, E.F. Healy, J.J.P. Stewart, J. Am. Chem. Soc. 107, 3902 (1985)"),
    Method("PM3", "pm3", core_rules.EXPONENTIAL,
           "J.J.P. Stewart, J. Comput. Chem. 10, 209 and 221 (1989), 12, 320 (1991)"),
    Method("RM1", "rm1", core_rules.EXPONENTIAL,
           "G.B. Rocha, R.O. Freire, A.M. Simas, J.J.P. Stewart, J. Comput. Chem. 27, 1101 (2006)"),
    Method("MNDO/d", "mndod", core_rules.MNDOD,
           "W. Thiel, A.A. Voityuk, J. Phys. Chem. 100, 616 (1996); Theor. Chim. Acta 81, 391 (1992), 93, 315 (1996)",
           constants=MNDO_1977),
    _pm6("PM6"),
    Method("PM7", "pm7", core_rules.PM7,
           "J.J.P. Stewart, J. Mol. Model. 19, 1 (2013)", join=published_join),
    _pm6("PM6-DH+", "M. Korth, J. Chem. Theory Comput. 6, 3808 (2010)"),
    _pm6("PM6-D3", _GRIMME_2010),
    _pm6("PM6-D3(H4)", _GRIMME_2010, _REZAC_2012),
    _pm6("PM6-D3H4", _GRIMME_2010, _REZAC_2012),
    _pm6("PM6-D3H4X", _GRIMME_2010, _REZAC_2012,
         "P.S. Brahmkshatriya et al., Curr. Comput.-Aided Drug Des. 9, 118 (2013)"),
)}
_ALIASES = {"mndod": "mndo/d", "mndo-d": "mndo/d"}
