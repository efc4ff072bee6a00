"""The labels of an active loop: picked structures on their way through the queue, and what came back.

What was picked stands in a file per round, with what the ensemble said of it; labels go to the journal of `nddo-ml label`. A
round's share of the journal is copied, whole, before it is trained on: later arrivals change nothing under a running training.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.io import iread
from ase.io.extxyz import key_val_str_to_dict

from nddo_ml.active.calibrate import Opinion
from nddo_ml.active.explore import Candidate
from nddo_ml.common.files import write_text
from nddo_ml.labels.journal import Journal, text, whole_frames
from nddo_ml.labels.label import described, timed_frame
from nddo_ml.labels.levels.theory import Level
from nddo_ml.labels.queue import Queue, TaskOutcome
from nddo_ml.labels.structures import Structure, from_atoms


class Labelling:
    """Structures being labelled; level, journal and queue are those of `labels.label`."""

    def __init__(self, level: Level, journal: Journal, queue: Queue):
        self.level, self.journal, self.queue = level, journal, queue
        self.outstanding: dict[str, Structure] = {}     # by id: those without an outcome

    def submit(self, structures: Iterable[Structure]) -> None:
        """Queue those that have neither label nor error and are not queued yet."""
        for structure in structures:
            if not any(structure.id in there for there in (self.outstanding, self.journal.labelled, self.journal.failed)):
                self.outstanding[structure.id] = structure
                self.queue.submit(self.level, structure)

    def harvest(self) -> int:
        """Write down what has been completed, without waiting; how many outcomes there were."""
        count = 0
        for outcome in self.queue.completed(wait=False):
            self._close(outcome)
            count += 1
        return count

    def _close(self, outcome: TaskOutcome) -> None:
        """Write what became of a structure."""
        structure, error = outcome.argument, outcome.error
        if not error and outcome.value.forces is None:
            error = f"{self.level.name} has no forces, which a training needs"
        if error:
            self.journal.add_error(structure.id, {**described(structure), "level": self.level.name}, error)
        else:
            self.journal.add(timed_frame(structure, outcome, self.level))
        self.outstanding.pop(structure.id, None)


def write_picked(path: Path, candidates: Sequence[Candidate]) -> None:
    """Write picked structures with the ensemble's opinions, whole or not at all."""
    parts = []
    for c in candidates:
        atoms, o = c.structure.atoms, c.opinion
        atoms.info |= {"pred_energy": o.energy, "energy_spread": o.energy_spread, "energy_uncertainty": o.energy_uncertainty}
        atoms.arrays |= {"pred_forces": o.forces, "atom_spread": o.atom_spread, "atom_uncertainty": o.atom_uncertainty}
        parts.append(text(atoms))
    write_text(path, "".join(parts))


def read_picked(path: Path) -> list[Candidate]:
    """What `write_picked` wrote."""
    candidates = []
    for atoms in _frames(path):
        info, arrays = atoms.info, atoms.arrays
        opinion = Opinion(float(info["pred_energy"]), arrays["pred_forces"], float(info["energy_spread"]),
                          np.atleast_1d(arrays["atom_spread"]), float(info["energy_uncertainty"]),
                          np.atleast_1d(arrays["atom_uncertainty"]))
        candidates.append(Candidate(from_atoms(atoms), opinion))
    return candidates


def write_structures(path: Path, structures: Sequence[Structure]) -> None:
    """Write structures, whole or not at all."""
    write_text(path, "".join(text(s.atoms) for s in structures))


def read_structures(path: Path) -> list[Structure]:
    """What `write_structures` wrote."""
    return [from_atoms(atoms) for atoms in _frames(path)]


def copy_labels(journal: Path, path: Path, ids: Sequence[str]) -> None:
    """Copy the labelled frames of these ids, in this order, from a journal to a file of their own, whole or not at all."""
    frames = labelled(journal)
    write_text(path, "".join(frames[key] for key in ids))


def labelled(path: Path) -> dict[str, str]:
    """The frames of a file of labels, as text, by the id of their structure."""
    return {str(key_val_str_to_dict(written.header)["id"]): written.text for written in whole_frames(path)[0]}


def _frames(path: Path) -> list[Atoms]:
    """All frames of a file, which may be empty."""
    return list(iread(path, ":", format="extxyz")) if path.stat().st_size else []
