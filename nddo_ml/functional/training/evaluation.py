"""How good a functional is: self-consistent reaction energies of a thermochemistry file, beside those of PySCF's own."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from nddo_ml.errors import SCFNotConverged, UnknownOption
from nddo_ml.functional import library
from nddo_ml.functional.base import Functional
from nddo_ml.functional.pyscf.densities import Level, in_libxc, mean_field, solve
from nddo_ml.functional.training.losses import errors_of
from nddo_ml.functional.training.thermochemistry import Reaction, System, needed_systems


@dataclass(frozen=True)
class Result:
    """Of one method: errors (kcal/mol) by reaction, energies (hartree) by system, systems whose SCF did not converge, and those
    that needed more than DIIS."""

    method: str
    errors: dict[Reaction, float]
    energies: dict[str, float]
    unconverged: tuple[str, ...]
    helped: tuple[str, ...]

    def of_kind(self, kind: str) -> list[float]:
        """Errors of that kind, kcal/mol."""
        return [e for r, e in self.errors.items() if r.kind == kind]


def method(name: str | Functional) -> Functional | str:
    """A functional of ours, itself or by name, file or "module:Class", or the name of one of libxc. UnknownOption: neither."""
    if isinstance(name, Functional):
        return name
    if name in library.names() or name.endswith(library.SUFFIX) or library.is_class(name):
        return library.load(name)
    if not in_libxc(name):
        raise UnknownOption(f"There is no functional {name!r}; ours: {', '.join(library.names())}, or a file "
                            f"({library.SUFFIX}), or \"module:Class\"; PySCF's by their names in libxc (pbe, r2scan, ...).")
    return name


def evaluate(name: str | Functional, systems: dict[str, System], reactions: Sequence[Reaction], level: Level,
             progress: Callable[[int, int], None] = lambda done, total: None) -> Result:
    """Every system solved on its own; the non-local correlation (VV10) of a functional of libxc is left out."""
    functional, energies, failed, helped = method(name), {}, [], []
    keys = needed_systems(list(reactions))
    for k, key in enumerate(keys):
        mf = mean_field(functional, systems[key], level)
        mf.nlc = 0
        try:
            mf, rung = solve(mf)
            energies[key] = float(mf.e_tot)
            if rung != "diis":
                helped.append(key)
        except SCFNotConverged:
            failed.append(key)
        progress(k + 1, len(keys))
    label = name.label if isinstance(name, Functional) else name
    return Result(label, errors_of(reactions, energies), energies, tuple(failed), tuple(helped))
