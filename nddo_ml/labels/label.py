"""Reference labels: sources are sampled, structures labelled, frames written as they come.

    source -> sampled -> structures -> level -> label -> frame

Every arrow is a task on a queue. The order is kept: a molecule is finished before too many others are begun, so that any first
part of the output is as balanced as the list of sources.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ase import Atoms

from nddo_ml.labels.journal import Journal
from nddo_ml.labels.levels.theory import Level, frame
from nddo_ml.labels.queue import Queue, TaskOutcome
from nddo_ml.labels.sampling import Sampling, Source, expected, generator, sampled
from nddo_ml.labels.structures import Structure

AHEAD = 2     # tasks given to the queue for each that can run


@dataclass(frozen=True)
class LabelProgress:
    """How far a run is."""

    labelled: int = 0       # frames written by this run
    kept: int = 0           # wanted frames that were there already
    errors: int = 0         # structures or sources without a label, now or in an earlier run
    duplicates: int = 0     # structures that came twice
    expected: int = 0       # structures in all, about
    busy: float = 0.0       # seconds of work, all workers together
    last: str = ""          # what happened


def label(sources: Sequence[Source], sampling: Sampling, level: Level, journal: Journal, queue: Queue,
          retry: bool = False) -> Iterator[LabelProgress]:
    """Label what the sources give and the journal does not hold yet; yields the progress after each task, the summary last.

    retry: try again what failed in an earlier run. Both journal and queue are open, and left open.
    """
    run = _Run(sampling, level, journal, retry)
    waiting = deque(sources)
    run.progress = replace(run.progress, expected=sum(expected(sampling.plan, s) for s in sources))
    yield run.progress
    while True:
        while queue.pending < AHEAD * queue.width and (run.ready or waiting):
            if run.ready:
                queue.submit(level, run.ready.popleft())
            else:
                run.open(waiting.popleft(), queue)
        outcome = next(queue.completed(), None)
        if outcome is None:
            break
        run.close(outcome)
        yield run.progress
    yield replace(run.progress, expected=run.progress.labelled + run.progress.kept, last="finished")


class _Run:
    """The state of a run: structures ready to be labelled, and the progress."""

    def __init__(self, sampling: Sampling, level: Level, journal: Journal, retry: bool):
        self.sampling, self.level, self.journal = sampling, level, journal
        self.ready: deque[Structure] = deque()
        self.progress, self._seen = LabelProgress(), set[str]()
        self._given_up = set() if retry else set(journal.failed)

    def open(self, source: Source, queue: Queue) -> None:
        """Queue the sampling of a source; or pass its structures on, where they are given or were sampled earlier."""
        key = self.sampling.key(source)
        if self.sampling.trivial and source.structure is not None:
            self._take([source.structure], source)
        elif key in self.journal.sampled:
            self._take(self.journal.sampled[key], source)
        elif key in self._given_up:
            self._count(errors=1, expected=-expected(self.sampling.plan, source))
        else:
            queue.submit(sampled, (self.sampling, source))

    def close(self, outcome: TaskOutcome) -> None:
        """Write what became of a task."""
        self._count(busy=outcome.seconds)
        if isinstance(outcome.argument, Structure):
            self._close_structure(outcome.argument, outcome)
        else:
            self._close_source(outcome.argument[1], outcome)

    def _close_structure(self, structure: Structure, outcome: TaskOutcome) -> None:
        """Write the frame of a structure, or why it has no label."""
        if outcome.error:
            self._fail(structure.id, {**described(structure), "level": self.level.name}, outcome.error)
            return
        self.journal.add(timed_frame(structure, outcome, self.level))
        self._count(labelled=1, last=f"{structure.smiles or structure.formula}  {structure.how}")

    def _close_source(self, source: Source, outcome: TaskOutcome) -> None:
        """Write the structures of a source, or why it has none."""
        name = source.smiles or (source.structure.formula if source.structure else "")
        key, what = self.sampling.key(source), {"source": name}
        if outcome.error:
            self._fail(key, what, outcome.error)
            self._count(expected=1 - expected(self.sampling.plan, source))
            return
        structures, reasons = outcome.value
        for reason in reasons:
            self._fail(f"{key}:{reason.partition(':')[0]}", what, reason)
        self.journal.add_structures(key, structures)
        self._take(structures, source, len(reasons))

    def _take(self, structures: Sequence[Structure], source: Source, failures: int = 0) -> None:
        """Structures to be labelled, without those that are, that failed, or that came before."""
        self._count(expected=len(structures) + failures - expected(self.sampling.plan, source))
        for structure in structures:
            key = structure.id
            if key in self._seen:
                self._count(duplicates=1, expected=-1)
            elif key in self.journal.labelled:
                self._count(kept=1)
            elif key in self._given_up:
                self._count(errors=1, expected=-1)
            else:
                self.ready.append(structure)
            self._seen.add(key)

    def _fail(self, key: str, what: dict[str, Any], reason: str) -> None:
        self.journal.add_error(key, what, reason)
        self._count(errors=1, expected=-1, last=f"failed: {reason}")

    def _count(self, last: str | None = None, **more: int | float) -> None:
        """Add to the numbers of the progress; last: what happened."""
        counts = {name: getattr(self.progress, name) + value for name, value in more.items()}
        self.progress = replace(self.progress, **counts, **({"last": last} if last else {}))


def timed_frame(structure: Structure, outcome: TaskOutcome, level: Level) -> Atoms:
    """The labelled structure as it is written, with the seconds it took. outcome: of a task whose value is the label."""
    atoms = frame(structure, outcome.value, level)
    atoms.info["seconds"] = round(outcome.seconds, 2)
    return atoms


def described(structure: Structure) -> dict[str, Any]:
    """A structure for the list of errors: enough to repeat it."""
    return {"smiles": structure.smiles, "how": structure.how, "formula": structure.formula, "charge": structure.charge,
            "multiplicity": structure.multiplicity, "unrestricted": structure.unrestricted,
            "numbers": structure.numbers.tolist(), "positions": structure.positions.tolist(),
            "sites": None if structure.point_charges is None else structure.point_charges.tolist()}


def with_partners(sources: Sequence[Source], seed: int) -> list[Source]:
    """The sources, each with another one (or itself) as the second molecule of its dimers, drawn from the list; SMILES of two
    fragments have their own.
    """
    single = [s for s in sources if "." not in s.smiles]

    def partner(source: Source) -> Source:
        return single[int(generator(seed, f"partner of {source.name}").integers(len(single)))]

    return [s if "." in s.smiles else replace(s, partner=partner(s)) for s in sources]
