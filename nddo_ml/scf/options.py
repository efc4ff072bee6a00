"""How a self-consistent state is looked for: the one place of the defaults that the library, the ASE calculator, QCSchema and
the command share.
"""

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any, SupportsFloat, TypedDict

from nddo_ml.errors import UnknownOption


class SCFKeywords(TypedDict, total=False):
    """The options of `SCF` as keywords of a function: `def calculate(molecules, **scf: Unpack[SCFKeywords])`."""

    unrestricted: bool | None
    tolerance: float
    max_steps: int
    stability: bool | None
    biradical: bool
    raise_unconverged: bool | None
    response_tolerance: float
    ladder: tuple[Any, ...] | None
    density: Callable[..., Any] | None


@dataclass(frozen=True)
class SCF:
    """What may be asked of a self-consistent state.

    Raises:
        UnknownOption: an option means nothing, or two contradict each other.
    """

    # None: alpha and beta orbitals apart for open shells only; True: always, a singlet starts with broken symmetry; False:
    # never, open shells are half-electron states
    unrestricted: bool | None = None
    tolerance: float = 1e-7             # largest element of the commutator of a converged state, eV
    max_steps: int = 500                # iterations in all
    # True: look for a lower state, a broken spin symmetry included, and return it; None: only for a lower one of the same kind,
    # where it is to be feared or looking costs next to nothing (hamiltonian.starts.suspicious); False: never
    stability: bool | None = None
    # singlets are open shells of two half-filled orbitals (the lowest root of their configuration interaction) instead of
    # closed shells
    biradical: bool = False
    # what does not converge raises SCFNotConverged (True), or is flagged and its energy NaN (False); None: a single molecule
    # raises, a member of a batch is flagged
    raise_unconverged: bool | None = None
    response_tolerance: float = 1e-10   # relative residual of the response equations behind derivatives of order 2 and 3
    # nothing here imports torch: the help of the command knows these defaults too
    ladder: tuple[Any, ...] | None = None       # ways of converging, tried one after another (rungs.Rung); None: rungs.LADDER
    density: Callable[..., Any] | None = None   # from a Fock matrix to orbitals (density.DensityBuilder); None: diagonalise

    def __post_init__(self) -> None:
        for name in ("tolerance", "max_steps", "response_tolerance"):
            value = getattr(self, name)
            if isinstance(value, bool | str) or not isinstance(value, SupportsFloat) or not float(value) > 0:
                raise UnknownOption(f"{name}={value!r}: it must be a positive number.")
        if self.biradical and self.unrestricted:
            raise UnknownOption("biradical=True asks for half-electron singlets, unrestricted=True for two sets of orbitals: "
                                "choose one.")
        if self.ladder is not None and not self.ladder:
            raise UnknownOption(f"ladder={self.ladder!r}: give at least one rung (nddo_ml.scf.rungs.LADDER).")


BESIDE = ("forces", "order", "guess", "field", "point_charges")      # other arguments of the calls that take these options


def asked(keywords: Mapping[str, Any]) -> SCF:
    """The options that the keywords of a call ask for.

    Raises:
        TypeError: there is no such option.
        UnknownOption: an option means nothing.
    """
    if not keywords:
        return USUAL
    given = tuple(keywords.items())
    try:
        return _asked(given)
    except TypeError:           # what cannot be hashed, or is no option
        return _made(given)


@lru_cache(maxsize=64)
def _asked(given: tuple[tuple[str, Any], ...]) -> SCF:
    return _made(given)


def _made(given: tuple[tuple[str, Any], ...]) -> SCF:
    keywords = dict(given)
    names = [option.name for option in fields(SCF)]
    for name in keywords:
        if name not in names:
            close = difflib.get_close_matches(name, (*names, *BESIDE), n=1)
            hint = f": did you mean {close[0]}?" if close else "."
            raise TypeError(f"There is no option {name!r} here{hint} The options of a self-consistent field are "
                            f"{', '.join(names)}.")
    return SCF(**keywords)


USUAL = SCF()       # nothing out of the ordinary asked for
