"""Exploring: where could the ensemble be wrong? Langevin dynamics of many trajectories at once, watched by the ensemble.

One member drives the trajectories of a round, the whole ensemble looks at them every few steps. A trajectory ends where it has
become meaningless: atoms collide, the uncertainty explodes, an SCF fails.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from ase.data import covalent_radii
from jaxtyping import Float, Int

from nddo_ml.active.calibrate import Opinion, by_molecule, opinions
from nddo_ml.active.config import Explore
from nddo_ml.dynamics.langevin import Langevin, Trajectory, at_rest, thermal_velocities
from nddo_ml.dynamics.many_molecules import TOLERANCE, EvaluatedTrajectories, evaluated
from nddo_ml.ensembles.ensemble import Ensemble
from nddo_ml.labels.structures import Structure
from nddo_ml.training.dataset import LabelledFrame


@dataclass(frozen=True, eq=False)
class Candidate:
    """A structure that could be labelled."""

    structure: Structure
    opinion: Opinion                    # of the ensemble
    trajectory: int | None = None       # it comes from; None: of none

    @property
    def uncertainty(self) -> float:
        """The largest uncertainty of a force component on any atom, eV/angstrom; what candidates are ranked by."""
        return float(self.opinion.atom_uncertainty.max())


@dataclass(frozen=True, eq=False)
class Explored:
    """What came of an exploration."""

    candidates: list[Candidate]
    trajectories: int = 0                               # how many there were
    ends: Counter = field(default_factory=Counter)      # how many ended so: finished, uncertain, collision, SCF


@dataclass(frozen=True, eq=False)
class TrajectoryStart:
    """Where a trajectory begins."""

    structure: Structure
    temperature: float      # K


def explored(ensemble: Ensemble, starts: Sequence[TrajectoryStart], settings: Explore, rng: np.random.Generator,
             driver: int = 0, progress: Callable[[int], None] | None = None) -> Explored:
    """Langevin dynamics from each start, all together; a candidate every `settings.every` steps.

    driver: the member whose forces move the atoms. progress: called after each step with the number of trajectories that go on;
    what it raises ends the exploration.
    """
    model, langevin = ensemble.members[driver % len(ensemble)], Langevin(settings.time_step, settings.friction)
    running = {k: thermal_velocities(_begun(start), rng) for k, start in enumerate(starts)}
    candidates, ends = [], Counter()
    last = evaluated(model, running)
    for step in range(1, settings.steps + 1):
        forces = last.forces
        running = {k: langevin.moved(t, forces[k], rng) for k, t in running.items()}
        clash = [k for k, t in running.items() if collided(t.numbers, t.positions, settings.collision)]
        running = _without(running, clash, "collision", ends)
        if running:
            last = evaluated(model, running, last)
            forces = last.forces
            running = _without(running, [k for k in running if not np.isfinite(forces[k]).all()], "SCF", ends)
        running = {k: langevin.kicked(t, forces[k]) for k, t in running.items()}
        if running and step % settings.every == 0:
            seen = _look(ensemble, running, last)
            running = _without(running, [k for k, o in seen.items() if not o.certain], "SCF", ends)
            candidates += [Candidate(_snapshot(starts[k], t, step), seen[k], k) for k, t in running.items()]
            unsure = [k for k in running if seen[k].atom_uncertainty.max() > settings.stop]
            running = _without(running, unsure, "uncertain", ends)
        if progress is not None:
            progress(len(running))
        if not running:
            break
    ends["finished"] += len(running)
    return Explored(candidates, len(starts), ends)


def judged(ensemble: Ensemble, structures: Sequence[Structure], collision: float) -> list[Candidate]:
    """Structures as candidates, without those in which atoms collide (`collided`) or an SCF fails."""
    apart = [s for s in structures if not collided(s.numbers, s.positions, collision)]
    said = opinions(ensemble, [_unlabelled(s) for s in apart], TOLERANCE)
    return [Candidate(s, o) for s, o in zip(apart, said, strict=True) if o.certain]


def collided(numbers: Int[np.ndarray, "atom"], positions: Float[np.ndarray, "atom 3"], factor: float) -> bool:
    """Whether two atoms are nearer than `factor` times the sum of their covalent radii; positions in angstrom."""
    i, j = np.triu_indices(len(numbers), 1)
    d = np.linalg.norm(positions[i] - positions[j], axis=-1)
    return bool((d < factor * (covalent_radii[numbers[i]] + covalent_radii[numbers[j]])).any())


def _begun(start: TrajectoryStart) -> Trajectory:
    s = start.structure
    return at_rest(s.numbers, s.positions, start.temperature, s.charge, s.multiplicity)


def _snapshot(start: TrajectoryStart, trajectory: Trajectory, step: int) -> Structure:
    """The structure a trajectory passes at a step."""
    return replace(start.structure, positions=trajectory.positions, how=f"active {start.temperature:g} K, step {step}")


def _unlabelled(s: Structure) -> LabelledFrame:
    """A structure as a frame without a label."""
    return LabelledFrame(s.source, s.smiles, s.group, s.how, s.numbers, s.positions, s.charge, s.multiplicity, energy=np.nan,
                 forces=np.full_like(s.positions, np.nan))


def _without(running: dict[int, Trajectory], ended: Sequence[int], reason: str, ends: Counter) -> dict[int, Trajectory]:
    """The trajectories that go on; those that ended are counted."""
    ends[reason] += len(ended)
    return {k: t for k, t in running.items() if k not in ended}


def _look(ensemble: Ensemble, running: dict[int, Trajectory], last: EvaluatedTrajectories) -> dict[int, Opinion]:
    """What the ensemble says of the running trajectories, the driver's last densities to start from."""
    seen = evaluated(ensemble, running, last)
    return dict(zip(seen.names, by_molecule(seen.result), strict=True))
