"""A training as a TOML file: what it says, checked against what there is to say.

Every table of the file is a frozen record below; a key that does not exist is refused with the nearest one that does.
"""

from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

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
    """[model] parent: method whose parameters are shifted. network: settings for networks.build, {} for the default one;
    features, heads or the whole of it may be of one's own, "module:Class".
    trainable: network; parameters (the parent's tables themselves, one global fit, no network); all. start: weights to go on
    from, instead of parent and network; `network` may then name further heads. dispersion: whether the finished model adds
    D3(BJ) of omegaB97X-D3(BJ). device: cpu or cuda."""

    parent: str = "PM6"
    network: dict = field(default_factory=dict)
    trainable: str = "network"
    start: str | None = None
    dispersion: bool = True
    device: str = "cpu"


@dataclass(frozen=True)
class Data:
    """[data] validation: fraction of molecules held out. large: heavy atoms from which on molecules are for tests only.
    largest_force: frames with a larger force component (eV/angstrom) are left out and counted. contamination: largest
    difference of <S^2> from the reference's; beyond it a frame is masked. level: of theory, for the weights' metadata."""

    validation: float = 0.1
    large: int = 10
    largest_force: float = 30.0
    contamination: float = 0.3
    level: str = "unknown"


@dataclass(frozen=True)
class Optimisation:
    """[optimiser] batch: frames per step. ratio: rate of AdamW relative to Muon's. warm_up, final: fraction of steps the rate
    rises over, and factor it ends at. clip: largest gradient norm. average: decay of the averaged weights."""

    batch: int = 24
    ratio: float = 0.25
    momentum: float = 0.95
    warm_up: float = 0.03
    final: float = 0.01
    clip: float = 1.0
    average: float = 0.99


@dataclass(frozen=True)
class SCF:
    """[scf] tolerance: commutator, eV. response_tolerance: relative. max_steps. cold: every so many epochs each structure is
    also solved from neutral atoms, against hysteresis (0: never)."""

    tolerance: float = 1e-4
    response_tolerance: float = 3e-3
    max_steps: int = 120
    cold: int = 10


@dataclass(frozen=True)
class Log:
    """[log] validate, plot, checkpoint: every so many epochs (0: plots never). frames: at most so many of each part when
    validating; the end of a stage takes all."""

    validate: int = 2
    frames: int = 300
    plot: int = 10
    checkpoint: int = 1


@dataclass(frozen=True)
class Stage:
    """[[stage]] kind: frozen (one pass over data and losses, nothing is changed), pretrain, finetune. files: data. epochs.
    rate: learning rate. weight_decay: pull on the weights, per step and unit of rate, towards zero or, when finetuning, towards
    what they were when the stage began. offsets: atoms (labelled free atoms), fitted (least squares), kept. dispersion: apart
    (the labels hold none), included (they do: D3(BJ) is subtracted), learned (labels as they are). limit: only so many training
    frames.
    interactions: files of complexes and their fragments, of any level, of which only the interaction energies are trained on.
    [stage.losses], [stage.widths]: losses.py; losses of one's own are keys "module:Name"."""

    kind: str
    files: tuple[str, ...]
    epochs: int = 100
    rate: float = 1.2e-2
    weight_decay: float = 0.0
    offsets: str = "fitted"
    dispersion: str = "apart"
    limit: int | None = None
    interactions: tuple[str, ...] = ()
    name: str = ""
    losses: Weights = field(default_factory=Weights)
    widths: Widths = field(default_factory=Widths)


@dataclass(frozen=True)
class Config:
    """A whole training. output: folder of everything it writes. seeds: one member of the ensemble each."""

    output: str
    stage: tuple[Stage, ...]
    seeds: tuple[int, ...] = (0,)
    model: Model = Model()
    data: Data = Data()
    optimiser: Optimisation = Optimisation()
    scf: SCF = SCF()
    log: Log = Log()

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


def read_config(file: str | Path) -> Config:
    """The training a TOML file describes; relative paths in it start at its folder. Raises IncompatibleFile, UnknownOption."""
    return anchored(from_dict(read_toml(file), str(file)), Path(file).parent)


def from_dict(values: dict, where: str = "the configuration") -> Config:
    """A Config from plain values. UnknownOption for a key that does not exist, or a value that cannot be."""
    return checked(from_table(Config, _own_losses(values), where), where)


def _own_losses(values):
    """The values with losses of one's own, keys with a colon, where their record keeps them."""
    def sorted_out(stage):
        losses = stage.get("losses") if isinstance(stage, dict) else None
        own = {key: value for key, value in losses.items() if ":" in key} if isinstance(losses, dict) else {}
        if not own:
            return stage
        rest = {key: value for key, value in losses.items() if key not in own}
        return {**stage, "losses": {**rest, "own": {**rest.get("own", {}), **own}}}

    stages = values.get("stage") if isinstance(values, dict) else None
    return {**values, "stage": [sorted_out(s) for s in stages]} if isinstance(stages, list | tuple) else values


def checked(config: Config, where: str = "the configuration") -> Config:
    """Itself. UnknownOption: a value that cannot be."""
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


def anchored(config: Config, folder: Path) -> Config:
    """The configuration with its relative paths as seen from `folder`."""
    def at(name):
        return str(folder / name)

    stages = tuple(replace(s, files=tuple(at(f) for f in s.files), interactions=tuple(at(f) for f in s.interactions))
                   for s in config.stage)
    model = config.model
    if model.start is not None and (folder / model.start).exists():
        model = replace(model, start=at(model.start))
    return replace(config, output=at(config.output), stage=stages, model=model)
