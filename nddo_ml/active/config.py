"""A loop of active learning as a TOML file; see examples/active.toml. Read as a training's configuration is (config.py)."""

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from nddo_ml.common.toml import COUNT, NUMBER, POSITIVE, SEED, check_limits, from_table, read_toml
from nddo_ml.errors import UnknownOption
from nddo_ml.training.config import Config, read_config


@dataclass(frozen=True)
class Explore:
    """[explore] structures: files of structures or lists of SMILES to start from. temperatures: K. trajectories: per round,
    drawn from structures and temperatures. steps: of a trajectory; time_step: fs; friction: 1/fs. every: steps between two
    looks of the ensemble. stop: uncertainty (eV/angstrom) that ends a trajectory. collision: fraction of the sum of two
    covalent radii below which atoms collide. plan: other structures, drawn around `sources` structures a round, as in `nddo-ml
    label --sample` ("dimers:2,bonds:1")."""

    structures: tuple[str, ...]
    temperatures: tuple[float, ...] = (300.0, 600.0, 1000.0)
    trajectories: int = 24
    steps: int = 400
    time_step: float = 0.5
    friction: float = 0.02
    every: int = 10
    stop: float = 2.0
    collision: float = 0.6
    plan: str = ""
    sources: int = 4


@dataclass(frozen=True)
class Pick:
    """[pick] count: structures of a round, at most. threshold: least uncertainty of a force component, eV/angstrom. distance:
    structures are the same where no interatomic distance differs by more, angstrom. per_trajectory: at most so many of one.
    largest_force: eV/angstrom, as the ensemble predicts it."""

    count: int = 16
    threshold: float = 0.1
    distance: float = 0.2
    per_trajectory: int = 2
    largest_force: float = 20.0


@dataclass(frozen=True)
class Labels:
    """[label] level: of theory, as in `nddo-ml label --level`. jobs: processes beside this one; 0: labels are made in this
    one, between two steps of other work. dask: address of a scheduler, or "local" for `jobs` workers. pending: retraining
    begins when so many labels at most are outstanding; those are made meanwhile, and counted in a later round."""

    level: str
    jobs: int = 1
    dask: str | None = None
    pending: int = 8


@dataclass(frozen=True)
class Retrain:
    """[retrain] epochs and rate of each round; everything else is that of the training's last stage."""

    epochs: int = 20
    rate: float = 2e-3


@dataclass(frozen=True)
class Active:
    """A whole loop. output: folder of everything it writes. train: configuration of the training (train.toml). start: the
    ensemble to begin with, a folder or file of `Ensemble.load`; without it the training is run first, with its seeds. rounds:
    at most; the loop ends earlier where nothing uncertain is found. seed: of all random numbers."""

    output: str
    train: str
    explore: Explore
    label: Labels
    start: str | None = None
    rounds: int = 5
    seed: int = 0
    pick: Pick = field(default_factory=Pick)
    retrain: Retrain = field(default_factory=Retrain)

    def as_dict(self) -> dict:
        """Plain values, for the record."""
        return asdict(self)


LIMITS = {
    "rounds": COUNT, "seed": SEED, "explore.temperatures": (1e-3, 1e6), "explore.trajectories": NUMBER, "explore.steps": COUNT,
    "explore.every": COUNT, "explore.time_step": (1e-3, 10.0), "explore.friction": (0.0, 10.0), "explore.stop": (1e-9, 1e9),
    "explore.collision": (0.1, 1.0), "explore.sources": COUNT, "pick.count": COUNT, "pick.threshold": (0.0, 1e9),
    "pick.distance": (0.0, 1e3), "pick.per_trajectory": COUNT, "pick.largest_force": POSITIVE, "label.jobs": (0, 10**5),
    "label.pending": NUMBER, "retrain.epochs": COUNT, "retrain.rate": (1e-12, 10.0)}


def read_active(file: str | Path) -> tuple[Active, Config]:
    """The loop a TOML file describes, and its training; relative paths in it start at its folder. Raises IncompatibleFile,
    UnknownOption."""
    return anchored(from_dict(read_toml(file), str(file)), Path(file).parent)


def from_dict(values: dict, where: str = "the configuration") -> Active:
    """An Active from plain values. UnknownOption for a key that does not exist, or a value that cannot be."""
    found = from_table(Active, values, where)
    if not found.explore.temperatures or min(found.explore.temperatures) <= 0:
        raise UnknownOption(f"explore.temperatures = {list(found.explore.temperatures)} in {where}: give positive ones, in K.")
    check_limits(found, LIMITS, where)
    if not found.explore.structures:
        raise UnknownOption(f"explore.structures in {where} is empty: name at least one file.")
    return found


def anchored(config: Active, folder: Path) -> tuple[Active, Config]:
    """The configuration with its relative paths as seen from `folder`, and the training it names. UnknownOption: that training
    makes no ensemble."""
    def at(name):
        return str(folder / name)

    start = config.start if config.start is None else at(config.start)
    explore = replace(config.explore, structures=tuple(at(f) for f in config.explore.structures))
    config = replace(config, output=at(config.output), train=at(config.train), start=start, explore=explore)
    training = read_config(config.train)
    if training.stage[-1].kind == "frozen":
        raise UnknownOption(f"{config.train} ends in nothing that can be retrained: its last stage must train something.")
    if start is None and len(training.seeds) < 2:
        raise UnknownOption(f"{config.train} has {len(training.seeds)} seed: an ensemble needs two or more (seeds = [0, 1, 2, "
                            "3]), or give `start`.")
    return config, training
