"""How good a functional is: self-consistent reaction energies of a thermochemistry file, beside those of PySCF's own."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from nddo_ml.errors import SCFNotConverged, UnknownOption
from nddo_ml.functional import library
from nddo_ml.functional.base import Functional
from nddo_ml.functional.pyscf.densities import KohnShamLevel, in_libxc, mean_field, solve
from nddo_ml.functional.pyscf.host import PySCFMeanField
from nddo_ml.functional.reactions import ChemicalSystem, Reaction, needed_systems
from nddo_ml.functional.training.losses import reaction_errors


@dataclass(frozen=True)
class FunctionalScore:
    """How good one functional is."""

    method: str                         # what it is called
    errors: dict[Reaction, float]       # kcal/mol, of the reactions all of whose systems converged
    energies: dict[str, float]          # hartree, by key of the system
    unconverged: tuple[str, ...]        # systems whose SCF did not converge
    helped: tuple[str, ...]             # systems that needed more than DIIS

    def of_kind(self, kind: str) -> list[float]:
        """Errors of reactions of that kind, kcal/mol."""
        return [error for reaction, error in self.errors.items() if reaction.kind == kind]


def method(name: str | Functional) -> Functional | str:
    """A functional of ours, itself or by name, file or "module:Class", or the name of one of libxc.

    Raises:
        UnknownOption: neither knows it.
    """
    if isinstance(name, Functional):
        return name
    if name in library.names() or name.endswith(library.SUFFIX) or library.is_class(name):
        return library.load(name)
    if not in_libxc(name):
        raise UnknownOption(f"There is no functional {name!r}; ours: {', '.join(library.names())}, or a file "
                            f"({library.SUFFIX}), or \"module:Class\"; PySCF's by their names in libxc (pbe, r2scan, ...).")
    return name


def evaluate(name: str | Functional, systems: Mapping[str, ChemicalSystem], reactions: Sequence[Reaction], level: KohnShamLevel,
             progress: Callable[[int, int], None] = lambda done, total: None,
             solver: Callable[[PySCFMeanField], str] = solve) -> FunctionalScore:
    """Errors of self-consistent reaction energies, every system solved on its own.

    The non-local correlation (VV10) of a functional of libxc is left out.

    Args:
        name: what `method` knows.
        systems: by key.
        reactions: whose errors are asked for.
        level: how mean fields are calculated.
        progress: is told how many systems are done, of how many.
        solver: solves a mean field in place and says which rung of a ladder did it.

    Raises:
        UnknownOption: there is no such functional, basis or grid.
    """
    functional, energies, failed, helped = method(name), {}, [], []
    keys = needed_systems(reactions)
    for k, key in enumerate(keys):
        mf = mean_field(functional, systems[key], level)
        mf.nlc = 0
        try:
            rung = solver(mf)
            energies[key] = float(mf.e_tot)
            if rung != "diis":
                helped.append(key)
        except SCFNotConverged:
            failed.append(key)
        progress(k + 1, len(keys))
    label = name.label if isinstance(name, Functional) else name
    return FunctionalScore(label, reaction_errors(reactions, energies), energies, tuple(failed), tuple(helped))
