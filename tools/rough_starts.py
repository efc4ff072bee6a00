"""Rough starts: does a learned model hold atoms apart where it was never trained?

    python tools/rough_starts.py LABELS [LABELS ...] --models MODEL [MODEL ...] [--starts 300] [--out holes.extxyz]

LABELS: extended XYZ, also .gz; only molecules of the parts that trainings never see are taken (nddo_ml.training.dataset). All
atoms of each are displaced at random (0.45 angstrom, standard deviation of every coordinate) and the batch is optimised. A
start fell into a *hole* if it ends more than 3 eV below the molecule relaxed from where it was, and the parent, which has a
wall everywhere, does not see that fall: rearrangements that it confirms within 3 eV are chemistry. Counted as well: atoms
nearer than any bond, charges beyond a formal charge of two, geometries without an energy. Everything is repeatable: the seed
and the name of the molecule decide the displacements.
"""

import argparse
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from ase import Atoms
from ase.io import write

sys.path.insert(0, str(Path(__file__).parents[1]))
from nddo_ml import Hamiltonian, Molecules
from nddo_ml.elements import covalent_radii
from nddo_ml.errors import NDDOError
from nddo_ml.geometry.optimise import optimise
from nddo_ml.training.dataset import HELD_OUT, load, share, split

FALL = 3.0          # eV below what the parent confirms
NEAR = 0.55         # of the sum of covalent radii; the shortest bonds of the labels are 0.7
LARGE = 2.0         # e
CHUNK = 75          # starts optimised together
LOOSE = {"fmax": 0.1, "tolerance": 1e-5}     # eV/angstrom, eV: enough to tell a hole from a molecule


@dataclass(frozen=True)
class End:
    """Where a start ended: energy (eV) below the relaxed molecule, how much of that the parent does not confirm, the nearest
    pair in sums of covalent radii, the largest charge; how many geometries on the way had no energy."""

    name: str
    atoms: Atoms
    below: float
    unconfirmed: float
    nearest: float
    charge: float
    refused: int
    converged: bool

    @property
    def verdict(self) -> str:
        if not np.isfinite(self.below):
            return "refused"
        if self.below > FALL and not self.unconfirmed <= FALL:       # NaN: the parent has no energy there
            return "hole"
        if self.nearest < NEAR:
            return "atoms too near"
        return "charge" if self.charge > LARGE else "molecule"


def chosen(files, count, smallest=3, largest=16):
    """One frame of each of so many molecules that no training sees, in an order that the names decide."""
    parts = split([f for f in load(files) if f.external is None and smallest <= len(f) <= largest])
    first = {}
    for name in HELD_OUT[:-1]:
        for frame in parts.get(name, ()):
            if name != "complexes":
                first.setdefault(frame.molecule, frame)
    return [first[name] for name in sorted(first, key=lambda n: share("rough " + n))[:count]]


def displaced(frame, seed, size):
    """The frame's positions with every coordinate moved by a normal deviate."""
    words = np.random.default_rng([seed, int(share("displaced " + frame.molecule) * 2**32)])
    return frame.positions + size * words.standard_normal(frame.positions.shape)


def batch(frames, positions):
    return Molecules.batch([f.numbers for f in frames], positions, [f.charge for f in frames],
                           [f.multiplicity for f in frames])


def guarded(model):
    """Energy and forces; where a batch is refused because of one member, that member has none."""
    def together(molecules):
        result = model(molecules, forces=True, tolerance=LOOSE["tolerance"], raise_unconverged=False)
        return result.energy.detach(), result.forces.detach()

    def evaluate(molecules):
        try:
            return together(molecules)
        except NDDOError:
            found = [alone(molecules.select([k])) for k in range(len(molecules))]
            return tuple(torch.cat(part) for part in zip(*found, strict=True))

    def alone(molecule):
        try:
            return together(molecule)
        except NDDOError:
            return torch.full((1,), torch.nan, dtype=torch.float64), torch.zeros_like(molecule.positions)

    return evaluate


