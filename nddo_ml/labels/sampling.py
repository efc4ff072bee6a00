"""Structures around a molecule: what a reference set is made of.

A plan is a list of steps, written "conformers:4,md:300/600/1000:2,modes:2,dimers:4,bonds:3". Each step draws structures from
the molecule relaxed with a cheap method (draws.py); every random number comes from the seed and the name of the molecule, so
that a plan gives the same structures again.
"""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np

from nddo_ml.errors import InvalidMolecule, UnknownOption
from nddo_ml.labels.clusters import surrounded
from nddo_ml.labels.draws import MakeCalculator, SamplingStep, dimers, displacements, dynamics, relaxed, stretches, torsions
from nddo_ml.labels.queue import reason
from nddo_ml.labels.structures import Structure, from_smiles

MD_TEMPERATURES = (300.0, 600.0, 1000.0)        # K, where a step names none
MODE_TEMPERATURES = (300.0,)
STEP_NAMES = ("conformers", "md", "modes", "dimers", "interactions", "bonds", "torsions")
PAIRED = ("dimers", "interactions")             # steps that need a second molecule


@dataclass(frozen=True, eq=False)
class Source:
    """What a plan is applied to: a SMILES, or a structure of a file."""

    smiles: str = ""
    group: str = ""                         # given to its structures; "": what kind they are
    structure: Structure | None = None
    partner: "Source | None" = None         # the second molecule of its dimers; None: itself

    @property
    def name(self) -> str:
        """What seeds its random numbers."""
        return self.smiles if self.structure is None else self.structure.id

    @property
    def pair(self) -> bool:
        """Whether it is a SMILES of several fragments."""
        return self.structure is None and "." in self.smiles


@dataclass(frozen=True, eq=False)
class Sampling:
    """How sources become structures; see `sampled`."""

    plan: tuple[SamplingStep, ...]
    calculator: MakeCalculator              # of the cheap method
    seed: int = 0                           # of all random numbers
    charged: float = 0.0                    # fraction of the structures that is labelled among point charges too
    method: str = ""                        # name of the cheap method

    def key(self, source: Source) -> str:
        """Hash of all that decides the structures of a source; files hold it."""
        partner = source.partner.name if source.partner else ""
        text = repr((source.name, source.group, partner, self.plan, self.seed, self.charged, self.method))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def trivial(self) -> bool:
        """Whether structures of files are taken as they are."""
        return not self.plan and not self.charged


def plan(text: str) -> tuple[SamplingStep, ...]:
    """The steps of "name[:T1/T2/...]:count,...".

    Raises:
        UnknownOption: it is no such list.
    """
    return tuple(_step(word.strip()) for word in text.split(",") if word.strip())


def _step(word: str) -> SamplingStep:
    name, *rest = word.split(":")
    try:
        if name not in STEP_NAMES or len(rest) > 2:
            raise ValueError
        count = int(rest[-1]) if rest else 1
        temperatures = tuple(float(t) for t in rest[0].split("/")) if len(rest) == 2 else ()
        if count < 1 or any(not 0 < t < 1e5 for t in temperatures) or (temperatures and name not in ("md", "modes")):
            raise ValueError
    except ValueError:
        raise UnknownOption(f"{word!r} is no step of sampling: expected NAME:COUNT or md:T1/T2:COUNT, modes:T1/T2:COUNT, with "
                            f"NAME one of {', '.join(STEP_NAMES)}; steps are separated by commas.") from None
    return SamplingStep(name, count, temperatures or {"md": MD_TEMPERATURES, "modes": MODE_TEMPERATURES}.get(name, ()))


def expected(steps: tuple[SamplingStep, ...], source: Source) -> int:
    """How many structures a plan will give, about."""
    per = {"conformers": 1, "dimers": 1, "bonds": 1, "torsions": 1, "interactions": 3}
    drawn = [s for s in steps if s.name != "conformers" or source.structure is None]
    return max(sum(s.count * per.get(s.name, len(s.temperatures)) for s in drawn), 1)


def generator(seed: int, name: str) -> np.random.Generator:
    """The random numbers of a name."""
    return np.random.default_rng(int(hashlib.sha256(f"{seed} {name}".encode()).hexdigest()[:16], 16))


