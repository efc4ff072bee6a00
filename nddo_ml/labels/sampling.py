"""Structures around a molecule: what a reference set is made of.

A plan is a list of steps, written "conformers:4,md:300/600/1000:2,modes:2,dimers:4,bonds:3". Each step draws structures from
the relaxed molecule with a cheap method; every random number comes from the seed and the name of the molecule, so that a plan
gives the same structures again. The calculator is given, not chosen here: calculator(charge=, multiplicity=) -> an ASE
calculator.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from ase import Atoms, units
from ase.constraints import FixCom
from ase.data import covalent_radii
from ase.md.langevin import Langevin
from ase.optimize import LBFGS

from nddo_ml.elements import masses
from nddo_ml.errors import InvalidMolecule, UnknownOption
from nddo_ml.geometry.constraints import in_shorter_steps
from nddo_ml.labels.clusters import joined, placed, surrounded
from nddo_ml.labels.queue import reason
from nddo_ml.labels.structures import Structure, from_smiles
from nddo_ml.properties.vibrations import WAVENUMBER_ENERGY, normal_modes

FMAX, STEPS = 0.03, 150             # of a relaxation, eV/angstrom
LONGEST = (0.1, 0.03, 0.01)         # angstrom: its steps, the next where one led to a geometry without energy
TIME_STEP, FRICTION = 0.5, 0.02     # of molecular dynamics, fs and 1/fs
BETWEEN = 200                       # steps between two frames
TEMPERATURES = (300.0, 600.0, 1000.0)
SOFT = 100.0                        # cm^-1: softer modes are displaced as if they had this frequency
HBAR_SQUARED = units._hbar**2 / units._amu / units._e * 1e20      # eV amu angstrom^2
SCALES = (0.85, 1.5)                # of the contact distance of a dimer
STRETCH = (0.75, 2.5)               # of a bond length
BREAKING = 1.25                     # beyond it a singlet may break its spin symmetry
BONDED = 1.25                       # times the sum of covalent radii
ATTEMPTS = 20                       # for each rotation whose parts do not touch
RELAXED = 25                        # steps of relaxation of a dimer
PULLED = (0.9, 1.8)                 # of the nearest contact of a relaxed dimer
STEP_NAMES = ("conformers", "md", "modes", "dimers", "interactions", "bonds", "torsions")


@dataclass(frozen=True)
class Step:
    """One kind of sampling: its name, how many structures (md, modes: of each temperature), temperatures in K."""

    name: str
    count: int
    temperatures: tuple[float, ...] = ()


@dataclass(frozen=True, eq=False)
class Source:
    """What a plan is applied to: a SMILES, or a structure of a file; `partner`: the second molecule of its dimers."""

    smiles: str = ""
    group: str = ""
    structure: Structure | None = None
    partner: "Source | None" = None

    @property
    def name(self) -> str:
        """What seeds its random numbers."""
        return self.smiles if self.structure is None else self.structure.id


@dataclass(frozen=True, eq=False)
class Sampling:
    """How sources become structures; see `sampled`. charged: fraction of them that is labelled among point charges too."""

    plan: tuple[Step, ...]
    calculator: Callable
    seed: int = 0
    charged: float = 0.0
    method: str = ""

    def key(self, source: Source) -> str:
        """Hash of all that decides the structures of a source."""
        partner = source.partner.name if source.partner else ""
        text = repr((source.name, source.group, partner, self.plan, self.seed, self.charged, self.method))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def trivial(self) -> bool:
        """Whether structures of files are taken as they are."""
        return not self.plan and not self.charged


def plan(text: str) -> tuple[Step, ...]:
    """The steps of "name[:T1/T2/...]:count,...". UnknownOption: it is no such list."""
    return tuple(_step(word.strip()) for word in text.split(",") if word.strip())


def _step(word):
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
    return Step(name, count, temperatures or (TEMPERATURES if name == "md" else (300.0,) if name == "modes" else ()))


def expected(steps: tuple[Step, ...], source: Source) -> int:
    """How many structures a plan will give, about."""
    per = {"conformers": 1, "dimers": 1, "bonds": 1, "torsions": 1, "interactions": 3}
    drawn = [s for s in steps if s.name != "conformers" or source.structure is None]
    return max(sum(s.count * per.get(s.name, len(s.temperatures)) for s in drawn), 1)


def sampled(task: tuple[Sampling, Source]) -> tuple[list[Structure], list[str]]:
    """The structures of a source, and the reasons of those steps that failed; a free atom gives itself, once.

    Raises InvalidMolecule where not even the first geometry can be had.
    """
    sampling, source = task
    found, failed = [], []
    rng = random(sampling.seed, source.name)
    if source.structure is None and "." in source.smiles:
        steps = [s for s in sampling.plan if s.name in ("dimers", "interactions")] or [Step("dimers", 1)]
        a, b = _fragments(source.smiles)
        first, second = (relaxed(from_smiles(s, _number(rng)), sampling.calculator) for s in (a, b))
        for step in steps:
            _attempt(lambda step=step: dimers(first, second, step, sampling.calculator, rng), found, failed, step)
        found = [s if s.fragment in ("A", "B") else replace(s, group=source.group or "complex") for s in found]
        return _with_charges(sampling, found, rng), failed
    conformers = _conformers(sampling, source, rng)
    start = conformers[0]
    if len(start.numbers) == 1:
        return [replace(start, how="atom")], failed
    given = source.structure is not None
    if given or not sampling.plan or any(s.name == "conformers" for s in sampling.plan):
        found += [source.structure] if given else conformers
    rest = [s for s in sampling.plan if s.name != "conformers"]
    start = relaxed(source.structure, sampling.calculator) if given and rest else start
    for step in rest:
        _attempt(lambda step=step: _drawn(step, start, source, sampling, rng), found, failed, step)
    return _with_charges(sampling, found, rng), failed


def random(seed: int, name: str) -> np.random.Generator:
    """Random numbers of a name."""
    return np.random.default_rng(int(hashlib.sha256(f"{seed} {name}".encode()).hexdigest()[:16], 16))


def relaxed(start: Structure, calculator: Callable, steps: int = STEPS, fmax: float = FMAX,
            how: str = "optimised") -> Structure:
    """A structure at (or on the way to) its minimum with a cheap method; a step to where that has no energy is taken back, and
    shorter ones follow."""
    if len(start.numbers) == 1:
        return start
    atoms, done = _ready(start, calculator), False

    def run(longest):
        return LBFGS(atoms, logfile=None, maxstep=longest).irun(fmax=fmax, steps=steps)

    for reached in in_shorter_steps(atoms, LONGEST, run):
        done = reached
    return _moved(start, atoms.positions, how if done or steps < STEPS else f"{how} in part")


def dynamics(start: Structure, step: Step, calculator: Callable, rng) -> list[Structure]:
    """Frames of Langevin dynamics, `count` of each temperature."""
    found = []
    for temperature in step.temperatures:
        atoms = _ready(start, calculator)
        atoms.set_momenta(rng.standard_normal((len(atoms), 3)) * np.sqrt(atoms.get_masses() * units.kB * temperature)[:, None])
        atoms.set_constraint(FixCom())
        run = Langevin(atoms, TIME_STEP * units.fs, temperature_K=temperature, friction=FRICTION / units.fs, rng=rng,
                       fixcm=False)
        for _ in range(step.count):
            run.run(BETWEEN)
            found.append(_moved(start, atoms.positions, f"md {temperature:g} K"))
    return found


def displacements(start: Structure, step: Step, calculator: Callable, rng) -> list[Structure]:
    """Displacements along all normal modes, drawn from the thermal distribution of the quantum harmonic oscillators.

    <Q^2> = hbar / (2 omega) coth(hbar omega / 2 k T), Q mass-weighted
    """
    m = masses(torch.as_tensor(start.numbers))
    found = normal_modes(calculator(charge=start.charge, multiplicity=start.multiplicity).get_hessian(start.atoms), m,
                         torch.as_tensor(start.positions))
    energy = np.maximum(found.frequencies.numpy(), SOFT) * WAVENUMBER_ENERGY
    structures = []
    for temperature in step.temperatures:
        width = np.sqrt(HBAR_SQUARED / (2 * energy) / np.tanh(energy / (2 * units.kB * temperature)))
        for _ in range(step.count):
            Q = width * rng.standard_normal(len(width))
            moved = start.positions + np.einsum("m,max->ax", Q, found.modes.numpy())
            structures.append(_moved(start, moved, f"modes {temperature:g} K"))
    return structures


def dimers(first: Structure, second: Structure, step: Step, calculator: Callable, rng) -> list[Structure]:
    """Pairs at random orientations: the nearest contact at a random multiple (SCALES) of the van der Waals distance; the first,
    the third, ... relaxed a little. "interactions": each followed by its two molecules as they are in it; the third, the
    seventh, ... is pulled apart or pressed together (PULLED) after it was relaxed.
    """
    found = []
    for k in range(step.count):
        scale = float(rng.uniform(*SCALES))
        a, b = placed(first, second, scale, rng)
        pair = joined(a, b, f"complex {scale:.2f}")
        if k % 2 == 0:
            pair = relaxed(pair, calculator, RELAXED, 0.1, f"{pair.how} relaxed")
        if step.name == "interactions":
            found += _with_parts(pair, a, b, float(rng.uniform(*PULLED)) if k % 4 == 2 else 1.0)
        else:
            found.append(pair)
    return found


def _with_parts(pair, a, b, factor):
    """A complex whose nearest contact is `factor` times as long, and its two molecules at the same geometry; nothing where
    relaxation has joined them."""
    n = len(a.numbers)
    if any(i < n <= j for i, j in _bonds(pair)):
        return []
    x, y = pair.positions[:n], pair.positions[n:]
    if factor != 1:
        d = y[None] - x[:, None]
        i, j = np.unravel_index(np.linalg.norm(d, axis=-1).argmin(), d.shape[:2])
        y = y + (factor - 1) * d[i, j]
        pair = _moved(pair, np.concatenate([x, y]), f"{pair.how} x{factor:.2f}")
    name = f"{pair.smiles or pair.formula}@{pair.id[:8]}"
    parts = [replace(_moved(s, at, f"fragment of {pair.how}"), complex=name, fragment=f)
             for s, at, f in ((a, x, "A"), (b, y, "B"))]
    return [replace(pair, complex=name, fragment="AB"), *parts]


def stretches(start: Structure, step: Step, rng) -> list[Structure]:
    """Single bonds outside rings, drawn at random, at a random multiple (STRETCH) of their length; the parts stay rigid. A long
    bond of a singlet may break its spin symmetry. InvalidMolecule: every bond is in a ring.
    """
    bonds = [(i, j, part) for i, j in _bonds(start) if (part := _beyond(start, i, j)) is not None]
    if not bonds:
        raise InvalidMolecule(f"{start.formula} has no bond outside a ring to stretch.")
    found = []
    for _ in range(step.count):
        i, j, part = bonds[int(rng.integers(len(bonds)))]
        factor = float(rng.uniform(*STRETCH))
        moved = start.positions.copy()
        moved[part] += (factor - 1) * (start.positions[j] - start.positions[i])
        symbols = start.atoms.get_chemical_symbols()
        stretched = _moved(start, moved, f"bond {symbols[i]}{i}-{symbols[j]}{j} x{factor:.2f}")
        found.append(replace(stretched, unrestricted=factor > BREAKING and start.multiplicity == 1))
    return found


def torsions(start: Structure, step: Step, rng) -> list[Structure]:
    """Rotations by a random angle about bonds outside rings, drawn at random; the parts stay rigid and do not touch.
    InvalidMolecule: there is nothing to rotate.
    """
    bonds = [(i, j, part) for i, j in _bonds(start)
             if (part := _beyond(start, i, j)) is not None and 1 < len(part) < len(start.numbers) - 1]
    if not bonds:
        raise InvalidMolecule(f"{start.formula} has no bond outside a ring to rotate about.")
    found, connected, symbols = [], _bonds(start), start.atoms.get_chemical_symbols()
    for _ in range(step.count * ATTEMPTS):
        i, j, part = bonds[int(rng.integers(len(bonds)))]
        angle = float(rng.uniform(0, 360))
        turned = start.atoms
        turned.rotate(angle, turned.positions[j] - turned.positions[i], center=turned.positions[j])
        moved = start.positions.copy()
        moved[part] = turned.positions[part]
        rotated = _moved(start, moved, f"torsion {symbols[i]}{i}-{symbols[j]}{j} {angle:.0f} deg")
        if _bonds(rotated) == connected:
            found.append(rotated)
        if len(found) == step.count:
            break
    return found


def _conformers(sampling, source, rng):
    """Relaxed geometries of a SMILES, the first of them alone where no others are asked for; the structure of a file itself."""
    if source.structure is not None:
        return [source.structure]
    count = sum(s.count for s in sampling.plan if s.name == "conformers") or 1
    first = from_smiles(source.smiles, _number(rng), source.group)
    if len(first.numbers) == 1:
        return [first]
    starts = [first, *(from_smiles(source.smiles, _number(rng), source.group) for _ in range(count - 1))]
    return [relaxed(s, sampling.calculator) for s in starts]


def _drawn(step, start, source, sampling, rng):
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
        partner = other.structure if other.structure is not None else from_smiles(other.smiles, _number(rng))
        partner = relaxed(partner, sampling.calculator)
    return dimers(start, partner, step, sampling.calculator, rng)


def _attempt(draw, found, failed, step):
    """The structures of a step, or the reason why there are none; other steps go on."""
    try:
        found += draw()
    except Exception as error:
        failed.append(f"{step.name}: {reason(error)}")


def _with_charges(sampling, structures, rng):
    """A fraction of the structures among point charges too."""
    plain = [s for s in structures if len(s.numbers) > 1 and s.sites is None and not s.complex]
    return structures + [surrounded(s, rng) for s in plain if rng.random() < sampling.charged]


def _fragments(smiles):
    parts = smiles.split(".")
    if len(parts) != 2:
        raise InvalidMolecule(f"{smiles!r} has {len(parts)} fragments: dimers are made of two.")
    return parts


def _ready(structure, calculator) -> Atoms:
    """Atoms with the cheap method attached."""
    atoms = Atoms(structure.numbers, structure.positions)
    atoms.calc = calculator(charge=structure.charge, multiplicity=structure.multiplicity)
    return atoms


def _moved(structure, positions, how):
    return replace(structure, positions=positions, how=how)


def _number(rng):
    return int(rng.integers(2**31 - 1))


def _bonds(structure):
    """Pairs of bonded atoms."""
    d = np.linalg.norm(structure.positions[:, None] - structure.positions[None], axis=-1)
    r = covalent_radii[structure.numbers]
    return list(zip(*np.nonzero(np.triu(d < BONDED * (r[:, None] + r[None]), 1)), strict=True))


def _beyond(structure, i, j):
    """The atoms on j's side of the bond i-j; None where the bond is in a ring."""
    bonds, side = _bonds(structure), {j}
    while new := {b for p, q in bonds for a, b in ((p, q), (q, p)) if a in side and b not in side and {a, b} != {i, j}}:
        side |= new
    return None if i in side else sorted(side)
