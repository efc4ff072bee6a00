"""What a training of a functional is asked to do; a TOML file of these tables (the command line reads it)."""

from dataclasses import asdict, dataclass, field, fields

from nddo_ml.common.toml import COUNT, FRACTION, POSITIVE, SEED, WEIGHT, check_limits, check_seeds
from nddo_ml.errors import UnknownOption


@dataclass(frozen=True)
class Form:
    """[functional] kind: NeuralGGA or NeuralMetaGGA, a published name where only the part of the density matrix is learned, or
    "module:Class" of your own (then nothing else applies but the training).
    parent: published name, "" for the usual one. exact_exchange: fraction, below 0 for the parent's; learned_fraction: whether
    it is a parameter. projected: with a part of the density matrix; alone: its reach into the population of the other spin, 0
    for no limit (projection.Projected). start: a functional, by name or file, to go on from; frozen: all of it stays as it is,
    and only the part of the density matrix is learned."""

    kind: str = "NeuralGGA"
    parent: str = ""
    width: int = 16
    correlation: bool = True
    exact_exchange: float = -1.0
    learned_fraction: bool = False
    projected: bool = False
    alone: float = 0.0
    start: str = ""
    frozen: bool = False


@dataclass(frozen=True)
class Data:
    """[data] file: thermochemistry file, "" for the bundled one. only: names of its reactions, () for all. validation, test:
    fractions of molecules held out. properties: thermochemistry file with properties, "" for none. fractional: elements
    whose atoms lose half an electron. basis, grid, fitted, tolerance: of the SCF. step_grid: of steps at constant density."""

    file: str = ""
    only: tuple[str, ...] = ()
    validation: float = 0.2
    test: float = 0.2
    properties: str = ""
    fractional: tuple[str, ...] = ("H", "C", "O", "F")
    basis: str = "def2-tzvpp"
    grid: int = 2
    step_grid: int = 1
    fitted: bool = True
    tolerance: float = 1e-7


@dataclass(frozen=True)
class Optimisation:
    """[optimiser] rounds: densities are made anew after each. steps: of Levenberg-Marquardt in a round. prior: how much it
    costs to leave the parent, prior/2 |theta - theta_0|^2; the larger, the fewer reactions are learned by heart."""

    rounds: int = 3
    steps: int = 12
    prior: float = 0.03


@dataclass(frozen=True)
class Losses:
    """[losses] weights of atomisation energies, barriers, total energies; of H2+ (stretched) and of half electrons on atoms
    (fractional), which are added to the file's reactions where their weight is not 0; of dipoles, orbital energies and
    densities. width: error (kcal/mol) from which on a loss grows linearly."""

    atomisation: float = 1.0
    barrier: float = 1.0
    total: float = 1.0
    stretched: float = 0.0
    fractional: float = 0.0
    dipole: float = 1.0
    orbital: float = 1.0
    density: float = 1.0
    width: float = 3.0


@dataclass(frozen=True)
class Config:
    """A whole training. output: folder of everything it writes. seeds: one functional each; the best is kept."""

    output: str
    seeds: tuple[int, ...] = (0,)
    functional: Form = field(default_factory=Form)
    data: Data = field(default_factory=Data)
    optimiser: Optimisation = field(default_factory=Optimisation)
    losses: Losses = field(default_factory=Losses)

    def checked(self, where: str = "the configuration"):
        """Itself. UnknownOption: a value that cannot be; where: the file it was read from."""
        check_seeds(self.seeds, where)
        check_limits(self, LIMITS, where)
        f, l = self.functional, self.losses
        if not any(getattr(l, name) for name in vars(l) if name != "width"):
            raise UnknownOption(f"All losses are 0 in {where}: nothing would be learned.")
        if f.frozen and not (f.start and f.projected):
            raise UnknownOption("functional.frozen = true leaves nothing to learn without start = ... and projected = true.")
        return self

    def as_dict(self) -> dict:
        """Plain values, for checkpoints and metadata."""
        return asdict(self)


LIMITS = {
    "seeds": SEED, "functional.width": (1, 512), "functional.exact_exchange": (-1, 0.99), "functional.alone": (0.0, 1e6),
    "data.validation": FRACTION, "data.test": FRACTION, "data.grid": (0, 9), "data.step_grid": (0, 9),
    "data.tolerance": (1e-14, 1e-2), "optimiser.rounds": COUNT, "optimiser.steps": COUNT, "optimiser.prior": POSITIVE,
    **{f"losses.{f.name}": WEIGHT for f in fields(Losses)}, "losses.width": (1e-3, 1e6)}