def optimised(model, frames, positions, steps):
    """Positions, energies, whether converged, and how many trial geometries had no energy."""
    found, energy, converged, refused = [], [], [], Counter()
    for start in range(0, len(frames), CHUNK):
        part = batch(frames[start:start + CHUNK], positions[start:start + CHUNK])

        def seen(step, start=start):
            bad = ~torch.isfinite(step.energy)
            refused.update((step.indices[bad] + start).tolist())

        end = optimise(guarded(model), part, LOOSE["fmax"], steps, seen)
        found += [x.numpy() for x in end.molecules.positions.split(part.sizes)]
        energy += end.energy.tolist()
        converged += end.converged.tolist()
        sys.stderr.write(f"{model.method.name}: {len(found)} of {len(frames)}\n")
    return found, np.array(energy), converged, refused


def energies(model, frames, positions):
    """Energies without optimisation, NaN where there is none."""
    energy, charge = [], []
    for frame, x in zip(frames, positions, strict=True):
        try:
            result = model(batch([frame], [x]), raise_unconverged=False, tolerance=LOOSE["tolerance"])
            energy.append(float(result.energy))
            charge.append(float(result.charges.abs().max()))
        except NDDOError:
            energy.append(np.nan)
            charge.append(np.nan)
    return np.array(energy), charge


def nearest(frame, positions):
    """The nearest pair in sums of covalent radii."""
    d = np.linalg.norm(positions[:, None] - positions[None], axis=-1)
    radii = covalent_radii(torch.from_numpy(frame.numbers)).numpy()
    return float((d / (radii[:, None] + radii))[np.triu_indices(len(d), 1)].min())


def hunt(name, frames, starts, size, steps):
    """What becomes of `starts` rough starts, the frames taken in turn with new seeds."""
    model = Hamiltonian(name)
    parent = Hamiltonian(model.method.card.parent) if model.method.card else model
    rested, low, _, _ = optimised(model, frames, [f.positions for f in frames], steps)
    before, _ = energies(parent, frames, rested)
    which = [k % len(frames) for k in range(starts)]
    rough = [displaced(frames[k], n // len(frames), size) for n, k in enumerate(which)]
    own = [frames[k] for k in which]
    ended, energy, converged, refused = optimised(model, own, rough, steps)
    after, _ = energies(parent, own, ended)
    _, charges = energies(model, own, ended)
    for n, k in enumerate(which):
        below, confirmed = low[k] - energy[n], before[k] - after[n]
        label = f"{own[n].molecule} ({own[n].charge:+d}, {own[n].multiplicity}), seed {n // len(frames)}"
        atoms = Atoms(own[n].numbers, ended[n], info={"charge": own[n].charge, "multiplicity": own[n].multiplicity,
                                                      "model": name, "start": label})
        yield End(label, atoms, below, below - confirmed, nearest(own[n], ended[n]), charges[n], refused[n], converged[n])


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("labels", nargs="+", type=Path)
    parser.add_argument("--models", nargs="+", required=True, help="published methods, shipped models or files of weights")
    parser.add_argument("--molecules", type=int, default=75)
    parser.add_argument("--starts", type=int, default=150)
    parser.add_argument("--size", type=float, default=0.45, help="angstrom, standard deviation of every coordinate")
    parser.add_argument("--steps", type=int, default=200, help="evaluations of one start at most")
    parser.add_argument("--out", type=Path, help="extxyz file for the ends that are no molecules")
    options = parser.parse_args()
    torch.set_num_threads(1)
    frames = chosen(options.labels, options.molecules)
    for name in options.models:
        ends = list(hunt(name, frames, options.starts, options.size, options.steps))
        for end in sorted(ends, key=lambda e: -np.nan_to_num(e.unconfirmed)):
            if end.verdict != "molecule":
                print(f"{name}: {end.verdict}: {end.name}: {end.below:.1f} eV below, {end.unconfirmed:.1f} unconfirmed, "
                      f"nearest {end.nearest:.2f}, charge {end.charge:.2f}, {end.refused} refused on the way")
        counts = Counter(end.verdict for end in ends)
        print(f"{name}: {len(frames)} molecules, {len(ends)} starts: " + ", ".join(f"{n} {v}" for v, n in counts.most_common())
              + f"; {sum(e.converged for e in ends)} converged, {sum(e.refused > 0 for e in ends)} met refused geometries, "
              f"{sum(e.below > 1.0 for e in ends if np.isfinite(e.below))} more than 1 eV below", flush=True)
        if options.out:
            write(options.out, [e.atoms for e in ends if e.verdict != "molecule"], append=True)


if __name__ == "__main__":
    main()
