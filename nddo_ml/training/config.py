"""A training as a TOML file: what it says, checked against what there is to say.

Every table of the file is a frozen record below; a key that does not exist is refused with the nearest one that does.
"""

from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from nddo_ml.common.toml import (
    COUNT,
    FRACTION,
    MEMORY,
    NUMBER,
    POSITIVE,
    SEED,
    WEIGHT,
    check_choice,
    check_limits,
    check_seeds,
    from_table,
    read_toml,
)
from nddo_ml.errors import UnknownOption
from nddo_ml.training.losses import Weights, Widths

KINDS = ("frozen", "pretrain", "finetune")
OFFSETS = ("atoms", "fitted", "kept")
DISPERSION = ("apart", "included", "learned")
TRAINABLE = ("network", "parameters", "all")


@dataclass(frozen=True)
class Model:
    """[model]: what is trained."""

    parent: str = "PM6"                                 # method whose parameters are shifted
    # settings of networks.build, {} for its default; features, heads or the whole network may be your own, "module:Class"
    network: dict = field(default_factory=dict)
    trainable: str = "network"                          # or "parameters": the parent's tables, no network; or "all"
    # file of weights to go on from, instead of parent and network; `network` may then name further heads
    start: str | None = None
    dispersion: bool = True                             # whether the finished model adds D3(BJ) of omegaB97X-D3(BJ)
    device: str = "cpu"                                 # or "cuda"


@dataclass(frozen=True)
class TrainingData:
    """[data]: which frames are held out, left out and masked."""

    validation: float = 0.1                             # fraction of the molecules that are held out
    large: int = 10                                     # heavy atoms from which on molecules are for tests only
    largest_force: float = 30.0                         # eV/angstrom; frames with a larger component are left out
    contamination: float = 0.3                          # difference of <S^2> from the reference beyond which a frame is masked
    level: str = "unknown"                              # of theory, for the metadata of the weights


@dataclass(frozen=True)
class TrainingOptimisation:
    """[optimiser]: how the weights move."""

    batch: int = 24                                     # frames per step
    ratio: float = 0.25                                 # learning rate of AdamW relative to that of Muon
    momentum: float = 0.95                              # of Muon
    warm_up: float = 0.03                               # fraction of the steps over which the rate rises
    final: float = 0.01                                 # factor of the rate at the end
    clip: float = 1.0                                   # largest norm of the gradient
    average: float = 0.99                               # decay of the averaged weights


@dataclass(frozen=True)
class TrainingSCF:
    """[scf]: how far the self-consistent field and its response are converged."""

    tolerance: float = 1e-4                             # largest element of the commutator, eV
    response_tolerance: float = 3e-3                    # relative residual of the response equations
    max_steps: int = 120
    # every so many epochs each structure is also solved from neutral atoms, against hysteresis; 0: never
    cold: int = 10


@dataclass(frozen=True)
class TrainingLog:
    """[log]: what is written how often, in epochs."""

    validate: int = 2
    frames: int = 300                                   # at most so many of each part when validating; a stage ends with all
    plot: int = 10                                      # 0: never
    checkpoint: int = 1


@dataclass(frozen=True)
class Stage:
    """[[stage]]: data and losses, for a number of epochs."""

    kind: str                                           # frozen (one pass, nothing is changed), pretrain or finetune
    files: tuple[str, ...]                              # of labelled frames
    epochs: int = 100
    rate: float = 1.2e-2                                # learning rate
    # pull on the weights per step and unit of rate: towards zero, of kind finetune towards what they were at its beginning
    weight_decay: float = 0.0
    offsets: str = "fitted"                             # by least squares; or "atoms": from labelled free atoms; or "kept"
    # apart: the labels hold none; included: they do, D3(BJ) is subtracted; learned: labels as they are
    dispersion: str = "apart"
    limit: int | None = None                            # only so many training frames
    # files of complexes and fragments, of any level of theory, of which only the interaction energies are trained on
    interactions: tuple[str, ...] = ()
    name: str = ""
    losses: Weights = field(default_factory=Weights)    # [stage.losses]; your own are keys "module:Name"
    widths: Widths = field(default_factory=Widths)      # [stage.widths]


@dataclass(frozen=True)
class TrainingConfig:
    """A whole training."""

    output: str                                         # folder of everything it writes
    stage: tuple[Stage, ...]
    seeds: tuple[int, ...] = (0,)                       # one member of the ensemble each
    model: Model = Model()
    data: TrainingData = TrainingData()
    optimiser: TrainingOptimisation = TrainingOptimisation()
    scf: TrainingSCF = TrainingSCF()
    log: TrainingLog = TrainingLog()

    def as_dict(self) -> dict:
        """Plain values, for checkpoints and metadata."""
        return asdict(self)


