"""The configuration of a real-space calculation: what its TOML file says, and what it may say.

Names and values of these records are also written into checkpoints and results.
"""

from dataclasses import dataclass, field, replace
from math import inf
from pathlib import Path

import torch

from nddo_ml.common.toml import COUNT, MEMORY, NUMBER, POSITIVE, SEED, check_limits
from nddo_ml.errors import UnknownOption
from nddo_ml.wavefunction.natural_gradient import Adam, Spring, stable_rate
from nddo_ml.wavefunction.real_space.systems import ElectronSystem
from nddo_ml.wavefunction.real_space.variational import VariationalSettings

SIZES = {"ferminet": ("width", "pair_width", "layers"), "psiformer": ("width", "heads", "layers")}


@dataclass(frozen=True)
class RealSpaceAnsatz:
    """[ansatz] The wavefunction."""

    kind: str = "ferminet"      # backbone: ferminet or psiformer
    determinants: int = 4
    width: int = 32             # features per electron
    layers: int = 3             # of the backbone
    pair_width: int = 8         # features per pair of electrons, FermiNet
    heads: int = 4              # of the attention, Psiformer
    # what it starts from: an NDDO method, the file of a trained Hamiltonian, or "" for Slater's exponents; "auto": an atom
    # from Slater functions of its own, a molecule from PM6, or from exponents where PM6 does not hold the state
    start: str = "auto"
    singlet: bool = False       # no triplet may mix in; needs as many electrons up as down, and twice the time


@dataclass(frozen=True)
class RealSpaceSampling:
    """[sampling] The walkers while the wavefunction is trained."""

    walkers: int = 256      # of all processes together
    steps: int = 10         # Metropolis steps between local energies
    burn_in: int = 200      # Metropolis steps before the first iteration


@dataclass(frozen=True)
class RealSpaceOptimiser:
    """[optimiser] The steps of the parameters; natural_gradient.py explains the numbers."""

    kind: str = "spring"                    # spring or adam
    rate: float | None = None               # by default one that suits the heaviest nucleus
    decay: float = Spring.decay             # iterations after which the rate has halved
    momentum: float = Spring.momentum       # of SPRING, as are the next three
    damping: float = Spring.damping
    norm: float = Spring.norm
    growth: float = Spring.growth
    clip: float = VariationalSettings.clip  # of local energies in gradients, mean absolute deviations


@dataclass(frozen=True)
class RealSpaceEvaluation:
    """[evaluation] The averages after the training."""

    blocks: int = 200       # times that local energies are taken
    steps: int = 10         # Metropolis steps between them
    forces: int = 0         # times that forces on the nuclei are taken; 0: never


@dataclass(frozen=True)
class RealSpaceLog:
    """[log] What is written during the training."""

    checkpoint: int = 50    # every so many iterations


@dataclass(frozen=True)
class RealSpaceConfig:
    """A whole calculation."""

    molecule: str                       # as in "Li 0 0 0; H 0 0 3.015"
    output: str = "wavefunction"        # folder
    unit: str = "bohr"                  # of the molecule: bohr or angstrom
    charge: int = 0
    multiplicity: int | None = None     # None: the lowest that fits
    iterations: int = 1000              # of the training
    seed: int = 0
    device: str = "cpu"                 # cpu or cuda
    precision: str = "mixed"            # mixed: trained in single precision, its equations and averages in double; or double
    exact: float | None = None          # energy to compare with, hartree
    ansatz: RealSpaceAnsatz = field(default_factory=RealSpaceAnsatz)
    sampling: RealSpaceSampling = field(default_factory=RealSpaceSampling)
    optimiser: RealSpaceOptimiser = field(default_factory=RealSpaceOptimiser)
    evaluation: RealSpaceEvaluation = field(default_factory=RealSpaceEvaluation)
    log: RealSpaceLog = field(default_factory=RealSpaceLog)

    def with_output(self, folder: Path) -> "RealSpaceConfig":
        """The configuration with its output as seen from `folder`."""
        return replace(self, output=str(folder / self.output))


LIMITS = {
    "charge": (-1000, 1000), "multiplicity": COUNT, "iterations": NUMBER, "seed": SEED, "exact": (-1e9, 1e9),
    "ansatz.determinants": COUNT, "ansatz.width": COUNT, "ansatz.layers": COUNT, "ansatz.pair_width": COUNT,
    "ansatz.heads": COUNT, "sampling.walkers": (4, 10**9), "sampling.steps": COUNT, "sampling.burn_in": NUMBER,
    "optimiser.rate": (1e-12, 1e3), "optimiser.decay": (1e-12, inf), "optimiser.momentum": MEMORY,
    "optimiser.damping": POSITIVE, "optimiser.norm": POSITIVE, "optimiser.growth": (1e-12, inf), "optimiser.clip": POSITIVE,
    "evaluation.blocks": COUNT, "evaluation.steps": COUNT, "evaluation.forces": NUMBER, "log.checkpoint": COUNT}


def check_config(config: RealSpaceConfig, where: str) -> None:
    """Check a configuration that was read from `where`.

    Raises:
        UnknownOption: a number outside its limits, or a word that is none of those allowed.
    """
    check_limits(config, LIMITS, where)
    if config.ansatz.kind == "psiformer" and config.ansatz.width % config.ansatz.heads:
        raise UnknownOption(f"ansatz.width = {config.ansatz.width} is no multiple of ansatz.heads = {config.ansatz.heads}.")
    for name, value, allowed in (("optimiser.kind", config.optimiser.kind, ("spring", "adam")),
                                 ("precision", config.precision, ("mixed", "double")),
                                 ("device", config.device, ("cpu", "cuda"))):
        if value not in allowed:
            raise UnknownOption(f"{name} = {value!r}: expected {', '.join(allowed)}.")
    if config.device == "cuda" and not torch.cuda.is_available():
        raise UnknownOption("device = 'cuda', but torch sees no CUDA device: use cpu, or install the CUDA build of torch.")


def sizes(ansatz: RealSpaceAnsatz) -> dict[str, int]:
    """The arguments of the backbone; none where there is no backbone of that name."""
    return {name: getattr(ansatz, name) for name in SIZES.get(ansatz.kind, ())}


def variational_settings(config: RealSpaceConfig, system: ElectronSystem) -> VariationalSettings:
    """How the wavefunction of a system is trained."""
    o, sampling = config.optimiser, config.sampling
    if o.kind == "spring":
        rate = stable_rate(max(system.numbers)) if o.rate is None else o.rate
        optimiser = Spring(rate, o.decay, o.momentum, o.damping, o.norm, o.growth)
    else:
        optimiser = Adam(Adam.rate if o.rate is None else o.rate, o.decay)
    return VariationalSettings(sampling.walkers, sampling.steps, sampling.burn_in, o.clip, optimiser)
