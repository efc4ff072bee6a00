"""Exploring: where could the ensemble be wrong? Langevin dynamics of many trajectories at once, picking from what they pass.

One member drives the trajectories of a round, the whole ensemble looks at them every few steps. A trajectory ends where it has
become meaningless: atoms collide, the uncertainty explodes, an SCF fails.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from ase import units
from ase.data import covalent_radii

from nddo_ml.active.calibrate import Opinion, opinions, split
from nddo_ml.active.config import Explore, Pick
from nddo_ml.elements import masses
from nddo_ml.ensembles.ensemble import Ensemble
from nddo_ml.labels.structures import Structure
from nddo_ml.molecules import Molecules

TOLERANCE = 1e-5        # eV, of the SCF of a step


@dataclass(frozen=True, eq=False)
class Candidate:
    """A structure that could be labelled, what the ensemble says of it, and the trajectory it comes from (None: of none)."""

    structure: Structure
    opinion: Opinion
    trajectory: int | None = None

    @property
    def uncertainty(self) -> float:
        """The largest uncertainty of a force component on any atom, eV/angstrom; what candidates are ranked by."""
        return float(self.opinion.atom_uncertainty.max())


@dataclass(frozen=True, eq=False)
class Explored:
    """Candidates, the number of trajectories, and how they ended: finished, uncertain, collision, SCF."""

    candidates: list[Candidate]
    trajectories: int = 0
    ends: Counter = field(default_factory=Counter)


@dataclass(frozen=True, eq=False)
class _Guess:
    """Densities of some molecules of an earlier result."""

    result: object
    index: list
    molecules: Molecules

    def density(self, k: int):
        """That of molecule k."""
        return self.result.density(self.index[k])


def trajectories(ensemble: Ensemble, starts: Sequence[Structure], temperatures: Sequence[float], settings: Explore, rng,
                 driver: int = 0, progress: Callable[[int], None] | None = None) -> Explored:
    """Langevin dynamics from each start at its temperature (K), all together; a candidate every `settings.every` steps.

    driver: the member whose forces move the atoms. rng: numpy Generator. progress: called after each step with the number of
    trajectories that go on; what it raises ends the exploration. Splitting BAOAB: B. Leimkuhler, C. Matthews, Appl. Math. Res.
    Express 2013, 34.
    """
    running, found, ends = list(range(len(starts))), [], Counter()
    model = ensemble.members[driver % len(ensemble)]
    mass = [masses(torch.as_tensor(s.numbers)).numpy()[:, None] for s in starts]
    width = [np.sqrt(units.kB * t / m) for t, m in zip(temperatures, mass, strict=True)]        # of thermal velocities
    x = [s.positions.copy() for s in starts]
    v = [w * rng.standard_normal(p.shape) for w, p in zip(width, x, strict=True)]
    dt, keep = settings.time_step * units.fs, np.exp(-settings.friction * settings.time_step)
    last, force = _step(model, starts, x, running, None)
    for step in range(1, settings.steps + 1):
        for k in running:
            v[k] = v[k] + dt / 2 * force[k] / mass[k]
            x[k] = x[k] + dt / 2 * v[k]
            v[k] = keep * v[k] + np.sqrt(1 - keep**2) * width[k] * rng.standard_normal(x[k].shape)
            x[k] = x[k] + dt / 2 * v[k]
        clash = [k for k in running if collided(starts[k].numbers, x[k], settings.collision)]
        running = _without(running, clash, ends, "collision")
        if running:
            last, force = _step(model, starts, x, running, last)
            failed = [k for k in running if not np.isfinite(force[k]).all()]
            running = _without(running, failed, ends, "SCF")
        for k in running:
            v[k] = v[k] + dt / 2 * force[k] / mass[k]
        if running and step % settings.every == 0:
            seen = _look(ensemble, starts, x, running, last)
            known = {k: o for k, o in seen.items() if np.isfinite(o.atom_uncertainty).all()}
            found += [Candidate(_moved(starts[k], x[k], temperatures[k], step), o, k) for k, o in known.items()]
            running = _without(running, [k for k in running if k not in known], ends, "SCF")
            unsure = [k for k in running if known[k].atom_uncertainty.max() > settings.stop]
            running = _without(running, unsure, ends, "uncertain")
        if progress is not None:
            progress(len(running))
        if not running:
            break
    ends["finished"] += len(running)
    return Explored(found, len(starts), ends)


def judged(ensemble: Ensemble, structures: Sequence[Structure], collision: float) -> list[Candidate]:
    """Structures as candidates, without those in which atoms collide or an SCF fails."""
    whole = [_Bare(s.numbers, s.positions, s.charge, s.multiplicity) for s in structures]
    pairs = [(s, w) for s, w in zip(structures, whole, strict=True) if not collided(s.numbers, s.positions, collision)]
    found = opinions(ensemble, [w for _, w in pairs], TOLERANCE)
    return [Candidate(s, o) for (s, _), o in zip(pairs, found, strict=True) if np.isfinite(o.atom_uncertainty).all()]


def picked(candidates: Sequence[Candidate], settings: Pick, before: Sequence[Structure] = ()) -> list[Candidate]:
    """The most uncertain candidates, most uncertain first: above the threshold, `count` at most, none nearly identical to
    another or to one picked `before`, few of one trajectory, none with forces beyond `largest_force`."""
    chosen, taken = [], Counter()
    known: dict[tuple, list] = {}
    for s in before:
        known.setdefault(_kind(s), []).append(distances(s))
    for c in sorted(candidates, key=lambda c: -c.uncertainty):
        if len(chosen) == settings.count or c.uncertainty < settings.threshold:
            break
        if np.abs(c.opinion.forces).max() > settings.largest_force or taken[c.trajectory] >= settings.per_trajectory:
            continue
        here, alike = distances(c.structure), known.setdefault(_kind(c.structure), [])
        if any(np.abs(here - d).max(initial=0.0) < settings.distance for d in alike):
            continue
        alike.append(here)
        chosen.append(c)
        if c.trajectory is not None:
            taken[c.trajectory] += 1
    return chosen


def distances(structure: Structure) -> np.ndarray:
    """All interatomic distances (angstrom), sorted within each pair of elements: the same whatever the numbering of atoms."""
    i, j = np.triu_indices(len(structure.numbers), 1)
    z = np.sort(np.stack([structure.numbers[i], structure.numbers[j]]), axis=0)
    d = np.linalg.norm(structure.positions[i] - structure.positions[j], axis=-1)
    return d[np.lexsort((d, z[1], z[0]))]


def collided(numbers, positions, factor: float) -> bool:
    """Whether two atoms are nearer than `factor` times the sum of their covalent radii."""
    i, j = np.triu_indices(len(numbers), 1)
    d = np.linalg.norm(positions[i] - positions[j], axis=-1)
    return bool((d < factor * (covalent_radii[numbers[i]] + covalent_radii[numbers[j]])).any())


@dataclass(frozen=True, eq=False)
class _Bare:
    """A structure as `opinions` takes it."""

    numbers: np.ndarray
    positions: np.ndarray
    charge: int
    multiplicity: int
    external: None = None


def _kind(structure):
    return *sorted(structure.numbers.tolist()), structure.charge, structure.multiplicity


def _without(running, ended, ends, reason):
    """The trajectories that go on; those that ended are counted."""
    ends[reason] += len(ended)
    return [k for k in running if k not in ended]


def _batch(starts, x, running) -> Molecules:
    return Molecules.batch([starts[k].numbers for k in running], [x[k] for k in running], [starts[k].charge for k in running],
                           [starts[k].multiplicity for k in running])


def _step(model, starts, x, running, last):
    """(trajectories, their result), and forces by trajectory; `last` is the former of the step before."""
    molecules = _batch(starts, x, running)
    with torch.no_grad():
        result = model(molecules, forces=True, guess=_guess(last, running, molecules), tolerance=TOLERANCE,
                       raise_unconverged=False)
    parts = [f.cpu().numpy() for f in result.forces.detach().split(molecules.sizes)]
    return (running, result), dict(zip(running, parts, strict=True))


def _look(ensemble, starts, x, running, last) -> dict[int, Opinion]:
    """What the ensemble says of the running trajectories."""
    molecules = _batch(starts, x, running)
    found = ensemble(molecules, forces=True, guess=_guess(last, running, molecules), tolerance=TOLERANCE,
                     raise_unconverged=False)
    return dict(zip(running, split(found), strict=True))


def _guess(last, running, molecules):
    """Densities of the running trajectories from a step before, whose result may hold others too."""
    if last is None:
        return None
    names, result = last
    return result if names == running else _Guess(result, [names.index(k) for k in running], molecules)


def _moved(start, positions, temperature, step) -> Structure:
    return replace(start, positions=positions, how=f"active {temperature:g} K, step {step}")
