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
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from nddo_ml.active.calibrate import Errors, calibration, errors, on_scale, opinions
from nddo_ml.active.config import Active
from nddo_ml.active.explore import Candidate, Explored, judged, picked, trajectories
from nddo_ml.active.labelling import (
    Labelling,
    copy_labels,
    labelled,
    read_picked,
    read_structures,
    write_picked,
    write_structures,
)
from nddo_ml.active.plots import reliability_picture, rounds_picture
from nddo_ml.common.extras import needed
from nddo_ml.common.files import write_text
from nddo_ml.common.json import finite, write_json
from nddo_ml.ensembles.calibration import Reliability, reliability
from nddo_ml.ensembles.ensemble import Ensemble
from nddo_ml.errors import IncompatibleFile, InvalidMolecule, UnknownOption
from nddo_ml.labels.journal import Journal
from nddo_ml.labels.levels.catalogue import level as find_level
from nddo_ml.labels.queue import Processes, queue
from nddo_ml.labels.sampling import Sampling, Source, plan, sampled
from nddo_ml.training import trainer
from nddo_ml.training.config import Config
from nddo_ml.training.dataset import SAME_KIND, part, read_frames
from nddo_ml.training.stages import has_dispersion, stage_data
from nddo_ml.units import CODATA_2018

PATIENCE = 0.05         # seconds between two looks at a queue with nothing to harvest


class Silent:
    """Hears of a loop's progress and says nothing; the command line has one that speaks."""

    def round(self, number: int, rounds: int) -> None:
        """A round begins; 0: the ensemble to begin with."""

    def exploring(self, step: int, steps: int, running: int) -> None:
        """So many steps are done, so many trajectories go on."""

    def labels(self, labelled: int, outstanding: int, failed: int) -> None:
        """So many labels there are, are being made, could not be made."""

    def training(self, member: int, members: int) -> trainer.Silent:
        """A member is trained; what hears of it."""
        return trainer.Silent()

    def done(self, record: dict) -> None:
        """A round is over."""

    def message(self, text: str) -> None:
        """Something to know."""


class _Stopped(Exception):
    """Somebody asked the loop to stop."""


def active(config: Active, training: Config, sources: Sequence[Source], calculator: Callable[[str], Callable],
           report: Silent | None = None, stop: Callable[[], bool] = lambda: False) -> list[dict]:
    """Run the loop, from where an earlier run left it; the records of all rounds done, fewer than `rounds` where it was stopped
    or nothing uncertain was left.

    sources: what to start from. calculator: makes the calculators of sampling (sampling.py) from a file of weights. stop: asked
    all the time. Raises UnknownOption, IncompatibleFile, InvalidMolecule, MissingExtra, ConnectionError.
    """
    needed("matplotlib", "plot", "The pictures of a loop")
    level = find_level(config.label.level)
    label = config.label
    tasks = Processes(label.jobs) if label.jobs and label.dask is None else queue(max(label.jobs, 1), label.dask)
    folder = Path(config.output)
    folder.mkdir(parents=True, exist_ok=True)
    with Journal(folder / "labels.extxyz", level.name) as journal, tasks:
        loop = Loop(config, training, sources, calculator, Labelling(level, journal, tasks), report or Silent(), stop)
        try:
            loop.run()
        except _Stopped:
            loop.report.message("Stopped; the same command goes on from here.")
        return loop.records


