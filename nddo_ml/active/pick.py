"""Picking: which candidates are worth a label? The most uncertain ones that differ from each other."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from nddo_ml.active.config import Pick
from nddo_ml.active.explore import Candidate
from nddo_ml.labels.structures import Structure


def picked(candidates: Sequence[Candidate], settings: Pick, before: Sequence[Structure] = ()) -> list[Candidate]:
    """The most uncertain candidates, most uncertain first: above the threshold, `count` at most, none nearly identical to
    another or to one picked `before`, few of one trajectory, none with forces beyond `largest_force`.
    """
    chosen: list[Candidate] = []
    taken: Counter[int | None] = Counter()
    known: dict[tuple[int, ...], list[np.ndarray]] = {}
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


def distances(structure: Structure) -> Float[np.ndarray, "pair"]:
    """All interatomic distances (angstrom), sorted within each pair of elements: the same whatever the numbering of atoms."""
    i, j = np.triu_indices(len(structure.numbers), 1)
    z = np.sort(np.stack([structure.numbers[i], structure.numbers[j]]), axis=0)
    d = np.linalg.norm(structure.positions[i] - structure.positions[j], axis=-1)
    return d[np.lexsort((d, z[1], z[0]))]


def _kind(structure: Structure) -> tuple[int, ...]:
    """What two structures must share to be nearly identical: elements, charge, multiplicity."""
    return *sorted(structure.numbers.tolist()), structure.charge, structure.multiplicity