LIMITS = {
    "seeds": SEED, "data.validation": (0.0, 0.9), "data.large": COUNT, "data.largest_force": POSITIVE,
    "data.contamination": WEIGHT, "optimiser.batch": (1, 100_000), "optimiser.ratio": (0.0, 1e3), "optimiser.momentum": MEMORY,
    "optimiser.warm_up": FRACTION, "optimiser.final": FRACTION, "optimiser.clip": POSITIVE, "optimiser.average": MEMORY,
    "scf.tolerance": (1e-12, 1.0), "scf.response_tolerance": (1e-14, 0.5), "scf.max_steps": COUNT, "scf.cold": NUMBER,
    "log.validate": COUNT, "log.frames": COUNT, "log.plot": NUMBER, "log.checkpoint": COUNT,
    "stage.epochs": COUNT, "stage.rate": (1e-12, 10.0), "stage.weight_decay": WEIGHT, "stage.limit": COUNT,
    **{f"stage.losses.{f.name}": WEIGHT for f in fields(Weights) if f.type is float},
    **{f"stage.widths.{f.name}": POSITIVE for f in fields(Widths)}}


def read_config(file: str | Path) -> TrainingConfig:
    """The training that a TOML file describes; relative paths in it start at the folder of the file.

    Raises:
        IncompatibleFile: there is no such file, or it is not TOML.
        UnknownOption: it has a key that does not exist, lacks one, or holds a value that cannot be.
    """
    return anchored(from_dict(read_toml(file), str(file)), Path(file).parent)


def from_dict(values: dict, where: str = "the configuration") -> TrainingConfig:
    """The training that plain values describe; `where` they stand is named in errors.

    Raises:
        UnknownOption: a key does not exist or is missing, or a value cannot be.
    """
    return checked(from_table(TrainingConfig, _own_losses(values), where), where)


def _own_losses(values: dict) -> dict:
    """The values with the losses of one's own, keys with a colon, moved to where their record keeps them."""
    stages = values.get("stage") if isinstance(values, dict) else None
    return {**values, "stage": [_own_apart(s) for s in stages]} if isinstance(stages, list | tuple) else values


def _own_apart(stage: Any) -> Any:
    """A stage whose own losses lie in a table `own` of its losses."""
    losses = stage.get("losses") if isinstance(stage, dict) else None
    if not isinstance(losses, dict):
        return stage
    own = {key: value for key, value in losses.items() if ":" in key}
    if not own:
        return stage
    rest = {key: value for key, value in losses.items() if key not in own}
    return {**stage, "losses": {**rest, "own": {**rest.get("own", {}), **own}}}


def checked(config: TrainingConfig, where: str = "the configuration") -> TrainingConfig:
    """The configuration itself.

    Raises:
        UnknownOption: one of its values cannot be.
    """
    if not config.stage:
        raise UnknownOption(f"{where} has no [[stage]]: give at least one, with kind, files and epochs.")
    check_choice(config.model.trainable, TRAINABLE, "model.trainable", where)
    check_seeds(config.seeds, where)
    check_limits(config, LIMITS, where)
    for k, stage in enumerate(config.stage, 1):
        check_choice(stage.kind, KINDS, f"stage {k}: kind", where)
        check_choice(stage.offsets, OFFSETS, f"stage {k}: offsets", where)
        check_choice(stage.dispersion, DISPERSION, f"stage {k}: dispersion", where)
        for name, weight in stage.losses.own.items():
            if type(weight) not in (int, float) or not WEIGHT[0] <= weight <= WEIGHT[1]:
                raise UnknownOption(f"stage {k}: losses.{name} = {weight!r} in {where}: expected a weight of at least 0.")
        if stage.rate * stage.weight_decay > 1:
            raise UnknownOption(f"stage {k}: weight_decay = {stage.weight_decay} in {where}: times the rate, {stage.rate}, it "
                                "must not exceed 1, the whole of the weights in each step.")
        if stage.kind != "frozen" and not any((*vars(replace(stage.losses, own={})).values(), *stage.losses.own.values())):
            raise UnknownOption(f"stage {k}: all losses are 0 in {where}: nothing would be learned.")
    return config


def anchored(config: TrainingConfig, folder: Path) -> TrainingConfig:
    """The configuration with its relative paths as seen from `folder`."""
    stages = tuple(replace(s, files=tuple(str(folder / f) for f in s.files),
                           interactions=tuple(str(folder / f) for f in s.interactions)) for s in config.stage)
    model = config.model
    if model.start is not None and (folder / model.start).exists():      # else the name of a shipped model
        model = replace(model, start=str(folder / model.start))
    return replace(config, output=str(folder / config.output), stage=stages, model=model)
