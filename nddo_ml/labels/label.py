"""Reference labels: sources are sampled, structures labelled, frames written as they come.

    source -> sampled -> structures -> level -> label -> frame

Every arrow is a task on a queue. The order is kept: a molecule is finished before too many others are begun, so that any first
part of the output is as balanced as the list of sources.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from nddo_ml.labels.journal import Journal
from nddo_ml.labels.levels.theory import Level, frame
from nddo_ml.labels.queue import Outcome, Queue
from nddo_ml.labels.sampling import Sampling, Source, expected, random, sampled
from nddo_ml.labels.structures import Structure

AHEAD = 2     # tasks given to the queue for each that can run


@dataclass(frozen=True)
class Progress:
    """labelled: frames written by this run; kept: wanted ones that were there already; errors: structures or sources without a
    label, now or in an earlier run; duplicates: structures that came twice; expected: structures in all, about; busy: seconds
    of work, all workers together; last: what happened.
    """

    labelled: int = 0
    kept: int = 0
    errors: int = 0
    duplicates: int = 0
    expected: int = 0
    busy: float = 0.0
    last: str = ""


def label(sources: Sequence[Source], sampling: Sampling, level: Level, journal: Journal, queue: Queue,
          retry: bool = False) -> Iterator[Progress]:
    """Label what the sources give and the journal does not hold yet; yields the progress after each task, the summary last.

    retry: try again what failed in an earlier run.
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

    def __init__(self, sampling, level, journal, retry):
        self.sampling, self.level, self.journal = sampling, level, journal
        self.ready: deque[Structure] = deque()
        self.progress, self._seen = Progress(), set()
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

    def close(self, outcome: Outcome) -> None:
        """Write what became of a task."""
        argument, of_structure = outcome.argument, isinstance(outcome.argument, Structure)
        self._count(busy=outcome.seconds)
        if of_structure and not outcome.error:
            atoms = frame(argument, outcome.value, self.level)
            atoms.info["seconds"] = round(outcome.seconds, 2)
            self.journal.add(atoms)
            self._count(labelled=1, last=f"{argument.smiles or argument.formula}  {argument.how}")
        elif of_structure:
            self._fail(argument.id, {**described(argument), "level": self.level.name}, outcome.error)
        else:
            source = argument[1]
            key, what = self.sampling.key(source), {"source": source.smiles or source.structure.formula}
            if outcome.error:
                self._fail(key, what, outcome.error)
                self._count(expected=1 - expected(self.sampling.plan, source))
                return
            structures, reasons = outcome.value
            for reason in reasons:
                self._fail(f"{key}:{reason.partition(':')[0]}", what, reason)
            self.journal.add_structures(key, structures)
            self._take(structures, source, len(reasons))

    def _take(self, structures, source, failures=0):
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

    def _fail(self, key, what, reason):
        self.journal.add_error(key, what, reason)
        self._count(errors=1, expected=-1, last=f"failed: {reason}")

    def _count(self, last=None, **more):
        counts = {name: getattr(self.progress, name) + value for name, value in more.items()}
        self.progress = replace(self.progress, **counts, **({"last": last} if last else {}))


def described(structure: Structure) -> dict:
    """A structure for the list of errors: enough to repeat it."""
    return {"smiles": structure.smiles, "how": structure.how, "formula": structure.formula, "charge": structure.charge,
            "multiplicity": structure.multiplicity, "unrestricted": structure.unrestricted,
            "numbers": structure.numbers.tolist(), "positions": structure.positions.tolist(),
            "sites": None if structure.sites is None else structure.sites.tolist()}


def with_partners(sources: Sequence[Source], seed: int) -> list[Source]:
    """The sources, each with another one (or itself) as the second molecule of its dimers, drawn from the list; SMILES of two
    fragments have their own."""
    single = [s for s in sources if "." not in s.smiles]

    def partner(source):
        return single[int(random(seed, f"partner of {source.name}").integers(len(single)))]

    return [s if "." in s.smiles else replace(s, partner=partner(s)) for s in sources]
