"""Structures drawn around a molecule by one kind of sampling each: dynamics, normal modes, dimers, bonds, torsions.

Each function takes the molecule to start from, how many structures are wanted (SamplingStep), and a numpy Generator, from which
all its random numbers come. Forces are those of a cheap method, which is given: calculator(charge=, multiplicity=) makes an ASE
calculator, with `get_hessian` where normal modes are asked for.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from ase import Atoms, units
from ase.constraints import FixCom
from ase.md.langevin import Langevin
from ase.optimize import LBFGS

from nddo_ml.elements import masses
from nddo_ml.errors import InvalidMolecule
from nddo_ml.geometry.constraints import in_shorter_steps
from nddo_ml.labels.bonds import bonds, outside_rings
from nddo_ml.labels.clusters import joined, placed
from nddo_ml.labels.structures import Structure
from nddo_ml.properties.vibrations import WAVENUMBER_ENERGY, normal_modes

FMAX, STEPS = 0.03, 150             # of a relaxation, eV/angstrom
LONGEST = (0.1, 0.03, 0.01)         # angstrom: its steps, the next where one led to a geometry without energy
TIME_STEP, FRICTION = 0.5, 0.02     # of molecular dynamics, fs and 1/fs
BETWEEN = 200                       # steps between two frames
SOFT = 100.0                        # cm^-1: softer modes are displaced as if they had this frequency
HBAR_SQUARED = units._hbar**2 / units._amu / units._e * 1e20      # eV amu angstrom^2
SCALES = (0.85, 1.5)                # of the contact distance of a dimer
STRETCH = (0.75, 2.5)               # of a bond length
BREAKING = 1.25                     # beyond it a singlet may break its spin symmetry
ATTEMPTS = 20                       # for each rotation whose parts do not touch
RELAXED, ROUGHLY = 25, 0.1          # steps of relaxation of a dimer, and its largest force, eV/angstrom
PULLED = (0.9, 1.8)                 # of the nearest contact of a relaxed dimer

MakeCalculator = Callable[..., Any]     # calculator(charge=, multiplicity=) -> an ASE calculator


@dataclass(frozen=True)
class SamplingStep:
    """One kind of sampling."""

    name: str                                   # one of sampling.STEP_NAMES
    count: int                                  # of structures; md, modes: of each temperature
    temperatures: tuple[float, ...] = ()        # K

    def __repr__(self) -> str:
        # decides the keys of sources in files (Sampling.key): it must stay as it is
        return f"Step(name={self.name!r}, count={self.count!r}, temperatures={self.temperatures!r})"


def relaxed(start: Structure, calculator: MakeCalculator, steps: int = STEPS, fmax: float = FMAX,
            how: str = "optimised") -> Structure:
    """The structure at (or after `steps` steps on the way to) its minimum; a step to a geometry without energy is taken back,
    and shorter ones follow. fmax: largest force at the end, eV/angstrom.
    """
    if len(start.numbers) == 1:
        return start
    atoms, done = _ready(start, calculator), False

    def run(longest: float) -> Iterable[bool]:
        optimiser = LBFGS(atoms, logfile=None, maxstep=longest)     # pyright: ignore[reportArgumentType]  # ASE takes None
        return optimiser.irun(fmax=fmax, steps=steps)

    for reached in in_shorter_steps(atoms, LONGEST, run):
        done = reached
    return replace(start, positions=atoms.positions.copy(), how=how if done or steps < STEPS else f"{how} in part")


def dynamics(start: Structure, step: SamplingStep, calculator: MakeCalculator, rng: np.random.Generator) -> list[Structure]:
    """Frames of Langevin dynamics, BETWEEN steps apart, `count` of each temperature."""
    frames = []
    for temperature in step.temperatures:
        atoms = _ready(start, calculator)
        atoms.set_momenta(rng.standard_normal((len(atoms), 3)) * np.sqrt(atoms.get_masses() * units.kB * temperature)[:, None])
        atoms.set_constraint(FixCom())
        run = Langevin(atoms, TIME_STEP * units.fs, temperature_K=temperature, friction=FRICTION / units.fs, rng=rng,
                       fixcm=False)
        for _ in range(step.count):
            run.run(BETWEEN)
            frames.append(replace(start, positions=atoms.positions, how=f"md {temperature:g} K"))
    return frames


def displacements(start: Structure, step: SamplingStep, calculator: MakeCalculator,
                  rng: np.random.Generator) -> list[Structure]:
    """Displacements along all normal modes, drawn from the thermal distribution of the quantum harmonic oscillators.

    <Q^2> = hbar / (2 omega) coth(hbar omega / 2 k T), Q mass-weighted
    """
    hessian = calculator(charge=start.charge, multiplicity=start.multiplicity).get_hessian(start.atoms)
    vibrations = normal_modes(hessian, masses(torch.as_tensor(start.numbers)), torch.as_tensor(start.positions))
    energy = np.maximum(vibrations.frequencies.numpy(), SOFT) * WAVENUMBER_ENERGY
    structures = []
    for temperature in step.temperatures:
        width = np.sqrt(HBAR_SQUARED / (2 * energy) / np.tanh(energy / (2 * units.kB * temperature)))
        for _ in range(step.count):
            Q = width * rng.standard_normal(len(width))
            moved = start.positions + np.einsum("m,max->ax", Q, vibrations.modes.numpy())
            structures.append(replace(start, positions=moved, how=f"modes {temperature:g} K"))
    return structures


def dimers(pair: tuple[Structure, Structure], step: SamplingStep, calculator: MakeCalculator,
           rng: np.random.Generator) -> list[Structure]:
    """The two molecules of a pair at random orientations: the nearest contact at a random multiple (SCALES) of the van der
    Waals distance; the first, the third, ... relaxed a little. "interactions": each followed by its two molecules as they are
    in it; the third, the seventh, ... is pulled apart or pressed together (PULLED) after it was relaxed.
    """
    structures = []
    for k in range(step.count):
        scale = float(rng.uniform(*SCALES))
        parts = placed(*pair, scale, rng)
        whole = joined(*parts, f"complex {scale:.2f}")
        if k % 2 == 0:
            whole = relaxed(whole, calculator, RELAXED, ROUGHLY, f"{whole.how} relaxed")
        if step.name == "interactions":
            structures += with_fragments(whole, parts, float(rng.uniform(*PULLED)) if k % 4 == 2 else 1.0)
        else:
            structures.append(whole)
    return structures


def with_fragments(whole: Structure, parts: tuple[Structure, Structure], factor: float) -> list[Structure]:
    """A complex whose nearest contact is `factor` times as long, and its two molecules at the same geometry; nothing where
    relaxation has joined them by a bond.
    """
    n = len(parts[0].numbers)
    if any(i < n <= j for i, j in bonds(whole)):
        return []
    x, y = whole.positions[:n], whole.positions[n:]
    if factor != 1:
        d = y[None] - x[:, None]
        i, j = np.unravel_index(np.linalg.norm(d, axis=-1).argmin(), d.shape[:2])
        y = y + (factor - 1) * d[i, j]
        whole = replace(whole, positions=np.concatenate([x, y]), how=f"{whole.how} x{factor:.2f}")
    name = f"{whole.smiles or whole.formula}@{whole.id[:8]}"
    fragments = [replace(part, positions=at, how=f"fragment of {whole.how}", complex=name, fragment=letter)
                 for part, at, letter in zip(parts, (x, y), "AB", strict=True)]
    return [replace(whole, complex=name, fragment="AB"), *fragments]


def stretches(start: Structure, step: SamplingStep, rng: np.random.Generator) -> list[Structure]:
    """Single bonds outside rings, drawn at random, at a random multiple (STRETCH) of their length; the parts stay rigid. A long
    bond of a singlet may break its spin symmetry.

    Raises:
        InvalidMolecule: every bond is in a ring.
    """
    movable = outside_rings(start)
    if not movable:
        raise InvalidMolecule(f"{start.formula} has no bond outside a ring to stretch.")
    structures, symbols = [], start.atoms.get_chemical_symbols()
    for _ in range(step.count):
        i, j, part = movable[int(rng.integers(len(movable)))]
        factor = float(rng.uniform(*STRETCH))
        moved = start.positions.copy()
        moved[part] += (factor - 1) * (start.positions[j] - start.positions[i])
        structures.append(replace(start, positions=moved, how=f"bond {symbols[i]}{i}-{symbols[j]}{j} x{factor:.2f}",
                                  unrestricted=factor > BREAKING and start.multiplicity == 1))
    return structures


def torsions(start: Structure, step: SamplingStep, rng: np.random.Generator) -> list[Structure]:
    """Rotations by a random angle about bonds outside rings, drawn at random; the parts stay rigid and do not touch.

    Raises:
        InvalidMolecule: there is nothing to rotate.
    """
    movable = [(i, j, part) for i, j, part in outside_rings(start) if 1 < len(part) < len(start.numbers) - 1]
    if not movable:
        raise InvalidMolecule(f"{start.formula} has no bond outside a ring to rotate about.")
    structures, connected, symbols = [], bonds(start), start.atoms.get_chemical_symbols()
    for _ in range(step.count * ATTEMPTS):
        i, j, part = movable[int(rng.integers(len(movable)))]
        angle = float(rng.uniform(0, 360))
        turned = start.atoms
        turned.rotate(angle, turned.positions[j] - turned.positions[i], center=turned.positions[j])
        moved = start.positions.copy()
        moved[part] = turned.positions[part]
        rotated = replace(start, positions=moved, how=f"torsion {symbols[i]}{i}-{symbols[j]}{j} {angle:.0f} deg")
        if bonds(rotated) == connected:
            structures.append(rotated)
        if len(structures) == step.count:
            break
    return structures


def _ready(structure: Structure, calculator: MakeCalculator) -> Atoms:
    """Atoms with the cheap method attached."""
    atoms = Atoms(structure.numbers, structure.positions)
    atoms.calc = calculator(charge=structure.charge, multiplicity=structure.multiplicity)
    return atoms
