"""Active learning: explore with an ensemble, pick what it is least sure of, label that, retrain, calibrate, again.

    round N:  picked.extxyz  <- exploration      what is picked is labelled on the queue, while everything else goes on
              labels.extxyz  <- finished labels  of this round or an earlier one, not trained on before
              seed-K/        <- retraining       each member from its last weights, all labels so far added to its data
              ensemble.json  <- calibration      on held-out molecules
              round.json     <- summary          errors of the fresh labels as they were predicted when picked

Each file is written whole and ends a step. A loop that was killed repeats the step it was in, and nothing else; a training goes
on from its checkpoint, and labels are never lost or made twice (journal.py).
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from nddo_ml.active.calibrate import EnsembleErrors, calibration, errors, on_scale, opinions
from nddo_ml.active.config import Active
from nddo_ml.active.explore import Candidate, Explored, TrajectoryStart, explored, judged
from nddo_ml.active.labelling import Labelling, copy_labels, labelled, read_structures, write_picked, write_structures
from nddo_ml.active.pick import picked
from nddo_ml.active.plots import reliability_picture, rounds_picture
from nddo_ml.active.rounds import Rounds
from nddo_ml.common.extras import needed
from nddo_ml.common.files import write_text
from nddo_ml.common.json import finite, write_json
from nddo_ml.ensembles.calibration import Reliability, reliability
from nddo_ml.ensembles.ensemble import Ensemble
from nddo_ml.errors import IncompatibleFile, InvalidMolecule, UnknownOption
from nddo_ml.hamiltonian.model import Hamiltonian
from nddo_ml.labels.draws import MakeCalculator
from nddo_ml.labels.journal import Journal
from nddo_ml.labels.levels.catalogue import level as find_level
from nddo_ml.labels.queue import Processes, queue
from nddo_ml.labels.sampling import Sampling, Source, plan, sampled
from nddo_ml.labels.structures import Structure
from nddo_ml.methods.learned import Card
from nddo_ml.training import trainer
from nddo_ml.training.config import Stage, TrainingConfig
from nddo_ml.training.dataset import SAME_KIND, LabelledFrame, part, read_frames
from nddo_ml.training.stages import has_dispersion, stage_data
from nddo_ml.units import CODATA_2018

PATIENCE = 0.05         # seconds between two looks at a queue with nothing to harvest


class SilentLoop:
    """Hears of a loop's progress and says nothing; the command line has one that speaks."""

    def round(self, number: int, rounds: int) -> None:
        """A round begins; 0: the ensemble to begin with."""

    def exploring(self, step: int, steps: int, running: int) -> None:
        """So many steps are done, so many trajectories go on."""

    def labels(self, labelled: int, outstanding: int, failed: int) -> None:
        """So many labels there are, are being made, could not be made."""

    def training(self, member: int, members: int) -> trainer.SilentTraining:
        """A member is trained; what hears of it."""
        return trainer.SilentTraining()

    def done(self, record: dict[str, Any]) -> None:
        """A round is over; its record is that of round.json."""

    def message(self, text: str) -> None:
        """Something to know."""


class _Stopped(Exception):
    """Somebody asked the loop to stop."""


@dataclass(frozen=True)
class LoopTools:
    """What a loop works with, beside its configuration."""

    sources: Sequence[Source]                           # what explorations start from
    calculator: Callable[[str], MakeCalculator]         # from a file of weights: the calculators of sampling
    report: SilentLoop                                  # hears of the progress
    stop: Callable[[], bool]                            # asked all the time


def active(config: Active, training: TrainingConfig, sources: Sequence[Source], calculator: Callable[[str], MakeCalculator],
           report: SilentLoop | None = None, stop: Callable[[], bool] = lambda: False) -> list[dict[str, Any]]:
    """Run the loop, from where an earlier run left it; the records of all rounds done, fewer than `rounds` where it was stopped
    or nothing uncertain was left. The last four arguments are those of LoopTools.

    Raises:
        UnknownOption, IncompatibleFile, InvalidMolecule: configuration, files or structures do not fit.
        MissingExtra: matplotlib, or what the level needs, is not installed.
        ConnectionError: there is no Dask scheduler, or it has gone.
    """
    needed("matplotlib", "plot", "The pictures of a loop")
    level, label = find_level(config.label.level), config.label
    tasks = Processes(label.jobs) if label.jobs and label.dask is None else queue(max(label.jobs, 1), label.dask)
    folder = Path(config.output)
    folder.mkdir(parents=True, exist_ok=True)
    with Journal(folder / "labels.extxyz", level.name) as journal, tasks:
        loop = Loop(config, training, Labelling(level, journal, tasks),
                    LoopTools(sources, calculator, report or SilentLoop(), stop))
        try:
            loop.run()
        except _Stopped:
            loop.report.message("Stopped; the same command goes on from here.")
        return loop.records


