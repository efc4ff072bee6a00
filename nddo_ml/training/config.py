"""A training as a TOML file: what it says, checked against what there is to say.

Every table of the file is a frozen record below; a key that does not exist is refused with the nearest one that does.
"""

import tomllib
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin

from nddo_ml.common.limits import COUNT, FRACTION, MEMORY, NUMBER, POSITIVE, SEED, WEIGHT, check_limits, check_seeds
from nddo_ml.errors import IncompatibleFile, UnknownOption
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


def read_toml(file: str | Path) -> dict:
    """The values of a TOML file.

    Raises:
        IncompatibleFile: there is no such file, or it is not TOML.
    """
    path = Path(file)
    try:
        return tomllib.loads(path.read_text())
    except FileNotFoundError:
        raise IncompatibleFile(f"There is no configuration file {path}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise IncompatibleFile(f"{path} is not a TOML file: {error}.") from None


def from_dict(values: dict, where: str = "the configuration") -> TrainingConfig:
    """The training that plain values describe; `where` they stand is named in errors.

    Raises:
        UnknownOption: a key does not exist or is missing, or a value cannot be.
    """
    return checked(record(TrainingConfig, _own_losses(values), where), where)


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
    _one_of(config.model.trainable, TRAINABLE, "model.trainable", where)
    check_seeds(config.seeds, where)
    check_limits(config, LIMITS, where)
    for k, stage in enumerate(config.stage, 1):
        _one_of(stage.kind, KINDS, f"stage {k}: kind", where)
        _one_of(stage.offsets, OFFSETS, f"stage {k}: offsets", where)
        _one_of(stage.dispersion, DISPERSION, f"stage {k}: dispersion", where)
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


def _one_of(value: str, allowed: tuple[str, ...], name: str, where: str) -> None:
    if value not in allowed:
        raise UnknownOption(f"{name} = {value!r} in {where}: expected {', '.join(allowed)}.")


def record(cls, values, where: str, prefix: str = ""):
    """A record of frozen dataclasses from a table of the file `where`. UnknownOption for a key that does not exist, one that
    is missing, or a value of another type."""
    if not isinstance(values, dict):
        raise UnknownOption(f"{prefix or 'the top level'} in {where} must be a table.")
    known = {f.name: f for f in fields(cls)}
    for key in values:
        if key not in known:
            near = get_close_matches(key, known, 1, 0.5)
            hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(known)}."
            raise UnknownOption(f"{prefix}{key} in {where} does not exist: {hint}")
    for name, f in known.items():
        if name not in values and f.default is MISSING and f.default_factory is MISSING:
            raise UnknownOption(f"{where} lacks {prefix}{name}.")
    return cls(**{key: _value(known[key].type, value, where, prefix + key) for key, value in values.items()})


def _value(kind, value, where, name):
    """A value of the type its record declares."""
    if is_dataclass(kind):
        return record(kind, value, where, name + ".")
    if get_origin(kind) is tuple:
        if not isinstance(value, list | tuple):
            raise UnknownOption(f"{name} = {value!r} in {where}: expected a list.")
        return tuple(_value(get_args(kind)[0], x, where, f"{name}[{k}]" if is_dataclass(get_args(kind)[0]) else name)
                     for k, x in enumerate(value))
    if isinstance(kind, UnionType):
        kind = get_args(kind)[0]
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise UnknownOption(f"{name} = {value!r} in {where}: expected {kind.__name__}.")
    return value
