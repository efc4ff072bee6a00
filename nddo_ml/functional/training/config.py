"""What a training of a functional is asked to do; a TOML file of these tables (the command line reads it)."""

from dataclasses import asdict, dataclass, field, fields
from typing import Any

from nddo_ml.common.toml import COUNT, FRACTION, POSITIVE, SEED, WEIGHT, check_limits, check_seeds
from nddo_ml.errors import UnknownOption


@dataclass(frozen=True)
class FunctionalForm:
    """[functional], what is trained."""

    kind: str = "NeuralGGA"             # or NeuralMetaGGA; a published name where only the part of the density matrix is
                                        # learned; "module:Class" of your own, to which only the training then applies
    parent: str = ""                    # published name; "": the usual one
    width: int = 16                     # of the hidden layers
    correlation: bool = True            # whether the correlation is corrected too
    exact_exchange: float = -1.0        # fraction at the start; below 0: that of the parent
    learned_fraction: bool = False      # whether that fraction is a parameter
    projected: bool = False             # whether with a part of the density matrix
    alone: float = 0.0                  # reach of that part into the population of the other spin, electrons; 0: no limit
    start: str = ""                     # a functional, by name or file, to go on from
    frozen: bool = False                # whether all of that stays as it is, so that only the part above is learned


@dataclass(frozen=True)
class FunctionalData:
    """[data], what it learns from, and how mean fields are calculated."""

    file: str = ""                                          # thermochemistry file; "": the bundled one
    only: tuple[str, ...] = ()                              # names of its reactions; (): all
    validation: float = 0.2                                 # fraction of molecules that choose the best round and seed
    test: float = 0.2                                       # fraction of molecules that are never seen
    properties: str = ""                                    # thermochemistry file with properties; "": none
    fractional: tuple[str, ...] = ("H", "C", "O", "F")      # elements whose atoms lose half an electron
    basis: str = "def2-tzvpp"
    grid: int = 2                                           # PySCF's level
    step_grid: int = 1                                      # the level of steps at constant density
    fitted: bool = True                                     # whether with density fitting
    tolerance: float = 1e-7                                 # of the SCF, hartree


@dataclass(frozen=True)
class FunctionalOptimisation:
    """[optimiser], how it learns."""

    rounds: int = 3         # densities are made anew after each
    steps: int = 12         # of Levenberg-Marquardt in a round
    prior: float = 0.03     # prior/2 |theta - theta_0|^2 is the price of leaving the parent: with more, fewer reactions are
                            # learned by heart


@dataclass(frozen=True)
class FunctionalLosses:
    """[losses], how much each kind of error weighs; what weighs 0 is left out."""

    atomisation: float = 1.0
    barrier: float = 1.0
    total: float = 1.0
    stretched: float = 0.0          # of H2+, which this adds to the reactions of the file
    fractional: float = 0.0         # of atoms with half electrons, which this adds
    dipole: float = 1.0
    orbital: float = 1.0
    density: float = 1.0
    width: float = 3.0              # error from which on a loss grows linearly, kcal/mol


@dataclass(frozen=True)
class FunctionalConfig:
    """A whole training."""

    output: str                                 # folder of everything it writes
    seeds: tuple[int, ...] = (0,)               # one functional each; the best is kept
    functional: FunctionalForm = field(default_factory=FunctionalForm)
    data: FunctionalData = field(default_factory=FunctionalData)
    optimiser: FunctionalOptimisation = field(default_factory=FunctionalOptimisation)
    losses: FunctionalLosses = field(default_factory=FunctionalLosses)

    def checked(self, where: str = "the configuration") -> "FunctionalConfig":
        """Itself; where: the file it was read from, for the message.

        Raises:
            UnknownOption: a value that cannot be.
        """
        check_seeds(self.seeds, where)
        check_limits(self, LIMITS, where)
        form, losses = self.functional, self.losses
        if not any(getattr(losses, name) for name in vars(losses) if name != "width"):
            raise UnknownOption(f"All losses are 0 in {where}: nothing would be learned.")
        if form.frozen and not (form.start and form.projected):
            raise UnknownOption("functional.frozen = true leaves nothing to learn without start = ... and projected = true.")
        return self

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for checkpoints and metadata."""
        return asdict(self)


LIMITS = {
    "seeds": SEED, "functional.width": (1, 512), "functional.exact_exchange": (-1, 0.99), "functional.alone": (0.0, 1e6),
    "data.validation": FRACTION, "data.test": FRACTION, "data.grid": (0, 9), "data.step_grid": (0, 9),
    "data.tolerance": (1e-14, 1e-2), "optimiser.rounds": COUNT, "optimiser.steps": COUNT, "optimiser.prior": POSITIVE,
    **{f"losses.{f.name}": WEIGHT for f in fields(FunctionalLosses)}, "losses.width": (1e-3, 1e6)}