class Loop:
    """The state of a loop: records of the rounds done, the ensemble, the labelling."""

    def __init__(self, config: Active, training: Config, sources, calculator, labelling: Labelling, report: Silent, stop):
        self.config, self.training, self.sources, self.calculator = config, training, sources, calculator
        self.labelling, self.report, self.stop = labelling, report, stop
        self.folder, self.records = Path(config.output), []

    def run(self) -> None:
        """All rounds that are not done yet."""
        self._begin()
        for number in range(1, self.config.rounds + 1):
            new = not (self._at(number) / "round.json").exists()
            if new:
                self._round(number)
            self._enter(number)
            if new and not self.records[-1]["picked"]:
                self.report.message(f"Round {number} found nothing uncertain: the loop is over.")
                break

    def _begin(self):
        """The ensemble to begin with, calibrated: the one that is given, or one trained as the configuration says."""
        folder = self._at(0)
        if not (folder / "round.json").exists():
            self.report.round(0, self.config.rounds)
            folder.mkdir(exist_ok=True)
            if self.config.start is None:
                for k in range(len(self.training.seeds)):
                    seeds = self.training.seeds[k:k + 1]
                    self._train(replace(self.training, output=str(folder), seeds=seeds), k, len(self.training.seeds))
            ensemble = Ensemble.load(self.config.start or folder, self.training.model.device)
            self._check(ensemble)
            ensemble, found = self._calibrated(ensemble, self.training.stage[-1], folder)
            ensemble.save(folder)
            self._write(0, {"round": 0, "picked": None, "labels": 0, "start": self.config.start, "held_out": found})
        self._enter(0)
        if self.records[0]["start"] != self.config.start:
            raise IncompatibleFile(f"{self.folder} belongs to a loop that started from {self.records[0]['start']}, not from "
                                   f"{self.config.start}: restore `start`, or choose another output folder.")

    def _check(self, ensemble):
        """Refuse an ensemble that this training would make something else of."""
        has, wanted = has_dispersion(ensemble.members[0]), self.training.model.dispersion
        if has != wanted:
            raise UnknownOption(f"{self.config.start} {'has' if has else 'lacks'} dispersion, and {self.config.train} says "
                                f"dispersion = {str(wanted).lower()} in [model]: make them agree.")

    def _enter(self, number):
        """Take over what a finished round left."""
        folder = self._at(number)
        self.records.append(json.loads((folder / "round.json").read_text()))
        self.ensemble = Ensemble.load(folder, self.training.model.device)
        if number and number == self._last():
            self._summary()

    def _round(self, number):
        """One round, from the first step of it that is not done."""
        self.report.round(number, self.config.rounds)
        folder = self._at(number)
        folder.mkdir(exist_ok=True)
        self.labelling.submit(c.structure for k in range(1, number) for c in read_picked(self._at(k) / "picked.extxyz"))
        if not (folder / "picked.extxyz").exists():
            self._explore(number, folder)
        chosen = read_picked(folder / "picked.extxyz")
        self.labelling.submit(c.structure for c in chosen)
        if not (folder / "labels.extxyz").exists():
            self._await(0 if number == self.config.rounds or not chosen else self.config.label.pending)
            copy_labels(self.labelling.journal.path, folder / "labels.extxyz", self._untrained(number))
        found = None
        if self._size(number):
            stage = self._retrain(number, folder)
            ensemble = Ensemble(sorted(folder.glob("seed-*/model.safetensors")), self.ensemble.calibration,
                                self.training.model.device)
            ensemble, found = self._calibrated(ensemble, stage, folder)
        else:
            ensemble = self.ensemble
        ensemble.save(folder)
        explored = json.loads((folder / "explored.json").read_text())
        labels = sum(self._size(k) for k in range(1, number + 1))
        self._write(number, {
            "round": number, "picked": len(chosen), **explored, "new_labels": self._size(number), "labels": labels,
            "outstanding": len(self.labelling.outstanding), "failed": len(self.labelling.journal.failed), **self._fresh(number),
            "held_out": found, "calibration": ensemble.calibration.as_dict(), "time": round(time.time(), 3)})

    # the steps of a round

    def _explore(self, number, folder):
        """Candidates from dynamics and sampling; the picked ones are written."""
        settings, rng = self.config.explore, np.random.default_rng((self.config.seed, number))
        starts = self._starts()
        pairs = [(s, t) for s in starts for t in settings.temperatures if len(s.numbers) > 1]
        draws = [pairs[k] for _ in range(-(-settings.trajectories // max(len(pairs), 1))) for k in rng.permutation(len(pairs))]
        draws = draws[:settings.trajectories]
        steps = iter(range(1, settings.steps + 1))
        found = Explored([])
        if draws:
            found = trajectories(self.ensemble, *zip(*draws, strict=True), settings, rng, number - 1,
                                 lambda running: self._explored(next(steps), running))
        found.candidates.extend(self._sampled(number, starts, rng))
        before = [c.structure for k in range(1, number) for c in read_picked(self._at(k) / "picked.extxyz")]
        chosen = picked(found.candidates, self.config.pick, [*starts, *before])
        sure = [c.uncertainty for c in found.candidates]
        write_json(folder / "explored.json", {
            "trajectories": found.trajectories, "ends": dict(found.ends), "candidates": len(sure),
            "median_uncertainty": float(np.median(sure)) if sure else None, "largest_uncertainty": max(sure, default=None)})
        write_picked(folder / "picked.extxyz", chosen)

    def _sampled(self, number, starts, rng) -> list[Candidate]:
        """Candidates of the plan, around some of the starts."""
        settings = self.config.explore
        steps = plan(settings.plan)
        if not steps:
            return []
        member = self.ensemble.members[(number - 1) % len(self.ensemble)]
        seed = int(rng.integers(2**31))
        sampling = Sampling(steps, self.calculator(str(member.method.card.path)), seed)
        found = []
        for k in rng.permutation(len(starts))[:settings.sources]:
            partner = Source(structure=starts[int(rng.integers(len(starts)))])
            structures, reasons = sampled((sampling, Source(structure=starts[k], partner=partner)))
            found += [replace(s, how=f"active {s.how}", complex="", fragment="") for s in structures]
            for reason in reasons:
                self.report.message(f"Sampling around {starts[k].formula}: {reason}")
            self._tick()
        return judged(self.ensemble, found, settings.collision)

    def _starts(self):
        """The structures that explorations start from, relaxed once if they are given as SMILES."""
        path = self.folder / "starts.extxyz"
        if not path.exists():
            sampling = Sampling((), self.calculator(str(self.ensemble.members[0].method.card.path)), self.config.seed)
            found = []
            for source in self.sources:
                found += [source.structure] if source.structure is not None else sampled((sampling, source))[0]
                self._tick()
            known = set(self.ensemble.method.card.elements)
            strange = next((s for s in found if not set(s.numbers.tolist()) <= known), None)
            if strange is not None or not found:
                what = "There is nothing" if strange is None else f"{strange.formula} has elements the ensemble does not know"
                raise InvalidMolecule(f"{what}: check explore.structures.")
            write_structures(path, found)
        return read_structures(path)

    def _await(self, most):
        """Wait until so many labels at most are outstanding."""
        while len(self.labelling.outstanding) > most:
            if not self._tick():
                time.sleep(PATIENCE)

    def _untrained(self, number):
        """Ids of labelled structures that no earlier round trained on, in the order they were picked."""
        used = {key for k in range(1, number) for key in labelled(self._at(k) / "labels.extxyz")}
        ids = [c.structure.id for k in range(1, number + 1) for c in read_picked(self._at(k) / "picked.extxyz")]
        return [key for key in ids if key in self.labelling.journal.labelled and key not in used]

    def _retrain(self, number, folder):
        """Train each member from its last weights, with all labels so far; the stage that was trained."""
        last, retrain = self.training.stage[-1], self.config.retrain
        files = [str(self._at(k) / "labels.extxyz") for k in range(1, number + 1) if self._size(k)]
        stage = replace(last, files=(*last.files, *files), epochs=retrain.epochs, rate=retrain.rate)
        for k, member in enumerate(self.ensemble.members):
            model = replace(self.training.model, start=str(member.method.card.path))
            config = replace(self.training, output=str(folder), seeds=(k,), model=model, stage=(stage,))
            self._train(config, k, len(self.ensemble))
        return stage

    def _train(self, config, k, count):
        """Train one member of `count`, or go on with it; one whose weights are there is done."""
        if (Path(config.output) / f"seed-{config.seeds[0]}" / "model.safetensors").exists():
            return
        if not trainer.train(config, report=self.report.training(k + 1, count), stop=self._stopping):
            raise _Stopped

    def _calibrated(self, ensemble, stage, folder) -> tuple[Ensemble, dict | None]:
        """The ensemble, calibrated on the held-out molecules of a stage; its errors there."""
        held_out = stage_data(stage, self.training.data).held_out(self.training.log.frames)
        frames = on_scale(ensemble, [f for name in SAME_KIND for f in held_out.get(name, [])], stage.dispersion, stage.offsets)
        found = errors(frames, opinions(ensemble, frames, progress=lambda n: self._tick()))
        try:
            scales = calibration(found)
        except UnknownOption as error:
            self.report.message(f"Uncertainties keep their last calibration: {error}")
            return ensemble, None
        reliability_picture(found, scales, folder / "reliability.png", f"{folder.name}: {len(frames)} held-out frames")
        return Ensemble(ensemble.members, scales), _worth(scales.energy_reliability, scales.forces_reliability)

    def _fresh(self, number) -> dict:
        """Errors of a round's labels as predicted when they were picked; how many of them are held out by their molecule."""
        if not self._size(number):
            return {"fresh": None, "fresh_held_out": 0}
        found, frames = self._fresh_errors(number)
        data = self.training.data
        energy = reliability(found.energy_uncertainty, found.energy)
        forces = reliability(found.atom_uncertainty, found.forces)
        kept_out = sum(part(f, data.validation, data.large) != "train" for f in frames)
        return {"fresh": _worth(energy, forces), "fresh_held_out": kept_out}

    def _fresh_errors(self, number) -> tuple[Errors, list]:
        opinion = {c.structure.id: c.opinion for k in range(1, number + 1) for c in read_picked(self._at(k) / "picked.extxyz")}
        path, stage = self._at(number) / "labels.extxyz", self.training.stage[-1]
        frames = on_scale(self.ensemble, read_frames(path), stage.dispersion, stage.offsets)
        return errors(frames, [opinion[key] for key in labelled(path)]), frames

    # files and small things

    def _summary(self):
        """Records of all rounds in one file, and their picture."""
        lines = "".join(json.dumps(r) + "\n" for r in self.records)
        write_text(self.folder / "rounds.jsonl", lines)
        rounds_picture(self.records, self.folder / "rounds.png")

    def _write(self, number, record):
        write_json(self._at(number) / "round.json", record)
        self.report.done(record)

    def _last(self):
        """The last round there is a record of."""
        return max((int(p.parent.name.rpartition("-")[2]) for p in self.folder.glob("round-*/round.json")), default=0)

    def _at(self, number) -> Path:
        return self.folder / f"round-{number:03d}"

    def _size(self, number) -> int:
        """Fresh labels of a round."""
        return len(labelled(self._at(number) / "labels.extxyz"))

    def _explored(self, step, running):
        self.report.exploring(step, self.config.explore.steps, running)
        self._tick()

    def _tick(self) -> int:
        """Harvest labels; stop if asked to."""
        count = self.labelling.harvest()
        if count:
            journal = self.labelling.journal
            self.report.labels(len(journal.labelled), len(self.labelling.outstanding), len(journal.failed))
        if self.stop():
            raise _Stopped
        return count

    def _stopping(self) -> bool:
        """What a training asks after every batch."""
        try:
            self._tick()
        except _Stopped:
            return True
        return False


def _worth(energy: Reliability, forces: Reliability) -> dict:
    """Reliabilities for a record, in kcal/mol and angstrom."""
    kcal = CODATA_2018.kcal_mol
    found = {"energy": energy, "forces": forces}
    plain = {name: asdict(replace(r, error=r.error * kcal, uncertainty=r.uncertainty * kcal)) for name, r in found.items()}
    return finite(plain)