class Loop:
    """A loop in its folder; `records`: those of the rounds done."""

    def __init__(self, config: Active, training: TrainingConfig, labelling: Labelling, tools: LoopTools):
        self.config, self.training, self.labelling, self.tools = config, training, labelling, tools
        self.report = tools.report
        self.rounds, self.records = Rounds(Path(config.output)), []

    def run(self) -> None:
        """All rounds that are not done yet."""
        ensemble = self._begin()
        for number in range(1, self.config.rounds + 1):
            new = not self.rounds.done(number)
            if new:
                self._round(number, ensemble)
            ensemble = self._enter(number)
            if new and not self.records[-1]["picked"]:
                self.report.message(f"Round {number} found nothing uncertain: the loop is over.")
                break

    def _begin(self) -> Ensemble:
        """The ensemble to begin with, calibrated: the one that is given, or one trained as the configuration says."""
        folder = self.rounds.folder(0)
        if not self.rounds.done(0):
            self.report.round(0, self.config.rounds)
            folder.mkdir(exist_ok=True)
            if self.config.start is None:
                for k in range(len(self.training.seeds)):
                    seeds = self.training.seeds[k:k + 1]
                    self._train(replace(self.training, output=str(folder), seeds=seeds), k, len(self.training.seeds))
            ensemble = Ensemble.load(self.config.start or folder, self.training.model.device)
            self._check(ensemble)
            ensemble, held_out = self._calibrated(ensemble, self.training.stage[-1], folder)
            ensemble.save(folder)
            self._write(0, {"round": 0, "picked": None, "labels": 0, "start": self.config.start, "held_out": held_out})
        ensemble = self._enter(0)
        if self.records[0]["start"] != self.config.start:
            raise IncompatibleFile(f"{self.rounds.path} belongs to a loop that started from {self.records[0]['start']}, not "
                                   f"from {self.config.start}: restore `start`, or choose another output folder.")
        return ensemble

    def _check(self, ensemble: Ensemble) -> None:
        """Refuse an ensemble that this training would make something else of."""
        has, wanted = has_dispersion(ensemble.members[0]), self.training.model.dispersion
        if has != wanted:
            raise UnknownOption(f"{self.config.start} {'has' if has else 'lacks'} dispersion, and {self.config.train} says "
                                f"dispersion = {str(wanted).lower()} in [model]: make them agree.")

    def _enter(self, number: int) -> Ensemble:
        """Take over what a finished round left: its record, and its ensemble, which is returned."""
        self.records.append(self.rounds.record(number))
        ensemble = Ensemble.load(self.rounds.folder(number), self.training.model.device)
        if number and number == self.rounds.last:
            self._summary()
        return ensemble

    def _round(self, number: int, ensemble: Ensemble) -> None:
        """One round, from the first step of it that is not done. ensemble: of the round before."""
        self.report.round(number, self.config.rounds)
        folder, size = self.rounds.folder(number), self.rounds.size
        folder.mkdir(exist_ok=True)
        self.labelling.submit(c.structure for c in self.rounds.picked(range(1, number)))
        if not (folder / "picked.extxyz").exists():
            self._explore(number, ensemble)
        chosen = self.rounds.picked([number])
        self.labelling.submit(c.structure for c in chosen)
        if not (folder / "labels.extxyz").exists():
            self._await(0 if number == self.config.rounds or not chosen else self.config.label.pending)
            copy_labels(self.labelling.journal.path, folder / "labels.extxyz", self._untrained(number))
        after, held_out = ensemble, None
        if size(number):
            stage = self._retrain(number, ensemble)
            after = Ensemble(sorted(folder.glob("seed-*/model.safetensors")), ensemble.calibration, self.training.model.device)
            after, held_out = self._calibrated(after, stage, folder)
        after.save(folder)
        exploration = json.loads((folder / "explored.json").read_text())
        labels = sum(size(k) for k in range(1, number + 1))
        self._write(number, {
            "round": number, "picked": len(chosen), **exploration, "new_labels": size(number), "labels": labels,
            "outstanding": len(self.labelling.outstanding), "failed": len(self.labelling.journal.failed),
            **self._fresh(number, ensemble), "held_out": held_out, "calibration": after.calibration.as_dict(),
            "time": round(time.time(), 3)})

    # the steps of a round

    def _explore(self, number: int, ensemble: Ensemble) -> None:
        """Candidates from dynamics and sampling; the picked ones are written."""
        rng = np.random.default_rng((self.config.seed, number))
        starts, folder = self._starts(ensemble), self.rounds.folder(number)
        exploration = self._dynamics(number, ensemble, starts, rng)
        candidates = exploration.candidates + self._sampled(number, ensemble, starts, rng)
        before = [c.structure for c in self.rounds.picked(range(1, number))]
        chosen = picked(candidates, self.config.pick, [*starts, *before])
        uncertainties = [c.uncertainty for c in candidates]
        write_json(folder / "explored.json", {
            "trajectories": exploration.trajectories, "ends": dict(exploration.ends), "candidates": len(uncertainties),
            "median_uncertainty": float(np.median(uncertainties)) if uncertainties else None,
            "largest_uncertainty": max(uncertainties, default=None)})
        write_picked(folder / "picked.extxyz", chosen)

    def _dynamics(self, number: int, ensemble: Ensemble, structures: Sequence[Structure],
                  rng: np.random.Generator) -> Explored:
        """Trajectories from starting structures and temperatures drawn at random, each pair before any comes again."""
        settings = self.config.explore
        pairs = [TrajectoryStart(s, t) for s in structures for t in settings.temperatures if len(s.numbers) > 1]
        times = -(-settings.trajectories // max(len(pairs), 1))
        starts = [pairs[k] for _ in range(times) for k in rng.permutation(len(pairs))][:settings.trajectories]
        steps = iter(range(1, settings.steps + 1))
        if not starts:
            return Explored([])
        return explored(ensemble, starts, settings, rng, number - 1, lambda running: self._moved(next(steps), running))

    def _sampled(self, number: int, ensemble: Ensemble, starts: Sequence[Structure],
                 rng: np.random.Generator) -> list[Candidate]:
        """Candidates of the plan, around some of the starts."""
        settings = self.config.explore
        steps = plan(settings.plan)
        if not steps:
            return []
        weights = _weights(ensemble.members[(number - 1) % len(ensemble)])
        seed = int(rng.integers(2**31))
        sampling = Sampling(steps, self.tools.calculator(weights), seed)
        drawn: list[Structure] = []
        for k in rng.permutation(len(starts))[:settings.sources]:
            partner = Source(structure=starts[int(rng.integers(len(starts)))])
            structures, reasons = sampled((sampling, Source(structure=starts[k], partner=partner)))
            drawn += [replace(s, how=f"active {s.how}", complex="", fragment="") for s in structures]
            for reason in reasons:
                self.report.message(f"Sampling around {starts[k].formula}: {reason}")
            self._tick()
        return judged(ensemble, drawn, settings.collision)

    def _starts(self, ensemble: Ensemble) -> list[Structure]:
        """The structures that explorations start from, relaxed once if they are given as SMILES."""
        path = self.rounds.path / "starts.extxyz"
        if not path.exists():
            sampling = Sampling((), self.tools.calculator(_weights(ensemble.members[0])), self.config.seed)
            starts: list[Structure] = []
            for source in self.tools.sources:
                starts += [source.structure] if source.structure is not None else sampled((sampling, source))[0]
                self._tick()
            known = set(_card(ensemble.members[0]).elements)
            strange = next((s for s in starts if not set(s.numbers.tolist()) <= known), None)
            if strange is not None or not starts:
                what = "There is nothing" if strange is None else f"{strange.formula} has elements the ensemble does not know"
                raise InvalidMolecule(f"{what}: check explore.structures.")
            write_structures(path, starts)
        return read_structures(path)

    def _await(self, most: int) -> None:
        """Wait until so many labels at most are outstanding."""
        while len(self.labelling.outstanding) > most:
            if not self._tick():
                time.sleep(PATIENCE)

    def _untrained(self, number: int) -> list[str]:
        """Ids of labelled structures that no earlier round trained on, in the order they were picked."""
        used = {key for k in range(1, number) for key in labelled(self.rounds.labels(k))}
        ids = [c.structure.id for c in self.rounds.picked(range(1, number + 1))]
        return [key for key in ids if key in self.labelling.journal.labelled and key not in used]

    def _retrain(self, number: int, ensemble: Ensemble) -> Stage:
        """Train each member from its last weights, with all labels so far; the stage that was trained."""
        last, retrain = self.training.stage[-1], self.config.retrain
        files = [str(self.rounds.labels(k)) for k in range(1, number + 1) if self.rounds.size(k)]
        stage = replace(last, files=(*last.files, *files), epochs=retrain.epochs, rate=retrain.rate)
        for k, member in enumerate(ensemble.members):
            model = replace(self.training.model, start=_weights(member))
            folder = str(self.rounds.folder(number))
            config = replace(self.training, output=folder, seeds=(k,), model=model, stage=(stage,))
            self._train(config, k, len(ensemble))
        return stage

    def _train(self, config: TrainingConfig, k: int, count: int) -> None:
        """Train one member of `count`, or go on with it; one whose weights are there is done."""
        if (Path(config.output) / f"seed-{config.seeds[0]}" / "model.safetensors").exists():
            return
        if not trainer.train(config, report=self.report.training(k + 1, count), stop=self._stopping):
            raise _Stopped

    def _calibrated(self, ensemble: Ensemble, stage: Stage, folder: Path) -> tuple[Ensemble, dict[str, Any] | None]:
        """The ensemble, calibrated on the held-out molecules of a stage; its errors there (None: too few of them)."""
        held_out = stage_data(stage, self.training.data).held_out(self.training.log.frames)
        frames = on_scale(ensemble, [f for name in SAME_KIND for f in held_out.get(name, [])], stage.dispersion, stage.offsets)
        measured = errors(frames, opinions(ensemble, frames, progress=lambda n: self._tick()))
        try:
            scales = calibration(measured)
        except UnknownOption as error:
            self.report.message(f"Uncertainties keep their last calibration: {error}")
            return ensemble, None
        reliability_picture(measured, scales, folder / "reliability.png", f"{folder.name}: {len(frames)} held-out frames")
        return Ensemble(ensemble.members, scales), _worth(scales.energy_reliability, scales.forces_reliability)

    def _fresh(self, number: int, ensemble: Ensemble) -> dict[str, Any]:
        """Errors of a round's labels as predicted when they were picked; how many of them are held out by their molecule."""
        if not self.rounds.size(number):
            return {"fresh": None, "fresh_held_out": 0}
        measured, frames = self._fresh_errors(number, ensemble)
        data = self.training.data
        energy = reliability(measured.energy_uncertainty, measured.energy)
        forces = reliability(measured.atom_uncertainty, measured.forces)
        kept_out = sum(part(f, data.validation, data.large) != "train" for f in frames)
        return {"fresh": _worth(energy, forces), "fresh_held_out": kept_out}

    def _fresh_errors(self, number: int, ensemble: Ensemble) -> tuple[EnsembleErrors, list[LabelledFrame]]:
        opinion = {c.structure.id: c.opinion for c in self.rounds.picked(range(1, number + 1))}
        path, stage = self.rounds.labels(number), self.training.stage[-1]
        frames = on_scale(ensemble, read_frames(path), stage.dispersion, stage.offsets)
        return errors(frames, [opinion[key] for key in labelled(path)]), frames

    # files and small things

    def _summary(self) -> None:
        """Records of all rounds in one file, and their picture."""
        lines = "".join(json.dumps(r) + "\n" for r in self.records)
        write_text(self.rounds.path / "rounds.jsonl", lines)
        rounds_picture(self.records, self.rounds.path / "rounds.png")

    def _write(self, number: int, record: dict[str, Any]) -> None:
        """Write the record of a round, which is over with that."""
        self.rounds.write(number, record)
        self.report.done(record)

    def _moved(self, step: int, running: int) -> None:
        """A step of exploration is done."""
        self.report.exploring(step, self.config.explore.steps, running)
        self._tick()

    def _tick(self) -> int:
        """Harvest labels, how many; stop if asked to."""
        count = self.labelling.harvest()
        if count:
            journal = self.labelling.journal
            self.report.labels(len(journal.labelled), len(self.labelling.outstanding), len(journal.failed))
        if self.tools.stop():
            raise _Stopped
        return count

    def _stopping(self) -> bool:
        """What a training asks after every batch."""
        try:
            self._tick()
        except _Stopped:
            return True
        return False


def _card(member: Hamiltonian) -> Card:
    """What the file of a member says; every member of a loop has one."""
    card = member.method.card
    assert card is not None
    return card


def _weights(member: Hamiltonian) -> str:
    """The file of a member."""
    return str(_card(member).path)


def _worth(energy: Reliability | None, forces: Reliability | None) -> dict[str, Any]:
    """Reliabilities of energies and forces for a record, in kcal/mol and angstrom; what is not finite becomes None."""
    kcal = CODATA_2018.kcal_mol
    known = {name: replace(r, error=r.error * kcal, uncertainty=r.uncertainty * kcal)
             for name, r in (("energy", energy), ("forces", forces)) if r is not None}
    return {name: finite(asdict(r)) for name, r in known.items()}