def sampled(task: tuple[Sampling, Source]) -> tuple[list[Structure], list[str]]:
    """The structures of a source, and the reasons of those steps that failed; a free atom gives itself, once.

    Raises:
        InvalidMolecule: not even the first geometry can be had.
    """
    sampling, source = task
    rng = generator(sampling.seed, source.name)
    if source.pair:
        structures, failures = _of_pair(sampling, source, rng)
    else:
        conformers = _conformers(sampling, source, rng)
        if len(conformers[0].numbers) == 1:
            return [replace(conformers[0], how="atom")], []
        structures, failures = _of_molecule(sampling, source, conformers, rng)
    return _with_point_charges(sampling, structures, rng), failures


def _of_pair(sampling: Sampling, source: Source, rng: np.random.Generator) -> tuple[list[Structure], list[str]]:
    """Dimers of the two fragments of a SMILES."""
    steps = [s for s in sampling.plan if s.name in PAIRED] or [SamplingStep("dimers", 1)]
    a, b = _fragments(source.smiles)
    first, second = (relaxed(from_smiles(s, _seed(rng)), sampling.calculator) for s in (a, b))
    structures, failures = _collected(steps, lambda step: dimers((first, second), step, sampling.calculator, rng))
    named = [s if s.fragment in ("A", "B") else replace(s, group=source.group or "complex") for s in structures]
    return named, failures


def _of_molecule(sampling: Sampling, source: Source, conformers: list[Structure],
                 rng: np.random.Generator) -> tuple[list[Structure], list[str]]:
    """The conformers where the plan asks for them, and what its other steps draw around the first of them."""
    start, given = conformers[0], source.structure is not None
    wanted = given or not sampling.plan or any(s.name == "conformers" for s in sampling.plan)
    steps = [s for s in sampling.plan if s.name != "conformers"]
    if given and steps:
        start = relaxed(start, sampling.calculator)
    structures, failures = _collected(steps, lambda step: _drawn(step, start, source, sampling, rng))
    return [*(conformers if wanted else []), *structures], failures


def _collected(steps: Iterable[SamplingStep],
               draw: Callable[[SamplingStep], list[Structure]]) -> tuple[list[Structure], list[str]]:
    """What the steps draw, and why some of them draw nothing; the others go on."""
    structures, failures = [], []
    for step in steps:
        try:
            structures += draw(step)
        except Exception as error:      # whatever the cheap method raises
            failures.append(f"{step.name}: {reason(error)}")
    return structures, failures


def _conformers(sampling: Sampling, source: Source, rng: np.random.Generator) -> list[Structure]:
    """Relaxed geometries of a SMILES, the first of them alone where no others are asked for; the structure of a file itself."""
    if source.structure is not None:
        return [source.structure]
    count = sum(s.count for s in sampling.plan if s.name == "conformers") or 1
    first = from_smiles(source.smiles, _seed(rng), source.group)
    if len(first.numbers) == 1:
        return [first]
    starts = [first, *(from_smiles(source.smiles, _seed(rng), source.group) for _ in range(count - 1))]
    return [relaxed(s, sampling.calculator) for s in starts]


def _drawn(step: SamplingStep, start: Structure, source: Source, sampling: Sampling,
           rng: np.random.Generator) -> list[Structure]:
    """The structures of one step."""
    if step.name == "md":
        return dynamics(start, step, sampling.calculator, rng)
    if step.name == "modes":
        return displacements(start, step, sampling.calculator, rng)
    if step.name in ("bonds", "torsions"):
        return {"bonds": stretches, "torsions": torsions}[step.name](start, step, rng)
    partner = start
    if source.partner is not None and source.partner.name != source.name:
        other = source.partner
        partner = other.structure if other.structure is not None else from_smiles(other.smiles, _seed(rng))
        partner = relaxed(partner, sampling.calculator)
    return dimers((start, partner), step, sampling.calculator, rng)


def _with_point_charges(sampling: Sampling, structures: list[Structure], rng: np.random.Generator) -> list[Structure]:
    """The structures, and a fraction of them among point charges too."""
    plain = [s for s in structures if len(s.numbers) > 1 and s.point_charges is None and not s.complex]
    return structures + [surrounded(s, rng) for s in plain if rng.random() < sampling.charged]


def _fragments(smiles: str) -> list[str]:
    parts = smiles.split(".")
    if len(parts) != 2:
        raise InvalidMolecule(f"{smiles!r} has {len(parts)} fragments: dimers are made of two.")
    return parts


def _seed(rng: np.random.Generator) -> int:
    """A seed for RDKit."""
    return int(rng.integers(2**31 - 1))
