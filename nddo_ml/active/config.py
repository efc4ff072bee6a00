"""A loop of active learning as a TOML file; see examples/active.toml. Read as a training's configuration is (config.py)."""

from dataclasses import dataclass, field, replace
from pathlib import Path

from nddo_ml.common.toml import COUNT, NUMBER, POSITIVE, SEED, check_limits, from_table, read_toml
from nddo_ml.errors import UnknownOption
from nddo_ml.training.config import TrainingConfig, read_config


@dataclass(frozen=True)
class Explore:
    """[explore]"""

    structures: tuple[str, ...]                                 # files of structures or lists of SMILES to start from
    temperatures: tuple[float, ...] = (300.0, 600.0, 1000.0)    # K
    trajectories: int = 24      # per round, drawn from structures and temperatures
    steps: int = 400            # of a trajectory
    time_step: float = 0.5      # fs
    friction: float = 0.02      # 1/fs
    every: int = 10             # steps between two looks of the ensemble
    stop: float = 2.0           # uncertainty that ends a trajectory, eV/angstrom
    collision: float = 0.6      # fraction of the sum of two covalent radii below which atoms collide
    plan: str = ""              # other structures, as in `nddo-ml label --sample` ("dimers:2,bonds:1")
    sources: int = 4            # structures a round around which those are drawn


@dataclass(frozen=True)
class Pick:
    """[pick]"""

    count: int = 16                 # structures of a round, at most
    threshold: float = 0.1          # least uncertainty of a force component, eV/angstrom
    distance: float = 0.2           # structures are the same where no interatomic distance differs by more, angstrom
    per_trajectory: int = 2         # at most so many of one
    largest_force: float = 20.0     # eV/angstrom, as the ensemble predicts it


@dataclass(frozen=True)
class Labels:
    """[label]"""

    level: str                  # of theory, as in `nddo-ml label --level`
    jobs: int = 1               # processes beside this one; 0: labels are made in this one, between two steps of other work
    dask: str | None = None     # address of a scheduler, or "local" for `jobs` workers
    pending: int = 8            # retraining begins when so many labels at most are outstanding; those are made meanwhile, and
                                # counted in a later round


@dataclass(frozen=True)
class Retrain:
    """[retrain]; everything else is that of the training's last stage."""

    epochs: int = 20        # of each round
    rate: float = 2e-3      # of learning


@dataclass(frozen=True)
class Active:
    """A whole loop."""

    output: str                 # folder of everything it writes
    train: str                  # configuration of the training (train.toml)
    explore: Explore
    label: Labels
    start: str | None = None    # the ensemble to begin with, a folder or file of `Ensemble.load`; without it the training is
                                # run first, with its seeds
    rounds: int = 5             # at most; the loop ends earlier where nothing uncertain is found
    seed: int = 0               # of all random numbers
    pick: Pick = field(default_factory=Pick)
    retrain: Retrain = field(default_factory=Retrain)

LIMITS = {
    "rounds": COUNT, "seed": SEED, "explore.temperatures": (1e-3, 1e6), "explore.trajectories": NUMBER, "explore.steps": COUNT,
    "explore.every": COUNT, "explore.time_step": (1e-3, 10.0), "explore.friction": (0.0, 10.0), "explore.stop": (1e-9, 1e9),
    "explore.collision": (0.1, 1.0), "explore.sources": COUNT, "pick.count": COUNT, "pick.threshold": (0.0, 1e9),
    "pick.distance": (0.0, 1e3), "pick.per_trajectory": COUNT, "pick.largest_force": POSITIVE, "label.jobs": (0, 10**5),
    "label.pending": NUMBER, "retrain.epochs": COUNT, "retrain.rate": (1e-12, 10.0)}


def read_active(file: str | Path) -> tuple[Active, TrainingConfig]:
    """The loop a TOML file describes, and its training; relative paths in it start at its folder.

    Raises:
        IncompatibleFile: it is no TOML file.
        UnknownOption: a key does not exist, or a value cannot be.
    """
    return anchored(from_dict(read_toml(file), str(file)), Path(file).parent)


def from_dict(values: dict, where: str = "the configuration") -> Active:
    """The loop that plain values describe; where: the file they are from.

    Raises:
        UnknownOption: a key does not exist, or a value cannot be.
    """
    config = from_table(Active, values, where)
    if not config.explore.temperatures or min(config.explore.temperatures) <= 0:
        raise UnknownOption(f"explore.temperatures = {list(config.explore.temperatures)} in {where}: give positive ones, in K.")
    check_limits(config, LIMITS, where)
    if not config.explore.structures:
        raise UnknownOption(f"explore.structures in {where} is empty: name at least one file.")
    return config


def anchored(config: Active, folder: Path) -> tuple[Active, TrainingConfig]:
    """The configuration with its relative paths as seen from `folder`, and the training it names.

    Raises:
        UnknownOption: that training makes no ensemble.
    """
    def at(name: str) -> str:
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
