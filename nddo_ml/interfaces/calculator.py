"""What the ASE calculators of this package have in common: one molecule at a time, one thread at a time, every calculation from
the density of the last."""

from typing import Any, ClassVar, Generic, Protocol, TypedDict, TypeVar, runtime_checkable

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator, Parameters, all_changes
from ase.outputs import Properties, all_outputs
from torch import Tensor

from nddo_ml.common.struct import Lock, in_turn
from nddo_ml.common.threads import threads
from nddo_ml.errors import InvalidMolecule, UnknownOption
from nddo_ml.interfaces.atoms import molecule, snapshot
from nddo_ml.methods import Method
from nddo_ml.molecules import Molecules
from nddo_ml.scf.options import SCF


@runtime_checkable
class Calculated(Protocol):
    """What a calculator's model returns."""

    @property
    def molecules(self) -> Molecules:
        """What was calculated."""
        ...

    def density(self, k: int = 0) -> Tensor:
        """The density matrix of molecule k: where the next calculation starts from."""
        ...


AnyResult = TypeVar("AnyResult", bound=Calculated)


class SCFOptions(TypedDict, total=False):
    """Options of a calculator's self-consistent field, defaults in nddo_ml.scf.options.SCF."""

    unrestricted: bool | None     # None: open shells only; True: always, a singlet with broken symmetry; False: never
    max_steps: int                # iterations
    stability: bool | None        # look for a lower state; None: where one is to be feared


class CalculatorKeywords(SCFOptions, total=False):
    """Keywords of a calculator that every one has: those of its SCF, and what ASE gives all calculators."""

    atoms: Atoms | None
    label: str | None
    directory: str


SCF_DEFAULTS: SCFOptions = {"unrestricted": SCF.unrestricted, "max_steps": SCF.max_steps, "stability": SCF.stability}


class MoleculeCalculator(Calculator, Generic[AnyResult]):
    """ASE calculator of one molecule. A calculator of this kind says which method its model has (`_method`), what its model
    returns for a molecule (`_calculated`) and what ASE calls that (`_named`).

    Threads may share a calculator: they take turns, and each gets its own molecule's numbers from get_property, which is what
    atoms.get_potential_energy() and the like call; `results` and `result` are those of the last molecule, whosever it was.
    """

    discard_results_on_any_change = True
    title: ClassVar[str]            # what files call it
    refusal: ClassVar[str]          # how the message begins that an option does not exist
    parameters: Parameters
    result: AnyResult | None        # of the last calculation

    def __init__(self, options: dict[str, Any], keywords: CalculatorKeywords):
        """options: those of this calculator alone. keywords: as a user gave them.

        Raises: TypeError, if there is no such keyword; UnknownOption, if a value means nothing.
        """
        self.result, self._lock = None, Lock()
        self._seen: dict[str, Any] | None = None                    # the atoms of the last calculation (atoms.snapshot)
        self._known: tuple[Any, Molecules] | None = None            # the last molecule, and what it was made from
        unknown = sorted(set(keywords) - set(CalculatorKeywords.__annotations__))
        if unknown:
            raise TypeError(f"{type(self).__name__}.__init__() got an unexpected keyword argument {unknown[0]!r}")
        super().__init__(**{**options, **SCF_DEFAULTS, **keywords})
        self.use_cache = False          # `calculate` copies the atoms, too

    def _get_name(self) -> str:
        return self.title

    def _method(self) -> Method:
        """The method of the model, which may not have been made yet."""
        raise NotImplementedError

    def _calculated(self, molecules: Molecules, guess: AnyResult | None) -> AnyResult:
        """What the model returns for a molecule, with forces, starting from the density of an earlier result."""
        raise NotImplementedError

    def _named(self, result: AnyResult) -> dict[str, Any]:
        """A result under ASE's names."""
        raise NotImplementedError

    @in_turn
    def set(self, **options: Any) -> dict[str, Any]:
        """Change options, and return those that differ; results are discarded if any does.

        Raises: UnknownOption, if there is no such option.
        """
        unknown = sorted(set(options) - set(self.default_parameters))
        if unknown:
            raise UnknownOption(f"{self.refusal} {unknown[0]!r}; it has: {', '.join(self.default_parameters)}.")
        return super().set(**options)

    @in_turn
    def get_property(self, name: str, atoms: Atoms | None = None, allow_calculation: bool = True) -> Any:
        """A property of these atoms: checking, calculating and reading are one turn."""
        return super().get_property(name, atoms, allow_calculation)

    calculate_properties = in_turn(Calculator.calculate_properties)

    @in_turn
    def reset(self) -> None:
        """Forget the results; the last density stays as a guess."""
        super().reset()
        self._seen = self._known = None

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:
        """What changed since the last calculation; charge, multiplicity and species names included, which ASE does not look at.
        """
        if self.atoms is None or self._seen is None:
            return super().check_state(atoms, tol=tol) or ["info"]
        return [name for name, value in snapshot(atoms).items() if value != self._seen[name] and name not in self.ignored_changes]

    @in_turn
    def calculate(self, atoms: Atoms | None = None, properties: Any = ("energy",), system_changes: Any = all_changes) -> None:
        """All properties at once: they share one SCF whatever is asked for first.

        Raises: InvalidMolecule, MissingParameter, SCFNotConverged.
        """
        if atoms is not None:
            self.atoms = atoms.copy()
        self.results, self._seen = {}, None
        molecules, last = self._molecule(self.atoms), self.result
        self.result = None
        guess = last if last is not None and _alike(last.molecules, molecules) else None
        with threads(self.parameters.threads):
            self.result = self._calculated(molecules, guess)
        self._seen = snapshot(self.atoms)
        self.results = self._named(self.result)

    def export_properties(self) -> Properties:
        """The results that ASE has names for."""
        return Properties({name: value for name, value in self.results.items() if name in all_outputs})

    def _molecule(self, atoms: Atoms | None) -> Molecules:
        if atoms is None:
            raise InvalidMolecule("This calculator has no atoms yet: ask the atoms that it belongs to (atoms.calc), or give "
                                  "them to the call, as in get_hessian(atoms).")
        charge, multiplicity, seen = self.parameters.charge, self.parameters.multiplicity, snapshot(atoms)
        made_from = charge, multiplicity, {**seen, "positions": len(atoms), "cell": None}
        if self._known is not None and self._known[0] == made_from:
            return self._known[1].with_positions(torch.from_numpy(np.array(atoms.positions, dtype=np.float64)))
        made = molecule(atoms, self._method(), charge, multiplicity)
        self._known = made_from, made
        return made

    def _scf(self) -> SCFOptions:
        """The options of the SCF."""
        p = self.parameters
        return {"unrestricted": p.unrestricted, "max_steps": p.max_steps, "stability": p.stability}


def _alike(a: Molecules, b: Molecules) -> bool:
    """Whether a density of one is a good guess for the other."""
    both = (a.numbers, b.numbers), (a.charge, b.charge), (a.unpaired, b.unpaired)
    return all(first is second or first.tolist() == second.tolist() for first, second in both)
